"""Scores windows of an event table with a Transformers model: pool, validation and test.

Windows are scored in shards of fixed size, so that the result depends neither on how many processes share them nor on
where an interrupted pass was resumed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.scoring import TOKENS_PER_PASS
from edge_behavior.data.dataset import EventTable
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.protocols import Score
from edge_behavior.hf.tree_scoring import PromptScores, TorchScorer
from edge_behavior.train.rows.samples import window_prompt
from edge_behavior.train.run.folder import read_json, write_json
from edge_behavior.train.run.models import RunModels
from edge_behavior.train.trainer.failures import is_out_of_memory
from edge_behavior.train.trainer.processes import gathered, is_main, rank, wait, world_size
from edge_behavior.util.files import new_file
from edge_behavior.util.progress import progress_bar

SHARD = 128
_CONTENT = "content.json"
Ints = NDArray[np.int64]


def draw_formats(encoder: PromptEncoder, count: int, seed: int) -> Ints:
    """[n] wording of each window: random where the layout has several, as in training (§4.1.4), else 0."""
    return np.random.default_rng(seed).integers(encoder.layout.formats, size=count)


@dataclass(frozen=True)
class WindowSet:
    """Windows to score: each is the history before an event, asked in one wording of the layout.

    Attributes:
        table: Their events.
        targets: int64 [n], the event that each window predicts.
        formats: int64 [n], see `draw_formats`.
    """

    table: EventTable
    targets: Ints
    formats: Ints

    def prompts(self, encoder: PromptEncoder, start: int, stop: int) -> list[list[int]]:
        """Prompt ids of some of the windows."""
        return [
            window_prompt(self.table, encoder, int(self.targets[i]), int(self.formats[i])) for i in range(start, stop)
        ]


@dataclass(frozen=True)
class ScoringPass:
    """How windows are scored.

    Attributes:
        title: Name of the progress bar.
        tokens_per_pass: The recipe's `scoring.tokens_per_pass`.
        shards: Folder that keeps scores; a second pass over the same windows reads them from there.
        embeddings: Whether to return E(x) as well.
        lockstep: Every process scores everything, for weights that are spread over the processes.
    """

    title: str
    tokens_per_pass: int = TOKENS_PER_PASS
    shards: Path | None = None
    embeddings: bool = False
    lockstep: bool = False


def score_windows(model: Any, encoder: PromptEncoder, windows: WindowSet, scoring: ScoringPass) -> PromptScores:
    """Exact log-probabilities [n, B] of all labels after every window, on every process.

    With `embeddings`, E(x) [n, H] too; else that array is [n, 0].

    Raises:
        EdgebError: a kept shard is damaged, or a forward pass does not fit the memory.
    """
    scorer, count = TorchScorer(model, encoder, scoring.tokens_per_pass), len(windows.targets)
    starts = range(0, count, SHARD)
    mine = list(starts) if scoring.lockstep else list(starts[rank() :: world_size()])
    if scoring.shards is not None:
        _open_shards(scoring.shards, encoder, windows, scoring.embeddings)
    found: list[tuple[int, dict[str, NDArray[Any]]]] = []
    with progress_bar(f"{scoring.title}, chunks of {SHARD} windows", len(mine), hidden=not is_main()) as advance:
        for start in mine:
            path = None if scoring.shards is None else scoring.shards / f"{start:09d}.safetensors"
            if path is not None and path.is_file():
                found.append((start, _read_shard(path)))
            else:
                prompts = windows.prompts(encoder, start, min(start + SHARD, count))
                found.append((start, _score_shard(scorer, encoder, prompts, scoring)))
                if path is not None:
                    with new_file(path, replace=True) as temporary:
                        save_file(found[-1][1], temporary)
            advance()
    every = found if scoring.lockstep else gathered(found)
    parts = [part for _, part in sorted(every, key=lambda item: item[0])]
    return PromptScores(
        np.concatenate([p["log_probs"] for p in parts]), np.concatenate([p["embeddings"] for p in parts])
    )


def stage_scorer(models: RunModels, stage: str, table: EventTable, seed: int, scoring: ScoringPass) -> Score:
    """A scorer of one of a run's models for `evaluation`; the model is loaded when it is first called.

    Args:
        stage: One of `MODELS`.
        seed: Of the wordings.
        scoring: Its `shards` get a folder for every set of windows.
    """

    def score(targets: Ints) -> NDArray[np.float64]:
        model, encoder = models.load(stage), models.encoder
        windows = WindowSet(table, targets, draw_formats(encoder, len(targets), seed))
        kept = None if scoring.shards is None else scoring.shards / f"{stage}-{_digest(targets)[:12]}"
        return score_windows(model, encoder, windows, replace(scoring, shards=kept)).log_probs

    return score


def _score_shard(
    scorer: TorchScorer, encoder: PromptEncoder, prompts: list[list[int]], scoring: ScoringPass
) -> dict[str, NDArray[Any]]:
    try:
        scores = scorer.score(prompts)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        longest = max(map(len, prompts)) - len(encoder.static_ids) + len(encoder.trie.evaluated)
        raise _too_large(scoring, longest) from None
    kept = scores.embeddings if scoring.embeddings else np.empty((len(prompts), 0), np.float32)
    return {"log_probs": scores.log_probs, "embeddings": kept}


def _too_large(scoring: ScoringPass, longest: int) -> EdgebError:
    """Out of memory, where the longest window takes `longest` tokens."""
    if scoring.tokens_per_pass <= longest:
        hint = "each pass has one window already: use a device with more memory, or set backbone.quantize=4bit"
    else:
        hint = f"lower scoring.tokens_per_pass (now {scoring.tokens_per_pass})"
    return EdgebError(f"out of memory while scoring windows ({scoring.title})", hint)


def _open_shards(folder: Path, encoder: PromptEncoder, windows: WindowSet, embeddings: bool) -> None:
    """Make the folder, or empty it where it holds other windows."""
    content = {
        "windows": _digest(windows.targets),
        "formats": _digest(windows.formats),
        "prompt": hashlib.sha256(json.dumps([encoder.static_ids, encoder.trie.tokens.tolist()]).encode()).hexdigest(),
        "embeddings": embeddings,
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
