"""Builds the phone's code for this machine's JVM, and runs it.

What is built is kept under android_demo/build by a hash of its sources, so that a second run compiles nothing. The JNI
library links the libllama that llama-cpp-python installed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import llama_cpp

from edge_behavior.runtime.llama.build import CRASHES, REBUILD, UNUSABLE, WRONG, verdict
from tests.android.project import DEMO as ANDROID

BUILD = ANDROID / "build" / "host"
KOTLIN = ("core", "runtime", "conformance")
# What a host app depends on, which is published.
LIBRARY = ("core", "runtime", "coroutines")
NATIVE = ANDROID / "runtime" / "src" / "main" / "cpp"
# kotlinc on the PATH, and K2 as `make android-tools` unpacks it.
COMPILERS = ("kotlinc", "k2")
# What the native CMakeLists.txt asks for.
_CMAKE = (3, 22)
_TIMEOUT = 900


@dataclass(frozen=True)
class Host:
    """What runs: the JVM, its class path, and the folder of the JNI library."""

    java: str
    class_path: str
    libraries: Path

    def run(self, main: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a main class with the JNI checks on."""
        command = [self.java, "-Xcheck:jni", f"-Djava.library.path={self.libraries}", "-cp", self.class_path, main]
        return _run([*command, *map(str, arguments)])


@dataclass(frozen=True)
class Library:
    """The library as K2 compiles it in explicit API mode, and what it is compiled against."""

    java: str
    jar: Path
    class_path: str


def litert_library() -> Path | None:
    """LiteRT's library for this machine, out of ai-edge-litert; None where that is not installed."""
    found = find_spec("ai_edge_litert")
    folder = Path(str(found.origin)).parent if found is not None else Path()
    return folder / "libLiteRt.so" if (folder / "libLiteRt.so").is_file() else None


def missing(compiler: str | None = None) -> str | None:
    """Why the phone's code cannot be built here; None if it can.

    Args:
        compiler: One of `COMPILERS`; None takes any.
    """
    if sys.platform != "linux":
        return "the phone's code is built on Linux alone"
    for tool, version in (("java", "-version"), ("g++", "--version")):
        if shutil.which(tool) is None:
            return f"no {tool} on the PATH"
        if not _runs(tool, version):
            return f"{tool} is on the PATH and does not run"
    if _cmake() is None:
        return f"no cmake {_CMAKE[0]}.{_CMAKE[1]} or newer: run make android-tools"
    if not (_java_home() / "include" / "jni.h").exists():
        return "no JDK: jni.h is missing"
    if not (_installed() / "llama_cpp" / "lib").is_dir():
        return "llama-cpp-python came without its libllama"
    if verdict().outcome in (CRASHES, WRONG, UNUSABLE):
        return f"{verdict().fault}, and the phone's code links it: {REBUILD}"
    found = _run([_kotlinc(), "--stdlib"], _with(compiler))
    return found.stderr.strip() if found.returncode == 3 else None


def build(compiler: str | None = None) -> Host:
    """Compile what changed, with one of `COMPILERS` or any."""
    stdlib = _ok(_run([_kotlinc(), "--stdlib"], _with(compiler))).stdout.strip()
    sources = [ANDROID / name / "src" / "main" / "kotlin" for name in KOTLIN]
    jar = BUILD / f"{Path(stdlib).stem}-{_hash(sources)}.jar"
    if not jar.exists():
        jar.parent.mkdir(parents=True, exist_ok=True)
        made = jar.with_name(f"new-{os.getpid()}-{jar.name}")
        _ok(_run([_kotlinc(), *map(str, sources), "-jvm-target", "1.8", "-d", str(made)], _with(compiler)))
        made.replace(jar)
    return Host(shutil.which("java") or "java", f"{jar}:{stdlib}", build_native())


def build_library() -> Library:
    """Compile what is published with K2, which refuses a declaration whose visibility is not stated."""
    stdlib = Path(_ok(_run([_kotlinc(), "--stdlib"], _with("k2"))).stdout.strip())
    # It has kotlinx.coroutines in it.
    kernel = next(stdlib.parent.glob("kotlin-jupyter-kernel-*-all.jar"))
    sources = [ANDROID / name / "src" / "main" / "kotlin" for name in LIBRARY]
    jar = BUILD / f"library-{_hash(sources)}.jar"
    class_path = f"{stdlib}:{kernel}"
    if not jar.exists():
        compile_k2([*sources], jar, class_path, "-Xexplicit-api=strict")
    return Library(shutil.which("java") or "java", jar, class_path)


def compile_k2(sources: Sequence[Path], jar: Path, class_path: str, *options: str) -> None:
    """Compile Kotlin with K2 into a jar, whole or not at all."""
    jar.parent.mkdir(parents=True, exist_ok=True)
    made = jar.with_name(f"new-{os.getpid()}-{jar.name}")
    arguments = [*map(str, sources), "-jvm-target", "1.8", "-cp", class_path, *options, "-d", str(made)]
    _ok(_run([_kotlinc(), *arguments], _with("k2")))
    made.replace(jar)


def build_native() -> Path:
    """The JNI library for this machine's JVM; returns its folder."""
    found = BUILD / f"jni-{_hash([NATIVE], f'{_installed()} {llama_cpp.__version__}')}"
    if not found.exists():
        cmake = _cmake()
        assert cmake is not None
        library, include = _installed() / "llama_cpp" / "lib", _installed() / "include"
        options = [f"-DLLAMA_CPP_LIB={library}", f"-DLLAMA_CPP_INCLUDE={include}"]
        environment = {"JAVA_HOME": str(_java_home())}
        made = found.with_name(f"new-{os.getpid()}-{found.name}")
        _ok(_run([cmake, "-S", str(NATIVE), "-B", str(made), *options], environment))
        _ok(_run([cmake, "--build", str(made)], environment))
        # Another process may have been faster.
        with suppress(OSError):
            made.rename(found)
    return found


def _kotlinc() -> str:
    return str(ANDROID / "tools" / "kotlinc")


def _runs(*command: str) -> bool:
    """Whether it ends well: what is on the PATH may be a stand-in, or for another machine."""
    try:
        return _run(command).returncode == 0
    except OSError:
        return False


@cache
def _cmake() -> str | None:
    """The first CMake that runs and is new enough: the PATH's, or that of `make android-tools`."""
    own = ANDROID / "build" / "tools" / "cmake" / "data" / "bin"
    for found in (shutil.which("cmake"), shutil.which("cmake", path=str(own))):
        if found is None or not _runs(found, "--version"):
            continue
        said = re.search(r"version (\d+)\.(\d+)", _run([found, "--version"]).stdout)
        if said is not None and (int(said[1]), int(said[2])) >= _CMAKE:
            return found
    return None


def _java_home() -> Path:
    return Path(os.path.realpath(shutil.which("javac") or shutil.which("java") or "/")).parents[1]


def _installed() -> Path:
    return Path(llama_cpp.__file__).parents[1]


def _with(compiler: str | None) -> dict[str, str]:
    return {} if compiler is None else {"EDGEB_KOTLIN": compiler}


def _hash(folders: Sequence[Path], more: str = "") -> str:
    digest = hashlib.sha256(more.encode())
    for path in sorted(file for folder in folders for file in folder.rglob("*") if file.is_file()):
        digest.update(f"{path.relative_to(ANDROID)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **(environment or {})}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT, env=variables)


def _ok(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, f"{done.args}\n{done.stdout}\n{done.stderr}"
    return done
