"""What the progress bar of a training says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from edge_behavior.train.recipe import Recipe
from edge_behavior.train.trainer.progress import trainer_callbacks


def test_beside_the_latest_validation_loss_stands_the_lowest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bar: Any = trainer_callbacks("SASRec", "the learning rate", Recipe(report_to=[]), tmp_path)[0]
    notes: list[str] = []
    monkeypatch.setattr(bar._bar, "advance", lambda _, note=None: notes.append(note))
    bar._done, state = 0, TrainerState(log_history=[{"loss": 5.0}, {"eval_loss": 2.834}, {"eval_loss": 4.049}])
    for logs in ({"loss": 0.83}, {"eval_loss": 4.049}):
        bar.on_log(TrainingArguments(output_dir=str(tmp_path)), state, TrainerControl(), logs)
    assert notes == ["loss 0.830", "eval_loss 4.049, lowest 2.834"]
