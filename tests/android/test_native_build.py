"""What CMake does with llama.cpp's source: a stand-in of it, in a git repository on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.android import host

WHY_NOT = host.missing() or (None if shutil.which("git") else "no git on the PATH")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]
# As ggml's build leaves them: one library per CPU generation, and others.
BACKENDS = "ggml-base;ggml-cpu-armv8.0_1;ggml-cpu-armv8.6_2"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@localhost"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the native sources, pinned to the only commit of a stand-in of llama.cpp."""
    upstream = tmp_path / "upstream"
    upstream.mkdir()
    (upstream / "llama.c").write_text("int llama(void) { return 0; }\n")
    (upstream / "CMakeLists.txt").write_text(
        f'set(GGML_AVAILABLE_BACKENDS "{BACKENDS}" CACHE INTERNAL "")\nadd_library(llama SHARED llama.c)\n'
    )
    git(upstream, "init", "--quiet")
    git(upstream, "add", ".")
    git(upstream, "commit", "--quiet", "-m", "x")
    copy = shutil.copytree(host.NATIVE, tmp_path / "cpp")
    cmake = copy / "CMakeLists.txt"
    commit = git(upstream, "rev-parse", "HEAD")
    cmake.write_text(re.sub(r"(set\(LLAMA_CPP_COMMIT )[0-9a-f]+", rf"\g<1>{commit}", cmake.read_text("utf-8")))
    return copy


def configure(sources: Path, build: Path, *options: str) -> subprocess.CompletedProcess[str]:
    cmake = host._cmake()
    assert cmake is not None
    command = [cmake, "-S", str(sources), "-B", str(build), "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", *options]
    environment = {**os.environ, "JAVA_HOME": str(host._java_home())}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_llama_cpp_is_fetched_once_for_all_abis(sources: Path, tmp_path: Path) -> None:
    cache = f"-DLLAMA_CPP_CACHE={tmp_path / 'cache'}"
    first = configure(sources, tmp_path / "one", cache, f"-DLLAMA_CPP_GIT={tmp_path / 'upstream'}")
    assert first.returncode == 0, first.stdout + first.stderr
    # Nowhere to fetch it from any more.
    again = configure(sources, tmp_path / "two", cache, f"-DLLAMA_CPP_GIT={tmp_path / 'gone'}", "-DGGML_BACKEND_DL=ON")
    assert again.returncode == 0, again.stdout + again.stderr
    commands = json.loads((tmp_path / "two" / "compile_commands.json").read_text(encoding="utf-8"))
    ours = next(one["command"] for one in commands if one["file"].endswith("llama_open.cpp"))
    named = re.findall(r"lib(ggml-[\w.-]+)\.so", ours)
    assert named == ["ggml-cpu-armv8.0_1", "ggml-cpu-armv8.6_2"]


def test_a_fetch_that_fails_leaves_nothing(sources: Path, tmp_path: Path) -> None:
    cache = f"-DLLAMA_CPP_CACHE={tmp_path / 'cache'}"
    done = configure(sources, tmp_path / "one", cache, f"-DLLAMA_CPP_GIT={tmp_path / 'gone'}")
    assert done.returncode != 0
    assert [path.name for path in (tmp_path / "cache").glob("*/CMakeLists.txt")] == []
    again = configure(sources, tmp_path / "one", cache, f"-DLLAMA_CPP_GIT={tmp_path / 'upstream'}")
    assert again.returncode == 0, again.stdout + again.stderr


def cache_of(build: Path) -> dict[str, str]:
    text = (build / "CMakeCache.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^(\w+):\w+=(.*)$", text, re.MULTILINE))


@pytest.mark.parametrize("switched", ["ON", "OFF"])
def test_arm64_has_a_library_per_cpu_generation_and_two_switches(sources: Path, tmp_path: Path, switched: str) -> None:
    """Configured as for Android, by this machine's compiler: nothing is built."""
    omp = tmp_path / "ndk" / "lib" / "clang" / "20" / "lib" / "linux" / "aarch64" / "libomp.so"
    omp.parent.mkdir(parents=True)
    toolchain = tmp_path / "arm64.cmake"
    toolchain.write_text("set(CMAKE_SYSTEM_NAME Linux)\nset(CMAKE_SYSTEM_PROCESSOR aarch64)\nset(ANDROID ON)\n")
    options = [
        f"-DCMAKE_TOOLCHAIN_FILE={toolchain}", f"-DLLAMA_CPP_DIR={tmp_path / 'upstream'}",
        f"-DANDROID_TOOLCHAIN_ROOT={tmp_path / 'ndk'}", f"-DEDGEB_KLEIDIAI={switched}", f"-DEDGEB_OPENMP={switched}",
    ]  # fmt: skip
    done = configure(sources, tmp_path / "build", *options)
    if switched == "ON":
        # Gradle would package no OpenMP.
        assert done.returncode != 0
        assert "EDGEB_OPENMP=OFF builds without OpenMP" in done.stderr
        omp.touch()
        done = configure(sources, tmp_path / "build", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    found = cache_of(tmp_path / "build")
    for name in ("GGML_BACKEND_DL", "GGML_CPU_ALL_VARIANTS", "BUILD_SHARED_LIBS"):
        assert found[name] == "ON", name
    for name in ("GGML_CPU_KLEIDIAI", "GGML_OPENMP"):
        assert found[name] == switched, name


def test_the_emulator_has_one_library_for_what_its_abi_promises(sources: Path, tmp_path: Path) -> None:
    toolchain = tmp_path / "x86.cmake"
    toolchain.write_text("set(CMAKE_SYSTEM_NAME Linux)\nset(CMAKE_SYSTEM_PROCESSOR x86_64)\nset(ANDROID ON)\n")
    options = [f"-DCMAKE_TOOLCHAIN_FILE={toolchain}", f"-DLLAMA_CPP_DIR={tmp_path / 'upstream'}"]
    done = configure(sources, tmp_path / "build", *options, "-DEDGEB_KLEIDIAI=ON", "-DEDGEB_OPENMP=ON")
    assert done.returncode == 0, done.stdout + done.stderr
    found = cache_of(tmp_path / "build")
    assert found["GGML_SSE42"] == found["BUILD_SHARED_LIBS"] == "ON"
    for name in ("GGML_BACKEND_DL", "GGML_CPU_ALL_VARIANTS", "GGML_OPENMP", "GGML_AVX", "GGML_AVX2", "GGML_FMA"):
        assert found[name] == "OFF", name
    assert "GGML_CPU_KLEIDIAI" not in found
