"""A comparison goes on after an interruption to the same end, and its report needs its small files only."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.studies.compare.contenders import Other, Tuned, check_needs
from edge_behavior.studies.compare.dry_run import dry_run
from edge_behavior.studies.compare.folder import CompareFolder, Sizes
from edge_behavior.studies.compare.plan import entries
from edge_behavior.studies.compare.report import write_report
from edge_behavior.studies.compare.results import read_results
from edge_behavior.studies.compare.runner import run_compare
from edge_behavior.studies.compare.words import gap_sentence, method_sentences, verdict
from edge_behavior.train.recipe import load_recipe
from tests.page import Page
from tests.unit.studies.compare.conftest import SIZES, Asking, Noisy, contenders

# Test, validation, and two cold starts.
SETS = 4


def pair() -> tuple[Noisy, Noisy]:
    return Noisy("good", 3.0, rates=(0.5, 1.0)), Noisy("poor", 1.0, learns=False)


def test_interrupted_anywhere_it_ends_the_same(asking: Asking) -> None:
    good, poor = pair()
    bench, systems = asking(contenders(good, poor), "whole")
    assert run_compare(bench, systems) == []
    whole = write_report(bench.folder).to_dict()
    assert whole["missing"] == []
    # Two rates of the search, then both seeds.
    assert len(good.calls) == 2 + 2 * SETS
    for stop in (1, 7):
        good, poor = pair()
        good.stop_after = stop
        bench, systems = asking(contenders(good, poor), f"stopped{stop}")
        with pytest.raises(KeyboardInterrupt):
            run_compare(bench, systems)
        left = write_report(bench.folder)
        assert "good-seed1" in left.missing
        good.stop_after = None
        assert run_compare(bench, systems) == []
        assert write_report(bench.folder).to_dict() == whole
    calls = len(good.calls)
    assert run_compare(bench, systems) == []
    assert len(good.calls) == calls


def test_cold_starts_that_are_asked_for_later_are_added(asking: Asking) -> None:
    good, poor = pair()
    bench, systems = asking(contenders(good, poor), cold=())
    run_compare(bench, systems)
    without = write_report(bench.folder)
    assert not any(scope.startswith("cold") for scope in without.titles)
    bench, systems = asking(contenders(good, poor), cold=(2, 0))
    assert bench.asked.cold == (0, 2)
    # Until they are scored, what there is still counts.
    half = write_report(bench.folder)
    assert {row.name: row.scopes for row in half.rows} == {row.name: row.scopes for row in without.rows}
    assert "good-seed0" in half.missing
    calls = len(good.calls)
    run_compare(bench, systems)
    assert len(good.calls) == calls + 2 * 2
    grown, (fresh, _) = write_report(bench.folder), asking(contenders(*pair()), "at-once")
    run_compare(fresh, contenders(*pair()))
    at_once = write_report(fresh.folder)
    assert (grown.rows, grown.gaps, grown.missing) == (at_once.rows, at_once.gaps, ())


def test_the_report_needs_no_runs_and_no_dataset(asking: Asking, tmp_path: Path) -> None:
    bench, systems = asking(contenders(*pair()))
    run_compare(bench, systems)
    first = write_report(bench.folder).to_dict()
    copy = tmp_path / "copy"
    kept = ("compare.json", "windows.npz", "rates.json", "predictions")
    for name in kept:
        source = bench.folder.path / name
        (shutil.copytree if source.is_dir() else _copy)(source, copy / name)
    assert write_report(CompareFolder(copy)).to_dict() == first
    texts = [(copy / name).read_text() for name in ("compare.json", "results.json", "results.md", "compare.html")]
    dataset = Dataset.open(bench.dataset.path)
    assert not any(str(tmp_path) in text or str(dataset.path) in text for text in texts)
    assert not any(label in text for text in texts for label in dataset.candidates.labels if len(label) > 6)
    page = Page((copy / "compare.html").read_text())
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert "the good system" in page.text
    lines = (copy / "results.md").read_text().splitlines()
    for table in "\n".join(lines).split("\n\n"):
        assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) <= 1


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def test_a_system_may_have_more_seeds_than_others(asking: Asking) -> None:
    bench, systems = asking(contenders(*pair(), Noisy("other", 1.0)))
    more = replace(bench.asked, systems=("habits", "good"), learned=("good",), seeds=(0, 1, 2), own_seeds={})
    asked = bench.folder.ask(more, bench.dataset.path)
    assert asked == bench.folder.read()
    assert {entry.system: entry.seeds for entry in entries(asked)} == {
        "habits": (0,), "good": (0, 1, 2), "poor": (0,), "other": (0, 1),
    }  # fmt: skip
    # What is only continued stays as it is.
    again = bench.folder.ask(replace(asked, own_seeds=asked.own_seeds), bench.dataset.path)
    assert again == asked
    assert run_compare(replace(bench, asked=asked), systems) == []
    results = read_results(bench.folder)
    assert {row.system: row.seeds for row in results.main_rows if not row.derived} == {
        "habits": (0,), "good": (0, 1, 2), "poor": (0,), "other": (0, 1),
    }  # fmt: skip
    assert any("ran with 2 or 3 seeds" in sentence for sentence in method_sentences(results))


def test_what_won_is_said_and_the_rate_is_chosen(asking: Asking) -> None:
    bench, systems = asking(contenders(*pair()))
    run_compare(bench, systems)
    results = write_report(bench.folder)
    assert bench.folder.rates()["good"]["rate"] == 1.0
    said = verdict(results)
    assert said[0].startswith("Of the systems as they are, the good system is right most often on 40 natural windows")
    gap = results.gap("good", "poor", "natural") or results.gap("poor", "good", "natural")
    assert gap is None or gap_sentence(results, gap)
    rows = {row.name: row for row in results.rows}
    assert (rows["good"].value("natural") or 0) > (rows["poor"].value("natural") or 0)
    # Whoever knows no event of a user is of no use here.
    assert (
        (rows["good"].value("cold0") or 0) < (rows["good"].value("cold2") or 0) < (rows["good"].value("natural") or 0)
    )
    assert {"good+prior", "good+habits", "good+habits+prior", "good+habits:shuffled", "habits+prior"} <= set(rows)
    assert (rows["good+habits"].value("natural") or 0) >= (rows["good+habits:shuffled"].value("natural") or 0)
    assert results.reference in ("poor", "habits")
    assert json.loads((bench.folder.path / "results.json").read_text()) == json.loads(json.dumps(results.to_dict()))


def test_every_mixture_is_held_against_plain_fine_tunings(asking: Asking) -> None:
    bench, systems = asking(contenders(Noisy("plain", 2.0), Noisy("rival", 2.5)), cold=())
    run_compare(bench, systems)
    results = read_results(bench.folder)
    rows = {row.name: row for row in results.rows}
    held = results.gap("rival+habits", "plain+habits", "natural")
    assert held is not None
    values = [rows[name].value("natural") or 0 for name in ("rival+habits", "plain+habits")]
    assert held.value == pytest.approx(values[0] - values[1])
    assert not any(one.first == one.second for one in results.gaps)


def test_a_model_that_could_not_be_kept_is_kept_by_the_next_call(asking: Asking) -> None:
    asked: list[Path] = []

    def keep(folder: Path) -> bool:
        asked.append(folder)
        if len(asked) == 1:
            raise EdgebError("no space left", "make some")
        folder.mkdir(parents=True)
        return True

    class Ships(Noisy):
        def fit(self, *of: Any) -> Any:
            fitted: Any = super().fit(*of)
            fitted.keep = keep
            return fitted

    bench, systems = asking(contenders(Ships("ships", 2.0)), seeds=(0,), cold=())
    kept = bench.folder.kept_model("ships", 0)
    assert run_compare(bench, systems) == ["ships-seed0"]
    assert not kept.exists()
    assert run_compare(bench, systems) == []
    assert kept.is_dir()
    # A cold start that is asked for later is scored by a fit of its own, which is not what the rest measured.
    later, systems = asking(contenders(Ships("ships", 2.0)), seeds=(0,), cold=(0,))
    assert run_compare(later, systems) == []
    assert asked == [kept, kept]


def test_a_failure_is_told_and_the_others_go_on(asking: Asking) -> None:
    class Broken(Noisy):
        def fit(self, *_: object) -> object:  # type: ignore[override]
            raise EdgebError("the endpoint is down", "start it")

    broken = Broken("broken", 1.0)
    bench, systems = asking(contenders(broken, *pair()))
    assert run_compare(bench, systems) == ["broken-seed0", "broken-seed1"]
    results = write_report(bench.folder)
    assert results.failed["broken-seed0"] == "the endpoint is down (start it)"
    assert "broken-seed0 failed: the endpoint is down" in (bench.folder.path / "compare.html").read_text()
    systems["broken"] = Other(Noisy("broken", 1.0))
    assert run_compare(bench, systems) == []
    assert write_report(bench.folder).failed == {}


def test_sweeps_run_with_the_first_seed(asking: Asking) -> None:
    good, poor = pair()
    bench, systems = asking(contenders(good, poor), sweeps=("targets=10,20",))
    assert [e["system"] for e in dry_run(bench, systems)["entries"]][-2:] == [
        "good@targets=10", "good@targets=20",
    ]  # fmt: skip
    assert run_compare(bench, systems) == []
    results = write_report(bench.folder)
    swept = [row for row in results.rows if row.point is not None]
    assert [(row.name, row.seeds) for row in swept] == [("good@targets=10", (0,)), ("good@targets=20", (0,))]
    assert "Training size" in (bench.folder.path / "compare.html").read_text()
    assert all(entry["left"] == [] for entry in dry_run(bench, systems)["entries"])


def test_later_calls_add_systems_and_seeds(asking: Asking) -> None:
    good, poor = pair()
    bench, systems = asking(contenders(good), seeds=(0,))
    run_compare(bench, systems)
    calls = len(good.calls)
    bench, systems = asking(contenders(good, poor), seeds=(0, 1))
    assert (bench.asked.systems, bench.asked.seeds) == (("habits", "good", "poor"), (0, 1))
    run_compare(bench, systems)
    assert len(good.calls) == calls + SETS
    assert read_results(bench.folder).missing == ()
    assert bench.folder.read() == bench.asked


def test_refusals(asking: Asking, tmp_path: Path) -> None:
    bench, systems = asking(contenders(*pair()))
    with pytest.raises(EdgebError, match="started with --windows 40, not 50"):
        asking(systems, sizes=Sizes(windows=50, validation=30, rate_targets=50))
    with pytest.raises(EdgebError, match=r"--sweep few_shot .* changes none"):
        asking(systems, sweeps=("few_shot",))
    with pytest.raises(EdgebError, match=r"needs maps, and .* has none"):
        check_needs(contenders(Noisy("lost", 1.0, needs=frozenset({"maps"}))), bench.dataset)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(EdgebError, match="holds no comparison"):
        asking(systems, "mine")
    with pytest.raises(EdgebError, match="holds no comparison"):
        write_report(CompareFolder(tmp_path / "nothing"))
    run_compare(bench, systems)
    file = bench.folder.predictions("good", 0, "test")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(EdgebError, match=r"good-seed0-test\.npz is damaged"):
        write_report(bench.folder)
    np.savez(file, scores=np.zeros((2, 2), dtype=np.float16))
    with pytest.raises(EdgebError, match="is not of these windows"):
        write_report(bench.folder)


def test_windows_of_another_draw_are_refused(asking: Asking) -> None:
    good, poor = pair()
    bench, systems = asking(contenders(good, poor))
    run_compare(bench, systems)
    moved = bench.drawn.test.copy()
    moved[:] = moved[::-1]
    object.__setattr__(bench.drawn, "test", moved)
    with pytest.raises(EdgebError, match="holds other windows"):
        run_compare(bench, systems)


def test_a_search_of_no_targets_is_none(asking: Asking) -> None:
    good, poor = pair()
    bench, systems = asking(contenders(good, poor), sizes=Sizes(windows=20, validation=20, rate_targets=0))
    run_compare(bench, systems)
    assert bench.folder.rates() == {}
    assert SIZES.rate_targets > 0


def test_the_second_stage_s_rate_moves_with_the_first_s() -> None:
    base = load_recipe("tiny", ["a_tuning.learning_rate=0.0004", "b_tuning.learning_rate=0.00003"])
    system = Tuned("two_stage", "two stages", {"b_tuning.method": "dpo"})
    tuned = system.recipe(base, 0, None, 0.0012)
    assert (tuned.a_tuning.learning_rate, tuned.b_tuning.learning_rate) == (0.0012, 0.00009)
    unsearched = system.recipe(base, 0, None, None)
    assert (unsearched.a_tuning.learning_rate, unsearched.b_tuning.learning_rate) == (0.0004, 0.00003)


def test_a_rate_at_which_a_tuned_model_diverges(asking: Asking) -> None:
    changes = {"a_tuning.targets": "all", "a_tuning.aux_ratio": 0.0, "b_tuning.method": "none"}
    systems = {**contenders(), "plain": Tuned("plain", "plain fine-tuning", changes)}
    bench, systems = asking(systems, seeds=(0,), sizes=replace(SIZES, rates=(0.02, 1e30)), cold=())
    assert run_compare(bench, systems) == []

    def no_number(text: str) -> float:
        raise AssertionError(f"{text} is not JSON")

    rates = json.loads((bench.folder.path / "rates.json").read_text(), parse_constant=no_number)["plain"]
    assert rates["rate"] == 0.02
    assert rates["measured"]["1e+30"] is None
    assert rates["measured"]["0.02"] > 0
    write_report(bench.folder)
    json.loads((bench.folder.path / "results.json").read_text(), parse_constant=no_number)
    for name in ("results.md", "compare.html"):
        assert "Training diverged at these rates: plain 1e+30." in (bench.folder.path / name).read_text()
