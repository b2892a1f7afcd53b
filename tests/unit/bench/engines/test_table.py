"""Several bundles measured side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_behavior.bench.engines import measure, rivals
from edge_behavior.bench.engines.contender import SCENARIOS, Contender, window_of
from edge_behavior.bench.engines.machine import MachineLimits
from edge_behavior.bench.engines.measure import measure_table, tick_count
from edge_behavior.bench.engines.options import TableOptions
from edge_behavior.bench.engines.report import footing, grids, heading, markdown, remarks
from edge_behavior.bench.engines.result import Table
from edge_behavior.bench.engines.windows import Window, choose_windows
from edge_behavior.bench.engines.work import read_work
from edge_behavior.bench.isolated import Isolated, IsolatedRun
from edge_behavior.bundle.bundle import read_manifest
from edge_behavior.bundle.gguf_file import write_bundle
from edge_behavior.bundle.litert_file import is_litert
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.records.history import write_history
from edge_behavior.runtime.predictor import PredictOptions, Predictor
from tests import helpers
from tests.command import invoked

LIMITS = MachineLimits(1e9, {"float32": 1e9, "bfloat16": 2e9, "int8": 4e9}, 1, "x")


class Slow:
    """A rival that takes no time, but says so."""

    def __init__(self) -> None:
        self.name, self.on, self.scenario, self.every, self.asked = "slow", "x", "all", 3, list[int]()
        self.firsts: dict[int, int] = {}

    def time(self, i: int) -> float:
        self.asked.append(i)
        # A label that is never first.
        self.firsts[i] = -1
        return 1000.0

    def close(self) -> None:
        self.asked.append(-1)


def made_slow(contenders: Mapping[str, Contender], windows: Sequence[Window]) -> rivals.Rival:
    return SLOW


def unable(contenders: Mapping[str, Contender], windows: Sequence[Window]) -> rivals.Rival:
    raise EdgebError("the other engine is not installed", "install it")


SLOW = Slow()


@pytest.fixture(autouse=True, scope="module")
def quick() -> object:
    """No process is started, and the machine is not measured."""

    def alone(spec: Isolated) -> IsolatedRun:
        return IsolatedRun(90.0, 50 << 20, 70)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "run_isolated", alone)
        patch.setattr(measure, "measure_limits", lambda threads: LIMITS)
        # A stand-in holds no model, but is made of the same weights.
        patch.setattr(
            measure, "read_work", lambda path: read_work(path.with_suffix(".gguf") if is_litert(path) else path)
        )
        yield None


@pytest.fixture(scope="module")
def options(dataset: Dataset) -> TableOptions:
    return TableOptions(windows=9, data=dataset.path, peers=True, slow_windows=3)


@pytest.fixture(scope="module")
def table(gguf: Path, quantized: Path, litert: Path, options: TableOptions) -> Table:
    ticks: list[str] = []
    chosen = replace(options, against=gguf)
    found = measure_table([quantized, gguf, litert], chosen, [made_slow, unable], ticks.append)
    assert len(ticks) == tick_count(3, options)
    return found


def test_the_reference_is_its_own_measure(table: Table, gguf: Path) -> None:
    assert table.reference == gguf.name
    row = table.bundle(gguf.name)
    assert (row.agreement.value, row.divergence, row.better, row.worse) == (1.0, 0.0, 0, 0)
    for cost in row.costs.values():
        assert cost.over_reference.value == 1.0


def test_every_bundle_answers_as_its_predictor(
    table: Table, gguf: Path, quantized: Path, litert: Path, options: TableOptions
) -> None:
    windows = choose_windows(read_manifest(gguf), options)
    asked = PredictOptions(source="model", calibrated=False)
    for bundle in (gguf, quantized, litert):
        with Predictor.load(bundle, threads=1, prefix_cache=False) as predictor:
            firsts = [predictor.predict(w.history, w.when, w.place, 1, options=asked).ranked[0] for w in windows]
        labels = [table_label(gguf, code) for code in table.bundle(bundle.name).firsts]
        assert labels == [first.behavior for first in firsts]
    rights = [first == w.truth for first, w in zip(table.bundle(gguf.name).firsts, windows, strict=True)]
    accuracy = table.bundle(gguf.name).accuracy
    assert accuracy is not None
    assert accuracy.value == pytest.approx(np.mean(rights), abs=1e-4)


def table_label(bundle: Path, code: int) -> str:
    return read_manifest(bundle).candidates.labels[code]


def test_states_of_the_cache_show_in_the_tokens(table: Table, gguf: Path, options: TableOptions) -> None:
    manifest = read_manifest(gguf)
    with Contender(gguf, manifest, 1, "exact") as contender:
        window = choose_windows(manifest, options)[0]
        prompt = len(contender.encoder.prompt_ids(window.history, window.when, window.place))
        static = len(contender.encoder.static_ids)
    for row in table.bundles:
        tokens = {name: cost.tokens for name, cost in row.costs.items()}
        assert tokens["session"] < tokens["static"] < tokens["empty"] <= tokens["all"]
        # Windows differ by a few tokens, and predictions by the nodes that they need.
        assert tokens["empty"] - tokens["static"] == pytest.approx(static, abs=15)
        assert tokens["empty"] == pytest.approx(prompt, abs=40)


def test_the_engines_part_is_less_than_the_whole(table: Table) -> None:
    for row in table.bundles:
        for cost in row.costs.values():
            assert len(cost.samples_ms) == len(cost.bare_samples_ms) == table.windows == 9
            assert min(cost.bare_samples_ms) > 0
            pairs = zip(cost.samples_ms, cost.bare_samples_ms, strict=True)
            assert cost.over_bare.value == pytest.approx(np.median([a / b for a, b in pairs]), rel=1e-2)
            assert cost.best_ms == max(cost.reading_ms or 0, cost.multiplying_ms or 0) > 0


def test_an_engine_in_floats_is_held_to_the_peak_of_floats(table: Table, gguf: Path, quantized: Path) -> None:
    plain, small = (table.bundle(bundle.name) for bundle in (gguf, quantized))
    assert plain.work.per_token == small.work.per_token
    assert plain.work.weight_bytes > 1.5 * small.work.weight_bytes
    same = plain.costs["empty"].tokens == small.costs["empty"].tokens
    ratio = (plain.costs["empty"].multiplying_ms or 0) / (small.costs["empty"].multiplying_ms or 1)
    assert ratio == pytest.approx(2.0, rel=1e-3 if same else 0.2)


def test_rivals_take_turns_and_the_unable_are_named(table: Table, quantized: Path) -> None:
    assert SLOW.asked == [0, 3, 6, -1]
    names = [row.name for row in table.peers]
    assert names[-1] == "slow"
    assert len(names) == 5
    assert {row.on for row in table.peers[:-1]} == {quantized.name}, "the first GGUF file"
    assert [row.predictions for row in table.peers] == [9, 9, 3, 9, 3]
    assert table.peers[-1].agreement is not None
    assert table.peers[-1].agreement.value == 0.0
    assert table.notes == ["not compared: the other engine is not installed (install it)"]


def test_scenarios_never_ask_what_was_just_answered() -> None:
    for i in range(20):
        asked = [window_of(scenario, i, 9) for scenario in SCENARIOS]
        assert len(set(asked)) == len(SCENARIOS)
    for scenario in SCENARIOS:
        assert {window_of(scenario, i, 9) for i in range(9)} == set(range(9))


def test_time_cuts_windows_and_says_so(gguf: Path, quantized: Path, options: TableOptions) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 10.0
        return now[0]

    chosen = replace(options, peers=False, limits=False, budget=100.0)
    found = measure_table([gguf, quantized], chosen, clock=clock)
    assert 6 <= found.windows < 9
    assert list(found.budget.cut) == [f"{found.windows} of 9 windows"]
    assert found.limits is None
    assert found.bundles[0].costs["all"].best_ms is None
    assert "cut to 100 s: " in markdown(found)


def test_tables_and_json(table: Table) -> None:
    document = table.to_dict()
    assert json.loads(json.dumps(document)) == document
    page = markdown(table)
    for words in (heading(table), footing(table), *remarks(table), "the floor", "other ways", "session: "):
        assert words in page
    for grid in grids(table):
        assert all(len(row) == len(grid.heads) for row in grid.rows)
    assert table.advice.startswith("Take ")


def test_without_a_dataset_accuracy_is_unknown(gguf: Path, quantized: Path) -> None:
    found = measure_table([gguf, quantized], TableOptions(windows=6, limits=False))
    assert [row.accuracy for row in found.bundles] == [None, None]
    assert found.source == "synthetic"
    assert "not known without --data" in found.advice


def test_what_is_not_comparable_is_refused(gguf: Path, quantized: Path, tmp_path: Path) -> None:
    manifest = read_manifest(gguf)
    labels = manifest.candidates.labels
    other, wording = tmp_path / "labels.gguf", tmp_path / "layout.gguf"
    write_bundle(gguf, replace(manifest, candidates=CandidateSet.of([*labels[:-1], "Yodel"])), other)
    write_bundle(gguf, replace(manifest, layout=replace(manifest.layout, history_length=9)), wording)
    options = TableOptions(windows=6, limits=False)
    for bundles, words in (
        ([gguf, other], r"labels.gguf has other candidates than .*plain.gguf, for example '"),
        ([gguf, wording], r"layout.gguf has another prompt layout than .*plain.gguf: 'history_length' differs"),
        ([gguf, gguf], "is named twice"),
        ([gguf, tmp_path / "none.gguf"], "none.gguf"),
    ):
        with pytest.raises(EdgebError, match=words):
            measure_table(bundles, options)
    with pytest.raises(EdgebError, match=r"--against is none\.gguf, which is none of the bundles"):
        measure_table([gguf, quantized], replace(options, against=Path("none.gguf")))


def test_peers_need_a_gguf_file(litert: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.tflite"
    second.write_bytes(litert.read_bytes())
    with pytest.raises(
        EdgebError, match=r"--compare measures llama\.cpp, and no bundle is a language model's GGUF file"
    ):
        measure_table([litert, second], TableOptions(windows=6, peers=True, limits=False))


def test_on_the_command_line(gguf: Path, quantized: Path, dataset: Dataset, tmp_path: Path) -> None:
    page = tmp_path / "t.md"
    flags = ("--windows", 6, "--threads", 1, "--data", dataset.path, "--against", quantized)
    found = json.loads(invoked("bench", gguf, quantized, *flags, "--markdown", page, "--json").stdout)
    assert found["reference"] == quantized.name
    assert [row["name"] for row in found["bundles"]] == [gguf.name, quantized.name]
    assert found["limits"]["read_bytes"] == LIMITS.read_bytes
    assert found["advice"] in page.read_text(encoding="utf-8")
    shown = invoked("bench", gguf, quantized, "--windows", 6, "--threads", 1).stdout
    assert "Take " in shown


def test_a_history_of_what_happened(gguf: Path, quantized: Path, tmp_path: Path) -> None:
    events = helpers.diary(20)
    write_history(tmp_path / "h.csv", [*events[:5], replace(events[5], behavior="Yodel"), *events[6:]])
    flags = ("--windows", 6, "--threads", 1, "--history", tmp_path / "h.csv", "--json")
    done = invoked("bench", gguf, quantized, *flags)
    assert "'Yodel' (line 7)" in done.stderr
    found = json.loads(done.stdout)
    assert (found["source"], found["windows"]) == ("history", 6)
    assert all(row["accuracy"] is not None for row in found["bundles"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--sustained", 2), "--sustained measures one bundle, and 2 are named"),
        (("--chart", "c.png"), "--chart measures one bundle"),
        # Their defaults, said: no way to measure a table either.
        (("--repeats", 30), "--repeats measures one bundle"),
        (("--cold-starts", 3), "--cold-starts measures one bundle"),
        (("--threads", "1,2"), "--threads with several numbers measures one bundle"),
        (("--windows", 2), "--windows is 2"),
    ],
)
def test_flags_for_one_bundle(gguf: Path, quantized: Path, flags: tuple[object, ...], words: str) -> None:
    with pytest.raises(EdgebError, match=words):
        invoked("bench", gguf, quantized, *flags)


def test_flags_for_several(gguf: Path) -> None:
    for flag, value in (("--data", gguf), ("--against", gguf), ("--windows", 50)):
        with pytest.raises(EdgebError, match=f"{flag} compares several bundles"):
            invoked("bench", gguf, flag, value)
