"""Export profiles: what an export does and what loss it accepts, as typed fields read from YAML.

Precedence is flag > profile file > default. A file's `format` says which exporter it is for; gguf by default. Knows no
model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from edge_behavior.errors import EdgebError, nearest
from edge_behavior.export.prune.vocabulary import EXTRA_TOKENS
from edge_behavior.util.fields import Section, complaint, config_folders, field_names, find_config, read_mapping

DEFAULT_PROFILE = "default"

_Fields = TypeVar("_Fields")


class ImportanceSettings(Section):
    """What the quantizer is told about which weights matter."""

    prompts: int = Field(64, ge=0, description="Prompts of training users to measure it on; 0: none")


class ParitySettings(Section):
    """How far the finished bundle may be from the PyTorch model before merging."""

    windows: int | None = Field(None, ge=1, description="Natural validation windows; null: by the model's size")
    per_behavior: int | None = Field(None, ge=0, description="Windows of each behavior; null: by the model's size")
    enforce: bool = Field(True, description="Fail beyond the limits; else only report")
    max_flips: float = Field(0.05, ge=0, le=1, description="Share of windows with another first candidate")
    max_kl: float = Field(0.02, ge=0, description="Mean KL divergence, nats")
    max_accuracy_loss: float = Field(0.02, ge=0, le=1, description="On natural windows")
    max_tail_loss: float = Field(0.02, ge=0, le=1, description="Of the tail's mean recall, on balanced windows")


class RecoverySettings(Section):
    """What is done where quantization hurts the tail."""

    mode: Literal["auto", "off"] = Field("auto", description="auto: keep sensitive tensors at 8 bits if that helps")
    tail_loss: float = Field(0.005, ge=0, le=1, description="Loss of the tail's mean recall that starts it")
    growth: float = Field(0.25, ge=0, description="Share by which the file may grow")


class ExportProfile(Section):
    """How to export."""

    minutes: float | None = Field(10, gt=0, description="Comparing and fitting are cut to end by then; null: never")
    quant: str = Field("q4", description="q4, q4_0, q5, q8, f16, f32, or auto: the smallest within the limits")
    prune: str = Field("auto", description="Drop unused tokens: auto (if predictions stay the same), on, off")
    extra_tokens: int = Field(EXTRA_TOKENS, ge=0, description="Everyday word pieces that pruning keeps")
    habits: str = Field("auto", description="Fit how model and habits mix: auto (if there is a dataset), on, off")
    calibrate: str = Field("auto", description="Fit the probabilities' calibration: auto, on, off")
    population: str = Field(
        "auto", description="Table of what people do, beneath habits: auto (from a dataset), on, off"
    )
    population_bytes: int = Field(4 << 20, ge=64, description="Its size at most: rare contexts are dropped first")
    importance: ImportanceSettings = ImportanceSettings()
    parity: ParitySettings = ParitySettings()
    recover: RecoverySettings = RecoverySettings()


def profile_names(format: str = "gguf") -> list[str]:
    """Names of the shipped profiles of a format."""
    paths = [path for folder in config_folders("export") for path in folder.glob("*.yaml")]
    return sorted({p.stem for p in paths if yaml.safe_load(p.read_text("utf-8")).get("format", "gguf") == format})


def load_profile(name_or_file: str = DEFAULT_PROFILE, flags: Mapping[str, Any] | None = None) -> ExportProfile:
    """A profile with flags over it; see `parse_profile`."""
    return parse_profile(ExportProfile, name_or_file, "gguf", flags)


def parse_profile(
    kind: type[_Fields], name_or_file: str, format: str, flags: Mapping[str, Any] | None = None
) -> _Fields:
    """Read a profile of a format.

    Args:
        kind: The pydantic model or dataclass of its fields.
        name_or_file: A shipped profile's name, or a YAML file.
        format: What it has to be for.
        flags: Values of `section.field` keys that replace the file's; None values are left out.

    Raises:
        EdgebError: no such profile, unreadable YAML, a profile for another format, an unknown field (with the nearest
            valid one), a value of the wrong type, or values that do not go together.
    """
    path = find_config("export", name_or_file, "export profile", "profile", profile_names(format))
    fields = read_mapping(path, "a profile is a mapping of fields", "start from a shipped profile")
    other = fields.pop("format", "gguf")
    if other != format:
        hint = f"add --format {other}" if other in ("onnx", "litert") else f"the file has to say `format: {format}`"
        raise EdgebError(f"{path} is a profile for {other}, not {format}", hint)
    _override(fields, flags or {})
    validated: Callable[..., _Fields] = kind
    try:
        return validated(**{str(name): value for name, value in fields.items()})
    except EdgebError as error:
        raise EdgebError(f"{path}: {error.message}", error.hint) from None
    except ValidationError as error:
        raise _refusal(path, kind, error) from None


def _override(fields: dict[str, Any], flags: Mapping[str, Any]) -> None:
    for key, value in flags.items():
        if value is not None:
            *sections, last = key.split(".")
            at = fields
            for section in sections:
                at[section] = dict(at.get(section) or {})
                at = at[section]
            at[last] = value


def _refusal(path: Path, kind: type[Any], error: ValidationError) -> EdgebError:
    first = error.errors(include_url=False, include_context=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = field_names(kind) if issubclass(kind, BaseModel) else list(kind.__dataclass_fields__)
        return EdgebError(f"{path}: unknown profile field '{name}'", nearest(name, known))
    return EdgebError(f"{path}: {name} = {first['input']!r}: {complaint(first)}", "see the files in export/configs")
