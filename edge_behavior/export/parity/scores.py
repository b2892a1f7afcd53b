"""Scores of the model at every step of an export, on the same windows: what the parity gate compares."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.scoring import Floats, log_softmax
from edge_behavior.errors import EdgebError
from edge_behavior.export.parity.samples import LEAST_WINDOWS, Samples, SampleSizes, draw_evenings, draw_samples
from edge_behavior.export.source import ExportSource
from edge_behavior.util.progress import progress_bar
from edge_behavior.util.timebox import Forecast, TimeBudget

# The model with its adapter, before merging: what everything is compared with.
REFERENCE = "adapter"
_SEED = 0
_CHUNK = 16
# After so many windows each time, it is asked whether a format is certain to fail.
_ASKED = 8
# Share of the export's time by which the model before merging has to be scored.
_REFERENCE_SHARE = 0.2


class StageScores:
    """Scores of one export by stage.

    Args:
        source: What is exported.
        encoder: Prompts in the unpruned vocabulary.
        sizes: How many windows to compare on.
        room: Tokens that the runtime's context leaves for a prompt; windows with longer prompts are left out.
        forecast: Shows and measures the work; its budget decides on how many windows the models are compared.

    Attributes:
        samples: The windows: those that the reference was scored on, once it was.
        evenings: Further windows, which only the model before merging is scored on, for NPUs; None for none.
        evening_scores: [n, B] log-probabilities on them; None until then.
        expected: How many it probably will be, until then.
        by_stage: [n, B] log-probabilities by stage, in the order of the stages; rows of windows that a step was not
            compared on are not numbers.

    Raises:
        EdgebError: no prompt fits.
    """

    def __init__(
        self, source: ExportSource, encoder: PromptEncoder, sizes: SampleSizes, room: int, forecast: Forecast
    ) -> None:
        self._source, self._encoder, self._room = source, encoder, room
        self.sizes, self.forecast = sizes, forecast
        self.samples = self.draw(sizes, "validation", _SEED)
        self.expected = len(self.samples)
        self.by_stage: dict[str, Floats] = {}
        self.evenings: Samples | None = None
        self.evening_scores: Floats | None = None

    def draw_evenings(self, count: int | None) -> None:
        """Draw windows as a session sees them; see `samples.draw_evenings`.

        Where the longest prompts do not fit the model, evenings begin with fewer events.

        Raises:
            EdgebError: no prompt fits.
        """
        most = self._source.layout.history_length
        drawn = draw_evenings(self._source, count, _SEED)
        while most and not self._fits(drawn).all():
            most //= 2
            drawn = draw_evenings(self._source, count, _SEED, most)
        self.evenings = self._fitting(drawn)

    def draw(self, sizes: SampleSizes, split: str, seed: int) -> Samples:
        """Windows whose prompts fit the model.

        Raises:
            EdgebError: no prompt fits.
        """
        return self._fitting(draw_samples(self._source, sizes, split, seed))

    def _fits(self, drawn: Samples) -> NDArray[np.bool_]:
        """[n] whether each prompt fits the model."""
        return np.array([len(prompt) <= self._room for prompt in drawn.prompts(self._encoder)])

    def _fitting(self, drawn: Samples) -> Samples:
        fitting = self._fits(drawn)
        if not fitting.any():
            raise EdgebError(
                f"no prompt fits the model: the labels leave {self._room} tokens of its context",
                "use a backbone with a longer context, or train with a shorter history",
            )
        return drawn.take(fitting)

    @property
    def between(self) -> NDArray[np.bool_]:
        """[n] the windows on which the steps before the last are compared."""
        count = len(self.samples) if self.sizes.between is None else self.sizes.between
        return np.arange(len(self.samples)) < count

    @property
    def reference_ends(self) -> float:
        """Seconds after the export's start by which the model before merging has to be scored."""
        return self.forecast.budget.seconds * _REFERENCE_SHARE

    def tokens(self, windows: int, stretch: int = 1) -> float:
        """About how many tokens scoring so many windows takes, each with its whole trie.

        Args:
            stretch: Windows that share a prompt.
        """
        return windows * (self.prompt_tokens / stretch + len(self._encoder.trie.evaluated))

    @cached_property
    def prompt_tokens(self) -> float:
        """Mean length of the windows' prompts."""
        return float(np.mean([len(prompt) for prompt in self.samples.prompts(self._encoder)]))

    def score_torch(self, stage: str, model: Any, encoder: PromptEncoder | None = None, last: bool = False) -> None:
        """Score a model in PyTorch: before merging (`adapter`), merged (`merge`) or as it was written.

        The model before merging is what all others are compared with. Where it is slow, the budget cuts the windows, to
        `LEAST_WINDOWS` at most.

        Args:
            stage: Its name.
            model: The model.
            encoder: Its prompts where its vocabulary is pruned.
            last: Whether it is what may be shipped, and is compared on all windows.
        """
        if stage == REFERENCE:
            unit = self.tokens(1)
            with self.forecast.step(stage, f"Scoring ({stage})", len(self.samples), unit) as advance:
                watch = _Reference(self.forecast.budget, self.reference_ends)

                def count(windows: float) -> None:
                    self.expected = watch.expected(int(windows), len(self.samples))
                    advance(windows)

                found = score_torch(model, self._encoder, self.samples, count, watch.go_on)
            self.samples = self.samples.take(np.arange(len(self.samples)) < len(found))
            self.expected = len(self.samples)
            self.by_stage[stage] = found
            if self.evenings is not None:
                with progress_bar(f"Scoring ({stage}, evenings)", len(self.evenings)) as bar:
                    self.evening_scores = score_torch(model, self._encoder, self.evenings, bar)
            return
        some = self.samples if last else self.samples.take(self.between)
        with self.forecast.step(stage, f"Scoring ({stage})", len(some)) as advance:
            self._keep(stage, score_torch(model, encoder or self._encoder, some, advance))

    def score_bundle(self, stage: str, path: Path, manifest: Manifest, last: bool) -> None:
        """Score a converted model; see `score_bundle`.

        Args:
            last: Whether it is what may be shipped, and is compared on all windows.
        """
        some = self.samples if last else self.samples.take(self.between)
        with self.forecast.step(stage, f"Scoring ({stage})", len(some)) as advance:
            self._keep(stage, score_bundle(path, manifest, some, advance))

    def _keep(self, stage: str, found: Floats) -> None:
        """Keep the scores of all windows, or of those in `between`."""
        whole = np.full((len(self.samples), found.shape[1]), np.nan)
        whole[slice(None) if len(found) == len(whole) else self.between] = found
        self.by_stage[stage] = whole


