"""The manifest, a bundle's description of itself: a JSON object with a strict reader. Knows no file that carries it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edge_behavior.bundle.population import PopulationInfo
from edge_behavior.core.balance import Balance, FittedBalance
from edge_behavior.core.calibration import Calibration, CalibrationSet
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.fields import DAMAGED_HINT, NULL, Kind, naming, parse_json, read_fields, read_list
from edge_behavior.core.fusion import SOURCES, Mixture
from edge_behavior.core.license import License
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError

SCHEMA_VERSION = 1

# In the order of the file.
_FIELDS: Mapping[str, Kind] = {
    "schema_version": int,
    "created_with": str,
    "candidates": dict,
    "layout": dict,
    "static_prompt": str,
    "bos_id": (int, NULL),
    "eos_id": int,
    "architecture": str,
    "quantization": str,
    "context_length": int,
    "base_model": dict,
    "training": dict,
    "evaluation": dict,
    "vocabulary": (dict, NULL),
    "habits": (dict, NULL),
    "population": dict,
    "calibration": (dict, NULL),
    "balance": dict,
    "parity": (dict, NULL),
    "tokenizer_sha256": str,
    "tensors_sha256": str,
}
# Left out of the file where there is none.
_OPTIONAL = ("population", "balance")


@dataclass(frozen=True)
class BaseModelInfo:
    """Which pretrained model a bundle was trained from.

    Attributes:
        name: Hub name, or the name of its folder.
        license: Its license, with the attribution that its terms ask for; None where it states none.
        weights_sha256: Hash of its weight files.
    """

    name: str | None
    license: License | None
    weights_sha256: str | None

    def to_dict(self) -> dict[str, Any]:
        """The manifest's JSON object."""
        held = None if self.license is None else self.license.to_dict()
        return {"name": self.name, "license": held, "weights_sha256": self.weights_sha256}

    @classmethod
    def from_dict(cls, values: object, where: str) -> BaseModelInfo:
        """Read the manifest's object strictly.

        Raises:
            EdgebError: a field that is missing, unknown or has a bad value.
        """
        names: Mapping[str, Kind] = {"name": (str, NULL), "license": (dict, NULL), "weights_sha256": (str, NULL)}
        found = read_fields(values, names, where)
        held = found["license"]
        stated = None if held is None else License.from_dict(held, f"{where}.license")
        return cls(found["name"], stated, found["weights_sha256"])


