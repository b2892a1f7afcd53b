"""The habits' counter against a recomputation from the raw history, and what it saves and refuses."""

from __future__ import annotations

import copy
import json
import math
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.core.events import clean_place
from edge_behavior.core.habits import LEVELS, HabitCounter, HabitsConfig
from edge_behavior.errors import EdgebError

B = 4
PRIOR = (900, 80, 20, 0)
START = datetime(2024, 5, 1)
PLACES = ["home", "work (main)", "work  main", "", "日本"]
Event = tuple[int, datetime, str]

events = st.lists(
    st.tuples(st.integers(0, B - 1), st.integers(0, 400), st.sampled_from(PLACES)),
    max_size=25,
).map(lambda rows: [(code, START + timedelta(hours=hour), place) for code, hour, place in rows])
configs = st.builds(
    HabitsConfig,
    hour_bucket=st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]),
    half_life=st.sampled_from([0, 1.0, 5.0, 1000]),
    k_all=st.floats(1e-3, 1e3),
    k_hour=st.floats(1e-3, 1e3),
    k_place=st.floats(1e-3, 1e3),
    k_place_hour=st.floats(1e-3, 1e3),
)


def counted(history: list[Event], config: HabitsConfig = HabitsConfig(), prior: Any = PRIOR) -> HabitCounter:  # noqa: B008
    counter = HabitCounter(prior, config)
    for event in history:
        counter.observe(*event)
    return counter


def oracle(history: list[Event], when: datetime, place: str, config: HabitsConfig) -> np.ndarray:
    """The distribution as the docs define it, from the raw events."""
    total = sum(PRIOR)
    p = [0.99 * n / total + 0.01 / B for n in PRIOR]

    def hour(time: datetime) -> int:
        return time.hour // config.hour_bucket

    def at(other: str) -> bool:
        return clean_place(other) == clean_place(place)

    for k, matches in (
        (config.k_all, lambda e: True),
        (config.k_hour, lambda e: hour(e[1]) == hour(when)),
        (config.k_place, lambda e: at(e[2])),
        (config.k_place_hour, lambda e: at(e[2]) and hour(e[1]) == hour(when)),
    ):
        counts = [0.0] * B
        for age, event in enumerate(reversed(history)):
            if matches(event):
                counts[event[0]] += 0.5 ** (age / config.half_life) if config.half_life else 1.0
        p = [(c + k * q) / (sum(counts) + k) for c, q in zip(counts, p, strict=True)]
    return np.log(p)


