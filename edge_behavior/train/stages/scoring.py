"""Scores windows of an event table with a Transformers model: pool, validation and test.

Each use says by a goal how much it needs to know. The behavior that followed is scored in any case.
Windows are scored in shards of fixed size, so that the result depends neither on how many processes share them nor on
where an interrupted pass was resumed.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from edge_behavior.core import REBASE_EVERY
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.scoring import TOKENS_PER_PASS
from edge_behavior.core.search import Goal
from edge_behavior.data.dataset import EventTable
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.protocols import Score
from edge_behavior.hf.tree_scoring import PromptScores, TorchScorer
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.rows.windows import Ints, WindowSet, draw_formats
from edge_behavior.train.run.folder import read_json, write_json
from edge_behavior.train.run.models import RunModels
from edge_behavior.train.trainer.failures import is_out_of_memory
from edge_behavior.train.trainer.processes import gathered, is_main, rank, wait, world_size
from edge_behavior.util.files import new_file
from edge_behavior.util.progress import Advance, progress_bar

SHARD = 128
# Ranks that evaluation proves, for hit@3 and hit@5.
RANKS = 5
# By the recipe's `scoring.windows`.
REBASE = {"alone": None, "session": REBASE_EVERY}
EVERYTHING = Goal()
_CONTENT = "content.json"


def proving(ranks: int, bound: float | None) -> Goal:
    """To prove the first ranks, and the sum over all candidates within `bound` nats; every score where that is None."""
    return EVERYTHING if bound is None else Goal(ranks, -math.expm1(-bound))


@dataclass(frozen=True)
class ScoringPass:
    """How windows are scored.

    Attributes:
        title: Name of the progress bar, which counts windows.
        tokens_per_pass: The recipe's `scoring.tokens_per_pass`.
        goal: What to establish of every window, besides the score of its true behavior.
        shards: Folder that keeps scores; a second pass over the same windows reads them from there.
        embeddings: Whether to return E(x) as well.
        lockstep: Every process scores everything, for weights that are spread over the processes.
    """

    title: str
    tokens_per_pass: int = TOKENS_PER_PASS
    goal: Goal = EVERYTHING
    shards: Path | None = None
    embeddings: bool = False
    lockstep: bool = False


def score_windows(model: Any, encoder: PromptEncoder, windows: WindowSet, scoring: ScoringPass) -> PromptScores:
    """Scores of all labels after every window, on every process: what is not exact is bounded, see `PromptScores`.

    Without `embeddings`, that array is [n, 0].

    Raises:
        EdgebError: a kept shard is damaged, or a forward pass does not fit the memory.
    """
    scorer, count = TorchScorer(model, encoder, scoring.tokens_per_pass), len(windows.targets)
    starts = range(0, count, SHARD)
    mine = list(starts) if scoring.lockstep else list(starts[rank() :: world_size()])
    if scoring.shards is not None:
        _open_shards(scoring.shards, encoder, windows, scoring)
    found: list[tuple[int, dict[str, NDArray[Any]]]] = []
    sizes = [min(SHARD, count - start) for start in mine]
    with progress_bar(scoring.title, sum(sizes), hidden=count < 2 or not is_main()) as advance:
        for start, size in zip(mine, sizes, strict=True):
            path = None if scoring.shards is None else scoring.shards / f"{start:09d}.safetensors"
            if path is not None and path.is_file():
                found.append((start, _read_shard(path)))
                advance(size)
                continue
            found.append((start, _score_shard(scorer, encoder, windows.take(start, start + size), scoring, advance)))
            if path is not None:
                with new_file(path, replace=True) as temporary:
                    save_file(found[-1][1], temporary)
    every = found if scoring.lockstep else gathered(found)
    parts = [part for _, part in sorted(every, key=lambda item: item[0])]
    return PromptScores(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def stage_scorer(
    models: RunModels, stage: str, table: EventTable, recipe: Recipe, seed: int, title: str, shards: Path | None = None
) -> Score:
    """A scorer of one of a run's models for `evaluation`; the model is loaded when it is first called.

    Args:
        stage: One of `MODELS`.
        recipe: Its `scoring` section says how windows are scored.
        seed: Of the wordings.
        title: Name of the progress bar.
        shards: Gets a folder for every set of windows.
    """
    settings = recipe.scoring
    scoring = ScoringPass(title, settings.tokens_per_pass, proving(RANKS, settings.bound))

    def score(targets: Ints) -> NDArray[np.float64]:
        model, encoder = models.load(stage), models.encoder
        windows = WindowSet(table, targets, draw_formats(encoder, len(targets), seed), REBASE[settings.windows])
        kept = None if shards is None else shards / f"{stage}-{_digest(targets)[:12]}"
        return score_windows(model, encoder, windows, replace(scoring, shards=kept)).log_probs

    return score


def _score_shard(
    scorer: TorchScorer, encoder: PromptEncoder, windows: WindowSet, scoring: ScoringPass, advance: Advance
) -> dict[str, NDArray[Any]]:
    prompts, where = windows.prompts(encoder, scoring.goal)
    # Windows of the same event share a prompt.
    advance(len(where) - sum(len(one.ends) for one in prompts))
    try:
        scores = scorer.score_shared(prompts, advance)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        nodes = len(encoder.trie.evaluated) if scoring.goal.everything else 0
        longest = max(len(one.ids) for one in prompts) - len(encoder.static_ids) + nodes
        raise _too_large(scoring, longest) from None
    kept = scores if scoring.embeddings else replace(scores, embeddings=scores.embeddings[:, :0])
    return {name: values[where] for name, values in vars(kept).items()}


def _too_large(scoring: ScoringPass, longest: int) -> EdgebError:
    """Out of memory, where the longest window takes `longest` tokens."""
    if scoring.tokens_per_pass <= longest:
        hint = "each pass has one window already: use a device with more memory, or set backbone.quantize=4bit"
    else:
        hint = f"lower scoring.tokens_per_pass (now {scoring.tokens_per_pass})"
    return EdgebError(f"out of memory while scoring windows ({scoring.title})", hint)


def _open_shards(folder: Path, encoder: PromptEncoder, windows: WindowSet, scoring: ScoringPass) -> None:
    """Make the folder, or empty it where it holds other windows."""
    content = {
        "windows": _digest(windows.targets),
        "formats": _digest(windows.formats),
        "prompt": hashlib.sha256(json.dumps([encoder.static_ids, encoder.trie.tokens.tolist()]).encode()).hexdigest(),
        "embeddings": scoring.embeddings,
        "goal": [scoring.goal.top_k, scoring.goal.tolerance],
        "rebase_every": windows.rebase_every,
        "shown": windows.shown,
        "shard": SHARD,
    }
    if is_main():
        known = folder / _CONTENT
        if not known.is_file() or read_json(known) != content:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_json(known, content)
    wait()


def _read_shard(path: Path) -> dict[str, NDArray[Any]]:
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise EdgebError(f"cannot read scores {path}: {error}", "delete that file; it is scored again") from None


def _digest(values: Ints) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
