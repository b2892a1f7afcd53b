"""Latency of a bundle, per prediction: load, cold, warm; tokens evaluated, peak memory, file size.

Histories are made from the bundle's own candidate set, so a bundle can be measured where no log is.
"""

from __future__ import annotations

import os
import platform
import random
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from edge_behavior.errors import EdgebError
from edge_behavior.events import BehaviorEvent
from edge_behavior.runtime.predictor import Predictor

_PLACES = ("home", "work", "transit", "leisure")
_START = datetime(2024, 3, 4, 7)


@dataclass(frozen=True)
class Question:
    """One prediction to time."""

    history: list[BehaviorEvent]
    when: datetime
    place: str


def made_up_questions(labels: Sequence[str], count: int, length: int, seed: int = 0) -> list[Question]:
    """Consecutive questions of one made-up user whose window slides by one event each time."""
    rng = random.Random(seed)
    events = []
    when = _START
    for _ in range(count + length):
        when += timedelta(minutes=rng.randint(5, 180))
        events.append(BehaviorEvent(rng.choice(_PLACES), when, rng.choice(list(labels))))
    return [Question(events[i : i + length], events[i + length].time, events[i + length].place) for i in range(count)]


def measure(
    bundle: Path,
    repeats: int = 30,
    threads: int | None = None,
    scoring: str = "exact",
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Time a bundle in this process.

    Args:
        repeats: Predictions per scenario; at least 2.
        tick: Called after every prediction.

    Returns:
        `load_ms` (open, check hashes, make the trie), `cold` (the first prediction), `repeat` (the same prediction
        again: all but the last token is cached), `warm` (the window slides by one event, so only the static part is
        shared), each with `p50_ms`, `p95_ms` and `tokens_per_prediction`; `peak_rss_bytes` of this process,
        `file_bytes`, `machine`.

    Raises:
        EdgebError: fewer than 2 repeats, or the bundle does not load.
    """
    if repeats < 2:
        raise EdgebError(f"--repeats is {repeats}", "measure at least 2 predictions")
    started = perf_counter()
    with Predictor.load(bundle, threads=threads) as predictor:
        load_ms = (perf_counter() - started) * 1000
        manifest = predictor.manifest
        questions = made_up_questions(manifest.candidates.labels, repeats + 1, manifest.layout.history_length)
        scenarios = {
            "cold": questions[:1],
            "repeat": questions[:1] * repeats,
            "warm": questions[1:],
        }
        results: dict[str, Any] = {}
        for name, asked in scenarios.items():
            times, tokens = [], []
            for question in asked:
                prediction = predictor.predict(question.history, question.when, question.place, 5, scoring)
                times.append(prediction.latency_ms)
                tokens.append(prediction.tokens_evaluated)
                tick()
            results[name] = {
                "p50_ms": float(np.percentile(times, 50)),
                "p95_ms": float(np.percentile(times, 95)),
                "tokens_per_prediction": float(np.mean(tokens)),
                "predictions": len(times),
            }
    return {
        "bundle": bundle.name,
        "architecture": manifest.architecture,
        "quantization": manifest.quantization,
        "candidates": len(manifest.candidates),
        "layout": manifest.layout.name,
        "scoring": scoring,
        "load_ms": load_ms,
        **results,
        "peak_rss_bytes": peak_rss_bytes(),
        "file_bytes": bundle.stat().st_size,
        "machine": machine(threads),
    }


def peak_rss_bytes() -> int:
    """Peak resident memory of this process, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes.
    return peak if sys.platform == "darwin" else peak * 1024


def machine(threads: int | None) -> dict[str, Any]:
    """What the numbers were measured on."""
    import llama_cpp

    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads or "physical cores",
        "llama_cpp_python": llama_cpp.__version__,
    }
