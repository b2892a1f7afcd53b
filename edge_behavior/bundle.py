"""The bundle: one GGUF file whose `edgeb.*` metadata say what it predicts and how it was made.

Reads, writes and verifies the manifest. The file stays an ordinary GGUF that stock llama.cpp loads. A bundle may also
be a folder with an ONNX model and the same manifest, see `bundle_folder`. Knows nothing of how a model is converted or
run.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from edge_behavior.candidates import CandidateSet
from edge_behavior.errors import EdgebError
from edge_behavior.gguf_header import MAGIC, GgufFile, MetadataEntry, pack_entry, padded
from edge_behavior.prompts import PromptLayout

SCHEMA_VERSION = 1
KEY_VERSION = "edgeb.schema_version"
KEY_MANIFEST = "edgeb.manifest"
KEY_MANIFEST_HASH = "edgeb.manifest_sha256"
KEY_CANDIDATES = "edgeb.candidates"
BASE_MODEL_FIELDS = ("name", "license", "weights_sha256")
_CHUNK = 1 << 22
_DAMAGED_HINT = "the file is damaged or was edited: copy or export it again"

_FIELDS: Mapping[str, tuple[type, ...]] = {
    "schema_version": (int,),
    "created_with": (str,),
    "candidates": (dict,),
    "layout": (dict,),
    "static_prompt": (str,),
    "bos_id": (int, type(None)),
    "eos_id": (int,),
    "architecture": (str,),
    "quantization": (str,),
    "context_length": (int,),
    "base_model": (dict,),
    "training": (dict,),
    "evaluation": (dict,),
    "vocabulary": (dict, type(None)),
    "habits": (dict, type(None)),
    "calibration": (dict, type(None)),
    "parity": (dict, type(None)),
    "tokenizer_sha256": (str,),
    "tensors_sha256": (str,),
}


@dataclass(frozen=True)
class Manifest:
    """What a bundle carries beside its weights.

    Attributes:
        created_with: Program and version that wrote it, like "edgeb 0.1.0".
        candidates: The labels it predicts and their training counts.
        layout: How its prompts are worded.
        bos_id: Token id every prompt starts with, or None for none.
        eos_id: Token id that ends an answer where the layout has no terminator of its own.
        architecture: GGUF architecture, "qwen2" or "llama".
        quantization: The engine's name of the weight format, like "Q4_K_M" or "INT4 block 32".
        context_length: Positions the model was built for.
        base_model: `name`, `license` (or None) and `weights_sha256` of the backbone.
        training: The resolved recipe of the run.
        evaluation: The metrics of the run. Numbers that are not finite become null in the file.
        vocabulary: What pruning left of the vocabulary, see `export.prune`; None if nothing was pruned.
        habits: How the per-user counter is set and fused with the model, see `fusion`; None without one.
        calibration: How scores become the probabilities that are shown, see `calibration`; None if not fitted.
        parity: What every step of the export changed, see `export.parity`; None if it was not measured.
        tokenizer_sha256: Hash of the file's tokenizer metadata; set on writing.
        tensors_sha256: Hash of everything that decides the logits (architecture metadata, tensor table and tensor
            data); set on writing.
        schema_version: Version of this record.
    """

    created_with: str
    candidates: CandidateSet
    layout: PromptLayout
    bos_id: int | None
    eos_id: int
    architecture: str
    quantization: str
    context_length: int
    base_model: dict[str, str | None]
    training: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    vocabulary: dict[str, Any] | None = None
    habits: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    parity: dict[str, Any] | None = None
    tokenizer_sha256: str = ""
    tensors_sha256: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def static_prompt(self) -> str:
        """Text of the part of the prompt that never changes, for readers that do not know the layouts."""
        return "".join(self.layout.static(self.candidates.labels))

    def to_json(self) -> str:
        """One JSON object, pure ASCII, that `from_json` reads."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        fields["candidates"] = {"labels": list(self.candidates.labels), "counts": list(self.candidates.counts)}
        fields["layout"] = self.layout.to_dict()
        try:
            return json.dumps(_finite(fields), allow_nan=False)
        except TypeError as error:
            raise EdgebError(
                f"the manifest cannot be written as JSON: {error}", "use plain values in recipes"
            ) from None

    @classmethod
    def from_json(cls, text: str, where: str = "manifest") -> Manifest:
        """Read a manifest strictly.

        Args:
            text: What `to_json` wrote.
            where: The file, for error messages.

        Raises:
            EdgebError: not JSON, a newer schema, a field that is missing, unknown or of the wrong type, or a prompt
                wording that this edgeb would render differently.
        """
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise EdgebError(f"{where}: the manifest is not JSON ({error})", _DAMAGED_HINT) from None
        if not isinstance(fields, dict):
            raise EdgebError(f"{where}: the manifest is not a JSON object", _DAMAGED_HINT)
        check_schema(fields.get("schema_version"), where)
        _check_fields(fields, _FIELDS, where, "")
        candidates = fields["candidates"]
        _check_fields(candidates, {"labels": (list,), "counts": (list,)}, where, "candidates.")
        _check_items(candidates["labels"], str, where, "candidates.labels")
        _check_items(candidates["counts"], int, where, "candidates.counts")
        _check_fields(fields["base_model"], dict.fromkeys(BASE_MODEL_FIELDS, (str, type(None))), where, "base_model.")
        static_prompt = fields.pop("static_prompt")
        if fields["context_length"] < 1:
            raise EdgebError(f"{where}: manifest field 'context_length' is {fields['context_length']}", _DAMAGED_HINT)
        try:
            fields["candidates"] = CandidateSet(tuple(candidates["labels"]), tuple(candidates["counts"]))
        except EdgebError as error:
            raise EdgebError(f"{where}: {error.message}", error.hint) from None
        _check_layout(fields["layout"], where)
        fields["layout"] = PromptLayout.from_dict(fields["layout"])
        manifest = cls(**fields)
        if manifest.static_prompt != static_prompt:
            raise EdgebError(
                f"{where}: this edgeb words the prompt otherwise than {manifest.created_with}, which wrote the bundle",
                "use that version, or train and export again",
            )
        return manifest


