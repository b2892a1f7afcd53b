"""A log as it can be read: what is no plain UTF-8 file with a plain path becomes one in the scratch folder.

Pipes are copied, because a log is read more than once; a path that is not UTF-8 gets a link with a plain name, because
DuckDB takes only those; a TSMC2014 file in a single-byte encoding is written as UTF-8, line by line. Knows nothing of
columns.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_behavior.data.duck import printable
from edge_behavior.data.importers.text import open_text
from edge_behavior.errors import EdgebError
from edge_behavior.util.checksums import file_sha256

_SINGLE_BYTE = "cp1252"  # a superset of latin-1's characters


@contextmanager
def released(source: Path) -> Iterator[None]:
    """Let a program that waits to write into a pipe go on when the log is refused unread.

    Raises:
        EdgebError: the body's.
    """
    try:
        yield
    except EdgebError:
        if source.is_fifo():
            os.close(os.open(source, os.O_RDONLY | os.O_NONBLOCK))
        raise


@dataclass(frozen=True)
class Arrival:
    """A log and where to read it.

    Attributes:
        given: The path as the user wrote it.
        original: The bytes as they came: `given` itself, or the copy of a pipe.
        path: What to read.
    """

    given: Path
    original: Path
    path: Path

    @contextmanager
    def named(self) -> Iterator[None]:
        """Name the log as the user did in the errors of the body.

        Raises:
            EdgebError: the body's.
        """
        try:
            yield
        except EdgebError as error:
            if self.path == self.given:
                raise
            read, given = str(self.path), printable(self.given)
            raise EdgebError(error.message.replace(read, given), error.hint.replace(read, given)) from None

    def identify(self, file: Path) -> dict[str, Any]:
        """Name, hash and size of a file that was read, as it came."""
        came, name = (self.original, self.given) if file == self.path else (file, file)
        return {"name": printable(Path(name.name)), "sha256": file_sha256(came), "bytes": came.stat().st_size}


def arrive(source: Path, format: str, work: Path, step: Callable[[str], None]) -> Arrival:
    """Make a log readable, with what that takes in the scratch folder `work`.

    Raises:
        EdgebError: a TSMC2014 file that is neither UTF-8 nor Windows-1252 text.
    """
    original = path = source
    if not source.is_file() and not source.is_dir():
        step(f"reading from a pipe: {printable(source)}")
        original = path = work / "piped"
        with source.open("rb") as stream, path.open("wb") as copy:
            shutil.copyfileobj(stream, copy, 1 << 20)
    elif not _plain(source):
        if format == "app-usage" and not source.is_dir():
            raise EdgebError(f"the path of {printable(source)} is not UTF-8", "pass the folder it is in")
        path = work / "log"
        path.symlink_to(source.absolute(), target_is_directory=source.is_dir())
    arrival = Arrival(source, original, path)
    if format == "tsmc2014":
        with arrival.named():
            return Arrival(source, original, _as_utf8(path, work))
    return arrival


def _plain(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_utf8(path: Path, work: Path) -> Path:
    """The file itself where it is UTF-8, else a copy that is; lines keep their numbers.

    Raises:
        EdgebError: naming the first byte that fits neither encoding, or the first that is not UTF-8 where other lines
            are: such a file is UTF-8 with an error, and would be garbled as anything else.
    """
    opened = open_text(path, "latin-1")  # every byte is a character: the bytes of a line, unpacked
    bad: tuple[int, int, int] | None = None
    good = False
    with opened as file:
        for number, line in enumerate(file, 1):
            if line.isascii():
                continue
            try:
                line.encode("latin-1").decode("utf-8")
                good = True
            except UnicodeDecodeError as error:
                bad = bad or (number, error.start, ord(line[error.start]))
    if bad is None:
        return path
    if good:
        raise _bad_byte(path, *bad, "the other lines are UTF-8; mend this one")
    copy = work / "log.utf8"
    with open_text(path, "latin-1") as file, copy.open("w", encoding="utf-8", newline="") as out:
        for number, line in enumerate(file, 1):
            try:
                out.write(line.encode("latin-1").decode(_SINGLE_BYTE))
            except UnicodeDecodeError as error:
                hint = "it is not Windows-1252 either; convert the file to UTF-8"
                raise _bad_byte(path, number, error.start, ord(line[error.start]), hint) from None
    return copy


def _bad_byte(path: Path, line: int, start: int, byte: int, hint: str) -> EdgebError:
    return EdgebError(f"{path}:{line}: byte {start + 1} of the line, 0x{byte:02X}, is not UTF-8 text", hint)
