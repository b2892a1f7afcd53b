"""The bundle as a folder: an ONNX or Hugging Face model, its tokenizer, and `edgeb.json` with the manifest.

Reads, writes and verifies `edgeb.json`: schema version, manifest and its hash, and a hash of every other file. The
folder holds plain files only; what Finder, Explorer, network drives and editors leave behind is ignored. Stock
onnxruntime-genai and Transformers ignore `edgeb.json`. Knows nothing of what the files mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_behavior.bundle.manifest import Manifest, check_schema
from edge_behavior.bundle.population import packed_population, unpacked_population
from edge_behavior.core.fields import Kind, parse_json, read_fields
from edge_behavior.core.population import PopulationTable
from edge_behavior.errors import EdgebError
from edge_behavior.util.checksums import file_sha256
from edge_behavior.util.files import write_file
from edge_behavior.util.unfinished import UNFINISHED

MANIFEST_FILE = "edgeb.json"
# Belongs neither to the model nor to the tokenizer.
POPULATION_FILE = "population.bin"
# Files of the tokenizer; all others belong to the model.
_TOKENIZER_FILE = re.compile(r"(tokenizer.*|special_tokens_map|added_tokens|vocab|merges|chat_template)\.\w+")
_FIELDS: Mapping[str, Kind] = {"schema_version": int, "manifest": str, "manifest_sha256": str, "files": dict}
_NAME, _HASH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*"), re.compile(r"[0-9a-f]{64}")
# Left behind by file managers, network drives and editors; no inference engine reads it.
_FOREIGN = re.compile(
    r"\.DS_Store|\.localized|\.directory|\._.*|\.AppleDouble|\.Spotlight-V100|\.Trash.*|\.fseventsd|__MACOSX|Icon\r"
    r"|Thumbs\.db|ehthumbs.*\.db|desktop\.ini|@eaDir|\.nfs[0-9a-f]+|\.fuse_hidden.*|\.smb.*"
    r"|.*~|#.*#|\.#.*|\..*\.sw[a-p]|\..*"
    + re.escape(UNFINISHED)
    # A card is for people, who may edit it; the others come with a copy from the hub or a repository.
    + r"|README\.md|\.git|\.gitattributes|\.gitignore|\.cache",
    re.IGNORECASE,
)
_MAX_BYTES = 1 << 26
_DAMAGED_HINT = "the folder is damaged or was edited: copy or export it again"


def read_folder_manifest(path: Path) -> Manifest:
    """Read a folder's manifest, and check that the folder holds exactly the files listed, without reading them.

    Raises:
        EdgebError: not a bundle, a newer version, a damaged `edgeb.json`, a file that is missing, not listed or not a
            plain file, or a name that leads out of the folder.
    """
    return _read(path)[0]


def read_folder_population(path: Path) -> PopulationTable | None:
    """The population's table; None where the bundle has none.

    Raises:
        EdgebError: as `read_folder_manifest`, or a table that does not match its hash.
    """
    manifest = read_folder_manifest(path)
    if manifest.population is None:
        return None
    try:
        content = (path / POPULATION_FILE).read_bytes()
    except OSError as error:
        raise EdgebError(f"cannot read {path / POPULATION_FILE}: {error.strerror}", "check its permissions") from None
    return unpacked_population(manifest.population, content, manifest.candidates, manifest.layout.places, str(path))


def verify_folder(path: Path, progress: Callable[[int], None] | None = None) -> Manifest:
    """Verify every byte of a folder against its hashes and return the manifest.

    Args:
        path: The folder.
        progress: Called with the number of bytes just hashed.

    Raises:
        EdgebError: as `read_folder_manifest`, or a file has changed since the bundle was written.
    """
    manifest, files = _read(path)
    for name, expected in files.items():
        if _file_hash(path / name, progress) != expected:
            raise EdgebError(f"{path / name} does not match its hash", _DAMAGED_HINT)
    read_folder_population(path)
    return manifest


def write_folder_manifest(
    path: Path,
    manifest: Manifest,
    progress: Callable[[int], None] | None = None,
    population: PopulationTable | None = None,
) -> Manifest:
    """Turn a folder of model and tokenizer files into a bundle, replacing any `edgeb.json`.

    Args:
        path: The folder with the finished files.
        manifest: Its hashes are computed here.
        progress: Called with the number of bytes just hashed.
        population: The table that the manifest describes, written beside it; None where it describes none.

    Returns:
        The manifest as written, hashes set.

    Raises:
        EdgebError: something in the folder is not a plain file, or a table that is not the manifest's.
    """
    table = packed_population(manifest.population, population)
    if table is None:
        (path / POPULATION_FILE).unlink(missing_ok=True)
    else:
        write_file(path / POPULATION_FILE, table)
    files = {name: _file_hash(path / name, progress) for name in _listed(path)}
    tokenizer, model = _combined(files)
    manifest = replace(manifest, tokenizer_sha256=tokenizer, tensors_sha256=model)
    text = manifest.to_json()
    fields = {
        "schema_version": manifest.schema_version,
        "manifest": text,
        "manifest_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "files": files,
    }
    write_file(path / MANIFEST_FILE, json.dumps(fields, indent=1))
    return manifest


def holds_safetensors(path: Path) -> bool:
    """Whether a bundle is a Hugging Face folder, which PyTorch opens; else a folder is onnxruntime-genai's."""
    return any(path.glob("*.safetensors"))


