"""Fits a model of events to a dataset: resumable, stopped by validation windows. Imports torch only to fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edge_behavior import __version__
from edge_behavior.baselines.cold_start import earlier_events, known_only
from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.baselines.sequence.inputs import (
    Columns,
    ContextVocabulary,
    Row,
    asked_only,
    causal_row,
    cloze_row,
    training_stretches,
)
from edge_behavior.baselines.sequence.kept import KeptModel, LabelSource, Log, Origin, keep_model
from edge_behavior.baselines.system import Budget, Cost, FailedTrainingError, Floats, Ints
from edge_behavior.core.scoring import log_softmax
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.data.windows import natural_windows
from edge_behavior.errors import EdgebError

if TYPE_CHECKING:
    from edge_behavior.baselines.sequence.model import EventTransformer, SasRec
    from edge_behavior.baselines.sequence.training import TrainingData

_PER_USER = 20
_WINDOWS_PER_PASS = 256
_RECORD = "fit.json"


@dataclass(frozen=True)
class WindowRows:
    """Rows of one architecture: for training, and of windows."""

    architecture: str
    config: SequenceConfig
    length: int
    symbol: int

    def training(self, columns: Columns, first: int, start: int, stop: int, rng: np.random.Generator) -> Row:
        """A stretch as a training row, shifted back at random: its targets see more or less of what came before.

        Args:
            first: The user's first event. Events before `start` are shown and never asked for.
        """
        if self.architecture == "bert4rec" and rng.random() < self.config.last_only:
            target = int(rng.integers(start, stop))
            shown = min(target - first, self.length)
            # Half of them as users with a past are predicted, half as new ones.
            return self.window(
                columns, target - (shown if rng.random() < 0.5 else int(rng.integers(shown + 1))), target
            )
        begin = start - int(rng.integers(min(start - first, self.length) + 1))
        end = min(stop, begin + self.length + 1)
        asked = np.arange(begin, end) >= start
        if self.architecture == "sasrec":
            return asked_only(causal_row(columns, begin, end, self.symbol), asked)
        hidden = asked & (rng.random(end - begin) < self.config.mask_share)
        hidden[rng.integers(start - begin, end - begin)] = True
        return cloze_row(columns, begin, end, hidden, self.symbol)

    def window(self, columns: Columns, start: int, target: int) -> Row:
        """Events from `start` on, and the question for event `target`."""
        if self.architecture == "sasrec":
            return asked_only(
                causal_row(columns, start, target + 1, self.symbol), np.arange(start, target + 1) == target
            )
        return cloze_row(columns, start, target + 1, np.arange(start, target + 1) == target, self.symbol)

    def windows(self, table: EventTable, columns: Columns, targets: Ints) -> list[Row]:
        """The last L events before every target, or as many as there are."""
        starts = targets - np.minimum(earlier_events(table, targets), self.length)
        return [self.window(columns, s, t) for s, t in zip(starts.tolist(), targets.tolist(), strict=True)]


# Changes what a model is trained on; given that, the rows, the training part and its columns.
MakeData: TypeAlias = "Callable[[TrainingData, WindowRows, EventTable, Columns], TrainingData]"


@dataclass(frozen=True)
class EventModel:
    """A kind of model, as it is fitted.

    Attributes:
        name: As a fit's folder records it.
        title: As progress shows it.
        architecture: Whose rows it takes: `sasrec` or `bert4rec`.
        config: Shape and training.
        build: Makes the network of candidates, positions, sizes of contexts and `config`.
        record: What else a fit depends on; JSON-ready.
        data: Changes what it is trained on.
        labels: Where its vectors of labels come from, if not from training alone.
    """

    name: str
    title: str
    architecture: str
    config: SequenceConfig
    build: Callable[..., EventTransformer]
    record: Mapping[str, Any] = field(default_factory=dict)
    data: MakeData | None = None
    labels: LabelSource | None = None


def fit_events(model: EventModel, dataset: Dataset, history_length: int, budget: Budget, rate: float) -> FittedSequence:
    """Train on stretches of L+1 events until the loss on validation windows rises.

    A finished fit in `budget.folder` is read, an interrupted one continued.

    Raises:
        FailedTrainingError: the loss diverged.
        EdgebError: the folder holds another fit, or the training part is empty.
    """
    record = {
        "edgeb": __version__,
        "system": model.name,
        "config": model.config.to_dict(),
        "dataset": dataset.fingerprint,
        "history_length": history_length,
        "targets": budget.targets,
        "validation_targets": budget.validation_targets,
        "seed": budget.seed,
        "rate": rate,
        **model.record,
    }
    check_folder(budget.folder, record)
    table = dataset.events("train")
    vocabulary = ContextVocabulary.of(table, model.config.hour_bucket, model.config.place_events)
    rows = WindowRows(model.architecture, model.config, history_length, len(dataset.candidates))
    origin = Origin(model.name, budget.seed, rate, budget.targets, str(dataset.path), dataset.fingerprint)
    log = Log(dataset.candidates, dataset.has_places)
    network = _trained(model, rows, vocabulary, dataset, table, budget, rate)
    return FittedSequence(network, rows, vocabulary, log, origin, model.labels, budget.folder)


class FittedSequence:
    """A trained model of events.

    Attributes:
        model: The network.
        rows: Makes its rows.
        vocabulary: Numbers its contexts.
        log: What it knows of the log it was fitted to.
        origin: Where it comes from.
        labels: Where its vectors of labels come from, if not from training alone.
        folder: Where its training left its weights; None where they come from elsewhere.
    """

    def __init__(
        self,
        model: EventTransformer,
        rows: WindowRows,
        vocabulary: ContextVocabulary,
        log: Log,
        origin: Origin,
        labels: LabelSource | None = None,
        folder: Path | None = None,
    ) -> None:
        self.model, self.rows, self.vocabulary = model, rows, vocabulary
        self.log, self.origin, self.labels, self.folder = log, origin, labels, folder

    @property
    def sasrec(self) -> SasRec:
        """The network, which has states before every event."""
        from edge_behavior.baselines.sequence.model import SasRec

        assert isinstance(self.model, SasRec), "only SASRec's rows have a state per event"
        return self.model

    def log_probs(self, table: EventTable, targets: Ints, known: int | None = None) -> Floats:
        """See `Fitted.log_probs`."""
        import torch

        from edge_behavior.baselines.sequence.training import tensors

        table, targets = known_only(table, targets, known)
        columns, found = self.vocabulary.columns(table), [np.empty((0, self.model.candidates))]
        for at in range(0, len(targets), _WINDOWS_PER_PASS):
            rows = self.rows.windows(table, columns, targets[at : at + _WINDOWS_PER_PASS])
            batch = tensors(rows)
            del batch["answers"]
            with torch.inference_mode():
                logits = self.model(**batch)["logits"]
            last = [len(row.behavior) - 1 for row in rows]
            found.append(log_softmax(logits[torch.arange(len(rows)), last].double().numpy()))
        return np.concatenate(found)

    def cost(self) -> Cost:
        """See `CostedFit.cost`."""
        from edge_behavior.baselines.trained import cost_of

        assert self.folder is not None, "only a fit has a cost"
        return cost_of(self.model, self.folder)

    def keep(self, folder: Path) -> bool:
        """See `Shipping.keep`."""
        weights = self.model.shipped()
        if weights is None:
            return False
        rows = self.rows
        keep_model(
            folder,
            KeptModel(rows.architecture, rows.config, rows.length, self.vocabulary, self.log, self.origin, self.labels),
            weights,
        )
        return True

    def close(self) -> None:
        """Nothing but memory is held."""


def check_folder(folder: Path, record: dict[str, Any]) -> None:
    """Note whose work the folder holds.

    Raises:
        EdgebError: it holds another's.
    """
    from edge_behavior.train.run.folder import read_json, write_json

    file = folder / _RECORD
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, record)
        return
    held = read_json(file)
    different = next((name for name in record if held.get(name) != record[name]), None)
    if different is not None:
        raise EdgebError(f"{folder} holds a fit with another '{different}'", "delete that folder")


def _trained(
    system: EventModel,
    rows: WindowRows,
    vocabulary: ContextVocabulary,
    dataset: Dataset,
    table: EventTable,
    budget: Budget,
    rate: float,
) -> EventTransformer:
    import torch
    from safetensors.torch import load_file

    from edge_behavior.baselines.sequence.training import TrainingData, train
    from edge_behavior.baselines.trained import CHECKPOINTS, WEIGHTS, save_trained
    from edge_behavior.train.trainer.failures import DivergedError
    from edge_behavior.train.trainer.threads import Threads

    torch.manual_seed(budget.seed)
    model = system.build(len(dataset.candidates), rows.length + 1, vocabulary.sizes, system.config)
    file = budget.folder / WEIGHTS
    if file.is_file():
        model.load_state_dict(load_file(file))
        return model.eval()
    Threads(None).fit()
    columns = vocabulary.columns(table)
    starts, stops = training_stretches(table, rows.length + 1, budget.targets, budget.seed)
    if not len(starts):
        raise EdgebError(f"{dataset.path} has no training event", "import more users")
    firsts = dict(zip(starts.tolist(), table.user_offsets[table.user_of(starts)].tolist(), strict=True))
    held_out = dataset.events("validation")
    windows = natural_windows(
        held_out, rows.length, _PER_USER, limit=budget.validation_targets or None, seed=budget.seed
    )
    data = TrainingData(
        starts,
        stops,
        lambda start, stop, rng: rows.training(columns, firsts[start], start, stop, rng),
        rows.windows(held_out, vocabulary.columns(held_out), windows),
    )
    if system.data is not None:
        data = system.data(data, rows, table, columns)
    try:
        weights, spent = train(model, data, system.config, rate, budget.seed, budget.folder, system.title)
    except DivergedError as error:
        raise FailedTrainingError(error.message, error.hint) from None
    save_trained(weights, file, spent)
    shutil.rmtree(budget.folder / CHECKPOINTS)
    model.load_state_dict(weights)
    return model.cpu().eval()
