"""Prints requirements.lock: the versions that are installed in the environments in which the tests have passed.

    .ci/lock.py ENVIRONMENT...    folders of virtual environments, each of another Python

Where Pythons differ, each version stands with the Pythons it is for.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

HEAD = """\
# The versions that the tests have run with, written by `make lock`. `make setup` installs no others of these packages;
# the ranges that edgeb itself asks for are in pyproject.toml. docs/platforms.md tells which tests ran on which Python.
"""
# What PyTorch's builds for NVIDIA GPUs bring along; its builds for CPUs need none of it.
GPU = re.compile(r"nvidia-|cuda-|triton$")


def installed(environment: Path) -> tuple[int, dict[str, str]]:
    """The Python's minor version, and the version of every package by its normalized name."""
    python = str(environment / "bin" / "python")
    minor = int(_output(python, "-c", "import sys; print(sys.version_info[1])"))
    lines = _output(python, "-m", "pip", "freeze", "--exclude-editable").splitlines()
    # A wheel that was installed from a file, and so stands with its address, is a build of the pinned version.
    pinned = dict(line.split("==") for line in lines if "==" in line)
    for line in lines:
        if found := re.fullmatch(r"(\S+) @ .*/[^/-]+-([^/-]+)-[^/]*\.whl(?:#.*)?", line):
            pinned[found[1]] = found[2]
    # A local version names a build, for example +cpu.
    named = {re.sub(r"[-_.]+", "-", name).lower(): version.split("+")[0] for name, version in pinned.items()}
    return minor, {name: version for name, version in named.items() if not GPU.match(name)}


def merged(found: Mapping[int, Mapping[str, str]]) -> str:
    """The lock's lines: one per package, or one per range of Pythons with its own version."""
    lines = []
    for name in sorted({name for packages in found.values() for name in packages}):
        having = [(minor, found[minor][name]) for minor in sorted(found) if name in found[minor]]
        groups = [(version, [minor for minor, _ in group]) for version, group in groupby(having, lambda one: one[1])]
        for at, (version, minors) in enumerate(groups):
            bounds = [f'python_version >= "3.{minors[0]}"'] if at > 0 else []
            bounds += [f'python_version < "3.{groups[at + 1][1][0]}"'] if at + 1 < len(groups) else []
            lines.append(f"{name}=={version}" + (f"; {' and '.join(bounds)}" if bounds else ""))
    return HEAD + "\n".join(lines) + "\n"


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    print(merged(dict(installed(Path(folder)) for folder in sys.argv[1:])), end="")
