"""Text files, plain or gzipped, UTF-8 or UTF-16, detected by content and not by name.

Knows nothing of records, fields or delimiters.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from edge_behavior.errors import EdgebError

GZIP_MAGIC = b"\x1f\x8b"
_HEAD = 1 << 16
_UNPACK = "decompress it first"
_AS_CSV = "save its table as CSV (UTF-8)"
# First bytes of files that are not text, what they are, and what to do.
_FORMATS = (
    (b"PAR1", "a Parquet file", "import it with --format parquet, or save it as CSV"),
    (b"PK\x03\x04", "a zip archive or an Excel workbook", f"{_UNPACK}, or {_AS_CSV}"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document", _AS_CSV),
    (b"SQLite format 3\0", "an SQLite database", _AS_CSV),
    (b"\x89HDF", "an HDF5 file", _AS_CSV),
    (b"ARROW1", "an Arrow file", _AS_CSV),
    (b"Obj\x01", "an Avro file", _AS_CSV),
    (b"%PDF-", "a PDF", _AS_CSV),
    (b"BZh91AY&SY", "compressed with bzip2", _UNPACK),
    (b"\xfd7zXZ\0", "compressed with xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (GZIP_MAGIC, "compressed with gzip twice", _UNPACK),
    (b"\xff\xfe\0\0", "UTF-32 text", "save it as UTF-8"),
    (b"\0\0\xfe\xff", "UTF-32 text", "save it as UTF-8"),
)
_MARKUP = ("<!doctype", "<html", "<?xml")


@dataclass(frozen=True)
class TextFile:
    """A text file and how to read it.

    Attributes:
        gzipped: Whether it is compressed with gzip.
        encoding: `utf-8-sig`, `utf-16-le` or `utf-16-be`.
        start: Bytes of a UTF-16 byte order mark to skip.
        content: The bytes of a pipe, which can be read only once; None for a file.
    """

    path: Path
    gzipped: bool
    encoding: str
    start: int = 0
    content: bytes | None = None

    @property
    def is_utf8(self) -> bool:
        """Whether the encoding is UTF-8."""
        return self.encoding == "utf-8-sig"

    def open_bytes(self) -> IO[bytes]:
        """The decompressed bytes."""
        return _opened(self.path, self.content, self.gzipped)

    @contextmanager
    def open(self) -> Iterator[io.TextIOWrapper]:
        """The text, with line ends as they are, to be read inside a `with` block.

        Raises:
            EdgebError: naming the line of a byte that is not text; a damaged gzip file; a file that cannot be read.
        """
        with file_errors(self.path):
            raw = self.open_bytes()
            raw.read(self.start)
            with io.TextIOWrapper(raw, encoding=self.encoding, newline="") as text:
                try:
                    yield text
                except UnicodeDecodeError as error:
                    raise self._bad_byte(error) from None

    def _bad_byte(self, error: UnicodeDecodeError) -> EdgebError:
        hint = "save the file as UTF-8"
        if not self.is_utf8:
            return EdgebError(f"{self.path} is UTF-16 text with a damaged character", hint)
        with self.open_bytes() as raw:
            for number, line in enumerate(raw, 1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as found:
                    byte = line[found.start]
                    where = f"{self.path}:{number}: byte {found.start + 1} of the line, 0x{byte:02X}"
                    return EdgebError(f"{where}, is not UTF-8 text", hint)
        return EdgebError(f"{self.path} is not UTF-8 text ({error.reason})", hint)


def detect(path: Path) -> TextFile:
    """Detect compression and encoding from a file's first bytes. A pipe is read into memory.

    Raises:
        EdgebError: the file cannot be read, or is not text; the message says what it looks like.
    """
    with file_errors(path):
        content = None if path.is_file() else path.read_bytes()
        with _opened(path, content, gzipped=False) as raw:
            gzipped = raw.read(2) == GZIP_MAGIC
        with _opened(path, content, gzipped) as raw:
            head = raw.read(_HEAD)
    for magic, what, hint in _FORMATS:
        if head.startswith(magic):
            raise EdgebError(f"{path} is {what}", hint)
    encoding, start = _encoding(head)
    text = head[start:].decode(encoding, "replace").lstrip("\ufeff \t\r\n")[:16].lower()
    if text.startswith(_MARKUP):
        raise EdgebError(f"{path} is a web page or XML", "fetch the log itself, or save its table as CSV (UTF-8)")
    return TextFile(path, gzipped, encoding, start, content)


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn errors of reading a file into an EdgebError.

    Raises:
        EdgebError: a damaged gzip file, or one that cannot be opened or read.
    """
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise EdgebError(f"{path} is a damaged gzip file: {error}", "fetch it again") from None
    except OSError as error:
        raise EdgebError(f"cannot read {path}: {error.strerror or error}", "check the path") from None


def _opened(path: Path, content: bytes | None, gzipped: bool) -> IO[bytes]:
    source = path if content is None else io.BytesIO(content)
    if gzipped:
        return cast("IO[bytes]", gzip.open(source, "rb"))
    return source.open("rb") if isinstance(source, Path) else source


def _encoding(head: bytes) -> tuple[str, int]:
    """The encoding of these first bytes, and the length of their UTF-16 byte order mark."""
    if head.startswith(b"\xff\xfe"):
        return "utf-16-le", 2
    if head.startswith(b"\xfe\xff"):
        return "utf-16-be", 2
    # In UTF-16 ASCII characters have a zero byte, always on the same side; UTF-8 text has none.
    even, odd = head[::2].count(0), head[1::2].count(0)
    most = max(even, odd)
    if most * 20 > len(head) and min(even, odd) * 10 <= most:
        return ("utf-16-le" if odd > even else "utf-16-be"), 0
    return "utf-8-sig", 0
