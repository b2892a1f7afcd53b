"""What a session's full window costs and loses: evaluated anew, re-based every few events, or shifted.

    python -m benchmarks.windows --bundle behavior.gguf --data data --out benchmarks/results/windows

Every policy predicts the same events of the same test users. Accuracy is the model's own (no habits), differences are
paired over users; tokens are what a prediction evaluates; CPU time is a ratio to evaluating the window anew, all
policies interleaved in one process.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from edge_behavior.core.events import BehaviorEvent
from edge_behavior.data.dataset import Dataset
from edge_behavior.runtime.backends.llama import LlamaBackend
from edge_behavior.runtime.llama.log import captured_log
from edge_behavior.runtime.prediction import Prediction
from edge_behavior.runtime.predictor import PredictOptions, Predictor
from edge_behavior.util.markdown import markdown_table
from edge_behavior.util.progress import progress_bar

POLICIES = ("anew", "anchor 10", "anchor 20", "anchor 40", "shift")


class Anew:
    """The last L events as a plain prompt, each time."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.events: list[BehaviorEvent] = []
        self.length = predictor.manifest.layout.history_length

    def predict(self, when: datetime, place: str) -> Prediction:
        return self.predictor.predict(
            self.events[-self.length :], when, place, 1, options=PredictOptions(source="model")
        )

    def observe(self, event: BehaviorEvent) -> None:
        self.events.append(event)


class Rebased:
    """A session as edgeb has it."""

    def __init__(self, predictor: Predictor, every: int) -> None:
        self.session = predictor.session(every)

    def predict(self, when: datetime, place: str) -> Prediction:
        return self.session.predict(when, place, 1, options=PredictOptions(source="model"))

    def observe(self, event: BehaviorEvent) -> None:
        self.session.observe(event)


class Shifted(Anew):
    """The oldest event's cache cells are dropped and the later keys moved down: llama.cpp's context shift."""

    def observe(self, event: BehaviorEvent) -> None:
        super().observe(event)
        if len(self.events) <= self.length:
            return
        ranker = self.predictor._ranker
        backend, static = ranker.backend, ranker.encoder.static_ids
        assert isinstance(backend, LlamaBackend)
        gone = ranker.encoder.line_ids(self.events.pop(0))
        start, stop = len(static), len(static) + len(gone)
        if backend._held[:stop] == static + gone:
            backend._release()
            llama_cpp.llama_memory_seq_rm(backend._memory, 0, start, stop)
            llama_cpp.llama_memory_seq_add(backend._memory, 0, stop, -1, start - stop)
            backend._held = backend._held[:start] + backend._held[stop:]


def opened(name: str, predictor: Predictor) -> Anew | Rebased:
    if name == "shift":
        return Shifted(predictor)
    return Anew(predictor) if name == "anew" else Rebased(predictor, int(name.split()[1]))


def run(bundle: Path, data: Path, users: int, per_user: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    dataset = Dataset.open(data)
    table = dataset.events("test")
    rng = np.random.default_rng(seed)
    eligible = np.flatnonzero(np.diff(table.user_offsets) > 60)
    chosen = rng.permutation(eligible)[:users]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in POLICIES}
    # llama.cpp logs at length how it plans a shift.
    with (
        captured_log(),
        Predictor.load(bundle, threads=1, prefix_cache=False) as predictor,
        progress_bar("users", len(chosen)) as advance,
    ):
        length = predictor.manifest.layout.history_length
        for user in chosen:
            start, stop = (int(x) for x in table.user_offsets[user : user + 2])
            events = [table.event(i) for i in range(start, min(stop, start + length + per_user))]
            for name in POLICIES:
                session = opened(name, predictor)
                for i, event in enumerate(events):
                    began = time.process_time()
                    found = session.predict(event.time, event.place)
                    session.observe(event)
                    spent = time.process_time() - began
                    if i >= length:
                        rows[name].append(
                            {
                                "user": int(user),
                                "right": found.ranked[0].behavior == event.behavior,
                                "log_p": float(np.log(found.ranked[0].probability)),
                                "said": found.ranked[0].behavior,
                                "tokens": found.tokens_evaluated,
                                "cpu": spent,
                            }
                        )
            advance()
    return rows


def summary(rows: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    base = rows["anew"]
    users = np.array([row["user"] for row in base])
    names, index = np.unique(users, return_inverse=True)
    weights = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=2000)
    found = {}
    for name, held in rows.items():
        gain = np.array([int(a["right"]) - int(b["right"]) for a, b in zip(held, base, strict=True)], dtype=float)
        per_user = np.bincount(index, gain, len(names))
        counts = np.bincount(index, minlength=len(names))
        low, high = np.percentile((weights @ per_user) / (weights @ counts), [2.5, 97.5])
        cpu = np.array([row["cpu"] for row in held])
        tokens = np.array([row["tokens"] for row in held])
        found[name] = {
            "predictions": len(held),
            "users": len(names),
            "accuracy": float(np.mean([row["right"] for row in held])),
            "accuracy_minus_anew": float(gain.mean()),
            "interval": [float(low), float(high)],
            "same_answer": float(np.mean([a["said"] == b["said"] for a, b in zip(held, base, strict=True)])),
            "tokens_mean": float(tokens.mean()),
            "tokens_p95": float(np.percentile(tokens, 95)),
            "cpu_ratio": float(cpu.mean() / np.mean([row["cpu"] for row in base])),
        }
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, row in found.items():
        low, high = row["interval"]
        rows.append(
            (
                name,
                f"{row['accuracy']:.3f}",
                f"{row['accuracy_minus_anew']:+.3f} [{low:+.3f}, {high:+.3f}]",
                f"{row['same_answer']:.3f}",
                f"{row['tokens_mean']:.1f}",
                f"{row['tokens_p95']:.0f}",
                f"{row['cpu_ratio']:.2f}",
            )
        )
    heads = ("window", "accuracy", "minus anew", "same answer", "tokens, mean", "tokens, p95", "CPU time")
    return "\n".join(markdown_table(heads, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--users", type=int, default=40)
    parser.add_argument("--per-user", type=int, default=80, help="predictions of each user")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.json and OUT.md")
    args = parser.parse_args()
    rows = run(args.bundle, args.data, args.users, args.per_user, args.seed)
    found = summary(rows)
    document = {
        "command": f"python -m benchmarks.windows --users {args.users} --per-user {args.per_user} --seed {args.seed}",
        "bundle": args.bundle.name,
        "llama_cpp_python": llama_cpp.__version__,
        "machine": platform.machine(),
        "summary": found,
    }
    args.out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    args.out.with_suffix(".md").write_text(table(found) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
