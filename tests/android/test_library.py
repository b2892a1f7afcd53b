"""What is published of the phone's library: its surface as it is written down, its coroutines, its licenses."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.android import api, host
from tests.android.goldens import sequence_bundle
from tests.android.test_app import JUNIT

WHY_NOT = host.missing("k2")
TESTS = host.ANDROID / "coroutines" / "src" / "test" / "kotlin"
RESOURCES = host.ANDROID / "runtime" / "src" / "main" / "resources" / "dev" / "edgeb" / "runtime" / "licenses"
# Compiling takes most of a minute; what was compiled is kept.
pytestmark = [pytest.mark.slow, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]


@pytest.fixture(scope="module")
def library() -> host.Library:
    return host.build_library()


@pytest.mark.parametrize("module", api.MODULES)
def test_surface_is_as_it_is_written_down(module: str, library: host.Library) -> None:
    found = api.dump(module, library.jar)
    kept = (api.API / f"{module}.api").read_text(encoding="utf-8")
    assert found == kept, "where that was intended: python -m tests.android.api, and commit android_demo/api"


def test_no_call_of_a_buffer_is_newer_than_the_oldest_android(library: host.Library) -> None:
    with zipfile.ZipFile(library.jar) as jar:
        names = [name.removesuffix(".class").replace("/", ".") for name in jar.namelist() if name.endswith(".class")]
    command = ["javap", "-c", "-p", "-cp", str(library.jar), *names]
    code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # Buffers have their own from Java 9 and Android 10 on: what a JDK compiles is not found on Android 9.
    newer = re.findall(r"java/nio/\w+Buffer\.(?:position|limit|flip|clear|rewind|mark|reset):\S+Buffer;", code)
    assert not newer


def test_predictions_suspend_and_are_cancelled(library: host.Library, tmp_path: Path) -> None:
    absent = [str(jar) for jar in JUNIT if not jar.exists()]
    if absent:
        pytest.skip(f"no {' and no '.join(absent)}: apt-get install junit4")
    digest = hashlib.sha256(library.jar.name.encode())
    for path in sorted(TESTS.rglob("*.kt")):
        digest.update(path.read_bytes())
    jar = host.BUILD / f"library-tests-{digest.hexdigest()[:16]}.jar"
    class_path = ":".join([str(library.jar), library.class_path, *map(str, JUNIT)])
    if not jar.exists():
        host.compile_k2([TESTS], jar, class_path)
    bundle = sequence_bundle(tmp_path)
    names = [str(path.relative_to(TESTS).with_suffix("")).replace(os.sep, ".") for path in TESTS.rglob("*Test.kt")]
    command = [library.java, f"-Dedgeb.bundle={bundle}", "-cp", f"{jar}:{class_path}", "org.junit.runner.JUnitCore"]
    done = subprocess.run([*command, *names], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "OK (" in done.stdout
