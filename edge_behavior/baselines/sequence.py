"""Sequence models as systems: rows from events, Hugging Face's Trainer, and scores of windows.

A training row is a stretch of up to L + 1 consecutive events of a user that ends at the right; every event in it is a
target once. A window is a row whose last event is the target. Rows begin with a start token, so that a user of whom
nothing is known is a row like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch.utils.data import Dataset as TorchDataset
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from edge_behavior.baselines.sequence_model import IGNORED, WEEKDAYS, SequenceConfig, SequenceModel
from edge_behavior.baselines.system import Budget, Fitted
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.data.windows import natural_windows
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.checkpoints import MarkComplete, last_checkpoint
from edge_behavior.train.trainer.arguments import on_one_device
from edge_behavior.train.trainer.progress import run, trainer_callbacks

# Searched where the comparison has a budget for it; the first is taken where it has none.
RATES = (1e-3, 3e-4, 3e-3)
# Most epochs, but at least so many steps; validation nearly always ends training before.
_BATCH, _EPOCHS, _STEPS, _PATIENCE = 64, 60, 400, 5
# Fewest steps between two looks at the validation windows; else once an epoch.
_LEAST_STEPS = 10
# Share of the events that BERT4Rec masks in a row.
_MASKED = 0.3
_WINDOWS_AT_ONCE = 512
_WEIGHTS = "model.safetensors"

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Columns:
    """Events as int64 columns [N]: behavior, and hour, weekday and place [N, 3]."""

    behavior: Ints
    context: Ints

    @classmethod
    def of(cls, table: EventTable, known_places: NDArray[np.bool_]) -> Columns:
        """The columns of a table.

        Args:
            known_places: [P] which places occur in training; the others share one code, P.
        """
        hours = table.time.astype("datetime64[h]").astype(np.int64)
        weekday = (table.time.astype("datetime64[D]").astype(np.int64) + 3) % WEEKDAYS
        place = np.where(known_places[table.place], table.place, len(known_places))
        return cls(table.behavior.astype(np.int64), np.stack([hours % 24, weekday, place], axis=1).astype(np.int64))


class Rows(TorchDataset[dict[str, torch.Tensor]]):
    """Stretches of events as a model's rows.

    Args:
        columns: The events.
        spans: int64 [n, 2], first event of each row and one past its last.
        config: The model's shape.
        sizes: (candidates, places, width).
        last_only: Whether only a row's last event is a target: windows. Else all are, or BERT4Rec's masked ones.
    """

    def __init__(
        self, columns: Columns, spans: Ints, config: SequenceConfig, sizes: tuple[int, int, int], last_only: bool
    ) -> None:
        self._columns, self._spans, self._config = columns, spans, config
        self._candidates, self._places, self._width = sizes
        self._last_only = last_only

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One row; BERT4Rec masks other events each time it is read in training."""
        return {name: torch.from_numpy(values[0]) for name, values in self.batch(slice(index, index + 1)).items()}

    def batch(self, rows: slice) -> dict[str, Ints]:
        """Rows as the arguments of `SequenceModel.forward`."""
        spans, width, pad = self._spans[rows], self._width, self._candidates
        at = spans[:, 1:] - width + np.arange(width)
        valid = at >= spans[:, :1]
        codes = np.where(valid, self._columns.behavior[at], pad)
        context = np.where(valid[..., None], self._columns.context[at], self._no_event)
        if self._config.causal:
            before, own = np.roll(codes, 1, axis=1), np.roll(context, 1, axis=1)
            first = valid & ~np.roll(valid, 1, axis=1)
            first[:, 0] = valid[:, 0]
            behavior = np.where(first, pad + 1, np.where(valid, before, pad))
            own = np.where((valid & ~first)[..., None], own, self._no_event)
            chosen = valid.copy()
        else:
            behavior, own = codes, context
            chosen = valid & (torch.rand(valid.shape).numpy() < _MASKED)
            # At least one: the last event, as it is in windows.
            chosen[:, -1] |= ~chosen.any(axis=1)
        if self._last_only:
            chosen = np.zeros_like(valid)
            chosen[:, -1] = True
        if not self._config.causal:
            behavior = np.where(chosen, pad + 1, behavior)
        labels = np.where(chosen, codes, IGNORED)
        return {"behavior": behavior, "own": own, "asked": context, "labels": labels}

    @property
    def _no_event(self) -> Ints:
        return np.array([24, WEEKDAYS, self._places], dtype=np.int64)


@dataclass(frozen=True)
class FittedSequence:
    """A trained sequence model."""

    model: SequenceModel
    known_places: NDArray[np.bool_]
    width: int

    def log_probs(self, table: EventTable, targets: Ints, known: int | None = None) -> Floats:
        """[n, B], see `Fitted`; without `known`, the last L events are seen."""
        shown = self.width - 1 if known is None else min(known, self.width - 1)
        starts = np.maximum(targets - shown, table.user_offsets[table.user_of(targets)])
        spans = np.stack([starts, targets + 1], axis=1)
        rows = Rows(Columns.of(table, self.known_places), spans, self.model.shape, self._sizes, last_only=True)
        found = []
        self.model.eval()
        device = next(self.model.parameters()).device
        with torch.inference_mode():
            for start in range(0, len(rows), _WINDOWS_AT_ONCE):
                batch = rows.batch(slice(start, start + _WINDOWS_AT_ONCE))
                given = {name: torch.from_numpy(batch[name]).to(device) for name in ("behavior", "own", "asked")}
                logits = self.model(**given)["logits"][:, -1]
                found.append(torch.log_softmax(logits.double(), dim=-1).cpu().numpy())
        return np.concatenate(found) if found else np.empty((0, self.model.candidates))

    def close(self) -> None:
        """Memory is freed with the object."""

    @property
    def _sizes(self) -> tuple[int, int, int]:
        return self.model.candidates, len(self.known_places) + 1, self.width


