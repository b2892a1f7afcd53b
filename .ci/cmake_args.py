"""Prints the CMAKE_ARGS that llama.cpp is built with: edgeb's, the user's own, and what this machine's CPU needs.

On an x86 CPU with AMX, code for AMX is left out: GCC 12.2 as Debian 12 ships it drops the stores to the tile
configuration before it is loaded, and every prompt on a quantized file then ends in a segmentation fault
(ggml-org/llama.cpp#20824). ARM's and older compilers refuse the flag; they make no such code either.

Reads CMAKE_ARGS, CC, CXX, CFLAGS and CXXFLAGS of the environment.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# Images and sound, and what only llama.cpp's own programs need, are more than half of the build and not used here. The
# user's own arguments come later.
OURS = ("-DLLAVA_BUILD=OFF", f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={Path(__file__).with_name('llama_cpp.cmake')}")
WITHOUT_AMX = "-mno-amx-int8"
# Language of CMake and of the compilers, the environment's compiler and flags, and what compiles where none is named.
LANGUAGES = (("C", "c", "CC", "CFLAGS", "cc"), ("CXX", "c++", "CXX", "CXXFLAGS", "c++"))


def cmake_args(environment: Mapping[str, str], cpuinfo: Path) -> str:
    """All arguments in the quoting of CMAKE_ARGS; `cpuinfo` is where Linux describes the CPU."""
    arguments = _joined_defines([*OURS, *shlex.split(environment.get("CMAKE_ARGS", ""))])
    if _has_amx(cpuinfo) and all(
        _takes(_last(arguments, f"CMAKE_{cmake}_COMPILER") or environment.get(compiler) or default, language)
        for cmake, language, compiler, _, default in LANGUAGES
    ):
        print(f"setup: this CPU has AMX: llama.cpp is built without it ({WITHOUT_AMX})", file=sys.stderr)
        for cmake, _, _, flags, _ in LANGUAGES:
            name = f"CMAKE_{cmake}_FLAGS"
            # CMake reads CFLAGS and CXXFLAGS only where its own variable is not set.
            own = _last(arguments, name)
            before = environment.get(flags, "") if own is None else own
            arguments.append(f"-D{name}={before} {WITHOUT_AMX}".replace("= ", "="))
    return shlex.join(arguments)


def _joined_defines(arguments: Sequence[str]) -> list[str]:
    """`-D NAME=VALUE` as one argument."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "-D":
            joined[-1] += argument
        else:
            joined.append(argument)
    return joined


def _last(arguments: Sequence[str], name: str) -> str | None:
    """The value that CMake would take for a variable: the last one that is given."""
    pattern = re.compile(rf"-D{name}(?::\w+)?=(.*)", re.DOTALL)
    found = [match[1] for argument in arguments if (match := pattern.fullmatch(argument))]
    return found[-1] if found else None


def _has_amx(cpuinfo: Path) -> bool:
    return cpuinfo.exists() and re.search(r"^flags\b.*\bamx_int8\b", cpuinfo.read_text(), re.MULTILINE) is not None


def _takes(compiler: str, language: str) -> bool:
    """Whether a compiler knows the flag that leaves AMX out."""
    command = [*shlex.split(compiler), WITHOUT_AMX, "-fsyntax-only", "-x", language, os.devnull]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


if __name__ == "__main__":
    print(cmake_args(os.environ, Path("/proc/cpuinfo")))
