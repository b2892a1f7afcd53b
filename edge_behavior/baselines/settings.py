"""Settings of systems that are not tuned models: `--set NAME.setting=value`, and what their authors state.

A system is a dataclass, and its fields are its settings; their defaults suit a comparison. A file under
train/configs/systems holds those that the authors' paper or code state. Knows no system.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from edge_behavior.errors import EdgebError, nearest
from edge_behavior.train.recipe import read_override
from edge_behavior.util.fields import Section, complaint, config_folders, read_mapping

# Fields of a system that nobody sets: the language model is the comparison's, and the architecture is the name.
_GIVEN = ("language", "architecture")
_HINT = "docs/baselines.md lists the settings of systems"

# Nested fields, as YAML has them.
Changes = Mapping[str, Any]


def settings_of(system: Any) -> dict[str, Any]:
    """Values of a system's settings by name; of a class its defaults."""
    known = [field for field in fields(system) if field.name not in _GIVEN]
    if not isinstance(system, type):
        return {field.name: getattr(system, field.name) for field in known}
    return {f.name: f.default_factory() if f.default_factory is not MISSING else f.default for f in known}


def plain(value: Any) -> Any:
    """A setting as JSON and YAML have it."""
    if isinstance(value, Section):
        return value.model_dump()
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(held) for name, held in settings_of(value).items()}
    return list(value) if isinstance(value, tuple) else value


def changed_settings(system: Any, changes: Changes, where: str) -> dict[str, Any]:
    """The settings that change, with the types of a system's fields.

    Args:
        system: A system, or its class.
        changes: New values by name; of a setting that has settings itself, a mapping of those that change.
        where: Named in error messages.

    Raises:
        EdgebError: an unknown setting, with the nearest valid one, or a value that does not fit.
    """
    kind = system if isinstance(system, type) else type(system)
    held, hints = settings_of(system), get_type_hints(kind, include_extras=True)
    found = {}
    for name, value in changes.items():
        if name not in held:
            raise EdgebError(f"{where}: unknown setting '{name}'", nearest(str(name), held, fallback=40))
        current = held[name]
        if is_dataclass(current) and not isinstance(current, type):
            inside = f"{where}.{name}"
            if not isinstance(value, Mapping):
                raise EdgebError(f"{inside} = {value!r}: it has settings itself", f"set {inside}.NAME")
            changed = changed_settings(current, value, inside)
            try:
                found[name] = replace(current, **changed)
            except EdgebError as error:
                raise EdgebError(f"{inside}: {error.message}", error.hint) from None
            continue
        try:
            found[name] = TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            raise EdgebError(f"{where}.{name} = {value!r}: {complaint(first)}", _HINT) from None
    return found


def authors_settings(name: str) -> dict[str, Any]:
    """What a system's authors state, in the system's own settings; empty where nothing is known.

    Raises:
        EdgebError: the file is not YAML.
    """
    for folder in config_folders("train"):
        file = folder / "systems" / f"{name}.yaml"
        if file.is_file():
            return read_mapping(file, "settings of a system are a mapping", "start from the shipped file")
    return {}


def split_overrides(texts: Sequence[str], systems: Collection[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """`--set` words: those of the recipe as they are, and nested settings by system.

    Raises:
        EdgebError: a word that is no `key=value`.
    """
    recipe, found = list[str](), dict[str, dict[str, Any]]()
    for text in texts:
        key, value = read_override(text)
        system, *names = key.split(".")
        if system not in systems or not names:
            recipe.append(text)
            continue
        at = found.setdefault(system, {})
        for name in names[:-1]:
            at = at.setdefault(name, {})
        at[names[-1]] = value
    return recipe, found


def over(base: Changes, changes: Changes) -> dict[str, Any]:
    """Changes laid over others, setting by setting."""
    found = dict(base)
    for name, value in changes.items():
        held = found.get(name)
        found[name] = over(held, value) if isinstance(held, Mapping) and isinstance(value, Mapping) else value
    return found
