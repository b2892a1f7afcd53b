"""Files and folders in the making: reserved under a hidden name beside their target, locked, swept when abandoned.

The lock tells what a living process is making from what a killed one left behind. Only `files` uses this.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNFINISHED = ".edgeb-partial"
# What a folder that is being replaced is called meanwhile, inside the hidden one.
REPLACED = "replaced"
# File systems allow 255 bytes of a name; the rest is for what makes it a hidden one.
_NAME_BYTES = 200


@contextmanager
def reserved(target: Path, *, folder: bool) -> Iterator[Path]:
    """Sweep, then make a hidden file or folder beside a target that no other process has; it is gone afterwards."""
    _sweep(target)
    temporary, lock = _reserve(target, _make_folder if folder else _make_file)
    try:
        yield temporary
    finally:
        try:
            if folder:
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
        finally:
            _release(lock)


def _short(target: Path) -> str:
    """A target's name, or as much of it as leaves room for more."""
    name = target.name
    while len(os.fsencode(name)) > _NAME_BYTES:
        name = name[:-1]
    return name


def _make_file(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


def _make_folder(path: Path) -> None:
    path.mkdir()


def _reserve(target: Path, make: Callable[[Path], None]) -> tuple[Path, int | None]:
    """A new hidden file or folder and the handle that holds its lock."""
    while True:
        temporary = target.with_name(f".{_short(target)}.{os.urandom(4).hex()}{UNFINISHED}")
        try:
            make(temporary)
            lock = _locked(temporary, wait=True)
        except FileExistsError:
            continue
        except FileNotFoundError:
            if not target.parent.is_dir():
                raise
            # Swept before it was locked.
            continue
        if temporary.exists():
            return temporary, lock
        _release(lock)


def _locked(path: Path, wait: bool) -> int | None:
    """A handle that holds the lock of a file or folder; None where it is taken, or where the disk has no locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(handle)
        return None
    return handle


def _release(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def _sweep(target: Path) -> None:
    """Remove what killed processes left of this target: what nobody has locked."""
    start = f".{_short(target)}."
    with suppress(OSError):
        for entry in os.scandir(target.parent):
            middle = entry.name[len(start) : -len(UNFINISHED)]
            if not entry.name.startswith(start) or not entry.name.endswith(UNFINISHED) or "." in middle:
                continue
            with suppress(OSError):
                _remove(Path(entry.path), target)


def _remove(left: Path, target: Path) -> None:
    lock = _locked(left, wait=False)
    if lock is None:
        return
    try:
        if not left.is_dir():
            left.unlink()
            return
        if (left / REPLACED).exists() and not os.path.lexists(target):
            os.rename(left / REPLACED, target)
        shutil.rmtree(left)
    finally:
        _release(lock)
