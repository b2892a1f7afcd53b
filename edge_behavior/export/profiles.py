"""Export profiles: what an export does and what loss it accepts, as typed fields.

Precedence is flag > profile file > default. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_behavior.errors import EdgebError, nearest
from edge_behavior.export.prune import EXTRA_TOKENS

DEFAULT_PROFILE = "default"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


class ImportanceSettings(_Section):
    """What the quantizer is told about which weights matter."""

    prompts: int = Field(64, ge=0, description="Prompts of training users that are evaluated for it; 0: none")


class ParitySettings(_Section):
    """How much the finished bundle may differ from the PyTorch model before merging."""

    windows: int | None = Field(None, ge=1, description="Validation windows as they occur; null: by the model's size")
    per_behavior: int | None = Field(None, ge=0, description="And so many of each behavior; null: by the model's size")
    enforce: bool = Field(True, description="Fail beyond the limits; else only report")
    max_flips: float = Field(0.05, ge=0, le=1, description="Share of windows with another first candidate")
    max_kl: float = Field(0.02, ge=0, description="Mean KL divergence in nats")
    max_accuracy_loss: float = Field(0.02, ge=0, le=1, description="On windows as they occur")
    max_tail_loss: float = Field(0.02, ge=0, le=1, description="Of the tail's mean recall, on balanced windows")


class RecoverySettings(_Section):
    """What is done when quantization hurts the tail."""

    mode: Literal["auto", "off"] = Field("auto", description="auto: keep sensitive tensors at 8 bits if that helps")
    tail_loss: float = Field(0.005, ge=0, le=1, description="Loss of the tail's mean recall from which it is tried")
    growth: float = Field(0.25, ge=0, description="Share by which the file may grow")


class ExportProfile(_Section):
    """Everything an export may be told besides what to export."""

    quant: str = Field("q4", description="q4, q4_0, q5, q8, f16, f32, or auto: the smallest within the limits")
    prune: str = Field("auto", description="auto, on or off; see export/README.md")
    extra_tokens: int = Field(EXTRA_TOKENS, description="Everyday word pieces that pruning keeps")
    habits: str = Field("auto", description="auto, on or off: fit how model and habits are mixed")
    calibrate: str = Field("auto", description="auto, on or off: fit how scores become probabilities")
    importance: ImportanceSettings = ImportanceSettings()
    parity: ParitySettings = ParitySettings()
    recover: RecoverySettings = RecoverySettings()

    def to_yaml(self) -> str:
        """The resolved profile as YAML that `load_profile` reads back to an equal profile."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)


def profile_folders() -> list[Path]:
    """Where named profiles are looked up: inside the wheel, else the checkout."""
    package = Path(__file__).resolve().parents[1]
    return [f for f in (package / "_configs" / "export", package.parent / "export" / "configs") if f.is_dir()]


def profile_names() -> list[str]:
    """Names of the shipped profiles for GGUF; those for ONNX are `onnx_profiles`'."""
    paths = [path for folder in profile_folders() for path in folder.glob("*.yaml")]
    return sorted({path.stem for path in paths if "format: onnx" not in path.read_text(encoding="utf-8").splitlines()})


def load_profile(name_or_file: str = DEFAULT_PROFILE, flags: Mapping[str, Any] | None = None) -> ExportProfile:
    """Read a profile and put flags over it.

    Args:
        name_or_file: A shipped profile's name, or a YAML file.
        flags: Values of `section.field` keys that replace the file's; None values are left out.

    Raises:
        EdgebError: no such profile, unreadable YAML, an unknown field (with the nearest valid one) or a value of the
            wrong type.
    """
    path = _find(name_or_file)
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, ValueError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = f"{path}:{line + 1}" if line is not None else str(path)
        raise EdgebError(f"{where}: not valid YAML", "check the indentation and the colons") from None
    if not isinstance(fields, dict):
        raise EdgebError(f"{path}: a profile is a mapping of fields", "start from a shipped profile")
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
            raise EdgebError(f"{path}: unknown profile field '{name}'", nearest(name, _fields(ExportProfile))) from None
        raise EdgebError(
            f"{path}: {name} = {first['input']!r}: {first['msg'].lower()}", "see the comments in export/configs"
        ) from None


def _find(name_or_file: str) -> Path:
    path = Path(name_or_file)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise EdgebError(f"no profile file {path}", f"shipped profiles: {', '.join(profile_names())}")
        return path
    for folder in profile_folders():
        if (folder / f"{name_or_file}.yaml").is_file():
            return folder / f"{name_or_file}.yaml"
    raise EdgebError(f"no export profile named '{name_or_file}'", nearest(name_or_file, profile_names()))


def _fields(model: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += _fields(kind, f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found