class TestCounting:
    @settings(max_examples=200, deadline=None)
    @given(events, configs, st.integers(0, 400), st.sampled_from([*PLACES, "never seen"]))
    def test_as_recomputed_from_the_history(self, history, config, hour, place):
        when = START + timedelta(hours=hour)
        found = counted(history, config).log_probs(when, place)
        np.testing.assert_allclose(found, oracle(history, when, place, config), rtol=1e-9, atol=1e-9)
        assert np.exp(found).sum() == pytest.approx(1)
        assert np.isfinite(found).all()

    def test_by_hand(self):
        config = HabitsConfig(hour_bucket=24, half_life=0, k_all=1, k_hour=1, k_place=1, k_place_hour=1)
        found = np.exp(counted([(1, START, "home")], config, [0, 0]).log_probs(START, "home"))
        # 1/2 of the prior, then halved at each of four levels.
        assert found == pytest.approx([1 / 32, 31 / 32])

    def test_nothing_seen_is_the_prior(self):
        found = np.exp(HabitCounter(PRIOR).log_probs(START, "home"))
        assert found == pytest.approx([0.99 * n / 1000 + 0.0025 for n in PRIOR])

    def test_no_training_counts_are_even(self):
        assert np.exp(HabitCounter([0] * B).log_probs(START, "home")) == pytest.approx([1 / B] * B)

    def test_a_place_is_compared_as_it_is_cleaned(self):
        counter = counted([(2, START, "work (main)")] * 30)
        same, other = counter.log_probs(START, " work main"), counter.log_probs(START, "home")
        assert same.argmax() == 2
        assert np.array_equal(same, counter.log_probs(START, "work (main)"))
        assert same[2] > other[2]

    def test_an_old_habit_fades(self):
        config = HabitsConfig(half_life=5)
        counter = counted([(1, START, "home")] * 40, config)
        for _ in range(40):
            counter.observe(2, START, "home")
        assert counter.log_probs(START, "home").argmax() == 2
        assert counted([(1, START, "home")] * 41 + [(2, START, "home")] * 40, HabitsConfig(half_life=0)).log_probs(
            START, "home"
        )[1] > math.log(0.4)

    def test_a_habit_of_this_place_and_hour_outranks_the_rest(self):
        history = []
        for day in range(30):
            morning = START + timedelta(days=day, hours=8)
            history += [(1, morning, "home"), (2, morning + timedelta(hours=4), "work"), (2, morning, "work")]
        counter = counted(history)
        assert counter.log_probs(START + timedelta(days=40, hours=8), "home").argmax() == 1
        assert counter.log_probs(START + timedelta(days=40, hours=8), "work").argmax() == 2

    def test_work_and_memory_do_not_grow_with_the_history(self):
        counter = HabitCounter(PRIOR)

        class Counted(dict):
            """A dictionary that counts what is done to it."""

            done = 0

            def setdefault(self, *args: Any) -> Any:
                Counted.done += 1
                return super().setdefault(*args)

            def get(self, *args: Any) -> Any:
                Counted.done += 1
                return super().get(*args)

            def __setitem__(self, *args: Any) -> None:
                Counted.done += 1
                super().__setitem__(*args)

        for code in range(B):
            counter.observe(code, START, "home")
        counter._levels = {
            level: Counted({context: Counted(counts) for context, counts in held.items()})
            for level, held in counter._levels.items()
        }
        steps, sizes = [], []
        for i in range(2000):
            before = Counted.done
            counter.observe(i % B, START, "home")
            steps.append(Counted.done - before)
            saved = counter.to_dict()["counts"]
            sizes.append(sum(len(counts) for level in LEVELS for _, counts in saved[level]))
        assert set(steps) == {3 * len(LEVELS)}
        assert set(sizes) == {B * len(LEVELS)}

    @pytest.mark.parametrize("code", [-1, B])
    def test_no_such_candidate(self, code):
        counter = counted([(0, START, "home")])
        with pytest.raises(EdgebError, match=f"no candidate has the code {code}"):
            counter.observe(code, START, "home")
        assert counter.events == 1

    @pytest.mark.parametrize("prior", [[], [1, -1], [1, math.nan], [[1, 2]]])
    def test_a_prior_that_is_none(self, prior):
        with pytest.raises(EdgebError, match="prior needs one"):
            HabitCounter(prior)

    def test_extreme_settings_leave_every_candidate_a_chance(self):
        config = HabitsConfig(half_life=0, k_all=1e-3, k_hour=1e-3, k_place=1e-3, k_place_hour=1e-3)
        found = counted([(0, START, "home")] * 500, config, [1] + [0] * 1999).log_probs(START, "home")
        assert np.isfinite(found).all()
        assert np.exp(found).sum() == pytest.approx(1)


