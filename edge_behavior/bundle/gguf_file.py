"""The bundle as one GGUF file: manifest and hashes are metadata, placed before the vocabulary.

Reads, writes and verifies that file. Knows nothing of what the manifest says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from edge_behavior.bundle.gguf_header import MAGIC, GgufFile, MetadataEntry, pack_entry, padded
from edge_behavior.bundle.manifest import Manifest, check_schema
from edge_behavior.bundle.population import packed_population, unpacked_population
from edge_behavior.core.fields import DAMAGED_HINT
from edge_behavior.core.population import PopulationTable
from edge_behavior.errors import EdgebError

KEY_VERSION = "edgeb.schema_version"
KEY_MANIFEST = "edgeb.manifest"
KEY_MANIFEST_HASH = "edgeb.manifest_sha256"
KEY_CANDIDATES = "edgeb.candidates"
KEY_POPULATION = "edgeb.population"
_CHUNK = 1 << 22


def read_gguf_manifest(path: Path) -> Manifest:
    """Read the manifest from the file's header, without vocabulary or tensors.

    Raises:
        EdgebError: missing, not GGUF, truncated, not a bundle, or a manifest that this edgeb refuses.
    """
    with GgufFile(path) as file:
        return _manifest_of(file, _own_entries(file))


def read_gguf_population(path: Path) -> PopulationTable | None:
    """The population's table; None where the bundle has none.

    Raises:
        EdgebError: as `read_gguf_manifest`, or a table that does not match its hash.
    """
    with GgufFile(path) as file:
        found = _own_entries(file)
        manifest = _manifest_of(file, found)
        if manifest.population is None:
            return None
        content = file.raw(found[KEY_POPULATION])
    return unpacked_population(manifest.population, content, manifest.candidates, manifest.layout.places, str(path))


def verify_gguf(path: Path, progress: Callable[[int], None] | None = None) -> Manifest:
    """Verify every byte of a file against its manifest's hashes and return the manifest.

    Args:
        path: The file.
        progress: Called with the number of bytes just hashed.

    Raises:
        EdgebError: as `read_gguf_manifest`, or the file has changed since it was written.
    """
    manifest = read_gguf_manifest(path)
    read_gguf_population(path)
    with GgufFile(path) as file:
        tokenizer, tensors = _hashes(file, progress)
    for name, found, expected in (
        ("tokenizer", tokenizer, manifest.tokenizer_sha256),
        ("tensors", tensors, manifest.tensors_sha256),
    ):
        if found != expected:
            raise EdgebError(f"{path}: the {name} do not match the manifest's hash", DAMAGED_HINT)
    return manifest


def write_bundle(
    source: Path,
    manifest: Manifest,
    out: Path,
    progress: Callable[[int], None] | None = None,
    population: PopulationTable | None = None,
) -> Manifest:
    """Copy a GGUF to `out` with the manifest in its metadata, replacing any other.

    Writes `out` directly: pass a temporary name, and rename the file once verified.

    Args:
        source: A converted or quantized GGUF, or a bundle.
        manifest: Its hashes are computed here.
        out: The file to write.
        progress: Called with the number of bytes just hashed or written: twice the file in all.
        population: The table that the manifest describes; None where it describes none.

    Returns:
        The manifest as written, hashes set.

    Raises:
        EdgebError: a table that is not the manifest's.
    """
    packed = packed_population(manifest.population, population)
    with GgufFile(source) as file:
        tokenizer, tensors = _hashes(file, progress)
        manifest = replace(manifest, tokenizer_sha256=tokenizer, tensors_sha256=tensors)
        text = manifest.to_json()
        added = [
            pack_entry(KEY_VERSION, manifest.schema_version),
            pack_entry(KEY_MANIFEST, text),
            pack_entry(KEY_MANIFEST_HASH, _sha256(text)),
            pack_entry(KEY_CANDIDATES, manifest.candidates.labels),
        ]
        if packed is not None:
            added.append(pack_entry(KEY_POPULATION, packed))
        kept = [entry for entry in file.metadata() if not entry.key.startswith("edgeb.")]
        model = [file.bytes[e.start : e.end] for e in kept if not e.key.startswith("tokenizer.")]
        vocabulary = [file.bytes[e.start : e.end] for e in kept if e.key.startswith("tokenizer.")]
        table = file.tensor_table()
        counts = file.n_tensors.to_bytes(8, "little") + (len(kept) + len(added)).to_bytes(8, "little")
        entries = b"".join([*model, *added, *vocabulary])
        head = MAGIC + file.version.to_bytes(4, "little") + counts + entries + file.bytes[table.start : table.end]
        with out.open("wb") as target:
            target.write(head.ljust(padded(len(head), table.alignment), b"\0"))
            _copy(file, table.data_start, target, progress)
    return manifest


def _own_entries(file: GgufFile) -> dict[str, MetadataEntry]:
    found: dict[str, MetadataEntry] = {}
    for entry in file.metadata():
        if entry.key.startswith("edgeb."):
            found[entry.key] = entry
        # `write_bundle` puts them before the vocabulary, which is slow to skip.
        elif found or entry.key.startswith("tokenizer."):
            break
    return found


def _manifest_of(file: GgufFile, found: Mapping[str, MetadataEntry]) -> Manifest:
    where = str(file.path)
    if KEY_MANIFEST not in found:
        raise EdgebError(f"{where} is a GGUF but not an edgeb bundle", "export it with edgeb export")
    if KEY_VERSION in found:
        check_schema(file.value(found[KEY_VERSION]), where)
    for key in (KEY_VERSION, KEY_MANIFEST_HASH, KEY_CANDIDATES):
        if key not in found:
            raise EdgebError(f"{where}: the metadata key '{key}' is missing", DAMAGED_HINT)
    text = file.value(found[KEY_MANIFEST])
    if not isinstance(text, str) or file.value(found[KEY_MANIFEST_HASH]) != _sha256(text):
        raise EdgebError(f"{where}: the manifest does not match its hash", DAMAGED_HINT)
    manifest = Manifest.from_json(text, where)
    if file.value(found[KEY_VERSION]) != manifest.schema_version:
        raise EdgebError(f"{where}: '{KEY_VERSION}' differs from the manifest's", DAMAGED_HINT)
    if file.value(found[KEY_CANDIDATES]) != list(manifest.candidates.labels):
        raise EdgebError(f"{where}: '{KEY_CANDIDATES}' differs from the manifest's candidates", DAMAGED_HINT)
    if (KEY_POPULATION in found) != (manifest.population is not None):
        raise EdgebError(f"{where}: '{KEY_POPULATION}' and the manifest's 'population' need each other", DAMAGED_HINT)
    return manifest


def _hashes(file: GgufFile, progress: Callable[[int], None] | None) -> tuple[str, str]:
    tokenizer, tensors = hashlib.sha256(), hashlib.sha256()
    for entry in file.metadata():
        if not entry.key.startswith("edgeb."):
            target = tokenizer if entry.key.startswith("tokenizer.") else tensors
            target.update(file.bytes[entry.start : entry.end])
    table = file.tensor_table()
    tensors.update(file.bytes[table.start : table.end])
    if any(file.bytes[table.end : table.data_start]):
        raise EdgebError(f"{file.path}: the padding before the tensor data is not empty", DAMAGED_HINT)
    for at in range(table.data_start, file.size, _CHUNK):
        chunk = file.bytes[at : at + _CHUNK]
        tensors.update(chunk)
        if progress is not None:
            progress(len(chunk))
    return tokenizer.hexdigest(), tensors.hexdigest()


def _copy(file: GgufFile, start: int, target: BinaryIO, progress: Callable[[int], None] | None) -> None:
    for at in range(start, file.size, _CHUNK):
        target.write(file.bytes[at : at + _CHUNK])
        if progress is not None:
            progress(min(_CHUNK, file.size - at))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
