"""Finished run folders, written without training, for the report and the model card."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.data.dataset import Dataset
from edge_behavior.data.info import LogFile, LogSource
from edge_behavior.evaluation.counters import COUNTERS
from edge_behavior.evaluation.metrics import Metrics, Outcome, behavior_metrics
from edge_behavior.evaluation.results import RunMetrics
from edge_behavior.train.recipe import parse_recipe
from edge_behavior.train.run.folder import RunFolder, write_text
from edge_behavior.train.run.metrics import write_metrics
from tests.dataset_info import dataset_info

EVIL = "<script>alert(1)</script>"
LABELS = ("Video", EVIL, '$x$ & "y" --> `z|`', "看漫画", "rare <b>")
COUNTS = (600, 200, 150, 40, 4)

MakeRun = Callable[..., tuple[RunFolder, Dataset]]


def make_metrics(labels: tuple[str, ...], groups: tuple[str, ...], missing: set[int], seed: int) -> Metrics:
    rng = np.random.default_rng(seed)
    truth = rng.choice([i for i in range(len(labels)) if i not in missing], size=200)
    scores = rng.normal(size=(200, len(labels)))
    scores[np.arange(200), truth] += 1.0
    return behavior_metrics(Outcome(scores, truth.astype(np.int64), np.arange(200) // 10), labels, groups, resamples=50)


@pytest.fixture(scope="module")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    def make(
        labels: tuple[str, ...] = LABELS,
        counts: tuple[int, ...] = COUNTS,
        method: str = "dpo",
        best_step: int = 20,
        missing: tuple[int, ...] = (),
        backbone: dict[str, Any] | None = None,
    ) -> tuple[RunFolder, Dataset]:
        candidates = CandidateSet(labels, counts)
        groups = candidates.groups()
        folder = tmp_path_factory.mktemp("run")
        data, out = folder / "data", folder / "my run"
        data.mkdir()
        out.mkdir()
        pq.write_table(pa.table({"place": [0, 1], "name": ["home", EVIL], "events": [5, 4]}), data / "places.parquet")
        source = LogSource("log <1>.csv", "csv", (LogFile("log <1>.csv", "ab12", 9),))
        info = dataset_info(candidates, source=source)
        dataset = Dataset(data, info, candidates)
        standin = backbone is None
        recipe = parse_recipe({"name": "tiny", "backbone": backbone or {}, "b_tuning": {"method": method}}, "test")
        run = RunFolder(out)
        run.update(
            edgeb="0.1.0",
            created="2026-11-21T01:02:03+00:00",
            backbone={"path": recipe.backbone.path or "backbone", "standin": standin},
            dataset={"path": "data", "fingerprint": dataset.fingerprint},
            candidates=[{"label": x, "count": n} for x, n in zip(labels, counts, strict=True)],
            layout=recipe.layout.layout(True, None).to_dict(),
        )
        write_text(out / "recipe.yaml", recipe.to_yaml())
        protocols = ("natural", "balanced")
        names = ("untuned", "a_tuning", "b_tuning")
        models = {
            n: {p: make_metrics(labels, groups, set(missing), 10 * i + j) for j, p in enumerate(protocols)}
            for i, n in enumerate(names)
        }
        counters = {
            n: {p: make_metrics(labels, groups, set(missing), 100 + i) for p in protocols}
            for i, n in enumerate(COUNTERS)
        }
        write_metrics(run, RunMetrics(models, counters, 0.01, 7))
        made = {"parameters": 886_784, "pretrain_tokens": 59_392, "pretrain_loss": 2.978, "seconds": 57.9}
        run.finish("backbone", made if standin else {"seconds": 0.1})
        log: list[dict[str, Any]] = [{"loss": 3.0 / s, "step": s} for s in range(1, 21)]
        log += [{"eval_loss": 2.0, "step": 10}, {"eval_loss": 1.5, "step": 20}, {"train_loss": 2.2, "step": 20}]
        sizes = {
            "sequences_per_epoch": 80,
            "targets_per_epoch": 1513,
            "conversations_per_epoch": 4,
            "tokens_per_epoch": 19294,
            "conversations_loss_share": 0.0213,
        }
        tuned = {
            "steps": 20,
            "train_loss": 2.2,
            "best_validation_loss": 1.5,
            "best_step": 20,
            "log": log,
            "seconds": 26.6,
        }
        run.finish("a_tuning", {"method": "sft", **sizes, **tuned})
        if method == "none":
            run.finish("b_tuning", {"method": "none", "seconds": 0.1})
        else:
            finish_b_tuning(run, labels, method, best_step, log)
        run.finish("evaluation", {"seconds": 42.9})
        return run, dataset

    return make


def finish_b_tuning(
    run: RunFolder, labels: tuple[str, ...], method: str, best_step: int, log: list[dict[str, Any]]
) -> None:
    selected = {label: (20 if i + 1 < len(labels) else 0) for i, label in enumerate(labels)}
    rng = np.random.default_rng(0)
    lines = [
        json.dumps(
            {
                "target": k,
                "time": "2024-03-05T18:30",
                "place": EVIL,
                "history": [labels[0]] * 20,
                "chosen": labels[i],
                "rejected": labels[(i + 1) % len(labels)],
                "probability": float(rng.random()),
                "difficulty": float(rng.random()),
            }
        )
        for i in range(len(labels) - 1)
        for k in range(20)
    ]
    write_text(run.path / "pairs.jsonl", "\n".join(lines) + "\n")
    reward = [
        {"loss": 0.69 - s / 100, "rewards/margins": s / 10, "rewards/accuracies": 0.8, "step": s} for s in range(1, 21)
    ]
    score = {0: 0.30, 10: 0.29, 20: 0.28} if best_step == 0 else {0: 0.30, 10: 0.31, 20: 0.3456}
    summary = {
        "pool": 4321,
        "pool_per_behavior": {label: 5 * n for label, n in selected.items()},
        "pool_accuracy": 0.271,
        "within_category_mistakes": 0.408,
        "selected": len(lines),
        "selected_per_behavior": selected,
        "without_sample": [labels[-1]],
        "selected_wrong": 0.912,
        "mean_difficulty": {"intended": 0.691, "as-printed": 0.782},
        "mean_selected_difficulty": 0.733,
        "shared_by_both_rules": 0.654,
        "steps": 20,
        "train_loss": 0.66,
        "log": reward if method == "dpo" else log,
        "method": method,
        "best_step": best_step,
        "validation": [{"step": float(s), "accuracy": v, "overall": v, "score": v} for s, v in score.items()],
        "seconds": 102.3,
    }
    run.finish("b_tuning", summary)
