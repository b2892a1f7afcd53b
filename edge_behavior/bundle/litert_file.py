"""The bundle as one LiteRT file: a stock `.tflite` with a ZIP archive after it, which holds everything else.

Stock LiteRT ignores the archive, as it does the one that TFLite's own metadata is kept in, and any ZIP reader opens the
file. The archive's entries are stored uncompressed: `edgeb.json` (manifest, graph, size and hash of the model, hash of
every other entry), `tokenizer.gguf` (a GGUF without tensors) and, where there are such, `population.bin` and
`probe.json` (known rows, see `litert_probe`). Reads, writes and verifies that file; knows nothing of what the model
computes.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from edge_behavior.bundle.litert_graph import LiteRtGraph
from edge_behavior.bundle.litert_probe import LiteRtProbe
from edge_behavior.bundle.manifest import Manifest, check_schema
from edge_behavior.bundle.population import packed_population, unpacked_population
from edge_behavior.core.fields import DAMAGED_HINT, Kind, is_whole, parse_json, read_fields
from edge_behavior.core.population import PopulationTable
from edge_behavior.errors import EdgebError, system_error

SUFFIX = ".tflite"
MANIFEST_ENTRY = "edgeb.json"
TOKENIZER_ENTRY = "tokenizer.gguf"
POPULATION_ENTRY = "population.bin"
PROBE_ENTRY = "probe.json"
# A flatbuffer's identifier stands behind the offset of its root.
_IDENTIFIER, _IDENTIFIER_AT = b"TFL3", 4
_HASH = re.compile(r"[0-9a-f]{64}")
_FIELDS: Mapping[str, Kind] = {
    "schema_version": int,
    "manifest": str,
    "manifest_sha256": str,
    "graph": dict,
    "model_bytes": int,
    "model_sha256": str,
    "files": dict,
}
# The end record of an archive without a comment.
_END_RECORD, _END_BYTES = b"PK\5\6", 22
_MANIFEST_RECORD = re.compile(re.escape(b"PK\3\4") + b".{26}" + re.escape(MANIFEST_ENTRY.encode()), re.DOTALL)
# What zipfile raises where an archive is damaged.
_BROKEN = (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError, struct.error)
_MAX_BYTES = 1 << 28
_CHUNK = 1 << 22
_EXPORT_HINT = "export it with edgeb export --format litert"
_CUT_HINT = "copy or export it again"


@dataclass(frozen=True)
class LiteRtBundle:
    """What a LiteRT bundle says of itself.

    Attributes:
        manifest: The manifest.
        graph: What a host must know of the graph.
        model_bytes: The model is the file up to here.
    """

    manifest: Manifest
    graph: LiteRtGraph
    model_bytes: int


def is_litert(path: Path) -> bool:
    """Whether a file is a LiteRT file by its first bytes; one that cannot be read, or none, is no LiteRT file."""
    try:
        with path.open("rb") as file:
            head = file.read(_IDENTIFIER_AT + len(_IDENTIFIER))
    except OSError:
        return False
    return head[_IDENTIFIER_AT:] == _IDENTIFIER


def read_litert(path: Path) -> LiteRtBundle:
    """Read manifest and graph; the model and the other entries stay unread.

    Raises:
        EdgebError: missing, not a LiteRT file, cut short, without edgeb's manifest, of a newer schema, or damaged.
    """
    with _Archive(path) as archive:
        return archive.bundle


def read_litert_entry(path: Path, name: str) -> bytes:
    """The content of `TOKENIZER_ENTRY` or `POPULATION_ENTRY`, checked against its hash.

    Raises:
        EdgebError: as `read_litert`, or the entry has changed since the bundle was written.
    """
    with _Archive(path) as archive:
        return archive.entry(name)


def read_litert_population(path: Path) -> PopulationTable | None:
    """The population's table; None where the bundle has none.

    Raises:
        EdgebError: as `read_litert`, or a table that does not match its hash.
    """
    with _Archive(path) as archive:
        return archive.population()


def read_litert_probe(path: Path) -> LiteRtProbe | None:
    """The known rows to check an accelerator by; None where the bundle has none.

    Raises:
        EdgebError: as `read_litert`, or rows that do not match their hash or cannot be read.
    """
    with _Archive(path) as archive:
        return archive.probe()


def verify_litert(path: Path, progress: Callable[[int], None] | None = None) -> Manifest:
    """Verify model and entries against their hashes and return the manifest.

    Args:
        path: The file.
        progress: Called with the number of the model's bytes just hashed.

    Raises:
        EdgebError: as `read_litert`, or the file has changed since it was written.
    """
    with _Archive(path) as archive:
        for name in archive.files:
            archive.entry(name)
        archive.population()
        archive.probe()
        with path.open("rb") as file:
            if _digest(file, archive.bundle.model_bytes, progress) != archive.model_sha256:
                raise EdgebError(f"{path}: the model does not match its hash", DAMAGED_HINT)
        return archive.bundle.manifest


def write_litert(
    model: Path,
    tokenizer: bytes,
    manifest: Manifest,
    graph: LiteRtGraph,
    out: Path,
    progress: Callable[[int], None] | None = None,
    population: PopulationTable | None = None,
    probe: LiteRtProbe | None = None,
) -> Manifest:
    """Copy a LiteRT model to `out` and put the archive behind it.

    Writes `out` directly: pass a temporary name, and rename the file once verified.

    Args:
        model: A `.tflite` without an archive.
        tokenizer: The content of a GGUF file that holds the vocabulary.
        manifest: Its hashes are computed here.
        graph: What a host must know of the model's graph.
        out: The file to write.
        progress: Called with the number of bytes just written.
        population: The table that the manifest describes; None where it describes none.
        probe: Known rows; without them the bundle runs on the CPU only.

    Returns:
        The manifest as written, hashes set.

    Raises:
        EdgebError: not a LiteRT model, or a table that is not the manifest's.
    """
    if not is_litert(model):
        raise EdgebError(f"{model} is not a LiteRT file", "pass a .tflite")
    entries = {TOKENIZER_ENTRY: tokenizer}
    table = packed_population(manifest.population, population)
    if table is not None:
        entries[POPULATION_ENTRY] = table
    if probe is not None:
        entries[PROBE_ENTRY] = json.dumps(probe.to_dict()).encode()
    files = {name: hashlib.sha256(content).hexdigest() for name, content in entries.items()}
    size = model.stat().st_size
    with model.open("rb") as source, out.open("wb") as target:
        digest = _digest(source, size, progress, target)
    manifest = replace(manifest, tokenizer_sha256=files[TOKENIZER_ENTRY], tensors_sha256=_tensors_hash(digest, graph))
    text = manifest.to_json()
    fields = {
        "schema_version": manifest.schema_version,
        "manifest": text,
        "manifest_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "graph": graph.to_dict(),
        "model_bytes": size,
        "model_sha256": digest,
        "files": files,
    }
    with zipfile.ZipFile(out, "a", zipfile.ZIP_STORED) as archive:
        for name, content in ((MANIFEST_ENTRY, json.dumps(fields, indent=1).encode()), *entries.items()):
            # Without a date: the same bundle gives the same bytes.
            archive.writestr(zipfile.ZipInfo(name), content)
    return manifest


class _Archive:
    """A LiteRT bundle opened for reading; everything is checked but the contents of model and entries.

    Attributes:
        bundle: What the file says of itself.
        model_sha256: Hash of the model.
        files: Hash of every entry but `edgeb.json`, by name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise EdgebError(f"cannot read {path}: {error.strerror}", system_error(error).hint) from None
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def entry(self, name: str) -> bytes:
        """The content of an entry, checked against its hash."""
        content = self._read(name)
        if hashlib.sha256(content).hexdigest() != self.files.get(name):
            raise EdgebError(f"{self._path}: {name} does not match its hash", DAMAGED_HINT)
        return content

    def population(self) -> PopulationTable | None:
        """The population's table; None where the bundle has none."""
        manifest = self.bundle.manifest
        if manifest.population is None:
            return None
        content, where = self.entry(POPULATION_ENTRY), str(self._path)
        return unpacked_population(manifest.population, content, manifest.candidates, manifest.layout.places, where)

    def probe(self) -> LiteRtProbe | None:
        """The known rows; None where the bundle has none."""
        if PROBE_ENTRY not in self.files:
            return None
        where = f"{self._path}: {PROBE_ENTRY}"
        return LiteRtProbe.from_dict(parse_json(self.entry(PROBE_ENTRY), where), self.bundle.graph.vocabulary, where)

    def _open(self) -> None:
        path = self._path
        head = self._file.read(_IDENTIFIER_AT + len(_IDENTIFIER))
        if head[_IDENTIFIER_AT:] != _IDENTIFIER:
            raise EdgebError(f"{path} is not a LiteRT file", f"pass a {SUFFIX} that edgeb export wrote")
        size = self._file.seek(0, 2)
        self._file.seek(max(0, size - _END_BYTES))
        if self._file.read(len(_END_RECORD)) != _END_RECORD:
            raise self._without_archive()
        try:
            self._zip = zipfile.ZipFile(self._file)
        except _BROKEN:
            raise self._damaged("the archive at its end cannot be read") from None
        names = self._zip.namelist()
        if MANIFEST_ENTRY not in names:
            raise EdgebError(f"{path} is a LiteRT file without edgeb's manifest", _EXPORT_HINT)
        fields = parse_json(self._read(MANIFEST_ENTRY), f"{path}: {MANIFEST_ENTRY}")
        if isinstance(fields, dict):
            # First: a newer schema may have any fields.
            check_schema(fields.get("schema_version"), str(path))
        fields = read_fields(fields, _FIELDS, f"{path}: {MANIFEST_ENTRY}")
        self.files: dict[str, str] = fields["files"]
        self.model_sha256: str = fields["model_sha256"]
        self._check_entries(names, fields["model_bytes"])
        text = fields["manifest"]
        # JSON can hold lone surrogates, which UTF-8 cannot encode.
        if hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() != fields["manifest_sha256"]:
            raise self._damaged("the manifest does not match its hash")
        manifest = Manifest.from_json(text, str(path))
        if manifest.schema_version != fields["schema_version"]:
            raise self._damaged("'schema_version' differs from the manifest's")
        graph = LiteRtGraph.from_dict(fields["graph"], f"{path}: graph")
        hashes = self.files[TOKENIZER_ENTRY], _tensors_hash(self.model_sha256, graph)
        if hashes != (manifest.tokenizer_sha256, manifest.tensors_sha256):
            raise self._damaged("the hashes do not match the manifest's")
        if (POPULATION_ENTRY in self.files) != (manifest.population is not None):
            raise self._damaged(f"'{POPULATION_ENTRY}' and the manifest's 'population' need each other")
        self.bundle = LiteRtBundle(manifest, graph, fields["model_bytes"])

    def _check_entries(self, names: list[str], model_bytes: object) -> None:
        """Refuse an archive that holds other entries than are listed, or begins elsewhere than the model ends."""
        if set(self.files) - {POPULATION_ENTRY, PROBE_ENTRY} != {TOKENIZER_ENTRY}:
            raise self._damaged(f"'files' has {', '.join(map(repr, self.files)) or 'no entry'}"[:200])
        if sorted(names) != sorted([MANIFEST_ENTRY, *self.files]):
            raise self._damaged(f"the archive holds {', '.join(names)}"[:200])
        for digest in (*self.files.values(), self.model_sha256):
            if not isinstance(digest, str) or not _HASH.fullmatch(digest):
                raise self._damaged(f"a hash is {digest!r}"[:100])
        start = min(info.header_offset for info in self._zip.infolist())
        if not is_whole(model_bytes, 1, start + 1) or model_bytes != start:
            raise self._damaged("the archive does not begin where the model ends")

    def _read(self, name: str) -> bytes:
        try:
            info = self._zip.getinfo(name)
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > _MAX_BYTES:
                raise self._damaged(f"{name} is compressed or too large")
            return self._zip.read(info)
        except (*_BROKEN, KeyError, OSError):
            raise self._damaged(f"{name} cannot be read") from None

    def _damaged(self, what: str) -> EdgebError:
        return EdgebError(f"{self._path} is damaged: {what}", _CUT_HINT)

    def _without_archive(self) -> EdgebError:
        """What to say of a file that does not end in an archive: its beginning tells whether it was cut short."""
        with mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            cut = _MANIFEST_RECORD.search(content) is not None
        if cut:
            return EdgebError(f"{self._path} is cut short: it ends inside edgeb's archive", _CUT_HINT)
        return EdgebError(
            f"{self._path} is a LiteRT file without edgeb's manifest, or cut short before it",
            f"{_EXPORT_HINT}, or copy it again",
        )


def _tensors_hash(model_sha256: str, graph: LiteRtGraph) -> str:
    """One hash of everything that decides the logits."""
    return hashlib.sha256(json.dumps([model_sha256, graph.to_dict()], sort_keys=True).encode()).hexdigest()


def _digest(source: BinaryIO, size: int, progress: Callable[[int], None] | None, target: BinaryIO | None = None) -> str:
    """SHA-256 of the next bytes of a file, which are copied if there is a target."""
    digest, left = hashlib.sha256(), size
    while left and (chunk := source.read(min(_CHUNK, left))):
        digest.update(chunk)
        if target is not None:
            target.write(chunk)
        if progress is not None:
            progress(len(chunk))
        left -= len(chunk)
    return digest.hexdigest()