def check_schema(version: object, where: str) -> None:
    """Refuse a schema version this program does not know."""
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise EdgebError(f"{where}: manifest field 'schema_version' is {version!r}", _DAMAGED_HINT)
    if version > SCHEMA_VERSION:
        raise EdgebError(
            f"{where} was written by a newer edgeb (schema {version}, this one reads {SCHEMA_VERSION})", "update edgeb"
        )


def read_manifest(path: Path) -> Manifest:
    """Read a bundle's manifest from the head of the file, without reading vocabulary or tensors.

    Raises:
        EdgebError: not there, not GGUF, cut short, no bundle, or a manifest this edgeb refuses.
    """
    if path.is_dir():
        # Here, since that module reads manifests with this one.
        from edge_behavior.bundle_folder import read_folder_manifest

        return read_folder_manifest(path)
    with GgufFile(path) as file:
        found: dict[str, MetadataEntry] = {}
        for entry in file.metadata():
            if entry.key.startswith("edgeb."):
                found[entry.key] = entry
            # The writer puts them here so that the vocabulary need not be stepped over.
            elif found or entry.key.startswith("tokenizer."):
                break
        return _manifest_of(file, found)


def verify_bundle(path: Path, progress: Callable[[int], None] | None = None) -> Manifest:
    """Check every byte of a bundle against its manifest's hashes and return the manifest.

    Args:
        path: The bundle.
        progress: Called with the number of bytes just hashed.

    Raises:
        EdgebError: as `read_manifest`, or the file was truncated or changed since it was written.
    """
    if path.is_dir():
        from edge_behavior.bundle_folder import verify_folder

        return verify_folder(path, progress)
    manifest = read_manifest(path)
    with GgufFile(path) as file:
        tokenizer, tensors = _hashes(file, progress)
    for name, found, expected in (
        ("tokenizer", tokenizer, manifest.tokenizer_sha256),
        ("tensors", tensors, manifest.tensors_sha256),
    ):
        if found != expected:
            raise EdgebError(f"{path}: the {name} do not match the manifest's hash", _DAMAGED_HINT)
    return manifest


