"""Scoring windows of an event table with a Transformers model: pool, validation and test.

Windows are scored in shards of fixed content, so that the result does not depend on how many processes share them
or on where an interrupted pass went on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
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


def score_windows(
    model: Any,
    encoder: PromptEncoder,
    table: EventTable,
    targets: Ints,
    formats: Ints,
    title: str,
    shards: Path | None = None,
    embeddings: bool = False,
    lockstep: bool = False,
    tokens_per_pass: int = TOKENS_PER_PASS,
) -> PromptScores:
    """Exact log-probabilities [n, B] of the windows before `targets`, each in its wording, on every process.

    Args:
        title: Name of the progress bar.
        shards: Folder that keeps what is scored; a second call on the same windows reads it from there.
        embeddings: Return E(x) [n, H] too; else the array is [n, 0].
        lockstep: Every process scores everything, for weights that are spread over the processes.
        tokens_per_pass: The recipe's `scoring.tokens_per_pass`.

    Raises:
        EdgebError: a kept shard is damaged, or a forward pass does not fit the memory.
    """
    scorer = TorchScorer(model, encoder, tokens_per_pass)
    starts = range(0, len(targets), SHARD)
    mine = list(starts) if lockstep else list(starts[rank() :: world_size()])
    if shards is not None:
        _open_shards(shards, encoder, targets, formats, embeddings)
    found: list[tuple[int, dict[str, NDArray[Any]]]] = []
    with progress_bar(f"{title}, chunks of {SHARD} windows", len(mine), hidden=not is_main()) as advance:
        for start in mine:
            path = None if shards is None else shards / f"{start:09d}.safetensors"
            if path is not None and path.is_file():
                found.append((start, _read_shard(path)))
            else:
                chunk = range(start, min(start + SHARD, len(targets)))
                prompts = [window_prompt(table, encoder, int(targets[i]), int(formats[i])) for i in chunk]
                try:
                    scores = scorer.score(prompts)
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    longest = max(map(len, prompts)) - len(encoder.static_ids) + len(encoder.trie.evaluated)
                    raise _too_large(title, tokens_per_pass, longest) from None
                kept = scores.embeddings if embeddings else np.empty((len(chunk), 0), np.float32)
                found.append((start, {"log_probs": scores.log_probs, "embeddings": kept}))
                if path is not None:
                    with new_file(path, replace=True) as temporary:
                        save_file(found[-1][1], temporary)
            advance()
    parts = [part for _, part in sorted(found if lockstep else gathered(found), key=lambda item: item[0])]
    return PromptScores(
        np.concatenate([p["log_probs"] for p in parts]), np.concatenate([p["embeddings"] for p in parts])
    )


def stage_scorer(
    models: RunModels,
    stage: str,
    table: EventTable,
    title: str,
    seed: int,
    shards: Path | None,
    tokens_per_pass: int = TOKENS_PER_PASS,
) -> Score:
    """A scorer of a run's stage for `evaluation`; the model is loaded when it is first called.

    Args:
        shards: Folder under which every set of windows keeps its shards.
    """

    def score(targets: Ints) -> NDArray[np.float64]:
        model, encoder = models.load(stage), models.encoder
        formats = draw_formats(encoder, len(targets), seed)
        kept = None if shards is None else shards / f"{stage}-{_digest(targets)[:12]}"
        found = score_windows(model, encoder, table, targets, formats, title, kept, tokens_per_pass=tokens_per_pass)
        return found.log_probs

    return score


def _too_large(title: str, tokens: int, longest: int) -> EdgebError:
    """Out of memory with `tokens` per forward pass, where the longest window takes `longest`."""
    if tokens <= longest:
        hint = "each pass has one window already: use a device with more memory, or set backbone.quantize=4bit"
    else:
        hint = f"lower scoring.tokens_per_pass (now {tokens})"
    return EdgebError(f"out of memory while scoring windows ({title})", hint)


def _open_shards(folder: Path, encoder: PromptEncoder, targets: Ints, formats: Ints, embeddings: bool) -> None:
    """Make the folder, or empty it if it holds other windows."""
    content = {
        "windows": _digest(targets),
        "formats": _digest(formats),
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
