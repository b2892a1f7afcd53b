"""Makes a log readable for DuckDB: a regular UTF-8 file with a UTF-8 path, in the scratch folder where it is not one.

A pipe is copied, because a log is read more than once; a path that is not UTF-8 gets a link with a plain name; a
TSMC2014 file in a single-byte encoding is converted to UTF-8. Knows nothing of columns.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_behavior.data.duck import printable
from edge_behavior.data.importers.fixed_layout import open_text
from edge_behavior.data.info import LogFile
from edge_behavior.errors import EdgebError
from edge_behavior.util.checksums import file_sha256

_SINGLE_BYTE = "cp1252"  # has all characters of latin-1, and more


@contextmanager
def release_pipe(source: Path) -> Iterator[None]:
    """Unblock the program that writes into a pipe when the log is refused unread.

    Raises:
        EdgebError: as raised inside the block.
    """
    try:
        yield
    except EdgebError:
        if source.is_fifo():
            os.close(os.open(source, os.O_RDONLY | os.O_NONBLOCK))
        raise


@dataclass(frozen=True)
class ReadableLog:
    """A log and where to read it.

    Attributes:
        given: The path as the user wrote it.
        original: The unconverted bytes: `given` itself, or the copy of a pipe.
        path: What to read.
    """

    given: Path
    original: Path
    path: Path

    @contextmanager
    def original_name(self) -> Iterator[None]:
        """Name the log as the user did in errors raised inside the block.

        Raises:
            EdgebError: as raised inside the block.
        """
        try:
            yield
        except EdgebError as error:
            if self.path == self.given:
                raise
            read, given = str(self.path), printable(self.given)
            raise EdgebError(error.message.replace(read, given), error.hint.replace(read, given)) from None

    def identify(self, file: Path) -> LogFile:
        """Name, checksum and size of a file that was read, before any conversion."""
        original, name = (self.original, self.given) if file == self.path else (file, file)
        return LogFile(printable(Path(name.name)), file_sha256(original), original.stat().st_size)


def make_readable(source: Path, format: str, work: Path, step: Callable[[str], None]) -> ReadableLog:
    """Make a log readable, with copies and links in the scratch folder `work`.

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
    readable = ReadableLog(source, original, path)
    if format == "tsmc2014":
        with readable.original_name():
            return ReadableLog(source, original, _as_utf8(path, work))
    return readable


def _plain(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_utf8(path: Path, work: Path) -> Path:
    """The file itself if it is UTF-8, else a converted copy with the same lines.

    Raises:
        EdgebError: naming the first byte that neither encoding has, or the first that is not UTF-8 in a file whose
            other lines are: such a file is damaged UTF-8, which any other encoding would garble.
    """
    opened = open_text(path, "latin-1")  # maps every byte to a character, which keeps the bytes of a line
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
        raise _bad_byte(path, *bad, "the other lines are UTF-8; correct this one")
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