def bundle_bytes(path: Path) -> int:
    """Size of a bundle, file or folder."""
    if path.is_dir():
        from edge_behavior.bundle_folder import folder_bytes

        return folder_bytes(path)
    return path.stat().st_size


def require_gguf(path: Path, why: str) -> None:
    """Refuse a folder bundle where only a GGUF file will do."""
    if path.is_dir():
        raise EdgebError(f"{path} is a folder, and {why}", "pass a bundle exported with --format gguf")


def write_bundle(
    source: Path, manifest: Manifest, out: Path, progress: Callable[[int], None] | None = None
) -> Manifest:
    """Copy a GGUF to `out` with the manifest in its metadata, replacing one it may have had.

    Writes `out` directly: give a temporary name and rename it once verified.

    Args:
        source: A converted or quantized GGUF, or a bundle.
        manifest: Its hashes are computed here.
        out: The file to write; the tensor data are streamed.
        progress: Called with the number of bytes hashed or written; two passes over the file in all.

    Returns:
        The manifest as written, hashes set.
    """
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


def _manifest_of(file: GgufFile, found: Mapping[str, MetadataEntry]) -> Manifest:
    where = str(file.path)
    if KEY_MANIFEST not in found:
        raise EdgebError(f"{where} is a GGUF but not an edgeb bundle", "export it with edgeb export")
    if KEY_VERSION in found:
        check_schema(file.value(found[KEY_VERSION]), where)
    for key in (KEY_VERSION, KEY_MANIFEST_HASH, KEY_CANDIDATES):
        if key not in found:
            raise EdgebError(f"{where}: the metadata key '{key}' is missing", _DAMAGED_HINT)
    text = file.value(found[KEY_MANIFEST])
    if not isinstance(text, str) or file.value(found[KEY_MANIFEST_HASH]) != _sha256(text):
        raise EdgebError(f"{where}: the manifest does not match its hash", _DAMAGED_HINT)
    manifest = Manifest.from_json(text, where)
    if file.value(found[KEY_VERSION]) != manifest.schema_version:
        raise EdgebError(f"{where}: '{KEY_VERSION}' differs from the manifest's", _DAMAGED_HINT)
    if file.value(found[KEY_CANDIDATES]) != list(manifest.candidates.labels):
        raise EdgebError(f"{where}: '{KEY_CANDIDATES}' differs from the manifest's candidates", _DAMAGED_HINT)
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
        raise EdgebError(f"{file.path}: the padding before the tensor data is not empty", _DAMAGED_HINT)
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


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_fields(fields: dict[str, Any], known: Mapping[str, tuple[type, ...]], where: str, prefix: str) -> None:
    for name in known:
        if name not in fields:
            raise EdgebError(f"{where}: manifest field '{prefix}{name}' is missing", _DAMAGED_HINT)
    for name, value in fields.items():
        if name not in known:
            raise EdgebError(f"{where}: unknown manifest field '{prefix}{name}'", _DAMAGED_HINT)
        # JSON's true is Python's int.
        if not isinstance(value, known[name]) or isinstance(value, bool):
            kinds = " or ".join("null" if kind is type(None) else kind.__name__ for kind in known[name])
            raise EdgebError(f"{where}: manifest field '{prefix}{name}' is {value!r}, not {kinds}", _DAMAGED_HINT)


def _check_items(items: list[Any], kind: type, where: str, name: str) -> None:
    for number, item in enumerate(items):
        if not isinstance(item, kind) or isinstance(item, bool):
            raise EdgebError(
                f"{where}: manifest field '{name}[{number}]' is {item!r}, not {kind.__name__}", _DAMAGED_HINT
            )


def _check_layout(fields: dict[str, Any], where: str) -> None:
    # What a layout with places writes: `places` is there only where it is false, and `from_dict` checks its value.
    for name, expected in PromptLayout().to_dict().items():
        if name not in fields:
            raise EdgebError(f"{where}: manifest field 'layout.{name}' is missing", _DAMAGED_HINT)
        if type(fields[name]) is not type(expected):
            kind = type(expected).__name__
            raise EdgebError(f"{where}: manifest field 'layout.{name}' is {fields[name]!r}, not {kind}", _DAMAGED_HINT)
