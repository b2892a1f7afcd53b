"""The header of a GGUF file: its metadata and tensor table, and where each lies in the file.

Every length is checked against the file's size before use, so that a damaged or hostile file ends in an EdgebError.
Long arrays are skipped, not read, and no third-party package is needed: opening a bundle takes a millisecond. Knows
nothing of bundles, models or tokenizers.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType

from edge_behavior.errors import EdgebError, system_error

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
UINT8, UINT32, STRING, ARRAY = 0, 4, 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_SIZES = {kind: struct.calcsize("<" + code) for kind, code in _SCALARS.items()}
_MAX_KEY = 65_535
_MAX_DIMENSIONS = 4

Scalar = int | float | bool | str


@dataclass(frozen=True, slots=True)
class MetadataEntry:
    """One key: its value's type number, and the offsets of the entry (`start`, `end`) and of its `value`."""

    key: str
    kind: int
    start: int
    value: int
    end: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: `shape` as stored (fastest dimension first), ggml type number `kind`, offset in the data section."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def elements(self) -> int:
        """Number of weights."""
        return prod(self.shape)


@dataclass(frozen=True)
class TensorTable:
    """The tensor table: its offsets `start` to `end`, the start of the aligned data section, and the tensors."""

    start: int
    end: int
    data_start: int
    alignment: int
    tensors: tuple[TensorInfo, ...]