@dataclass(frozen=True)
class Manifest:
    """What a bundle carries besides its weights.

    Attributes:
        created_with: Program and version that wrote it, like "edgeb 0.1.0".
        candidates: The labels it predicts, and their training counts.
        layout: The layout of its prompts.
        bos_id: Token id that every prompt without chat turns starts with; None for none.
        eos_id: Token id that ends an answer where the layout has neither a terminator of its own nor chat turns.
        architecture: GGUF architecture, "qwen2" or "llama".
        quantization: Weight format as the inference engine calls it, like "Q4_K_M" or "INT4 block 32".
        context_length: Positions the model was built for.
        base_model: The pretrained model.
        training: The run's resolved recipe; carried along, as are the next two and `parity`.
        evaluation: The run's metrics. Numbers that are not finite become null in the file.
        vocabulary: What pruning kept of the vocabulary (`export.prune`); None if nothing was pruned.
        habits: How habits are counted and mixed with the model; None for the model alone.
        population: What people in general do, where the user's habits are few; None to back off to the training shares.
        calibration: How scores become probabilities; None if not fitted.
        balance: How far to raise rare behaviors where that is asked for; None if not fitted.
        parity: What each export step changed (`export.parity`); None if not measured.
        tokenizer_sha256: Hash of the tokenizer; set on writing.
        tensors_sha256: Hash of everything that decides the logits (architecture metadata, tensor table, tensor data);
            set on writing.
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
    base_model: BaseModelInfo
    training: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: Mapping[str, Any] | None = None
    habits: Mixture | None = None
    population: PopulationInfo | None = None
    calibration: CalibrationSet | None = None
    balance: FittedBalance | None = None
    parity: Mapping[str, Any] | None = None
    tokenizer_sha256: str = ""
    tensors_sha256: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def default_source(self) -> str:
        """The source a prediction answers from unless another is asked for."""
        return "model" if self.habits is None else self.habits.default

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources the bundle can answer from: fusing needs weights."""
        return tuple(name for name in SOURCES if name != "fused" or self.habits is not None)

    @property
    def calibrations(self) -> Mapping[str, Calibration]:
        """The calibration of every source; empty if none was fitted."""
        return {} if self.calibration is None else self.calibration.sources

    def balance_of(self, source: str, wanted: Balance) -> float:
        """τ for a source (`core.balance`).

        Raises:
            EdgebError: "fitted" is wanted, and none was.
        """
        if wanted != "fitted":
            return wanted
        if self.balance is None:
            raise EdgebError(
                "the bundle has no fitted balance", "export it with 10 or more validation users, or pass a number"
            )
        return self.balance.fitted[source]

    def calibration_at(self, source: str, balance: float) -> Calibration | None:
        """The calibration of a source's scores at τ; None unless it was fitted for τ: at 0 and at the fitted one."""
        if balance == 0:
            return self.calibrations.get(source)
        fitted = self.balance
        if fitted is None or fitted.calibration is None or not fitted.is_fitted(source, balance):
            return None
        return fitted.calibration.sources[source]

    @property
    def static_prompt(self) -> str:
        """Text of the static part of the prompt, for readers that do not know the layouts."""
        return "".join(self.layout.static(self.candidates.labels))

    def to_json(self) -> str:
        """One JSON object, pure ASCII, that `from_json` reads."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        fields["candidates"] = {"labels": self.candidates.labels, "counts": self.candidates.counts}
        fields["layout"] = self.layout.to_dict()
        fields["base_model"] = self.base_model.to_dict()
        for name in ("habits", "population", "calibration", "balance"):
            fields[name] = None if fields[name] is None else fields[name].to_dict()
        fields = {name: value for name, value in fields.items() if value is not None or name not in _OPTIONAL}
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
            EdgebError: not JSON, a newer schema, a field that is missing, unknown or has a bad value, or a prompt that
                this edgeb would word differently.
        """
        parsed = parse_json(text, f"{where}: the manifest")
        # First: a newer schema may have any fields.
        if isinstance(parsed, dict):
            check_schema(parsed.get("schema_version"), where)
        inner = f"{where}: manifest"
        absent = [name for name in _OPTIONAL if isinstance(parsed, dict) and name not in parsed]
        known = {name: kind for name, kind in _FIELDS.items() if name not in absent}
        fields = read_fields(parsed, known, inner)
        static_prompt = fields.pop("static_prompt")
        if fields["context_length"] < 1:
            raise EdgebError(f"{inner}: field 'context_length' is {fields['context_length']}", DAMAGED_HINT)
        fields["candidates"] = _read_candidates(fields["candidates"], f"{inner}.candidates")
        fields["layout"] = PromptLayout.from_dict(fields["layout"], f"{inner}.layout")
        fields["base_model"] = BaseModelInfo.from_dict(fields["base_model"], f"{inner}.base_model")
        if fields["habits"] is not None:
            fields["habits"] = Mixture.from_dict(fields["habits"], f"{inner}.habits")
        calibration, balance = fields.pop("calibration"), fields.pop("balance", None)
        population = fields.pop("population", None)
        manifest = cls(**fields)
        if calibration is not None:
            read = CalibrationSet.from_dict(calibration, manifest.sources, f"{inner}.calibration")
            manifest = replace(manifest, calibration=read)
        if population is not None:
            manifest = replace(manifest, population=PopulationInfo.from_dict(population, f"{inner}.population"))
        if balance is not None:
            manifest = replace(manifest, balance=FittedBalance.from_dict(balance, manifest.sources, f"{inner}.balance"))
        if manifest.static_prompt != static_prompt:
            raise EdgebError(
                f"{where}: this edgeb words the prompt differently from {manifest.created_with}, which wrote it",
                "use that version, or train and export again",
            )
        return manifest


def check_schema(version: object, where: str) -> None:
    """Refuse a schema version that this edgeb does not read.

    Raises:
        EdgebError: it is newer, or not a version.
    """
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise EdgebError(f"{where}: manifest: field 'schema_version' is {version!r}", DAMAGED_HINT)
    if version > SCHEMA_VERSION:
        raise EdgebError(
            f"{where} was written by a newer edgeb (schema {version}, this one reads {SCHEMA_VERSION})", "update edgeb"
        )


def _read_candidates(values: object, where: str) -> CandidateSet:
    found = read_fields(values, {"labels": list, "counts": list}, where)
    labels = read_list(found["labels"], f"{where}.labels", str)
    counts = read_list(found["counts"], f"{where}.counts", int)
    with naming(where):
        return CandidateSet(tuple(labels), tuple(counts))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
