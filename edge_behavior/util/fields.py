"""What recipes and export profiles have in common: strict typed sections, shipped YAML files, their field names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from edge_behavior.errors import EdgebError, nearest
from edge_behavior.util.files import expand_home


class Section(BaseModel):
    """Fields that are checked strictly and never change."""

    # Validated defaults make 8 an 8.0 in a float field, so that a saved file reads back to the same text.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    def to_yaml(self) -> str:
        """The fields as YAML that reads back to an equal value."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)


def complaint(error: Mapping[str, Any]) -> str:
    """What is wrong with a field, in words that follow its name; of one of pydantic's errors."""
    text = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return text[:1].lower() + text[1:]


def config_folders(part: str) -> list[Path]:
    """Where the named files of a part (`train`, `export`) are looked up: inside the wheel, else the checkout."""
    package = Path(__file__).resolve().parents[1]
    return [f for f in (package / "_configs" / part, package.parent / part / "configs") if f.is_dir()]


def find_config(part: str, name_or_file: str, kind: str, noun: str, names: list[str]) -> Path:
    """Path of a file given by name or path.

    Args:
        kind: What it is called by name, for error messages, like "export profile".
        noun: What it is called as a file, like "profile".
        names: The shipped names.

    Raises:
        EdgebError: there is none; the hint names the nearest.
    """
    path = expand_home(name_or_file)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise EdgebError(f"no {noun} file {path}", f"shipped {noun}s: {', '.join(names)}")
        return path
    for folder in config_folders(part):
        if (folder / f"{name_or_file}.yaml").is_file():
            return folder / f"{name_or_file}.yaml"
    raise EdgebError(f"no {kind} named '{name_or_file}'", nearest(name_or_file, names, fallback=20))


def read_mapping(path: Path, message: str, hint: str) -> dict[str, Any]:
    """Fields of a YAML file.

    Args:
        message: What to say, after the path, where it is no mapping, and `hint` what to do then.

    Raises:
        EdgebError: not YAML, with the line, or not a mapping.
    """
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, ValueError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = f"{path}:{line + 1}" if line is not None else str(path)
        raise EdgebError(f"{where}: not valid YAML", "check the indentation and the colons") from None
    if not isinstance(fields, dict):
        raise EdgebError(f"{path}: {message}", hint)
    return fields


def field_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Names of all fields, those of sections as `section.field`."""
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += field_names(kind, f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found
