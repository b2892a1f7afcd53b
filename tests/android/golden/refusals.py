"""Damaged files for the golden vectors: none of them is taken for a bundle by Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edge_behavior.bundle.bundle import verify_bundle
from edge_behavior.errors import EdgebError


def listed(folder: Path, made: Mapping[str, tuple[bytes, str]]) -> list[list[str]]:
    """Write files into a folder, and check that each is refused.

    Args:
        made: By file name, content and a part of the message that the phone gives.

    Returns:
        Names and parts of messages, as golden.json has them.
    """
    for name, (content, _) in made.items():
        (folder / name).write_bytes(content)
        try:
            verify_bundle(folder / name)
        except EdgebError:
            continue
        raise AssertionError(f"{folder / name} was taken")
    return [[name, reason] for name, (_, reason) in made.items()]
