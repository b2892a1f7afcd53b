"""A fitted adapter on disk, as a comparison keeps it for an export: a folder that stock PEFT loads, and its origin.

The backbone is that of the comparison's run `BACKBONE_RUN`, and is not copied. Imports neither torch nor PEFT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_behavior.core.fields import parse_json, read_fields
from edge_behavior.errors import EdgebError
from edge_behavior.util.checksums import file_sha256

BACKBONE_RUN = "backbone"
DESCRIPTION = "origin.json"
SCHEMA_VERSION = 1
# As PEFT calls them.
_FILES = ("adapter_config.json", "adapter_model.safetensors")
_HINT = "the folder is damaged: compare the system again, in another folder"


@dataclass(frozen=True)
class AdapterOrigin:
    """Where an adapter comes from.

    Attributes:
        system: The system's name.
        seed: Of the fit.
        settings: The system's.
        recipe: The sections of the recipe that the fit read, as they were in force.
    """

    system: str
    seed: int
    settings: Mapping[str, Any]
    recipe: Mapping[str, Any]


def keep_adapter(folder: Path, origin: AdapterOrigin, model: Any) -> None:
    """Write the adapter of a PEFT model into a folder, whole or not at all; another in its place is replaced.

    Raises:
        EdgebError: the folder cannot be written.
    """
    from edge_behavior.train.run.folder import replaced_folder, write_json

    with replaced_folder(folder) as made:
        model.save_pretrained(str(made))
        files = {name: file_sha256(made / name) for name in _FILES}
        write_json(made / DESCRIPTION, {"schema_version": SCHEMA_VERSION, **asdict(origin), "files": files})


def read_adapter(folder: Path) -> AdapterOrigin:
    """Read an adapter's origin strictly, and check that its files are those that were written.

    Raises:
        EdgebError: missing or damaged, changed since, or written by a newer version.
    """
    file = folder / DESCRIPTION
    try:
        held = parse_json(file.read_bytes(), str(file), _HINT)
        version = held.get("schema_version") if isinstance(held, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise EdgebError(f"{file} was written by a newer edgeb (schema {version})", "update edgeb")
        kinds = {"schema_version": int, "system": str, "seed": int, "settings": dict, "recipe": dict, "files": dict}
        found = read_fields(held, kinds, str(file), _HINT)
        for name, digest in read_fields(found["files"], dict.fromkeys(_FILES, str), f"{file}: files", _HINT).items():
            if file_sha256(folder / name) != digest:
                raise EdgebError(f"{folder / name} has changed since it was fitted", _HINT)
    except OSError as error:
        raise EdgebError(f"cannot read {error.filename}: {error.strerror}", _HINT) from None
    return AdapterOrigin(found["system"], found["seed"], found["settings"], found["recipe"])
