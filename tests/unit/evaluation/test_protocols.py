"""Both protocols over a small synthetic dataset: which windows, and that all systems are measured on the same ones."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_behavior.core.candidates import ANCHOR_THRESHOLD, CandidateSet
from edge_behavior.core.habits import HabitCounter, HabitsConfig
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.counters import COUNTERS
from edge_behavior.evaluation.evaluate import counter_metrics, fit_counters, metrics_by_protocol
from edge_behavior.evaluation.habits import accuracy_by_history, habit_log_probs
from edge_behavior.evaluation.metrics import SIX, Metrics, Outcome, behavior_metrics
from edge_behavior.evaluation.protocols import (
    EvaluationWindows,
    Protocol,
    WindowChoice,
    check_labels_match,
    protocols,
)
from edge_behavior.evaluation.results import EvaluatedDataset, Evaluation, RunMetrics
from edge_behavior.util.resampling import Resampled

L = 5
# By training share: head, medium, tail, and one that test users never do.
CANDIDATES = CandidateSet(("Video", "Mail", "Fish", "Fly"), (900, 40, 9, 1))
SHARES = (0.7, 0.2, 0.1, 0.0)


def table_of(seed: int, sizes: tuple[int, ...]) -> EventTable:
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    start = np.datetime64("2024-05-01T00:00:00")
    offsets = np.cumsum([0, *sizes]).astype(np.int64)
    time = np.concatenate([start + np.arange(size) * np.timedelta64(97, "m") for size in sizes])
    return EventTable(
        user_offsets=offsets,
        time=time.astype("datetime64[s]"),
        place=rng.integers(0, 3, n).astype(np.int32),
        behavior=rng.choice(4, n, p=SHARES).astype(np.int32),
        places=["home", "work", "bus"],
        candidates=CANDIDATES,
    )


@dataclass(frozen=True)
class Synthetic(Dataset):
    """A dataset without files."""

    tables: dict[str, EventTable] = field(default_factory=dict)

    def events(self, split: str) -> EventTable:
        return self.tables[split]


TEST = table_of(1, (40, L, 3, 90, L + 1, 60))
DATASET = Synthetic(Path("synthetic"), {}, CANDIDATES, {"train": table_of(0, (50, 60)), "test": TEST})


def eligible(table: EventTable) -> dict[int, list[int]]:
    """Events with L before them, by user."""
    bounds = zip(table.user_offsets, table.user_offsets[1:], strict=False)
    return {user: list(range(int(start) + L, int(stop))) for user, (start, stop) in enumerate(bounds)}


class TestProtocols:
    def test_natural_takes_up_to_so_many_of_every_user(self):
        (found,) = protocols("natural", TEST, L, WindowChoice(per_user=7))
        assert found.name == "natural"
        taken = Counter(TEST.user_of(found.targets).tolist())
        known = eligible(TEST)
        assert taken == Counter({user: min(7, len(events)) for user, events in known.items() if events})
        assert all(
            target in known[user] for target, user in zip(found.targets, TEST.user_of(found.targets), strict=True)
        )
        assert (np.diff(found.targets) > 0).all()

    def test_zero_per_user_is_all(self):
        (found,) = protocols("natural", TEST, L, WindowChoice(per_user=0))
        assert found.targets.tolist() == [t for events in eligible(TEST).values() for t in events]

    def test_balanced_takes_up_to_so_many_of_every_behavior(self):
        (found,) = protocols("balanced", TEST, L, WindowChoice(per_behavior=25))
        there = Counter(int(TEST.behavior[t]) for events in eligible(TEST).values() for t in events)
        assert there[2] < 25 < there[0]
        assert Counter(TEST.behavior[found.targets].tolist()) == Counter({c: min(25, k) for c, k in there.items()})
        assert len(set(found.targets.tolist())) == len(found.targets)

    def test_both(self):
        choice = WindowChoice(per_user=7, per_behavior=25)
        both = protocols("both", TEST, L, choice)
        assert [p.name for p in both] == ["natural", "balanced"]
        for one in both:
            (alone,) = protocols(one.name, TEST, L, choice)
            np.testing.assert_array_equal(one.targets, alone.targets)

    def test_both_are_of_the_same_users(self):
        """Test users are few: none is kept for one protocol alone."""
        natural, balanced = protocols("both", TEST, L, WindowChoice(per_user=1, per_behavior=10_000))
        users = [set(TEST.user_of(found.targets).tolist()) for found in (natural, balanced)]
        assert users[0] == users[1] == {user for user, events in eligible(TEST).items() if events}

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 99), st.integers(1, 30), st.integers(1, 30), st.integers(1, 60))
    def test_a_limit_bounds_each_and_a_seed_decides(self, seed, per_user, per_behavior, limit):
        free, choice = (
            WindowChoice(per_user, per_behavior, None, seed),
            WindowChoice(per_user, per_behavior, limit, seed),
        )
        unlimited = protocols("both", TEST, L, free)
        for whole, part, again in zip(
            unlimited, protocols("both", TEST, L, choice), protocols("both", TEST, L, choice), strict=True
        ):
            assert len(part.targets) == min(limit, len(whole.targets))
            assert set(part.targets.tolist()) <= set(whole.targets.tolist())
            assert (np.diff(part.targets) > 0).all()
            np.testing.assert_array_equal(part.targets, again.targets)

    def test_another_seed_chooses_others(self):
        a, b = (protocols("natural", TEST, L, WindowChoice(per_user=5, seed=s))[0].targets for s in (0, 1))
        assert a.tolist() != b.tolist()

    def test_unknown_protocol(self):
        with pytest.raises(EdgebError, match="unknown protocol 'balnced'") as caught:
            protocols("balnced", TEST, L, WindowChoice())
        assert caught.value.hint == "did you mean 'balanced'?"

    @pytest.mark.parametrize("which", ["natural", "balanced", "both"])
    def test_nobody_with_a_full_history(self, which):
        with pytest.raises(EdgebError, match=f"no event in this part has {L} events before it") as caught:
            protocols(which, table_of(0, (L, 3)), L, WindowChoice())
        assert caught.value.hint


@dataclass(frozen=True)
class Scorer:
    """A model that favors the truth by `skill`."""

    skill: float

    def __call__(self, targets: NDArray[np.int64]) -> NDArray[np.float64]:
        # A score depends on the window alone, so that it is the same in whichever order windows are scored.
        noise = np.stack([np.random.default_rng(int(t)).normal(size=len(CANDIDATES)) for t in targets])
        noise[np.arange(len(targets)), TEST.behavior[targets]] += self.skill
        return noise


class TestModels:
    WINDOWS = EvaluationWindows.draw("both", TEST, L, WindowChoice(per_user=7, per_behavior=25))

    def measured(self, skill: float, anchor_threshold: float = ANCHOR_THRESHOLD) -> dict[str, Metrics]:
        return metrics_by_protocol(self.WINDOWS, Scorer(skill)(self.WINDOWS.targets), anchor_threshold)

    def test_every_model_is_measured_on_the_protocols_own_windows(self):
        model, untuned, counters = self.measured(2.0), self.measured(0.0), counter_metrics(DATASET, self.WINDOWS)
        assert list(model) == ["natural", "balanced"]
        assert tuple(counters) == COUNTERS
        for protocol in protocols("both", TEST, L, WindowChoice(per_user=7, per_behavior=25)):
            outcome = Outcome(
                Scorer(2.0)(protocol.targets),
                TEST.behavior[protocol.targets].astype(np.int64),
                TEST.user_of(protocol.targets),
            )
            assert model[protocol.name] == behavior_metrics(outcome, CANDIDATES.labels, CANDIDATES.groups())
            assert model[protocol.name].overall > untuned[protocol.name].overall
            for metrics in (model, untuned, *counters.values()):
                assert metrics[protocol.name].windows == len(protocol.targets)
                assert set(SIX) <= set(metrics[protocol.name].to_dict())

    def test_a_window_of_both_protocols_is_drawn_once(self):
        targets = [set(p.targets.tolist()) for p in self.WINDOWS.protocols]
        assert targets[0] & targets[1]
        assert self.WINDOWS.targets.tolist() == sorted(targets[0] | targets[1])
        for protocol in self.WINDOWS.protocols:
            assert self.WINDOWS.targets[self.WINDOWS.rows(protocol)].tolist() == protocol.targets.tolist()
            assert self.WINDOWS.truth(protocol).tolist() == TEST.behavior[protocol.targets].tolist()

    def test_one_protocol(self):
        windows = EvaluationWindows.draw("balanced", TEST, L, WindowChoice(per_behavior=25))
        assert list(metrics_by_protocol(windows, Scorer(1.0)(windows.targets))) == ["balanced"]
        assert all(list(held) == ["balanced"] for held in counter_metrics(DATASET, windows).values())

    def test_groups_follow_the_threshold(self):
        groups = {
            threshold: [row.group for row in self.measured(0.0, threshold)["natural"].per_behavior]
            for threshold in (0.005, 0.01, 0.045)
        }
        assert groups == {
            0.005: ["head", "medium", "medium", "tail"],
            0.01: ["head", "medium", "tail", "tail"],
            0.045: ["head", "tail", "tail", "tail"],
        }

    def test_a_perfect_model(self):
        for metrics in self.measured(1e6).values():
            assert [metrics.value(name) for name in SIX] == [1.0] * 6
            assert metrics.nll == pytest.approx(0, abs=1e-9)


class TestEvaluation:
    def test_what_is_compared_stands_under_baselines(self):
        windows = EvaluationWindows.draw("natural", TEST, L, WindowChoice(per_user=7))
        model, untuned = (metrics_by_protocol(windows, Scorer(skill)(windows.targets)) for skill in (1.0, 0.0))
        results = {"model": model, "untuned": untuned, **counter_metrics(DATASET, windows)}
        found = Evaluation(results, "model", EvaluatedDataset("d", "f", True)).to_dict()
        assert list(found) == ["natural", "baselines", "dataset"]
        assert list(found["baselines"]) == ["untuned", *COUNTERS]
        assert found["natural"] == model["natural"].to_dict()
        assert found["dataset"] == {"path": "d", "fingerprint": "f", "own": True}

    def test_metrics_of_a_run_read_back(self):
        windows = EvaluationWindows.draw("both", TEST, L, WindowChoice(per_user=7, per_behavior=25))
        models = {"b_tuning": metrics_by_protocol(windows, Scorer(1.0)(windows.targets))}
        run = RunMetrics(models, counter_metrics(DATASET, windows), 0.01, 3)
        written = json.loads(json.dumps(run.to_dict()))
        assert list(written) == ["models", "counters", "anchor_threshold", "seed"]
        assert RunMetrics.from_dict(written) == run
        assert list(run.systems) == [*COUNTERS, "b_tuning"]
        written["models"]["b_tuning"]["natural"]["mrr"] = "high"
        with pytest.raises(EdgebError, match=r"m\.json: models\.b_tuning\.natural: 'mrr' is high"):
            RunMetrics.from_dict(written, "m.json")


class TestCounters:
    def test_they_are_fitted_on_training_users_only(self):
        table = DATASET.events("train")
        expected = np.zeros((4, 4))
        for start, stop in zip(table.user_offsets, table.user_offsets[1:], strict=False):
            for i in range(start, stop - 1):
                expected[table.behavior[i], table.behavior[i + 1]] += 1
        targets = protocols("natural", TEST, L, WindowChoice())[0].targets
        counters = fit_counters(DATASET, L)
        np.testing.assert_allclose(
            counters.scores("markov_1", TEST, targets), expected[TEST.behavior[targets - 1]] + CANDIDATES.shares
        )
        np.testing.assert_allclose(
            counters.scores("most_frequent", TEST, targets), np.tile(CANDIDATES.shares, (len(targets), 1))
        )

    def test_metrics_of_counters(self):
        windows = EvaluationWindows.draw("natural", TEST, L, WindowChoice(per_user=0))
        (protocol,) = windows.protocols
        found = {name: held["natural"] for name, held in counter_metrics(DATASET, windows).items()}
        assert tuple(found) == COUNTERS
        truth = TEST.behavior[protocol.targets]
        assert found["most_frequent"].weighted_recall == pytest.approx((truth == 0).mean())
        assert found["most_frequent"].overall == pytest.approx(1 / 3)
        assert all(metrics.nll is None for metrics in found.values())
        hits = 0
        for target in protocol.targets:
            past = TEST.behavior[target - L : target].tolist()
            best = max(
                range(4), key=lambda b: (past.count(b), max((i for i, p in enumerate(past) if p == b), default=-1))
            )
            hits += best == TEST.behavior[target]
        assert found["last_mode"].weighted_recall == pytest.approx(hits / len(protocol.targets))

    def test_a_protocol_of_ones_own(self):
        windows = EvaluationWindows(TEST, L, (Protocol("mine", np.array([L, L + 1])),))
        assert counter_metrics(DATASET, windows)["most_frequent"]["mine"].windows == 2


class TestHabits:
    def test_they_count_all_that_the_user_did_before_the_target(self):
        config = HabitsConfig(half_life=7)
        # Not in order, not from the first user on, and one of them twice.
        targets = np.array([130, 45, 10, 39, 0, 100, 45])
        found = habit_log_probs(TEST, targets, CANDIDATES.counts, config)
        for row, target in zip(found, targets, strict=True):
            counter = HabitCounter(CANDIDATES.counts, config)
            for event in TEST.history(int(target), 10**6):
                counter.observe(CANDIDATES.code(event.behavior), event.time, event.place)
            asked = TEST.event(int(target))
            np.testing.assert_array_equal(row, counter.log_probs(asked.time, asked.place))

    def test_accuracy_by_events_before_the_target(self):
        targets = np.array([t for events in eligible(TEST).values() for t in events])
        truth = np.eye(4)[TEST.behavior[targets]]
        found = accuracy_by_history(TEST, targets, {"right": truth, "wrong": -truth}, L)
        sizes = [40, 90, L + 1, 60]
        for row, (low, high) in zip(found, [(L, 2 * L), (2 * L, 4 * L), (4 * L, 8 * L), (8 * L, None)], strict=True):
            stop = high or 10**6
            assert (row.start, row.stop) == (low, high)
            assert row.windows == sum(max(0, min(stop, n) - low) for n in sizes)
            assert row.users == sum(n > low for n in sizes)
            assert row.accuracy == {"right": 1.0, "wrong": 0.0}

    def test_a_bin_without_windows_is_left_out(self):
        found = accuracy_by_history(TEST, np.array([39]), {"a": np.ones((1, 4))}, L)
        assert [(row.start, row.stop, row.windows) for row in found] == [(20, 40, 1)]


class TestLabels:
    def test_the_same_labels_may_have_other_counts(self):
        check_labels_match(CandidateSet.of(["a", "b"], [1, 2]), CandidateSet.of(["a", "b"]), "run")

    @pytest.mark.parametrize(
        ("theirs", "message"),
        [
            (["a", "c"], r"runs/x and the dataset have different candidate sets, for example 'b'"),
            (["b", "a"], r"in another order"),
            (["a", "b", "z"], r"for example 'z'"),
        ],
    )
    def test_other_labels_are_refused(self, theirs, message):
        with pytest.raises(EdgebError, match=message) as caught:
            check_labels_match(CandidateSet.of(["a", "b"]), CandidateSet.of(theirs), "runs/x")
        assert caught.value.hint


class TestByTime:
    """The windows of a part whose users were seen before: the last tenth of each."""

    PART = replace(TEST, first_targets=TEST.user_offsets[1:] - np.maximum(1, np.diff(TEST.user_offsets) // 10))

    def test_only_the_part_is_asked_about(self):
        for protocol in protocols("both", self.PART, L, WindowChoice(per_user=0)):
            users = self.PART.user_of(protocol.targets)
            assert (protocol.targets >= self.PART.target_starts[users]).all()
            # The others have no event with a full history.
            assert set(users.tolist()) == {0, 3, 4, 5}

    def test_habits_have_seen_what_was_before_the_part(self):
        targets = self.PART.target_starts
        found = habit_log_probs(self.PART, targets, CANDIDATES.counts)
        np.testing.assert_array_equal(found, habit_log_probs(TEST, targets, CANDIDATES.counts))

    def test_without_places_habits_know_none(self):
        targets = self.PART.target_starts
        moved = replace(self.PART, place=(self.PART.place + 1) % 3)
        here, there = (habit_log_probs(t, targets, CANDIDATES.counts, places=False) for t in (self.PART, moved))
        np.testing.assert_array_equal(here, there)
        assert not np.array_equal(here, habit_log_probs(self.PART, targets, CANDIDATES.counts))

    def measured(self, table: EventTable) -> Metrics:
        windows = EvaluationWindows(table, L, (Protocol("natural", self.PART.target_starts),))
        return counter_metrics(DATASET, windows)["last_mode"]["natural"]

    def test_intervals_are_over_blocks_of_days(self):
        found = self.measured(self.PART)
        assert (found.units.split, found.units.unit) == ("time", "day_blocks")
        assert found.users == 6

    def test_else_over_users(self):
        assert self.measured(TEST).resampled == Resampled("users", "users", 6)
