"""What a manifest says of the bundle's population table, and the table's bytes checked against it.

Knows nothing of where a bundle keeps the bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.fields import DAMAGED_HINT, Kind, is_whole, read_fields
from edge_behavior.core.population import PopulationConfig, PopulationTable
from edge_behavior.errors import EdgebError

_FIELDS: Mapping[str, Kind] = {"config": dict, "contexts": int, "users": int, "bytes": int, "sha256": str}


@dataclass(frozen=True)
class PopulationInfo:
    """The manifest's `population`.

    Attributes:
        config: How it was counted, with the fewest users behind a count.
        contexts: Contexts in the table.
        users: Training users whose events were counted.
        bytes: Size of the table.
        sha256: Its hash.
    """

    config: PopulationConfig
    contexts: int
    users: int
    bytes: int
    sha256: str

    @classmethod
    def of(cls, table: PopulationTable, users: int) -> PopulationInfo:
        """What is said of a table."""
        content = table.to_bytes()
        return cls(table.config, table.contexts, users, len(content), hashlib.sha256(content).hexdigest())

    def to_dict(self) -> dict[str, Any]:
        """The manifest's JSON object."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object, where: str = "population") -> PopulationInfo:
        """Read the manifest's object strictly.

        Raises:
            EdgebError: a field that is missing, unknown or has a bad value.
        """
        found = read_fields(values, _FIELDS, where)
        for name in ("contexts", "users", "bytes"):
            if not is_whole(found[name], 0, 1 << 31):
                raise EdgebError(f"{where}: '{name}' is {str(found[name])[:40]}", DAMAGED_HINT)
        return cls(**{**found, "config": PopulationConfig.from_dict(found["config"], f"{where}.config")})


def packed_population(info: PopulationInfo | None, table: PopulationTable | None) -> bytes | None:
    """The bytes of the table that a manifest describes; None where it describes none.

    Raises:
        EdgebError: a table without a description, or one that it does not match.
    """
    content = None if table is None else table.to_bytes()
    found = None if content is None else hashlib.sha256(content).hexdigest()
    if found != (None if info is None else info.sha256):
        raise EdgebError("the population's table is not the one that the manifest describes", "pass both or neither")
    return content


def unpacked_population(
    info: PopulationInfo, content: bytes, candidates: CandidateSet, places: bool, where: str
) -> PopulationTable:
    """The table that a manifest describes.

    Args:
        info: The description.
        content: The table's bytes.
        candidates: The bundle's.
        places: Whether the bundle knows places.
        where: The bundle, for error messages.

    Raises:
        EdgebError: the bytes do not match their hash, or are no table of this bundle.
    """
    if len(content) != info.bytes or hashlib.sha256(content).hexdigest() != info.sha256:
        raise EdgebError(f"{where}: the population's table does not match its hash", DAMAGED_HINT)
    table = PopulationTable.from_bytes(content, info.config, candidates, places, f"{where}: the population's table")
    if table.contexts != info.contexts:
        raise EdgebError(
            f"{where}: the population's table has {table.contexts} contexts, not {info.contexts}", DAMAGED_HINT
        )
    return table
