"""Windows, scores on disk and measures against brute force."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.core.scoring import log_softmax
from edge_behavior.data.dataset import Dataset
from edge_behavior.data.resampling import resampling
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.metrics import Outcome, behavior_metrics
from edge_behavior.fit.balance import GRID
from edge_behavior.studies.compare.measure import (
    METRICS,
    RESAMPLES,
    Outcomes,
    Scope,
    gap,
    measure,
    needed_units,
    outcomes,
    scopes,
)
from edge_behavior.studies.compare.predictions import read_scores, write_scores
from edge_behavior.studies.compare.sources import Source, best_tau, derived, with_prior
from edge_behavior.studies.compare.windows import KINDS, Drawn, Windows, describe, draw, read_windows, write_windows

LENGTH = 4


@pytest.fixture(scope="module")
def dataset(data: Path) -> Dataset:
    return Dataset.open(data)


@pytest.fixture(scope="module")
def drawn(dataset: Dataset) -> Drawn:
    return draw(dataset, LENGTH, "both", 60, 40, 0)


@pytest.fixture(scope="module")
def windows(dataset: Dataset, drawn: Drawn) -> Windows:
    return describe(dataset, drawn, LENGTH, 0.01)


def noisy(windows: Windows, part: str, strength: float, seed: int) -> np.ndarray:
    truth = getattr(windows, part).truth
    scores = np.random.default_rng(seed).normal(size=(len(truth), len(windows.groups)))
    scores[np.arange(len(truth)), truth] += strength
    return log_softmax(scores)


def source(windows: Windows, strength: float, seeds: tuple[int, ...] = (0, 1), name: str = "x") -> Source:
    held = tuple({p: noisy(windows, p, strength, seed) for p in ("test", "validation")} for seed in seeds)
    return Source(name, name, name, "", seeds, held)


def test_each_protocol_takes_what_was_asked_as_evenly_as_can_be(dataset: Dataset, drawn: Drawn) -> None:
    table = dataset.events("test")
    assert {name: int(rows.sum()) for name, rows in drawn.member.items()} == {"natural": 60, "balanced": 60}
    assert len(drawn.validation) == 40
    per_user = np.bincount(table.user_of(drawn.test[drawn.member["natural"]]))
    assert per_user.max() <= -(-60 // np.count_nonzero(per_user)) + 1
    assert np.array_equal(draw(dataset, LENGTH, "both", 60, 40, 0).test, drawn.test)


def test_kinds_are_those_of_a_search_through_the_events(dataset: Dataset, drawn: Drawn, windows: Windows) -> None:
    table = dataset.events("test")
    for row, target in enumerate(drawn.test):
        events = table.history(int(target), 10**9)
        truth = table.event(int(target)).behavior
        assert windows.test.earlier[row] == len(events)
        recent, before = [e.behavior for e in events[-LENGTH:]], [e.behavior for e in events]
        expected = "return" if truth in recent else "seen" if truth in before else "discovery"
        assert KINDS[windows.test.kinds[row]] == expected


def test_units_are_the_users_under_codes_that_no_other_folder_shares(
    dataset: Dataset, drawn: Drawn, windows: Windows
) -> None:
    users = resampling(dataset.events("test"), drawn.test).codes
    again = describe(dataset, drawn, LENGTH, 0.01)
    assert not set(again.test.units) & set(windows.test.units)
    assert np.array_equal(again.test.unit_codes, windows.test.unit_codes)
    assert len({*zip(users.tolist(), windows.test.units.tolist(), strict=True)}) == len(set(users.tolist()))
    # The same person's code differs between parts, and shares are those of the training part.
    assert not set(windows.validation.units) & set(windows.test.units)
    assert np.exp(windows.log_share).sum() == pytest.approx(1)
    shares = np.asarray(dataset.candidates.counts) / sum(dataset.candidates.counts)
    assert np.abs(np.exp(windows.log_share) - shares).max() < 0.05


def test_windows_are_read_as_written(windows: Windows, tmp_path: Path) -> None:
    path = tmp_path / "windows.npz"
    write_windows(path, windows)
    held = read_windows(path)
    for part in ("test", "validation"):
        ours, theirs = getattr(windows, part), getattr(held, part)
        assert all(np.array_equal(getattr(ours, n), getattr(theirs, n)) for n in ("truth", "units", "earlier", "kinds"))
        assert all(np.array_equal(ours.member[p], theirs.member[p]) for p in ours.member)
    assert (held.groups, held.unit, held.days, held.history_length) == (windows.groups, "users", 0, LENGTH)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(EdgebError, match="is damaged"):
        read_windows(path)
    np.savez(path, groups=np.zeros(3))
    with pytest.raises(EdgebError, match="is missing or unknown"):
        read_windows(path)
    np.savez(path, groups=np.array([object()], dtype=object))
    with pytest.raises(EdgebError, match="is damaged"):
        read_windows(path)


def test_too_few_users_are_refused(dataset: Dataset) -> None:
    with pytest.raises(EdgebError, match="in the test part has a full history"):
        draw(dataset, 10**6, "both", 10, 10, 0)
    with pytest.raises(EdgebError, match="unknown protocol"):
        draw(dataset, LENGTH, "naturel", 10, 10, 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.floats(-200, 0), min_size=3, max_size=3), min_size=1, max_size=5))
def test_scores_keep_their_order_at_the_top_and_their_size(
    tmp_path_factory: pytest.TempPathFactory, rows: list
) -> None:
    scores, path = log_softmax(np.array(rows)), tmp_path_factory.mktemp("scores") / "x.npz"
    write_scores(path, scores)
    held = read_scores(path, *scores.shape)
    assert np.allclose(held, scores, rtol=2e-3, atol=2e-3)
    assert np.allclose(np.exp(held).sum(1), 1)
    best = scores.max(1, keepdims=True)
    clear = ((scores < best - 1e-6) | (scores == best)).all(1)
    assert np.array_equal(held.argmax(1)[clear], scores.argmax(1)[clear])


def test_scores_that_are_no_numbers_are_not_kept(tmp_path: Path) -> None:
    for bad in (np.nan, np.inf):
        with pytest.raises(EdgebError, match="no number"):
            write_scores(tmp_path / "x.npz", np.array([[bad, 0.0]]))
    assert list(tmp_path.iterdir()) == []


def scope_of(windows: Windows, name: str) -> Scope:
    return next(scope for scope in scopes(windows, ()) if scope.name == name)


def test_one_seed_measures_what_evaluation_measures(windows: Windows) -> None:
    one = source(windows, 1.5, seeds=(3,))
    for protocol in ("natural", "balanced"):
        scope = scope_of(windows, protocol)
        found = outcomes(one, scope, windows)
        assert found is not None
        measured = measure(found, METRICS)
        part = windows.test
        codes = part.unit_codes[scope.rows]
        outcome = Outcome(one.scores[0]["test"][scope.rows], part.truth[scope.rows], codes)
        expected = behavior_metrics(outcome, [str(i) for i in range(len(windows.groups))], windows.groups)
        for name in METRICS:
            value = expected.value(name)
            assert measured[name].value == (None if value is None else pytest.approx(value)), name
            if name in ("weighted_recall", "overall", "head", "medium", "tail"):
                interval = expected.interval_of(name)
                assert measured[name].interval == (None if interval is None else pytest.approx(interval)), name


def test_a_gap_is_the_bootstrap_of_the_difference(windows: Windows) -> None:
    scope = scope_of(windows, "natural")
    ours, theirs = (outcomes(source(windows, s), scope, windows) for s in (2.0, 1.0))
    assert ours is not None
    assert theirs is not None
    found = gap(ours, theirs, ("a", "b"), "natural", "weighted_recall")
    assert found is not None
    units = sorted(set(ours.units.tolist()))
    rng, draws = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        weights = dict(zip(units, rng.multinomial(len(units), np.full(len(units), 1 / len(units))), strict=True))
        rows = np.repeat(np.arange(len(ours.units)), [weights[unit] for unit in ours.units.tolist()])
        draws.append(ours.right[rows].mean() - theirs.right[rows].mean())
    assert found.value == pytest.approx(ours.right.mean() - theirs.right.mean())
    assert found.interval == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=1e-9)
    back = gap(theirs, ours, ("b", "a"), "natural", "weighted_recall")
    assert back is not None
    assert back.interval == pytest.approx((-found.interval[1], -found.interval[0]))


def test_seeds_count_as_the_mean_of_their_outcomes(windows: Windows) -> None:
    scope = scope_of(windows, "natural")
    both = outcomes(source(windows, 1.0, (0, 1)), scope, windows)
    ones = [outcomes(source(windows, 1.0, (seed,)), scope, windows) for seed in (0, 1)]
    assert isinstance(both, Outcomes)
    assert np.allclose(both.right, np.mean([one.right for one in ones if one is not None], axis=0))
    assert np.allclose(both.loss, np.mean([one.loss for one in ones if one is not None], axis=0))


@pytest.mark.parametrize(
    ("value", "interval", "needed"),
    [
        (0.02, (-0.02, 0.06), 400),  # twice the difference on zero's side: four times the people
        (-0.02, (-0.06, 0.02), 400),
        (0.02, (0.01, 0.03), None),
        (0.0, (-0.1, 0.1), None),
    ],
)
def test_people_needed(value: float, interval: tuple[float, float], needed: int | None) -> None:
    assert needed_units(value, interval, 100) == needed


def test_tau_is_the_best_of_the_grid_on_validation_windows(windows: Windows) -> None:
    # A system that adds the prior once too often wants it taken off again.
    held = source(windows, 4.0, (0,)).scores[0]["validation"] + windows.log_share
    truth = windows.validation.truth

    def recall(tau: float) -> float:
        predicted = (held - tau * windows.log_share).argmax(1)
        return float(np.mean([np.mean(predicted[truth == b] == b) for b in sorted(set(truth.tolist()))]))

    found = best_tau(held, windows)
    best = max(recall(float(tau)) for tau in GRID)
    assert recall(found) == pytest.approx(best)
    assert all(recall(float(tau)) < best - 1e-12 for tau in GRID if tau < found)
    assert found > 0
    adjusted = with_prior(Source("x", "x", "x", "", (0,), ({"validation": held},)), windows)
    assert np.allclose(adjusted.scores[0]["validation"], log_softmax(held - found * windows.log_share))


def test_mixtures_are_of_what_learns_from_more_than_habits(windows: Windows) -> None:
    habits = source(windows, 1.0, (0,), "habits")
    names = [row.name for row in derived(source(windows, 2.0), habits, windows)]
    assert names == ["x+prior", "x+habits", "x+habits+prior", "x+habits:shuffled"]
    assert [row.name for row in derived(habits, habits, windows)] == ["habits+prior"]
    assert derived(replace(habits, system="markov_1"), habits, windows) == []


@pytest.mark.parametrize(("strength", "adds"), [(2.5, 1), (0.0, 0)])
def test_the_control_tells_a_system_that_knows_from_noise(windows: Windows, strength: float, adds: int) -> None:
    """Weights per group alone lift these habits, so that habits are no fair control for what a system adds."""
    habits, scope = source(windows, 1.0, (9,), "habits"), scope_of(windows, "natural")
    rows = {row.name: outcomes(row, scope, windows) for row in derived(source(windows, strength), habits, windows)}
    mixed, shuffled = rows["x+habits"], rows["x+habits:shuffled"]
    assert mixed is not None
    assert shuffled is not None
    found = gap(mixed, shuffled, ("mixed", "shuffled"), "natural", "weighted_recall")
    assert found is not None
    assert found.sign == adds