class TestSaving:
    @settings(max_examples=60, deadline=None)
    @given(events, events, configs)
    def test_a_restored_counter_goes_on_as_the_saved_one_would(self, before, after, config):
        counter = counted(before, config)
        restored = HabitCounter.from_dict(json.loads(json.dumps(counter.to_dict())), PRIOR)
        assert restored.events == len(before)
        for event in after:
            counter.observe(*event)
            restored.observe(*event)
        assert restored.to_dict() == counter.to_dict()
        assert np.array_equal(restored.log_probs(START, "home"), counter.log_probs(START, "home"))

    def test_another_candidate_set(self):
        saved = counted([(0, START, "home")]).to_dict()
        with pytest.raises(EdgebError, match=r"s\.json counts 4 candidates, not 5"):
            HabitCounter.from_dict(saved, [1] * 5, "s.json")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda d: d.pop("events"), "field 'events' is missing"),
            (lambda d: d.update(more=1), "unknown field 'more'"),
            (lambda d: d.update(events=-1), "'events' is -1"),
            (lambda d: d.update(events=True), "'events' is True"),
            (lambda d: d.update(events=10**400), "'events' is 1000"),
            (lambda d: d.update(size="4"), "counts 4 candidates"),
            (lambda d: d.update(counts=[]), "counts is not an object but list"),
            (lambda d: d.update(recent=[0]), "recent is .*, not a list of 2"),
            (lambda d: d.update(recent=[0, True]), "recent.1. is True"),
            (lambda d: d.update(recent=[0, 4]), "'recent' is .0, 4."),
            (lambda d: d["counts"].pop("hour"), "field 'hour' is missing"),
            (lambda d: d["counts"].update(hour={}), "counts.hour is {}, not a list"),
            (lambda d: d["counts"].update(hour=[[[12], [[0, 1.0, 1]]]]), "bad context"),
            (lambda d: d["counts"].update(hour=[[["8"], [[0, 1.0, 1]]]]), "bad context"),
            (lambda d: d["counts"].update(place=[[[8], [[0, 1.0, 1]]]]), "bad context"),
            (lambda d: d["counts"].update(place=[[["a", "b"], []]]), "not a list of 1"),
            (lambda d: d["counts"]["all"].append(d["counts"]["all"][0]), "listed twice"),
            (lambda d: d["counts"].update(all=[[[], [[0, 1.0]]]]), "not a list of 3"),
            (lambda d: d["counts"].update(all=[[[], [[4, 1.0, 1]]]]), "bad count"),
            (lambda d: d["counts"].update(all=[[[], [[0, 0.5, 1]]]]), "bad count"),
            (lambda d: d["counts"].update(all=[[[], [[0, math.nan, 1]]]]), "bad count"),
            (lambda d: d["counts"].update(all=[[[], [[0, 1e9, 1]]]]), "bad count"),
            (lambda d: d["counts"].update(all=[[[], [[0, 1.0, 0]]]]), "bad count"),
            (lambda d: d["counts"].update(all=[[[], [[0, 1.0, 99]]]]), "bad count"),
            (lambda d: d["counts"].update(all=[[[], [[0, 1.0, 1], [0, 1.0, 2]]]]), "bad count"),
            (lambda d: d["config"].update(hour_bucket=5), "s.json.config: .* 'hour_bucket' is 5"),
        ],
    )
    def test_damage_is_named(self, change, message):
        saved = counted([(0, START, "home"), (1, START, "work")]).to_dict()
        damaged = copy.deepcopy(saved)
        change(damaged)
        HabitCounter.from_dict(saved, PRIOR)
        with pytest.raises(EdgebError, match=message) as caught:
            HabitCounter.from_dict(damaged, PRIOR, "s.json")
        assert "s.json" in caught.value.message

    @pytest.mark.parametrize("saved", [None, [], "x", 3])
    def test_not_an_object(self, saved):
        with pytest.raises(EdgebError, match="is not an object"):
            HabitCounter.from_dict(saved, PRIOR)


class TestConfig:
    @given(configs)
    def test_round_trip(self, config):
        assert HabitsConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("hour_bucket", 5),
            ("hour_bucket", 0),
            ("hour_bucket", 2.0),
            ("half_life", -1),
            ("half_life", 0.5),
            ("half_life", "9"),
            ("half_life", True),
            ("k_all", 0),
            ("k_place", math.nan),
            ("k_hour", math.inf),
            ("k_place_hour", None),
            ("k_all", 10**400),
        ],
    )
    def test_bad_values(self, field, value):
        with pytest.raises(EdgebError, match=f"m.gguf: habits setting '{field}' is") as caught:
            HabitsConfig.from_dict({**HabitsConfig().to_dict(), field: value}, "m.gguf")
        assert caught.value.hint

    def test_unknown_and_missing_fields(self):
        with pytest.raises(EdgebError, match="unknown field 'half_live'") as caught:
            HabitsConfig.from_dict({**HabitsConfig().to_dict(), "half_live": 3})
        assert caught.value.hint == "did you mean 'half_life'?"
        with pytest.raises(EdgebError, match="field 'hour_bucket' is missing"):
            HabitsConfig.from_dict({})


class TestWithoutPlaces:
    @given(history=events, config=configs, hour=st.integers(0, 400), place=st.sampled_from(PLACES))
    def test_hours_are_counted_once_and_places_not_at_all(self, history, config, hour, place):
        when = START + timedelta(hours=hour)
        found = HabitCounter(PRIOR, config, places=False)
        plain = HabitCounter(PRIOR, config)
        for code, time, where in history:
            found.observe(code, time, where)
            # In a place that is not asked about, so that only the hour and everything match.
            plain.observe(code, time, "there")
        np.testing.assert_allclose(found.log_probs(when, place), plain.log_probs(when, "elsewhere"), rtol=1e-12)
        saved = json.loads(json.dumps(found.to_dict()))
        assert saved["counts"]["place"] == saved["counts"]["place_hour"] == []
        again = HabitCounter.from_dict(saved, PRIOR, places=False)
        np.testing.assert_array_equal(again.log_probs(when, place), found.log_probs(when, place))

    def test_a_state_with_places_is_refused(self):
        saved = counted([(0, START, "home")]).to_dict()
        with pytest.raises(EdgebError, match=r"counts\.place counts places, the bundle has none"):
            HabitCounter.from_dict(saved, PRIOR, places=False)