class GgufFile:
    """A GGUF file opened for reading its header. Use as a context manager.

    Raises:
        EdgebError: on opening, if the path is not a readable file, not GGUF, or of an unknown GGUF version; from
            every method, if the file ends before its header says.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise EdgebError(f"{path} is a folder, not a GGUF file", "pass the .gguf file that edgeb export wrote")
        try:
            with self.path.open("rb") as file:
                self.size = file.seek(0, 2)
                if self.size == 0:
                    raise EdgebError(f"{path} is an empty file", "export or copy it again")
                self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise EdgebError(f"cannot read {path}: {error.strerror}", system_error(error).hint) from None
        if self.bytes[:4] != MAGIC:
            raise EdgebError(f"{path} is not a GGUF file", "pass the .gguf file that edgeb export wrote")
        self._at = 4
        self.version: int = self._take("I", "version")
        if self.version not in VERSIONS:
            raise EdgebError(
                f"{path} has GGUF version {self.version}", f"this edgeb reads versions {VERSIONS}; update it"
            )
        self.n_tensors: int = self._take("Q", "tensor count")
        self.n_entries: int = self._take("Q", "metadata count")
        self._first_entry = self._at

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.bytes.close()

    def metadata(self) -> Iterator[MetadataEntry]:
        """Metadata entries in file order; the rest stays unread if iteration stops early."""
        at = self._first_entry
        for number in range(self.n_entries):
            self._at = start = at
            key = self._string(f"metadata key {number}", limit=_MAX_KEY)
            kind = self._take("I", f"type of '{key}'")
            value = self._at
            self._skip(kind, key)
            at = self._at
            yield MetadataEntry(key, kind, start, value, at)

    def value(self, entry: MetadataEntry) -> Scalar | list[Scalar]:
        """The value of an entry."""
        self._at = entry.value
        if entry.kind != ARRAY:
            return self._read(entry.kind, entry.key)
        kind, count = self._take("I", entry.key), self._take("Q", entry.key)
        return [self._read(kind, entry.key) for _ in range(count)]

    def raw(self, entry: MetadataEntry) -> bytes:
        """The bytes of an array of unsigned 8-bit numbers, at once."""
        self._at = entry.value
        if entry.kind != ARRAY or self._take("I", entry.key) != UINT8:
            raise self._damaged(f"'{entry.key}' is no array of bytes")
        count = self._take("Q", entry.key)
        self._need(count, f"'{entry.key}'")
        return self.bytes[self._at : self._at + count]

    def tensor_table(self) -> TensorTable:
        """The tensor table; walks over all metadata first."""
        alignment, start = DEFAULT_ALIGNMENT, self._first_entry
        for entry in self.metadata():
            start = entry.end
            if entry.key == "general.alignment":
                alignment = self._alignment(entry)
        self._at = start
        tensors = tuple(self._tensor(number) for number in range(self.n_tensors))
        end = self._at
        data_start = padded(end, alignment)
        self._need(data_start - end, "the start of the tensor data")
        return TensorTable(start, end, data_start, alignment, tensors)

    def _alignment(self, entry: MetadataEntry) -> int:
        alignment = self.value(entry)
        if not isinstance(alignment, int) or alignment < 8 or alignment % 8:
            raise EdgebError(
                f"{self.path} has tensor alignment {alignment!r}", "the file is damaged: copy or export it again"
            )
        return alignment

    def _tensor(self, number: int) -> TensorInfo:
        name = self._string(f"name of tensor {number}", limit=_MAX_KEY)
        dimensions = self._take("I", f"tensor '{name}'")
        if dimensions > _MAX_DIMENSIONS:
            raise self._damaged(f"tensor '{name}' has {dimensions} dimensions")
        shape = tuple(self._take("Q", f"tensor '{name}'") for _ in range(dimensions))
        return TensorInfo(name, shape, self._take("I", f"tensor '{name}'"), self._take("Q", f"tensor '{name}'"))

    def _damaged(self, what: str) -> EdgebError:
        return EdgebError(f"{self.path} is damaged: {what}", "copy or export it again")

    def _need(self, count: int, what: str) -> None:
        if count > self.size - self._at:
            raise EdgebError(f"{self.path} is cut short: it ends inside {what}", "copy or export it again")

    def _take(self, code: str, what: str) -> int:
        size = struct.calcsize("<" + code)
        self._need(size, what)
        (value,) = struct.unpack_from("<" + code, self.bytes, self._at)
        self._at += size
        return int(value)

    def _string(self, what: str, limit: int | None = None) -> str:
        length = self._take("Q", what)
        if limit is not None and length > limit:
            raise self._damaged(f"{what} has {length} bytes")
        self._need(length, what)
        raw = self.bytes[self._at : self._at + length]
        self._at += length
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self._damaged(f"{what} is not UTF-8") from None

    def _read(self, kind: int, key: str) -> Scalar:
        if kind == STRING:
            return self._string(f"'{key}'")
        if kind not in _SCALARS:
            raise self._damaged(f"'{key}' has the unknown type {kind}")
        self._need(_SIZES[kind], f"'{key}'")
        (value,) = struct.unpack_from("<" + _SCALARS[kind], self.bytes, self._at)
        self._at += _SIZES[kind]
        result: Scalar = value
        return result

    def _skip(self, kind: int, key: str) -> None:
        what = f"'{key}'"
        count = 1
        if kind == ARRAY:
            kind, count = self._take("I", what), self._take("Q", what)
        if kind == STRING:
            self._skip_strings(count, what)
        elif kind in _SIZES:
            self._need(count * _SIZES[kind], what)
            self._at += count * _SIZES[kind]
        else:
            raise self._damaged(f"{what} has the unknown type {kind}")

    def _skip_strings(self, count: int, what: str) -> None:
        # A tight loop: a vocabulary has hundreds of thousands of strings.
        at, size, data, length = self._at, self.size, self.bytes, struct.Struct("<Q").unpack_from
        for _ in range(count):
            if at + 8 > size:
                break
            at += 8 + length(data, at)[0]
            if at > size:
                break
        else:
            self._at = at
            return
        self._need(size + 1, what)


def padded(offset: int, alignment: int) -> int:
    """The first multiple of `alignment` at or after `offset`."""
    return -(-offset // alignment) * alignment


def pack_string(text: str) -> bytes:
    """A GGUF string: length and UTF-8 bytes."""
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def pack_entry(key: str, value: int | str | bytes | Sequence[str]) -> bytes:
    """A metadata entry holding an unsigned 32-bit number, a string, an array of bytes, or an array of strings."""
    head = pack_string(key)
    if isinstance(value, int):
        return head + struct.pack("<II", UINT32, value)
    if isinstance(value, str):
        return head + struct.pack("<I", STRING) + pack_string(value)
    if isinstance(value, bytes):
        return head + struct.pack("<IIQ", ARRAY, UINT8, len(value)) + value
    items = b"".join(pack_string(item) for item in value)
    return head + struct.pack("<IIQ", ARRAY, STRING, len(value)) + items
