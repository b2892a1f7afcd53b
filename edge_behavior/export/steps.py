"""What every export needs around its steps: a folder that disappears, room on the disk, times. Knows no format."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_behavior.errors import EdgebError, system_error
from edge_behavior.util.files import new_folder

SPARE_BYTES = 64 << 20


@contextmanager
def workspace(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out`, gone afterwards. Turns errors of the file system into EdgebErrors."""
    try:
        with new_folder(out) as folder:
            yield folder
    except OSError as error:
        # numpy reports a short write without an error number.
        full = error if error.errno is not None else OSError(errno.ENOSPC, "")
        raise system_error(full, f"cannot write {out}") from None


def require_space(folder: Path, needed: int) -> None:
    """Refuse to start what `needed` bytes in `folder` would not suffice for."""
    needed += SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise EdgebError(
            f"export needs {needed / 1e9:.1f} GB in {folder.parent}, {free / 1e9:.1f} GB are free",
            "free some space or choose another --out",
        )


@contextmanager
def timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Note in `seconds` how long the block takes."""
    start = time.perf_counter()
    yield
    seconds[step] = round(time.perf_counter() - start, 3)


def merge_dtype(parameters: int) -> str:
    """float32 where it fits into memory; float16 rounds once, as the converted file does anyway."""
    import psutil

    return "float32" if parameters * 4 * 1.3 < psutil.virtual_memory().available else "float16"


def total_bytes(files: Iterable[Path]) -> int:
    """Size of all files."""
    return sum(file.stat().st_size for file in files)


def base_name(base: str | Path) -> str:
    """The hub name, or the folder's own name: a manifest does not carry paths of the machine it was made on."""
    folder = Path(base)
    return folder.resolve().name if folder.is_dir() else str(base)
