"""Why the phone's code, or the page, is not tried on a machine: told by what is on the PATH, and whether it runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import bare, browser
from tests.android import host

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the phone's code is built on Linux alone")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A bare PATH, and a checkout in which `make android-tools` has not been run."""
    folder = bare.folder(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(host, "ANDROID", tmp_path / "android_demo")
    for found in (host._cmake, browser.program):
        found.cache_clear()
    yield folder
    for found in (host._cmake, browser.program):
        found.cache_clear()


@linux_only
def test_one_tool_after_the_other(path: Path) -> None:
    assert host.missing() == "no java on the PATH"
    # As macOS has it where no Java is installed.
    bare.stand_in(path, "java", "echo 'Unable to locate a Java Runtime.' >&2; exit 1")
    assert host.missing() == "java is on the PATH and does not run"
    bare.stand_in(path, "java")
    assert host.missing() == "no g++ on the PATH"
    (path / "g++").write_bytes(b"\x7fELF for another machine")
    (path / "g++").chmod(0o755)
    assert host.missing() == "g++ is on the PATH and does not run"
    bare.stand_in(path, "g++")
    assert host.missing() == "no cmake 3.22 or newer: run make android-tools"
    host._cmake.cache_clear()
    # A Java runtime has no jni.h beside it.
    bare.stand_in(path, "cmake", "echo cmake version 3.22.1")
    assert host.missing() == "no JDK: jni.h is missing"


@pytest.mark.parametrize(
    ("said", "fits"),
    [("cmake version 3.21.9", False), ("cmake version 3.30.0-rc1", True), ("cmake version 4.0.3", True), ("", False)],
)
def test_versions_of_cmake(path: Path, said: str, fits: bool) -> None:
    found = bare.stand_in(path, "cmake", f"echo '{said}'")
    assert host._cmake() == (str(found) if fits else None)


def test_an_old_cmake_gives_way_to_the_unpacked_one(path: Path) -> None:
    bare.stand_in(path, "cmake", "echo cmake version 3.18.4")
    own = bare.stand_in(
        host.ANDROID / "build" / "tools" / "cmake" / "data" / "bin", "cmake", "echo cmake version 3.31.6"
    )
    assert host._cmake() == str(own)


def test_a_chromium_that_only_names_another(path: Path) -> None:
    """As Ubuntu's package, a script that tells to install a snap."""
    assert browser.program() is None
    browser.program.cache_clear()
    bare.stand_in(path, "chromium-browser", "echo 'requires the chromium snap' >&2; exit 1")
    assert browser.program() is None
    browser.program.cache_clear()
    works = bare.stand_in(path, "google-chrome", "echo Chromium 150")
    assert browser.program() == str(works)
