"""Export profiles: what an export does and what loss it accepts, as typed fields.

Precedence is flag > profile file > default. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from edge_behavior.errors import EdgebError, nearest
from edge_behavior.export.prune.vocabulary import EXTRA_TOKENS
from edge_behavior.util.fields import Section, config_folders, field_names, find_config, read_mapping

DEFAULT_PROFILE = "default"


class ImportanceSettings(Section):
    """What the quantizer is told about which weights matter."""

    prompts: int = Field(64, ge=0, description="Prompts of training users that are evaluated for it; 0: none")


class ParitySettings(Section):
    """How much the finished bundle may differ from the PyTorch model before merging."""

    windows: int | None = Field(None, ge=1, description="Validation windows as they occur; null: by the model's size")
    per_behavior: int | None = Field(None, ge=0, description="And so many of each behavior; null: by the model's size")
    enforce: bool = Field(True, description="Fail beyond the limits; else only report")
    max_flips: float = Field(0.05, ge=0, le=1, description="Share of windows with another first candidate")
    max_kl: float = Field(0.02, ge=0, description="Mean KL divergence in nats")
    max_accuracy_loss: float = Field(0.02, ge=0, le=1, description="On windows as they occur")
    max_tail_loss: float = Field(0.02, ge=0, le=1, description="Of the tail's mean recall, on balanced windows")


class RecoverySettings(Section):
    """What is done when quantization hurts the tail."""

    mode: Literal["auto", "off"] = Field("auto", description="auto: keep sensitive tensors at 8 bits if that helps")
    tail_loss: float = Field(0.005, ge=0, le=1, description="Loss of the tail's mean recall from which it is tried")
    growth: float = Field(0.25, ge=0, description="Share by which the file may grow")


class ExportProfile(Section):
    """Everything an export may be told besides what to export."""

    quant: str = Field("q4", description="q4, q4_0, q5, q8, f16, f32, or auto: the smallest within the limits")
    prune: str = Field("auto", description="auto, on or off; see docs/export.md")
    extra_tokens: int = Field(EXTRA_TOKENS, description="Everyday word pieces that pruning keeps")
    habits: str = Field("auto", description="auto, on or off: fit how model and habits are mixed")
    calibrate: str = Field("auto", description="auto, on or off: fit how scores become probabilities")
    importance: ImportanceSettings = ImportanceSettings()
    parity: ParitySettings = ParitySettings()
    recover: RecoverySettings = RecoverySettings()


def profile_folders() -> list[Path]:
    """Where named profiles are looked up: inside the wheel, else the checkout."""
    return config_folders("export")


def profile_names() -> list[str]:
    """Names of the shipped profiles for GGUF."""
    paths = [path for folder in profile_folders() for path in folder.glob("*.yaml")]
    return sorted({p.stem for p in paths if "format" not in yaml.safe_load(p.read_text(encoding="utf-8"))})


def load_profile(name_or_file: str = DEFAULT_PROFILE, flags: Mapping[str, Any] | None = None) -> ExportProfile:
    """Read a profile and put flags over it.

    Args:
        name_or_file: A shipped profile's name, or a YAML file.
        flags: Values of `section.field` keys that replace the file's; None values are left out.

    Raises:
        EdgebError: no such profile, unreadable YAML, an unknown field (with the nearest valid one) or a value of the
            wrong type.
    """
    path = find_config("export", name_or_file, "export profile", "profile", profile_names())
    fields = read_mapping(path, "a profile is a mapping of fields", "start from a shipped profile")
    if fields.pop("format", "gguf") != "gguf":
        raise EdgebError(f"{path} is a profile for another format", "add --format onnx")
    for key, value in (flags or {}).items():
        if value is not None:
            *sections, last = key.split(".")
            at = fields
            for section in sections:
                at[section] = dict(at.get(section) or {})
                at = at[section]
            at[last] = value
    try:
        return ExportProfile.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise EdgebError(
                f"{path}: unknown profile field '{name}'", nearest(name, field_names(ExportProfile))
            ) from None
        raise EdgebError(
            f"{path}: {name} = {first['input']!r}: {first['msg'].lower()}", "see the comments in export/configs"
        ) from None
