"""A comparison keeps the sequence models that it fitted; what is exported of it answers as the comparison measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.baselines.sequence.system import SequenceSystem
from edge_behavior.core.scoring import log_softmax
from edge_behavior.evaluation.bundles import bundle_log_probs
from edge_behavior.runtime.predictor import Predictor
from edge_behavior.studies.compare.contenders import Other
from edge_behavior.studies.compare.runner import run_compare
from tests.command import invoked
from tests.unit.studies.compare.conftest import SIZES, Asking, Noisy, contenders

SMALL = SequenceConfig(hidden=16, layers=1, heads=2, epochs=1, least_steps=12, eval_steps=6, batch_size=16)


def test_a_kept_model_is_the_one_that_was_measured(asking: Asking, tmp_path: Path) -> None:
    systems = {**contenders(Noisy("good", 3.0)), "sasrec": Other(SequenceSystem("sasrec", SMALL))}
    sizes = replace(SIZES, rate_targets=0)
    bench, systems = asking(systems, seeds=(1,), sizes=sizes, sweeps=("targets=40",), cold=(0,))
    assert run_compare(bench, systems) == []
    # Not of a sweep's points, and not of systems that cannot ship.
    kept = sorted(path.name for path in (bench.folder.path / "models").iterdir())
    assert kept == ["sasrec-seed1"]
    assert not list(bench.folder.work.glob("fits/sasrec*"))
    cost = bench.folder.costs()["sasrec-seed1"]
    assert list(bench.folder.costs()) == ["sasrec-seed1"]
    assert cost.bytes == 4 * cost.parameters > 0
    # An epoch of stretches of five positions at most: every event once, and some that are only shown.
    events = len(bench.dataset.events("train"))
    assert cost.tokens is not None
    assert events <= cost.tokens <= 2 * 5 * events
    out = tmp_path / "sasrec.gguf"
    words = ("export", bench.folder.path, "--system", "sasrec", "--seed", 1, "--out", out, "--json")
    words += ("--no-habits", "--no-calibrate", "--no-population")
    report = json.loads(invoked(*words).stdout)
    assert (report["architecture"], report["quantization"]) == ("edgeb-sasrec", "F32")
    table = bench.dataset.events("test")
    with np.load(bench.folder.predictions("sasrec", 1, "test")) as held, Predictor.load(out) as predictor:
        assert predictor.manifest.training["seed"] == 1
        found = bundle_log_probs(predictor, table, bench.drawn.test)
        # Scores are kept in half precision.
        np.testing.assert_allclose(log_softmax(held["scores"].astype(np.float64)), found, atol=0.02)
    shown = json.loads(invoked("predict", out, "--history", _history(tmp_path), *_AT, "--json").stdout)
    assert len(shown["predictions"]) == 5


_AT = ("--at", "2024-03-18T20:05", "--place", "home")


def _history(folder: Path) -> Path:
    path = folder / "today.csv"
    path.write_text("timestamp,place,behavior\n2024-03-18T08:05,home,News\n", encoding="utf-8")
    return path
