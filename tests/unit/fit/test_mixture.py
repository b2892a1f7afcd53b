"""Fusion weights fitted on held-out users: known ones come back, and nothing odd comes of little data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_behavior.core.candidates import GROUPS
from edge_behavior.core.fusion import Fusion, GroupWeights, Mixture
from edge_behavior.core.habits import HabitsConfig
from edge_behavior.core.scoring import log_softmax
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.habits import habit_log_probs
from edge_behavior.fit import mixture as heldout
from edge_behavior.fit.mixture import (
    HeldOut,
    MixtureMetrics,
    SourceMetrics,
    TimeLimit,
    TooFewUsersError,
    TooLittleTimeError,
    cross_validate,
    fit_habits,
    fit_weights,
    score_held_out,
    unit_folds,
)
from edge_behavior.util.resampling import Resampled, Resampling
from edge_behavior.util.timebox import Forecast, TimeBudget
from tests import helpers

NAMES = ("head", "head", "medium", "medium", "medium", "tail", "tail", "tail", "tail")
TRUE = {
    "head": GroupWeights(0.8, 0.3, 0.0),
    "medium": GroupWeights(0.4, 0.9, 0.5),
    "tail": GroupWeights(0.0, 1.3, -0.5),
}
NOTHING = dict.fromkeys(GROUPS, GroupWeights())


def synthetic(n: int, weights: dict[str, GroupWeights] = TRUE, seed: int = 0) -> HeldOut:
    """Windows whose truth is drawn from the fused distribution itself."""
    rng = np.random.default_rng(seed)
    model, habits = (log_softmax(rng.normal(0, 2, (n, len(NAMES)))) for _ in range(2))
    p = np.exp(log_softmax(Fusion(weights, NAMES).scores(model, habits)))
    truth = (p.cumsum(1) < rng.random((n, 1))).sum(1)
    return HeldOut(model, habits, truth, rng.integers(0, 12, n), NAMES)


def nll(scores: np.ndarray, held: HeldOut) -> float:
    return float(-log_softmax(scores)[np.arange(len(held)), held.truth].mean())


class TestFit:
    def test_known_weights_come_back(self):
        found = fit_weights(synthetic(20_000), l2=0.0).weights
        bias = [found[name].bias for name in GROUPS]
        for i, name in enumerate(GROUPS):
            assert found[name].model == pytest.approx(TRUE[name].model, abs=0.08)
            assert found[name].habits == pytest.approx(TRUE[name].habits, abs=0.08)
            # A constant added to all biases changes nothing.
            expected = TRUE[name].bias - TRUE["head"].bias
            assert bias[i] - bias[0] == pytest.approx(expected, abs=0.12)

    def test_a_source_that_misleads_gets_nothing(self):
        held = synthetic(4000, dict.fromkeys(GROUPS, GroupWeights(1.0, 0.0, 0.0)))
        found = fit_weights(replace(held, habits=-held.model)).weights
        assert all(w.habits >= 0 and w.model >= 0 for w in found.values())
        assert nll(Fusion(found, NAMES).scores(held.model, -held.model), held) <= nll(held.model, held) + 1e-9

    @pytest.mark.parametrize("seed", range(8))
    def test_no_worse_than_either_source_beyond_the_pull(self, seed):
        rng = np.random.default_rng(seed)
        weights = {name: GroupWeights(*rng.exponential(0.5, 2), float(rng.normal())) for name in GROUPS}
        held = synthetic(int(rng.integers(5, 400)), weights, seed)
        loss = nll(fit_weights(held).scores(held.model, held.habits), held)
        assert loss <= nll(held.model, held) + 1e-6
        # Habits alone are (0, 1, 0): two units away from the model alone, per group.
        assert loss <= nll(held.habits, held) + 2 * len(GROUPS) * heldout.L2 + 1e-6

    def test_the_optimum_is_one(self):
        """No small step from the weights found lowers what is minimized."""
        held = synthetic(500)
        found = fit_weights(held)

        def objective(fusion: Fusion) -> float:
            away = sum((w.model - 1) ** 2 + w.habits**2 + w.bias**2 for w in fusion.weights.values())
            return nll(fusion.scores(held.model, held.habits), held) + heldout.L2 * away

        best = objective(found)
        for name in GROUPS:
            for field in ("model", "habits", "bias"):
                for step in (-0.02, 0.02):
                    value = getattr(found.weights[name], field) + step
                    if field == "bias" or value >= 0:
                        changed = {**found.weights, name: replace(found.weights[name], **{field: value})}
                        assert objective(Fusion(changed, NAMES)) >= best - 1e-7

    def test_no_windows_leave_the_model_alone(self):
        assert fit_weights(synthetic(0)).weights == NOTHING

    def test_one_group_only(self):
        held = replace(synthetic(300), groups=("tail",) * len(NAMES))
        found = fit_weights(held).weights
        assert found["head"] == found["medium"] == GroupWeights()
        assert found["tail"].habits > 0
        # A bias that all candidates share does nothing, so that the pull brings it to zero.
        assert found["tail"].bias == pytest.approx(0, abs=1e-3)

    def test_a_group_that_is_never_the_truth(self):
        held = synthetic(600)
        found = fit_weights(held.take(held.truth < 5))
        assert all(np.isfinite([w.model, w.habits, w.bias]).all() for w in found.weights.values())
        assert found.weights["tail"].bias < 0

    def test_one_window(self):
        found = fit_weights(synthetic(1))
        assert all(np.isfinite([w.model, w.habits, w.bias]).all() for w in found.weights.values())


class TestChoice:
    def test_users_are_not_shared_between_folds(self, monkeypatch):
        held = synthetic(400)
        fitted: list[set[int]] = []

        def spy(part: HeldOut, l2: float = heldout.L2) -> Fusion:
            fitted.append(set(part.users.tolist()))
            return fit_weights(part, l2)

        monkeypatch.setattr(heldout, "fit_weights", spy)
        found = cross_validate(held)
        everyone = set(held.users.tolist())
        left_out = [everyone - users for users in fitted]
        assert found.folds == len(fitted) == 5
        assert set.union(*left_out) == everyone
        assert sum(map(len, left_out)) == len(everyone)
        assert (found.windows, found.users) == (400, 12)

    def test_numbers(self):
        held = synthetic(3000)
        found = cross_validate(held)
        assert found.sources["model"].accuracy == pytest.approx((held.model.argmax(1) == held.truth).mean())
        assert found.sources["habits"].nll == pytest.approx(nll(held.habits, held))
        assert found.sources["fused"].nll < min(found.sources["model"].nll, found.sources["habits"].nll)
        assert found.best == "fused"

    def test_measured_on_users_the_weights_do_not_know(self):
        """One user's habits are always right, the other's always wrong."""
        held = synthetic(200)
        users = np.arange(200) // 100
        likely = np.where(users == 0, held.truth, (held.truth + 1) % len(NAMES))
        habits = np.full(held.habits.shape, np.log(0.01))
        habits[np.arange(200), likely] = np.log(0.92)
        held = replace(held, users=users, habits=habits)
        known = nll(fit_weights(held).scores(held.model, held.habits), held)
        found = cross_validate(held)
        assert found.folds == 2
        assert found.sources["fused"].nll > known + 0.1

    @pytest.mark.parametrize(
        ("model", "habits", "fused", "expected"),
        [
            ((0.5, 1.0), (0.4, 1.0), (0.45, 0.5), "model"),
            ((0.5, 1.0), (0.6, 9.0), (0.55, 0.5), "habits"),
            ((0.5, 1.0), (0.5, 1.1), (0.5, 0.9), "fused"),
            ((0.5, 1.0), (0.5, 0.8), (0.5, 0.9), "habits"),
        ],
    )
    def test_the_best_source(self, model, habits, fused, expected):
        numbers = zip(("model", "habits", "fused"), (model, habits, fused), strict=True)
        sources = {name: SourceMetrics(accuracy, loss) for name, (accuracy, loss) in numbers}
        assert MixtureMetrics(9, 3, Resampled("users", "users", 3), 3, sources).best == expected


class FakeSession:
    """Says that the last behavior comes again."""

    def __init__(self, candidates):
        self.candidates, self.last = candidates, None

    def observe(self, event):
        self.last = event

    def log_probs(self, when, place):
        row = np.full(len(self.candidates), -3.0)
        row[self.candidates.code(self.last.behavior)] = -0.5
        return row


class FakePredictor:
    """Its sessions need a second per answer on the clock."""

    clock = 0.0
    population = None

    def __init__(self, candidates, layout):
        self.manifest = type("Manifest", (), {"candidates": candidates, "layout": layout})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def session(self):
        session = FakeSession(self.manifest.candidates)
        answer = session.log_probs

        def slowly(when, place):
            FakePredictor.clock += 1.0
            return answer(when, place)

        session.log_probs = slowly
        return session


class TestBundle:
    TABLE = helpers.event_table([["Video", "Bar"] * 20, ["Bar", "Café", "Video"] * 12, ["Video"] * 9])

    @pytest.fixture
    def data(self, monkeypatch) -> Path:
        from edge_behavior.core.prompts import PromptLayout

        candidates = self.TABLE.candidates
        made = type("Synthetic", (Dataset,), {"events": lambda self, split: TestBundle.tables[split]})
        TestBundle.tables = {"validation": self.TABLE}
        monkeypatch.setattr(heldout.Dataset, "open", lambda path: made(Path("d"), {}, candidates))
        monkeypatch.setattr(
            heldout.Predictor, "load", lambda *args, **kwargs: FakePredictor(candidates, PromptLayout(history_length=5))
        )
        return Path("d")

    def test_what_a_manifest_gets(self, data):
        config = HabitsConfig(half_life=9)
        found = fit_habits(score_held_out(Path("b.gguf"), data, windows=40, config=config)).to_dict()
        assert set(found) == {"config", "fusion", "default", "measured"}
        assert Mixture.from_dict(found).config.half_life == 9
        # The third user has four windows.
        assert found["measured"]["windows"] == 40
        assert found["measured"]["users"] == 3
        # Who alternates never does the same again; his habits know.
        assert found["default"] in ("habits", "fused")
        assert found["measured"]["habits"]["accuracy"] > found["measured"]["model"]["accuracy"]

    def test_the_same_every_time(self, data):
        once, again = (fit_habits(score_held_out(Path("b.gguf"), data, 30)) for _ in range(2))
        assert once == again

    def test_habits_see_the_whole_history(self, data):
        targets = np.array([39])
        found = habit_log_probs(self.TABLE, targets, self.TABLE.candidates.counts)
        short = habit_log_probs(
            helpers.event_table([["Video", "Bar"] * 3]), np.array([5]), self.TABLE.candidates.counts
        )
        assert found[0].max() > short[0].max()

    @pytest.mark.parametrize(
        ("megabytes", "bounds", "expected"),
        [(0, (3, 15), 15), (0, (3, 50), 20), (25, (3, 50), 6), (999, (9, 50), 9)],
    )
    def test_windows_by_cost(self, data, tmp_path, monkeypatch, megabytes, bounds, expected):
        bundle = tmp_path / "b.gguf"
        with bundle.open("wb") as file:
            file.truncate(megabytes * 1_000_000)
        monkeypatch.setattr(heldout, "WINDOWS", bounds)
        monkeypatch.setattr(heldout, "CANDIDATES_SCORED", 20 * len(helpers.LABELS))
        assert len(score_held_out(bundle, data)) == expected

    def test_one_user_is_too_few(self, data, monkeypatch):
        TestBundle.tables = {"validation": helpers.event_table([["Video", "Bar"] * 20, ["Bar"] * 3])}
        with pytest.raises(TooFewUsersError, match="1 of d's validation users have more than 5 events") as caught:
            score_held_out(Path("b.gguf"), data, 40)
        assert "--no-habits" in caught.value.hint

    def test_one_persons_log_is_scored_on_later_days(self, data):
        table = helpers.event_table([["Video", "Bar"] * 200])
        TestBundle.tables = {"validation": replace(table, first_targets=np.array([100]))}
        held = score_held_out(Path("b.gguf"), data, 120)
        assert (len(held), held.units.unit, held.units.days) == (120, "day_blocks", 4)
        assert held.units.count >= 10
        assert fit_habits(held).measured.resampled.split == "time"
        TestBundle.tables = {"validation": replace(table, first_targets=np.array([396]))}
        with pytest.raises(TooFewUsersError, match="1 of d's validation blocks of a day have more than 5"):
            score_held_out(Path("b.gguf"), data, 60)

    def limit(self, seconds, **options):
        FakePredictor.clock = 0.0
        return TimeLimit(Forecast(TimeBudget(seconds, lambda: FakePredictor.clock), {}), **options)

    def test_windows_are_cut_to_the_time(self, data, monkeypatch):
        monkeypatch.setattr(heldout, "LEAST_WINDOWS", 12)
        # A tenth of what is left is kept for the fits.
        held = score_held_out(Path("b.gguf"), data, 40, limit=self.limit(25.0))
        assert len(held) == 24
        assert FakePredictor.clock == len(held)
        # The first few windows are of all users.
        assert held.units.count == 3
        assert len(score_held_out(Path("b.gguf"), data, 40, limit=self.limit(None))) == 40

    def test_too_little_time_fits_nothing_unless_asked_for(self, data, monkeypatch):
        monkeypatch.setattr(heldout, "LEAST_WINDOWS", 30)
        with pytest.raises(
            TooLittleTimeError, match=r"and the 30 that are needed more than the 0\.4 minutes"
        ) as caught:
            score_held_out(Path("b.gguf"), data, 40, limit=self.limit(24.0))
        assert "minutes" in caught.value.hint
        assert len(score_held_out(Path("b.gguf"), data, 40, limit=self.limit(20.0, insists=True))) == 32
        # Other steps took all the time: the fewest windows are scored all the same.
        limit = self.limit(600.0)
        FakePredictor.clock = 640.0
        assert len(score_held_out(Path("b.gguf"), data, 40, limit=limit)) == 32

    def test_another_candidate_set(self, data, monkeypatch):
        other = helpers.event_table([["Video"] * 9], labels=helpers.LABELS[::-1]).candidates
        monkeypatch.setattr(heldout.Dataset, "open", lambda path: type("M", (), {"candidates": other, "events": print}))
        with pytest.raises(EdgebError, match=r"b\.gguf and the dataset have different candidate sets"):
            score_held_out(Path("b.gguf"), data)


class TestUnits:
    """What is left out together: users, unless the windows say otherwise."""

    def test_blocks_of_days_are_left_out_whole(self):
        held = synthetic(600)
        units = Resampling(np.arange(600) // 50, "day_blocks", 7)
        fold, folds = unit_folds(units)
        assert folds == 5
        for unit in range(12):
            assert len(set(fold[units.codes == unit].tolist())) == 1
        measured = cross_validate(replace(held, resampling=units))
        assert measured.resampled == Resampled("time", "day_blocks", 12, 7)
        assert measured.users == len(np.unique(held.users))

    def test_users_are_the_default(self):
        held = synthetic(100)
        assert held.units.codes.tolist() == held.users.tolist()
        taken = replace(held, resampling=Resampling(held.users % 3, "groups")).take(np.arange(100) < 10)
        assert taken.units.codes.tolist() == (held.users[:10] % 3).tolist()
