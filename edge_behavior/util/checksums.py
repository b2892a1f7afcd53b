"""SHA-256 of files and folders, read in blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from edge_behavior.util.progress import progress_bar

_BLOCK = 1 << 20
# Bytes from which on hashing takes long enough for a progress bar.
_SHOWN_FROM = 256_000_000


def file_sha256(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """SHA-256 (hex) of a file's content; `advance` is called with the bytes read since the last call."""
    return files_sha256([path], advance)


def sha256_with_bar(path: Path, hidden: bool = False) -> str:
    """SHA-256 (hex) of a file, with a progress bar for a large one; `hidden` as in `ProgressBar`."""
    size = path.stat().st_size
    if size < _SHOWN_FROM:
        return file_sha256(path)
    with progress_bar(f"Checking {path.name}", size, unit_bytes=True, hidden=hidden) as advance:
        return file_sha256(path, advance)


def files_sha256(paths: Iterable[Path], advance: Callable[[int], None] | None = None) -> str:
    """One SHA-256 (hex) over the contents of several files, in order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                if advance is not None:
                    advance(len(block))
    return digest.hexdigest()


def folder_sha256(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of every file in a folder and below, by its path in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}
