"""The library's keep rules: shrunk, optimized and renamed with them by ProGuard, it says what Python says.

An app's release build is shrunk by R8, which reads the same rules and is in no package index that was searched.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.android import host
from tests.android.goldens import write_goldens

# Debian's packages proguard-cli and, by `apk.sh --tools`, libandroid-23-java.
PROGUARD = Path("/usr/share/java/proguard.jar")
ANDROID_JAR = host.ANDROID / "build" / "debian" / "usr" / "share" / "java" / "com.android.android-23.jar"
RULES = host.ANDROID / "runtime" / "consumer-rules.pro"
MAIN = "dev.edgeb.core.ConformanceKt"
# Stands in for an app: what it calls is kept, and nothing else. Optimizations as in AGP's own file.
APP = f"""
-keep class {MAIN} {{ public static void main(java.lang.String[]); }}
-keepclassmembers enum * {{ public static **[] values(); public static ** valueOf(java.lang.String); }}
-optimizations !code/simplification/arithmetic,!code/simplification/cast,!field/*,!class/merging/*
-allowaccessmodification
-dontnote
-dontwarn
"""
WHY_NOT = host.missing("kotlinc") or next(
    (f"no {jar.name}" for jar in (PROGUARD, ANDROID_JAR) if not jar.exists()), None
)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]


def shrunk(rules: str, folder: Path) -> host.Host:
    """The library and its conformance after ProGuard."""
    built = host.build("kotlinc")
    jar, stdlib = built.class_path.split(":")
    (folder / "rules.pro").write_text(APP + rules, encoding="utf-8")
    out = folder / "shrunk.jar"
    command = [
        built.java, "-jar", str(PROGUARD), "-injars", jar, "-outjars", str(out),
        "-libraryjars", f"{ANDROID_JAR}:{stdlib}", f"@{folder / 'rules.pro'}", "-printmapping", str(folder / "map.txt"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return host.Host(built.java, f"{out}:{stdlib}", built.libraries)


def test_what_native_code_looks_for_by_name_is_kept(tmp_path: Path) -> None:
    found = shrunk(RULES.read_text(encoding="utf-8"), tmp_path)
    names = dict(
        re.findall(r"^([\w.$]+) -> ([\w.$]+):$", (tmp_path / "map.txt").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert names["dev.edgeb.runtime.NativeLlama"] == "dev.edgeb.runtime.NativeLlama"
    # The rest of the library may go by any name.
    assert names["dev.edgeb.core.TrieSearch"] != "dev.edgeb.core.TrieSearch"
    goldens = write_goldens(tmp_path / "goldens").parent
    done = found.run(MAIN, goldens)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^all \d{4,} checks agree$", done.stdout, re.MULTILINE)


def test_without_the_rules_nothing_opens(tmp_path: Path) -> None:
    done = shrunk("", tmp_path).run(MAIN, write_goldens(tmp_path / "goldens").parent)
    assert done.returncode != 0
    assert "UnsatisfiedLinkError" in done.stderr