def folder_bytes(path: Path) -> int:
    """Size of a bundle's files."""
    return sum(file.stat().st_size for file in path.iterdir() if not _FOREIGN.fullmatch(file.name))


def _read(path: Path) -> tuple[Manifest, dict[str, str]]:
    """Manifest and {file name: hash}; everything is checked but the files' contents."""
    where = str(path / MANIFEST_FILE)
    fields = _fields(path / MANIFEST_FILE)
    # First: a newer schema may have any fields.
    check_schema(fields.get("schema_version"), where)
    fields = read_fields(fields, _FIELDS, where, _DAMAGED_HINT)
    text, files = fields["manifest"], fields["files"]
    # JSON can hold lone surrogates, which UTF-8 cannot encode.
    if hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() != fields["manifest_sha256"]:
        raise EdgebError(f"{where}: the manifest does not match its hash", _DAMAGED_HINT)
    manifest = Manifest.from_json(text, where)
    if manifest.schema_version != fields["schema_version"]:
        raise EdgebError(f"{where}: 'schema_version' differs from the manifest's", _DAMAGED_HINT)
    for name, digest in files.items():
        if name == MANIFEST_FILE or not _NAME.fullmatch(name):
            raise EdgebError(f"{where}: {name!r} in 'files' is not a file name", _DAMAGED_HINT)
        if not isinstance(digest, str) or not _HASH.fullmatch(digest):
            raise EdgebError(f"{where}: the hash of '{name}' is {digest!r}", _DAMAGED_HINT)
    if _combined(files) != (manifest.tokenizer_sha256, manifest.tensors_sha256):
        raise EdgebError(f"{where}: the files' hashes do not match the manifest's", _DAMAGED_HINT)
    if (POPULATION_FILE in files) != (manifest.population is not None):
        raise EdgebError(f"{where}: '{POPULATION_FILE}' and the manifest's 'population' need each other", _DAMAGED_HINT)
    listed = set(_listed(path))
    for name in sorted(files.keys() ^ listed):
        what = "is missing" if name in files else "does not belong to the bundle"
        raise EdgebError(f"{path / name} {what}", _DAMAGED_HINT)
    return manifest, files


def _fields(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise EdgebError(f"{file.parent} is a folder without {MANIFEST_FILE}, not an edgeb bundle", "export it first")
    if file.is_symlink():
        raise EdgebError(f"{file} is a link", _DAMAGED_HINT)
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise EdgebError(f"{file} is too large", _DAMAGED_HINT)
        content = file.read_bytes()
    except OSError as error:
        raise EdgebError(f"cannot read {file}: {error.strerror}", "check its permissions") from None
    fields = parse_json(content, str(file), _DAMAGED_HINT)
    if not isinstance(fields, dict):
        raise EdgebError(f"{file} is not a JSON object", _DAMAGED_HINT)
    return fields


def _listed(path: Path) -> list[str]:
    """Names of all files but `edgeb.json`, sorted."""
    names = []
    for entry in os.scandir(path):
        if _FOREIGN.fullmatch(entry.name):
            continue
        if not entry.is_file(follow_symlinks=False):
            kind = "a link" if entry.is_symlink() else "not a file"
            raise EdgebError(f"{path / entry.name} is {kind}", "a bundle's folder holds plain files only")
        if entry.name != MANIFEST_FILE:
            names.append(entry.name)
    return sorted(names)


def _combined(files: Mapping[str, str]) -> tuple[str, str]:
    """One hash over names and hashes of the tokenizer's files, and one over those of the model's files."""
    parts = hashlib.sha256(), hashlib.sha256()
    for name in sorted(files.keys() - {POPULATION_FILE}):
        part = parts[0 if _TOKENIZER_FILE.fullmatch(name) else 1]
        part.update(json.dumps([name, files[name]]).encode() + b"\n")
    return parts[0].hexdigest(), parts[1].hexdigest()


def _file_hash(file: Path, progress: Callable[[int], None] | None) -> str:
    try:
        return file_sha256(file, progress)
    except OSError as error:
        raise EdgebError(f"cannot read {file}: {error.strerror}", "check its permissions") from None
