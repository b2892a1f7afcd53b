"""edgeb's own scenarios, their lower bound, and their turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from edge_behavior.bench.latency import take_turns
from edge_behavior.bench.options import CYCLE, DEPTHS, BenchOptions
from edge_behavior.bench.peers import PEERS
from edge_behavior.bench.scenarios import depth_of, slot
from edge_behavior.bench.setup import Setup
from edge_behavior.bench.timing import Sample
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.predictor import PredictOptions, Predictor
from edge_behavior.util.timebox import Pace, TimeBudget


def free() -> Pace:
    return Pace(TimeBudget(None))


def test_everything_takes_its_turns(setup: Setup) -> None:
    session = setup.session()
    shapes = session.rehearse(9)
    made = [session, setup.scenario("warm"), setup.prefix(), setup.lower_bound(session, free()), setup.speed()]
    samples = take_turns(made, 9)
    for name in (*DEPTHS, "warm", "prefix_evaluate", "prefix_restore", "prefix_load", "pp16", "tg4"):
        assert len(samples[name]) == 3, name
        assert all(sample.ms > 0 for sample in samples[name])
    # The lower bound is of the same number of tokens, step by step, however they are called.
    for depth in DEPTHS:
        asked = [s.tokens for s in samples[depth]]
        assert asked == [sum(d.tokens for d in shape) for i, shape in enumerate(shapes) if depth_of(i) == depth]
        for form in ("floor", "floor_one_row", "floor_same_calls"):
            assert [s.tokens for s in samples[form + depth.removeprefix("session")]] == asked
    for name in (*DEPTHS, "warm"):
        assert all(0 < s.decode_ms < s.ms for s in samples[name])
    static = len(setup.encoder.static_ids)
    assert {s.tokens for s in samples["prefix_evaluate"]} == {static}
    # All candidates cost at least as much as one; a session costs less than a whole window.
    assert max(s.tokens for s in samples["session"]) < min(s.tokens for s in samples["warm"])
    assert sum(s.tokens for s in samples["session"]) <= sum(s.tokens for s in samples["session_full"])
    assert [s.tokens for s in samples["tg4"]] == [4] * 3


@pytest.mark.parametrize("name", ["prefix", "instruct"])
def test_every_layout_can_be_measured(name: str, export: Callable[[Path, PromptLayout], Path], tmp_path: Path) -> None:
    path = export(tmp_path / "m.gguf", PromptLayout(name, history_length=4))
    with Setup(path, BenchOptions(repeats=2, compare=True, pp=8, tg=2)) as setup:
        samples = take_turns(setup.all(free()), 6)
    assert {len(taken) for taken in samples.values()} == {2}
    assert {*DEPTHS, *PEERS, "warm", "floor", "prefix_restore"} <= set(samples)


def test_kinds_of_rounds_are_even_and_follow_no_period() -> None:
    kinds = [slot(i) for i in range(21 * CYCLE)]
    for block in range(0, len(kinds), CYCLE):
        assert sorted(kinds[block : block + CYCLE]) == list(range(CYCLE))
    # A session of the usual length is re-based every 21 events.
    assert {kinds[i] for i in range(20, len(kinds), 21)} == set(range(CYCLE))


def test_each_round_begins_with_another_scenario() -> None:
    order: list[str] = []

    class Fake:
        def __init__(self, name: str) -> None:
            self.name = name

        def turn(self, i: int) -> Mapping[str, Sample]:
            order.append(self.name)
            return {self.name: Sample(1.0, i)} if i else {}

        def close(self) -> None:
            pass

    ticks: list[str] = []
    samples = take_turns([Fake("a"), Fake("b"), Fake("c")], 4, ticks.append)
    assert "".join(order) == "abc" + "bca" + "cab" + "abc"
    assert [s.tokens for s in samples["b"]] == [1, 2, 3]
    assert len(ticks) == 4


def test_grown_prompts_are_the_sessions(bundle: Path) -> None:
    with (
        Setup(bundle, BenchOptions(repeats=5, anchor_every=4)) as setup,
        Predictor.load(bundle, threads=1) as predictor,
    ):
        session = predictor.session(4)
        for event in setup.diary.first_window:
            session.observe(event)
        lengths = []
        for i, prompt in enumerate(setup.grown()):
            case = setup.diary.case(i)
            session.observe(case.observed)
            session.predict(case.when, case.place, top_k=None, options=PredictOptions(source="model"))
            assert predictor._ranker.backend.held == prompt
            lengths.append(len(session.events))
        assert lengths == [7, 8, 9, 10, 6] * 3


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("repeats", 1, "--repeats is 1"),
        ("threads", 0, "--threads is 0"),
        ("label_repeats", 0, "--label-repeats"),
        ("tg", 0, "--tg is 0"),
        ("scoring", "fast", "unknown scoring"),
        ("anchor_every", 0, "--anchor-every is 0"),
    ],
)
def test_options_are_checked(field: str, value: object, words: str) -> None:
    with pytest.raises(EdgebError, match=words):
        BenchOptions(**{field: value})


def test_too_little_memory_is_said_beforehand(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.check_memory()

    class Little:
        available = 1000

    monkeypatch.setattr("psutil.virtual_memory", Little)
    with pytest.raises(EdgebError, match=r"needs .* of memory"):
        setup.check_memory()
