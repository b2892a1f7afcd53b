"""Profiles of ONNX exports: YAML files with the options of a target, shipped in export/configs or written by users.

Precedence is flag > profile > default. Knows the options' names and types; their values are the builder's to judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from edge_behavior.errors import EdgebError, nearest
from edge_behavior.export.onnx.builder import OnnxOptions
from edge_behavior.export.profiles import profile_folders

_KINDS: dict[str, type] = {
    "quant": str,
    "block_size": int,
    "accuracy_level": int,
    "execution_provider": str,
    "context_length": int,
    "algorithm": str,
    "share_embeddings": bool,
    "static_shapes": bool,
    "provider_options": dict,
}


def onnx_profile_names() -> list[str]:
    """Names of the shipped profiles for ONNX."""
    return sorted(
        file.stem
        for folder in profile_folders()
        for file in folder.glob("*.yaml")
        if _read(file).get("format") == "onnx"
    )


def onnx_options(profile: str | None, flags: Mapping[str, Any]) -> OnnxOptions:
    """The options of an export: those of a profile, or the defaults, with flags in their place.

    Raises:
        EdgebError: as `load_onnx_profile`, or options that do not go together.
    """
    return replace(OnnxOptions() if profile is None else load_onnx_profile(profile), **flags)


def load_onnx_profile(name: str) -> OnnxOptions:
    """The options of a profile.

    Args:
        name: A shipped profile's name, or a path ending in .yaml.

    Raises:
        EdgebError: no such profile, not YAML, one for another format, an unknown key, or a value that cannot be.
    """
    path = _find(name)
    fields = _read(path)
    if fields.pop("format", None) != "onnx":
        raise EdgebError(f"{path} is no profile for ONNX", "it would say `format: onnx`")
    for key, value in fields.items():
        if key not in _KINDS:
            raise EdgebError(f"{path}: unknown key '{key}'", nearest(str(key), _KINDS))
        kind = _KINDS[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise EdgebError(f"{path}: {key} = {value!r} is not {kind.__name__}", "see the files in export/configs")
    for key, value in fields.get("provider_options", {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise EdgebError(f"{path}: provider_options.{key} = {value!r} is not text", "put it in quotes")
    try:
        return OnnxOptions(**fields)
    except EdgebError as error:
        raise EdgebError(f"{path}: {error.message}", error.hint) from None


def _find(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    for folder in profile_folders():
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    raise EdgebError(f"unknown profile '{name}'", f"{nearest(name, onnx_profile_names())}; a file's name ends in .yaml")


def _read(path: Path) -> dict[str, Any]:
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgebError(f"cannot read profile {path}: {error.strerror}", "check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise EdgebError(f"{path}: not valid YAML", "check the indentation and the colons") from None
    if not isinstance(fields, dict):
        raise EdgebError(f"{path}: a profile is a mapping of options", "see the files in export/configs")
    return fields
