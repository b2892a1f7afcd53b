"""Verdicts on builds of llama.cpp, kept in edgeb's home by the library's hash and the CPU's features.

While size, inode and times of the files are unchanged, they are not hashed again. Nothing here fails: a verdict that
cannot be read is unknown, one that cannot be written is found again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_behavior.errors import EdgebError
from edge_behavior.util.checksums import files_sha256
from edge_behavior.util.files import write_file
from edge_behavior.util.workspace import home

NAME = "llama-cpp.json"
_KEPT = 16
# Raised with every trial that tests more, so that older verdicts no longer count.
_TRIAL = 1


@dataclass(frozen=True)
class VerdictFile:
    """The kept verdicts on one library and one CPU.

    Attributes:
        files: The library's files; nothing is recalled or remembered without any.
        cpu: The CPU's features that matter.
    """

    files: Sequence[Path]
    cpu: str

    def recall(self) -> tuple[str, str] | None:
        """The remembered outcome and its detail, or None."""
        mine = [entry for entry in _read() if entry.get("cpu") == self.cpu and entry.get("trial") == _TRIAL]
        state = self._state()
        if state is None or not mine:
            return None
        entry = next((entry for entry in mine if entry.get("files") == state), None)
        if entry is None:
            library = self._hash()
            entry = next((entry for entry in mine if library is not None and entry.get("library") == library), None)
            if entry is None:
                return None
            _write({**entry, "files": state})
        return str(entry.get("outcome")), str(entry.get("detail"))

    def remember(self, outcome: str, detail: str) -> None:
        """Keep an outcome; the file is replaced atomically."""
        state, library = self._state(), self._hash()
        if state is not None and library is not None:
            about = {"library": library, "cpu": self.cpu, "trial": _TRIAL, "files": state}
            _write({**about, "outcome": outcome, "detail": detail})

    def _state(self) -> list[list[str | int]] | None:
        try:
            stats = [(path, path.stat()) for path in self.files]
        except OSError:
            return None
        return [[str(path), at.st_size, at.st_ino, at.st_mtime_ns, at.st_ctime_ns] for path, at in stats] or None

    def _hash(self) -> str | None:
        try:
            return files_sha256(self.files)
        except OSError:
            return None


def _read() -> list[dict[str, Any]]:
    # Deep nesting runs out of stack.
    try:
        found = json.loads((home() / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _write(entry: dict[str, Any]) -> None:
    others = [old for old in _read() if any(old.get(key) != entry[key] for key in ("library", "cpu", "trial"))]
    with suppress(OSError, EdgebError):
        home().mkdir(parents=True, exist_ok=True)
        write_file(home() / NAME, json.dumps([*others, entry][-_KEPT:], indent=1))
