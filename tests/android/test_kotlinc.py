"""The script that finds a Kotlin compiler, on machines that have some of what it needs: stand-ins on a bare PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import bare
from tests.android import host

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The script in a checkout where `make android-tools` has not been run."""
    tools = tmp_path / "android_demo" / "tools"
    tools.mkdir(parents=True)
    return Path(shutil.copy(host.ANDROID / "tools" / "kotlinc", tools))


@pytest.fixture
def run(script: Path, tmp_path: Path) -> Run:
    """Run the script with nothing on the PATH but the system's own tools and what a test put into tmp_path/bin."""
    path = bare.folder(tmp_path / "bin")

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(script), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": str(path), **environment},
        )

    return run


def unpack(script: Path) -> Path:
    """What `make android-tools` leaves behind; returns the standard library."""
    jars = script.parents[1] / "build" / "tools" / "run_kotlin_kernel" / "jars"
    jars.mkdir(parents=True)
    for name in ("kotlin-stdlib-2.3.20.jar", "kotlin-stdlib-common.jar", "kotlin-compiler-2.3.20.jar"):
        (jars / name).touch()
    return jars / "kotlin-stdlib-2.3.20.jar"


def install_kotlinc(folder: Path, tmp_path: Path) -> Path:
    """A Kotlin installation with its command on the PATH by a link; returns the standard library."""
    home = tmp_path / "kotlin"
    (home / "lib").mkdir(parents=True)
    (home / "lib" / "kotlin-stdlib.jar").touch()
    bare.stand_in(home / "bin", "kotlinc", 'echo "kotlinc $*"')
    os.symlink(home / "bin" / "kotlinc", folder / "kotlinc")
    return home / "lib" / "kotlin-stdlib.jar"


@pytest.mark.parametrize("wanted", ["any", "kotlinc", "k2"])
@pytest.mark.parametrize("tools", [(), ("java",), ("java", "javac", "cmake")])
@pytest.mark.parametrize("arguments", [("--stdlib",), ("x.kt",), ()])
def test_says_that_there_is_none(
    run: Run, tmp_path: Path, wanted: str, tools: tuple[str, ...], arguments: tuple[str, ...]
) -> None:
    for tool in tools:
        bare.stand_in(tmp_path / "bin", tool)
    done = run(*arguments, EDGEB_KOTLIN=wanted)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"no Kotlin compiler ({wanted}): put kotlinc on the PATH, or run make android-tools")
    assert len(done.stderr.splitlines()) == 1


def test_an_unpacked_compiler_needs_a_java(run: Run, script: Path, tmp_path: Path) -> None:
    stdlib = unpack(script)
    assert run("--stdlib").returncode == 3
    bare.stand_in(tmp_path / "bin", "java", 'echo "java $*"')
    assert run("--stdlib").stdout == f"{stdlib}\n"
    compiled = run("x.kt").stdout.split()
    assert compiled[0] == "java"
    assert compiled[-3:] == ["-cp", str(stdlib), "x.kt"]
    assert run("--stdlib", EDGEB_KOTLIN="kotlinc").returncode == 3


def test_an_installed_compiler_comes_first(run: Run, script: Path, tmp_path: Path) -> None:
    stdlib = install_kotlinc(tmp_path / "bin", tmp_path)
    assert run("--stdlib").stdout == f"{stdlib}\n"
    assert run("x.kt").stdout == "kotlinc x.kt\n"
    assert run("--stdlib", EDGEB_KOTLIN="k2").returncode == 3
    other = unpack(script)
    bare.stand_in(tmp_path / "bin", "java")
    assert run("--stdlib").stdout == f"{stdlib}\n"
    assert run("--stdlib", EDGEB_KOTLIN="k2").stdout == f"{other}\n"


def test_a_command_without_its_library_is_no_compiler(run: Run, tmp_path: Path) -> None:
    bare.stand_in(tmp_path / "bin", "kotlinc")
    done = run("--stdlib")
    assert done.returncode == 3
    assert "kotlinc lies in no Kotlin installation" in done.stderr
