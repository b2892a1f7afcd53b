"""The table in the paper's form: its own numbers as it prints them, the order of its rows, and what systems cost."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import precision_score

from edge_behavior.baselines.cost import TIMED, SystemCost, measure_cost, shown_seconds
from edge_behavior.baselines.language.registry import RIVALS as RIVAL_KINDS
from edge_behavior.baselines.system import Budget, Cost, Floats, Ints
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.metrics import weighted_precision
from edge_behavior.studies.compare.contenders import Other
from edge_behavior.studies.compare.paper.published import RIVALS, ROWS, published_for
from edge_behavior.studies.compare.paper.table import paper_table
from edge_behavior.studies.compare.results import Results, read_results
from edge_behavior.studies.compare.runner import run_compare
from edge_behavior.util.numbers import NONE, number
from tests.unit.studies.compare.conftest import SIZES, Asking, Noisy, contenders

TABLES = {"app-usage": "(a) App Usage Dataset\nCategory", "tsmc2014": "Table 8. Overall"}
PRINTED = dict(zip(ROWS, ("SASRec", "Bert4Rec", "PITuning", "LLM-ESR", "AlphaFuse", "LLama-NT", "GPT4o", "A-LLMRec",
                          "LLaRA", "CoLLM", "TALLRec", "BehaviorLM"), strict=True))  # fmt: skip
NYC = "dataset_TSMC2014_NYC.txt.gz"


class Weighed(Noisy):
    """A noisy system that weighs something."""

    def fit(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> Any:
        found: Any = super().fit(dataset, history_length, budget, rate)
        found.cost = lambda: Cost(57_792, 4 * 57_792, 1_234_567, 75.0)
        return found


@pytest.fixture
def results(asking: Asking) -> Results:
    systems = contenders(Noisy("tallrec", 3.0), Weighed("sasrec", 2.0), Noisy("mine", 1.0))
    bench, systems = asking(systems, seeds=(0,), cold=())
    assert run_compare(bench, systems) == []
    return read_results(bench.folder)


def of_log(results: Results, source: str, name: str) -> Results:
    return replace(results, asked=replace(results.asked, source=source, dataset_name=name))


@pytest.mark.parametrize("source", TABLES)
def test_the_papers_numbers_are_those_that_it_prints(source: str, shared: Path) -> None:
    paper = shared / "paper" / "behaviorlm-2505.17682v2.txt"
    if not paper.is_file():
        pytest.skip(f"the paper's text is not at {paper}")
    text = paper.read_text(encoding="utf-8")
    lines = text[text.index(TABLES[source]) :].splitlines()
    published = published_for(source, NYC)
    assert published is not None
    assert tuple(published.rows) == ROWS
    for system, name in PRINTED.items():
        line = next(one for one in lines if re.search(rf"(^|\s){re.escape(name)} [\d.]", one))
        found = [None if cell == "-" else float(cell) for cell in line.split(f"{name} ")[1].split()]
        assert tuple(found) == published.rows[system]


def test_a_log_has_the_papers_numbers_where_it_is_the_papers() -> None:
    logs = [(source, name) for source in ("tsmc2014", "app-usage", "csv", "") for name in (NYC, "x_TSMC2014_TKY.txt")]
    found = {log: published.title for log in logs if (published := published_for(*log)) is not None}
    assert {log for log, title in found.items() if title == "Table 8, Foursquare-NYC"} == {("tsmc2014", NYC), ("", NYC)}
    assert {log[0] for log, title in found.items() if title == "Table 3(a), App Usage"} == {"app-usage"}
    assert set(RIVAL_KINDS) == RIVALS


def test_rows_come_in_the_papers_order_with_an_empty_one_for_the_endpoint(results: Results) -> None:
    table = paper_table(of_log(results, "tsmc2014", NYC))
    assert [row[0] for row in table.rows] == [
        "the sasrec system", "GPT-4o or another model behind an endpoint", "the tallrec system", "habits",
        "the mine system",
    ]  # fmt: skip
    sasrec, endpoint, tallrec, habits, _ = (row[1:] for row in table.rows)
    assert endpoint == ("– (.299)", "– (.301)", "– (.191)", "– (.227)", "– (.206)", "– (.141)", *[NONE] * 5)
    row = results.row("sasrec")
    assert row is not None
    assert sasrec[0] == f"{number(row.value('natural', 'weighted_precision'))} (.278)"
    assert sasrec[2] == f"{number(row.value('balanced', 'overall'))} (.131)"
    assert "(" not in habits[0]
    assert tallrec[6:] == (NONE,) * 5
    assert sasrec[6:10] == ("57.8 k", "0.2 MB", "1.2 M", "75 s")
    assert "Table 8, Foursquare-NYC" in table.caption
    # Other logs have none of the paper's numbers, and other systems no row for an endpoint.
    assert "(" not in "".join(paper_table(of_log(results, "csv", "mine")).rows[0])
    asked = replace(results.asked, systems=("sasrec", "mine"))
    kept = tuple(row for row in results.rows if row.system in ("sasrec", "mine"))
    assert [row[0] for row in paper_table(replace(results, asked=asked, rows=kept)).rows] == [
        "the sasrec system", "the mine system",
    ]  # fmt: skip


def test_precision_is_scikit_learns(results: Results) -> None:
    rng = np.random.default_rng(0)
    for size in (1, 3, 30):
        truth, predicted = rng.integers(0, size, 50), rng.integers(0, size + 3, 50)
        expected = precision_score(truth, predicted, average="weighted", zero_division=0)
        assert weighted_precision(truth, predicted) == pytest.approx(expected)


class Slow:
    """Takes `times` as long as the reference, and says which windows it was asked."""

    def __init__(self) -> None:
        self.asked = list[int]()

    def log_probs(self, table: EventTable, targets: Ints, known: int | None = None) -> Floats:
        self.asked += targets.tolist()
        return np.zeros((len(targets), 1))

    def cost(self) -> Cost:
        assert self.asked, "weights may be loaded by the first answer only"
        return Cost(1, 4, None, None)

    def close(self) -> None:
        pass


def test_windows_are_timed_one_at_a_time_and_times_are_of_one_load() -> None:
    slow, table = Slow(), Any
    found = measure_cost(slow, table, np.arange(30))  # type: ignore[arg-type]
    assert slow.asked == list(range(TIMED + 1))
    assert found.ratio > 0
    assert "threads" in found.machine
    few = Slow()
    measure_cost(few, table, np.arange(3))  # type: ignore[arg-type]
    assert few.asked == [0, 1, 2]
    # Twice the load, twice the time of both: the same prediction.
    quiet, busy = (replace(found, prediction_seconds=2 * x, reference_seconds=x, ratio=2.0) for x in (1.0, 2.0))
    costs = {"a": quiet, "b": busy}
    assert shown_seconds(costs, quiet) == shown_seconds(costs, busy) == 3.0


def test_costs_are_read_strictly(results: Results, asking: Asking) -> None:
    held = results.costs["sasrec-seed0"]
    assert SystemCost.from_dict(held.to_dict(), "x", "y") == held
    assert set(results.costs) == {"sasrec-seed0"}
    assert results.to_dict()["costs"]["sasrec-seed0"]["parameters"] == 57_792
    with pytest.raises(EdgebError, match="'tokens'"):
        SystemCost.from_dict({**held.to_dict(), "tokens": "many"}, "costs.json: x", "y")
    with pytest.raises(EdgebError, match="'ratio'"):
        SystemCost.from_dict({k: v for k, v in held.to_dict().items() if k != "ratio"}, "costs.json: x", "y")


def test_a_system_that_is_scored_already_keeps_its_cost(asking: Asking) -> None:
    systems = contenders(Weighed("sasrec", 2.0))
    bench, systems = asking(systems, seeds=(0,), cold=(), sizes=replace(SIZES, rate_targets=0))
    assert run_compare(bench, systems) == []
    before = bench.folder.costs()
    assert run_compare(bench, {**systems, "sasrec": Other(Noisy("sasrec", 9.0))}) == []
    assert bench.folder.costs() == before