@dataclass(frozen=True)
class SequenceSystem:
    """A sequence model that a comparison trains.

    Attributes:
        name: As `--systems` takes it.
        title: As tables show it.
        config: Its shape.
    """

    name: str
    title: str
    config: SequenceConfig
    rates: tuple[float, ...] = RATES
    needs: frozenset[str] = field(default=frozenset(), init=False)
    learns: bool = field(default=True, init=False)

    def fit(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> Fitted:
        """Train on stretches of at most `budget.targets` events, until validation windows are predicted no better.

        An interrupted fit goes on from its last finished checkpoint in the budget's folder.
        """
        train, validation = dataset.events("train"), dataset.events("validation")
        known_places = np.bincount(train.place, minlength=len(train.places)) > 0
        sizes = (len(dataset.candidates), len(known_places) + 1, history_length + 1)
        spans = training_spans(train, history_length + 1, budget.targets, budget.seed)
        asked = natural_windows(validation, history_length, limit=budget.validation_targets, seed=budget.seed)
        windows = np.stack([asked - history_length, asked + 1], axis=1)
        set_seed(budget.seed)
        model = SequenceModel(self.config, *sizes)
        rows = Rows(Columns.of(train, known_places), spans, self.config, sizes, last_only=False)
        held_out = Rows(Columns.of(validation, known_places), windows, self.config, sizes, last_only=True)
        _train(self, model, rows, held_out, budget, self.rates[0] if rate is None else rate)
        return FittedSequence(model, known_places, sizes[2])


def training_spans(table: EventTable, width: int, targets: int, seed: int) -> Ints:
    """int64 [n, 2], stretches of at most `width` consecutive events of a user, in random order.

    Args:
        targets: Events in all, at most; 0 for all. Stretches are left out whole, but for the last.
        seed: Of the choice and order.
    """
    rng = np.random.default_rng(seed)
    spans = []
    for start, stop in zip(table.target_starts.tolist(), table.user_offsets[1:].tolist(), strict=True):
        # Each user's first cut is random, so that positions in a row see all lengths of history.
        cuts = [start, *range(start + int(rng.integers(1, width + 1)), stop, width), stop]
        spans += [(low, high) for low, high in pairwise(cuts) if high > low]
    chosen = rng.permutation(np.array(spans, dtype=np.int64).reshape(-1, 2))
    if not targets:
        return chosen
    room = np.maximum(0, targets - np.concatenate([[0], np.cumsum(chosen[:, 1] - chosen[:, 0])[:-1]]))
    chosen[:, 0] = np.maximum(chosen[:, 0], chosen[:, 1] - room)
    return chosen[chosen[:, 1] > chosen[:, 0]]


def _train(
    system: SequenceSystem, model: SequenceModel, rows: Rows, held_out: Rows, budget: Budget, rate: float
) -> None:
    """Train the model in place, and leave it at its best validation loss."""
    per_epoch = -(-len(rows) // _BATCH)
    every = max(_LEAST_STEPS, per_epoch)
    arguments = TrainingArguments(
        output_dir=str(budget.folder / "checkpoints"),
        max_steps=max(_EPOCHS * per_epoch, _STEPS),
        per_device_train_batch_size=_BATCH,
        per_device_eval_batch_size=_WINDOWS_AT_ONCE,
        learning_rate=rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=every,
        weight_decay=0.01,
        optim="adamw_torch",
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        logging_steps=every,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,
        logging_nan_inf_filter=False,
        label_names=["labels"],
        remove_unused_columns=False,
        prediction_loss_only=True,
        disable_tqdm=True,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=budget.seed,
    )
    callbacks = trainer_callbacks(system.title, "the rate", Recipe(report_to=[]), budget.folder)
    trainer: Any = Trainer(
        model=model,
        args=on_one_device(arguments),
        train_dataset=rows,
        eval_dataset=held_out,
        data_collator=_stacked,
        callbacks=[*callbacks, MarkComplete(), EarlyStoppingCallback(_PATIENCE)],
    )
    checkpoints = Path(str(arguments.output_dir))
    state = run(trainer, last_checkpoint(checkpoints))
    best = checkpoints / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}" / _WEIGHTS
    model.load_state_dict(load_file(best, device=str(next(model.parameters()).device)))


def _stacked(rows: list[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


SEQUENCE_SYSTEMS = (
    SequenceSystem("sasrec", "SASRec", SequenceConfig("sasrec")),
    SequenceSystem("bert4rec", "BERT4Rec", SequenceConfig("bert4rec")),
    SequenceSystem("gpt2", "GPT-2's shape, from scratch", SequenceConfig("gpt2", hidden=128, layers=4, heads=4)),
)
