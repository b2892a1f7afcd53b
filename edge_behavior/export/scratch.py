"""Where an export works: a scratch folder beside its output, and whether the disk has room."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_behavior.bundle.folder import MANIFEST_FILE
from edge_behavior.errors import EdgebError, system_error
from edge_behavior.util.files import new_folder
from edge_behavior.util.numbers import file_size

SPARE_BYTES = 64 << 20


@contextmanager
def scratch_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out`, removed afterwards. Turns errors of the file system into EdgebErrors."""
    try:
        with new_folder(out) as folder:
            yield folder
    except OSError as error:
        # numpy reports a short write without an error number.
        full = error if error.errno is not None else OSError(errno.ENOSPC, "")
        raise system_error(full, f"cannot write {out}") from None


def check_folder(out: Path, force: bool) -> None:
    """Refuse an output where no bundle's folder can be written, before the work that makes its content.

    Raises:
        EdgebError: a file, a folder of something else, or a bundle without `force`.
    """
    if out.exists() and not out.is_dir():
        raise EdgebError(f"the output {out} is not a folder", "choose another --out")
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / MANIFEST_FILE).is_file():
        raise EdgebError(f"the folder {out} is not empty and no bundle", "choose another --out")
    if not force:
        raise EdgebError(f"the output {out} exists", "choose another --out or pass --force")


def require_space(folder: Path, needed: float) -> None:
    """Refuse to start if `needed` bytes do not fit on the disk of `folder`."""
    needed += SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise EdgebError(
            f"export needs {file_size(needed)} in {folder.parent}, {file_size(free)} are free",
            "free some space or choose another --out",
        )
