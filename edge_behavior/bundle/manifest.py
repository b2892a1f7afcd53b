"""The manifest: what a bundle says of itself, as JSON with a strict reader. Knows no file that carries it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError

SCHEMA_VERSION = 1
BASE_MODEL_FIELDS = ("name", "license", "weights_sha256")
DAMAGED_HINT = "the file is damaged or was edited: copy or export it again"

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
            raise EdgebError(f"{where}: the manifest is not JSON ({error})", DAMAGED_HINT) from None
        if not isinstance(fields, dict):
            raise EdgebError(f"{where}: the manifest is not a JSON object", DAMAGED_HINT)
        check_schema(fields.get("schema_version"), where)
        _check_fields(fields, _FIELDS, where, "")
        candidates = fields["candidates"]
        _check_fields(candidates, {"labels": (list,), "counts": (list,)}, where, "candidates.")
        _check_items(candidates["labels"], str, where, "candidates.labels")
        _check_items(candidates["counts"], int, where, "candidates.counts")
        _check_fields(fields["base_model"], dict.fromkeys(BASE_MODEL_FIELDS, (str, type(None))), where, "base_model.")
        static_prompt = fields.pop("static_prompt")
        if fields["context_length"] < 1:
            raise EdgebError(f"{where}: manifest field 'context_length' is {fields['context_length']}", DAMAGED_HINT)
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
        raise EdgebError(f"{where}: manifest field 'schema_version' is {version!r}", DAMAGED_HINT)
    if version > SCHEMA_VERSION:
        raise EdgebError(
            f"{where} was written by a newer edgeb (schema {version}, this one reads {SCHEMA_VERSION})", "update edgeb"
        )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_fields(fields: dict[str, Any], known: Mapping[str, tuple[type, ...]], where: str, prefix: str) -> None:
    for name in known:
        if name not in fields:
            raise EdgebError(f"{where}: manifest field '{prefix}{name}' is missing", DAMAGED_HINT)
    for name, value in fields.items():
        if name not in known:
            raise EdgebError(f"{where}: unknown manifest field '{prefix}{name}'", DAMAGED_HINT)
        # JSON's true is Python's int.
        if not isinstance(value, known[name]) or isinstance(value, bool):
            kinds = " or ".join("null" if kind is type(None) else kind.__name__ for kind in known[name])
            raise EdgebError(f"{where}: manifest field '{prefix}{name}' is {value!r}, not {kinds}", DAMAGED_HINT)


def _check_items(items: list[Any], kind: type, where: str, name: str) -> None:
    for number, item in enumerate(items):
        if not isinstance(item, kind) or isinstance(item, bool):
            raise EdgebError(
                f"{where}: manifest field '{name}[{number}]' is {item!r}, not {kind.__name__}", DAMAGED_HINT
            )


def _check_layout(fields: dict[str, Any], where: str) -> None:
    # What a layout with places writes: `places` is there only where it is false, and `from_dict` checks its value.
    for name, expected in PromptLayout().to_dict().items():
        if name not in fields:
            raise EdgebError(f"{where}: manifest field 'layout.{name}' is missing", DAMAGED_HINT)
        if type(fields[name]) is not type(expected):
            kind = type(expected).__name__
            raise EdgebError(f"{where}: manifest field 'layout.{name}' is {fields[name]!r}, not {kind}", DAMAGED_HINT)
