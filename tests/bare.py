"""A PATH with the system's basic tools and nothing else, for trying scripts as a bare machine would run them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

TOOLS = (
    "awk", "basename", "bash", "cat", "chmod", "cksum", "cp", "cut", "dirname", "du", "env", "grep", "head", "ln", "ls",
    "mkdir", "mktemp", "mv", "printf", "readlink", "rm", "sed", "sh", "sort", "tail", "touch", "tr", "uname",
)  # fmt: skip


def folder(path: Path) -> Path:
    """Make a folder of links to the basic tools that this machine has."""
    path.mkdir()
    for tool in TOOLS:
        if found := shutil.which(tool):
            os.symlink(os.path.realpath(found), path / tool)
    return path


def stand_in(folder: Path, name: str, script: str = "exit 0") -> Path:
    """Put a command of that name into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    # A link to the real tool would be written through.
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path
