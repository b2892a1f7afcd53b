"""What fitting a system of this room is made of: its rows, its tuning steps, and the fitted system that scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edge_behavior import __version__
from edge_behavior.baselines.cold_start import known_only
from edge_behavior.baselines.kept_adapter import AdapterOrigin, keep_adapter
from edge_behavior.baselines.language.backbone import Language
from edge_behavior.baselines.language.model import TunedLanguage
from edge_behavior.baselines.language.rows import Collate, Curriculum, EventRows, event_tensors, with_places
from edge_behavior.baselines.language.training import Step, tune
from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.baselines.sequence.fitting import FittedSequence, check_folder
from edge_behavior.baselines.sequence.inputs import causal_row
from edge_behavior.baselines.sequence.system import SequenceSystem
from edge_behavior.baselines.system import SMALL_VALIDATION, Budget, Cost, Floats, Ints
from edge_behavior.baselines.trained import cost_of
from edge_behavior.core.scoring import log_softmax
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.errors import EdgebError
from edge_behavior.hf.tree_scoring import TorchScorer
from edge_behavior.train.recipe import ATuning, Recipe
from edge_behavior.train.rows.batches import batched_rows, steps_of
from edge_behavior.train.rows.conversations import Conversations, generated_conversations, read_conversations
from edge_behavior.train.rows.lazy import Rows, joined
from edge_behavior.train.rows.samples import BehaviorRows, behavior_rows, window_lines, window_prompt
from edge_behavior.train.rows.windows import draw_formats
from edge_behavior.train.trainer.lora import merge_for_scoring
from edge_behavior.train.trainer.processes import release_memory
from edge_behavior.train.trainer.threads import Threads
from edge_behavior.util.progress import Advance, progress_bar

_WINDOWS_PER_PASS = 128
# What a fit reads of the recipe.
_SECTIONS = ("backbone", "layout", "lora", "a_tuning", "evaluation")
# The numbers of the tables that rows are of.
_TRAIN, _HELD_OUT = 0, 1


@dataclass(frozen=True)
class Fit:
    """One fit in progress.

    Attributes:
        system: The system's name.
        language: The language model.
        dataset: The log.
        length: L, events that a window shows.
        budget: What it may use; a resumed fit finds what is done in its folder.
        rate: The peak learning rate of every tuning step.
        record: The system's settings.
    """

    system: str
    language: Language
    dataset: Dataset
    length: int
    budget: Budget
    rate: float
    record: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Note in the folder whose work it holds.

        Raises:
            EdgebError: it holds another's, or the log is too small.
        """
        recipe = self.language.recipe
        check_folder(
            self.budget.folder,
            {
                "edgeb": __version__,
                "system": self.system,
                "settings": dict(self.record),
                "backbone": self.language.identity,
                "recipe": _sections(recipe),
                "dataset": self.dataset.fingerprint,
                "history_length": self.length,
                "targets": self.budget.targets,
                "validation_targets": self.budget.validation_targets,
                "seed": self.budget.seed,
                "rate": self.rate,
            },
        )
        for split, table in self._tables.items():
            if len(table) < 2:
                raise EdgebError(
                    f"{self.dataset.path} is too small: its {split} part has {len(table)} events", "import more users"
                )
        Threads(recipe.threads).fit()

    @cached_property
    def _tables(self) -> dict[str, EventTable]:
        return {split: self.dataset.events(split) for split in ("train", "validation")}

    @cached_property
    def stage(self) -> ATuning:
        """The recipe's tuning settings, for all behaviors."""
        settings = self.language.recipe.a_tuning
        longest = min(settings.stretch_max, self.length + 1)
        changes = {
            "targets": "all",
            "class_weights": "none",
            "learning_rate": self.rate,
            "min_learning_rate": min(settings.min_learning_rate, self.rate),
            "max_targets": self.budget.targets or settings.max_targets,
            # A row of the sequence model has no more events than a window and its target.
            "stretch_min": min(settings.stretch_min, longest),
            "stretch_max": longest,
        }
        return settings.model_copy(update=changes)

    def events(self, config: SequenceConfig) -> FittedSequence:
        """SASRec fitted to the same targets, at its first rate; what is collaborative comes from it."""
        budget = Budget(self.budget.targets, SMALL_VALIDATION, self.budget.seed, self.budget.folder / "sasrec")
        return SequenceSystem("sasrec", config).fit(self.dataset, self.length, budget, None)

    def model(self, tuned: bool = True) -> TunedLanguage:
        """The backbone with a fresh adapter, or not `tuned` at all."""
        return TunedLanguage(self.language.load(), self.language.recipe.lora if tuned else None, self.budget.seed)

    def general(self, model: TunedLanguage, conversations: int) -> None:
        """Tune on that many conversations, once each; none are no step."""
        if not conversations:
            return
        path, stage, seed = self.language.recipe.a_tuning.aux_path, self.stage, self.budget.seed
        labels = self.language.encoder.candidates.labels
        turns = generated_conversations(labels, seed) if path is None else read_conversations(Path(path))
        longest = stage.aux_max_tokens or int(self._behaviors("train", stage.max_targets, seed).lengths.max())
        rows = Conversations(turns, self.language.tokenizer).sample(conversations, longest, seed)
        if not len(rows):
            raise EdgebError(f"no conversation has at most {longest} tokens", "raise a_tuning.aux_max_tokens")
        per_epoch, steps = steps_of(stage, len(rows), 1)
        step = Step("general", f"{self.system}: general data", batched_rows(rows, stage, seed, True), per_epoch, steps)
        tune(model, step, stage, Collate(model.inputs.vocabulary), seed, self.budget.folder)

    def tune(
        self, model: TunedLanguage, name: str, events: FittedSequence | None = None, curriculum: float | None = None
    ) -> None:
        """Tune on all behaviors of the training users, stopped by those of the validation users.

        Args:
            model: What has free weights.
            name: Of the step.
            events: Shows the model's vectors; None for text only.
            curriculum: Batches show vectors more and more often, at the end with this probability; None: always.
        """
        stage, seed, places = self.stage, self.budget.seed, 0 if events is None else model.places
        train = [self._behaviors("train", stage.max_targets, seed + 1000 * epoch) for epoch in range(self._draws)]
        held_out = self._behaviors("validation", self.budget.validation_targets, seed)
        columns = [] if events is None else [events.vocabulary.columns(table) for table in self._tables.values()]
        shown: list[Rows] = [rows if events is None else EventRows(rows, places, _TRAIN) for rows in train]
        stopping: Rows = held_out if events is None else EventRows(held_out, places, _HELD_OUT)
        epochs = shown * (ceil(stage.epochs) // len(shown))
        per_epoch, steps = steps_of(stage, len(epochs[0]), len(epochs))
        rows = joined([batched_rows(epoch, stage, seed + i, True) for i, epoch in enumerate(epochs)])
        if curriculum is not None:
            rows = Curriculum(rows, stage.batch_size, curriculum, seed)
        collate = Collate(model.inputs.vocabulary, places, columns, len(self.dataset.candidates))
        kept = batched_rows(stopping, stage, seed, True)
        tune(
            model,
            Step(name, f"{self.system}: {name}", rows, per_epoch, steps, kept),
            stage,
            collate,
            seed,
            self.budget.folder,
        )

    def fitted(self, model: TunedLanguage, events: FittedSequence | None = None) -> FittedLanguage:
        """The fitted system, which shows vectors if `events` makes them."""
        merge_for_scoring(model.language)
        recipe = self.language.recipe.model_copy(update={"a_tuning": self.stage})
        origin = AdapterOrigin(self.system, self.budget.seed, self.record, _sections(recipe))
        return FittedLanguage(origin, self.language, model, self.budget.folder, events)

    @property
    def _draws(self) -> int:
        return ceil(self.stage.epochs) if self.stage.draw == "fresh" else 1

    def _behaviors(self, split: str, targets: int, seed: int) -> BehaviorRows:
        shuffled = split == "train" and self.language.recipe.layout.candidate_order == "shuffled"
        return behavior_rows(self._tables[split], self.language.encoder, self.stage, targets, seed, shuffled)


def _sections(recipe: Recipe) -> dict[str, Any]:
    return {name: getattr(recipe, name).model_dump(mode="json") for name in _SECTIONS}


class FittedLanguage:
    """A tuned language model that scores every candidate at windows, by the label trie.

    Attributes:
        model: The language model and what makes its vectors.
    """

    def __init__(
        self,
        origin: AdapterOrigin,
        language: Language,
        model: TunedLanguage,
        folder: Path,
        events: FittedSequence | None,
    ) -> None:
        self._origin, self._language, self._folder, self._events = origin, language, folder, events
        self.model: TunedLanguage | None = model.eval()

    def log_probs(self, table: EventTable, targets: Ints, known: int | None = None) -> Floats:
        """See `Fitted.log_probs`."""
        table, targets = known_only(table, targets, known)
        encoder, recipe = self._language.encoder, self._language.recipe
        formats = draw_formats(encoder, len(targets), recipe.seed)
        found = [np.empty((0, len(encoder.candidates)))]
        starts = range(0, len(targets), _WINDOWS_PER_PASS)
        with progress_bar(f"score {self._origin.system}", len(targets), hidden=len(targets) < 2) as advance:
            for at in starts:
                own = slice(at, at + _WINDOWS_PER_PASS)
                found.append(self._scores(table, targets[own], formats[own], advance))
        return np.concatenate(found)

    def cost(self) -> Cost:
        """See `CostedFit.cost`."""
        assert self.model is not None, "the system was closed"
        return cost_of(self.model, self._folder)

    def keep(self, folder: Path) -> bool:
        """See `Shipping.keep`: an adapter ships that reads text alone; bundles make no vectors."""
        assert self.model is not None, "the system was closed"
        if self._events is not None:
            return False
        keep_adapter(folder, self._origin, self.model.language)
        return True

    def close(self) -> None:
        """Free the weights."""
        self.model = None
        release_memory()

    def _scores(self, table: EventTable, targets: Ints, formats: Ints, advance: Advance) -> Floats:
        model, encoder = self.model, self._language.encoder
        assert model is not None, "the system was closed"
        prompts, rows, first = list[list[int]](), [], model.inputs.vocabulary
        columns = None if self._events is None else self._events.vocabulary.columns(table)
        for target, wording in zip(targets.tolist(), formats.tolist(), strict=True):
            prompts.append(window_prompt(table, encoder, target, wording))
            if columns is not None:
                lines = window_lines(table, encoder, target, wording)
                prompts[-1] = with_places(prompts[-1], lines, model.places, first)
                first += model.places * len(lines)
                rows.append(causal_row(columns, target + 1 - len(lines), target + 1, len(encoder.candidates)))
        with torch.inference_mode():
            vectors = model.event_vectors(event_tensors(rows) if rows else None)
        embed, most = model.inputs.with_vectors(vectors), self._language.recipe.scoring.tokens_per_pass
        scorer = TorchScorer(model.language, encoder, most, embed)
        return log_softmax(scorer.score(prompts, advance=advance).log_probs)
