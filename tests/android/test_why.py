"""Why the phone suggests something, against brute force: the mix in Python without each of its sources."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_behavior.bundle.bundle import read_population
from edge_behavior.core.balance import balance_offsets
from edge_behavior.core.fusion import Fusion
from edge_behavior.core.habits import HabitCounter
from edge_behavior.records.history import read_history, write_history
from edge_behavior.runtime.predictor import Predictor
from tests.android import host

ASSETS = host.ANDROID / "app" / "src" / "main" / "assets"
WHY_NOT = host.missing()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]
Floats = NDArray[np.float64]
# What the model sees of a history, so that a session sees the same.
SEEN = 18
PLACE = "home"


class Brute:
    """The sources of one question on one bundle, and every mix of them.

    Args:
        bundle: The file.
        history: The user's events.
    """

    def __init__(self, bundle: Path, history: Path) -> None:
        events = read_history(history).events
        self.when = events[-1].time + timedelta(minutes=5)
        with Predictor.load(bundle) as predictor:
            self.manifest = predictor.manifest
            self.model = predictor.log_probs(events, self.when, PLACE)
        self.labels = self.manifest.candidates.labels
        self.groups = tuple(self.manifest.candidates.groups())
        assert self.manifest.habits is not None
        counts, config = self.manifest.candidates.counts, self.manifest.habits.config
        whole = HabitCounter(counts, config, True, read_population(bundle))
        alone = HabitCounter(counts, config, True, None)
        for event in events:
            code = self.manifest.candidates.code(event.behavior)
            whole.observe(code, event.time, event.place)
            alone.observe(code, event.time, event.place)
        self.habits = {
            "": whole.log_probs(self.when, PLACE),
            "usual": np.log(whole.base(self.when, PLACE)),
            "follows": alone.log_probs(self.when, PLACE),
        }

    def probabilities(self, source: str, tau: float, calibrated: bool, without: str) -> Floats:
        """[B] of the source without one part of it."""
        if source == "model" and without == "model":
            return np.full(len(self.labels), 1 / len(self.labels))
        habits = self.habits.get(without, self.habits[""])
        scores = self.model if source == "model" else habits
        if source == "fused":
            assert self.manifest.habits is not None
            slope, offset = Fusion(self.manifest.habits.weights, self.groups).affine(habits)
            scores = offset if without == "model" else slope * self.model + offset
        scores = scores + balance_offsets(tau, self.manifest.candidates.counts)
        calibration = self.manifest.calibration_at(source, tau)
        if calibrated:
            assert calibration is not None
            scores = calibration.scores(scores, self.groups)
        found = np.exp(scores - scores.max())
        return np.asarray(found / found.sum())


def test_the_reason_is_the_source_that_is_missed_most(tmp_path: Path) -> None:
    events = read_history(ASSETS / "sample-day.csv").events
    built = host.build()
    reasons = set()
    for end in (60, 200, len(events)):
        history = tmp_path / "history.csv"
        write_history(history, events[end - SEEN : end])
        brute = Brute(ASSETS / "sample.gguf", history)
        at = brute.when.isoformat(timespec="minutes")
        done = built.run("dev.edgeb.core.WhyCheck", ASSETS / "sample.gguf", history, at, PLACE)
        assert done.returncode == 0, done.stderr
        asked = set()
        for line in done.stdout.splitlines():
            source, tau, calibrated, count, behavior, reason, probability, *without = line.split("\t")
            asked.add(source)
            whole = brute.probabilities(source, float(tau), calibrated == "true", "")
            among = np.argsort(-whole, kind="stable")[: int(count)]
            first = brute.labels.index(behavior)
            assert first == among[0]

            def share(found: Floats, among: NDArray[np.intp] = among, first: int = first) -> float:
                return float(found[first] / found[among].sum())

            assert float(probability) == pytest.approx(share(whole), abs=1e-4), line
            missed = {}
            for entry in without:
                name, _, value = entry.partition("=")
                missed[name] = share(brute.probabilities(source, float(tau), calibrated == "true", name))
                assert float(value) == pytest.approx(missed[name], abs=1e-4), line
            assert set(missed) == {"model": {"model"}, "habits": {"usual", "follows"}}.get(
                source, {"model", "usual", "follows"}
            )
            lowest = min(missed, key=lambda name: missed[name])
            assert reason == (lowest if missed[lowest] < share(whole) else "null"), line
            reasons.add(reason)
        assert asked == {"model", "habits", "fused"}
    assert len(reasons) > 1