class _Reference:
    """Scores of the model before merging, until its share of the time is over; at least `LEAST_WINDOWS`.

    Args:
        ends: Seconds after the budget's start.
    """

    def __init__(self, budget: TimeBudget, ends: float) -> None:
        self._budget, self._ends, self._started, self._done = budget, ends, budget.elapsed, 0

    def go_on(self, done: int) -> bool:
        """Whether there is time for some more windows after so many."""
        each = (self._budget.elapsed - self._started) / done
        return done < LEAST_WINDOWS or self._budget.elapsed + _CHUNK * each <= self._ends

    def expected(self, more: int, total: int) -> int:
        """After so many more windows: how many it will have been in the end."""
        self._done += more
        each = (self._budget.elapsed - self._started) / self._done
        if not math.isfinite(self._ends) or each <= 0:
            return total
        further = max(0, int((self._ends - self._budget.elapsed) / each)) // _CHUNK * _CHUNK
        least = -(-LEAST_WINDOWS // _CHUNK) * _CHUNK
        return min(total, max(self._done + further, least))


def score_torch(
    model: Any,
    encoder: PromptEncoder,
    samples: Samples,
    advance: Callable[[float], None],
    go_on: Callable[[int], bool] = lambda done: True,
) -> Floats:
    """[n, B] log-probabilities among the candidates by a Transformers or PEFT model.

    Args:
        advance: Called with the number of windows just scored.
        go_on: Asked after every few windows, with their number so far; the answer ends there if it says no.
    """
    from edge_behavior.hf.tree_scoring import TorchScorer

    scorer, prompts = TorchScorer(model, encoder), samples.prompts(encoder)
    scores: list[Floats] = []
    for start in range(0, len(prompts), _CHUNK):
        if start and not go_on(start):
            break
        scores.append(scorer.score(prompts[start : start + _CHUNK]).log_probs)
        advance(len(scores[-1]))
    return log_softmax(np.concatenate(scores))


def score_bundle(
    path: Path,
    manifest: Manifest,
    samples: Samples,
    advance: Callable[[float], None],
    enough: Callable[[Floats], bool] | None = None,
) -> Floats:
    """[n, B] log-probabilities among the candidates by a GGUF file or ONNX folder, as the runtime computes them.

    Args:
        path: It may still lack its manifest.
        manifest: With the start and end ids of its vocabulary.
        samples: The windows.
        advance: Called with the number of windows just scored.
        enough: Asked after every few windows, taken in random order, with [n, B] scores of which rows not yet scored
            are not numbers; the scoring ends there if it says yes. None: all windows.
    """
    from edge_behavior.runtime.predictor import context_needed, open_backend
    from edge_behavior.runtime.ranker import Ranker
    from edge_behavior.runtime.side_by_side import engine_count, side_by_side

    scores = np.full((len(samples), len(samples.labels)), np.nan)
    count = engine_count(path)
    with ExitStack() as stack:
        rankers: list[Ranker] = []
        for _ in range(count):
            backend = open_backend(path, context_needed(manifest), threads=None if count == 1 else 1)
            rankers.append(Ranker(manifest, backend))
            stack.callback(rankers[-1].close)
        prompts = samples.prompts(rankers[0].encoder)
        order = list(range(len(prompts)))
        if enough is None:
            # So that a shared prefix is evaluated once.
            order.sort(key=prompts.__getitem__)
        else:
            random.Random(0).shuffle(order)
        found = side_by_side(rankers, (prompts[i] for i in order), lambda ranker, ids: ranker.log_probs(ids, "exact"))
        with closing(found):
            for number, (i, row) in enumerate(zip(order, found, strict=True), 1):
                scores[i] = log_softmax(row)
                advance(1)
                if enough is not None and number % _ASKED == 0 and enough(scores):
                    break
    return scores
