"""What is exported: backbone, adapter, candidates, layout and the dataset to measure and fit on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout

# The file that makes a folder one of `edgeb compare`.
COMPARISON = "compare.json"


@dataclass(frozen=True)
class ExportSource:
    """What to export.

    Attributes:
        base: Folder or hub name of the backbone.
        adapter: Folder of the LoRA adapter of the last stage, or None for the backbone as it is.
        candidates: The labels the model predicts.
        layout: The layout it was trained with.
        training: The resolved recipe, kept in the manifest.
        evaluation: The run's metrics, kept in the manifest.
        special_ids: (id that prompts start with or None, end-of-sequence id) as training used them; None follows the
            tokenizer.
        revision: Hub revision of the backbone; None takes the newest. A folder has none.
        data: Dataset folder with the same candidates, or None.
        places: Place names that prompts may hold, or None if they are not known.
        data_note: Why there is no dataset, for the report; "" if there is one.
        own_data: Whether the model was trained with `data`. Another dataset's validation part may hold events that it
            was trained on, which flatter it.
    """

    base: str | Path
    adapter: Path | None
    candidates: CandidateSet
    layout: PromptLayout
    training: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    special_ids: tuple[int | None, int] | None = None
    revision: str | None = None
    data: Path | None = None
    places: tuple[str, ...] | None = None
    data_note: str = "no dataset was given"
    own_data: bool = True


def is_comparison(path: Path) -> bool:
    """Whether a folder is one of `edgeb compare`."""
    return (path / COMPARISON).is_file()
