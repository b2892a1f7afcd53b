from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from edge_behavior.evaluation.habits import HistoryBin
from edge_behavior.evaluation.metrics import BehaviorMetrics, Metrics
from edge_behavior.evaluation.results import RunMetrics
from edge_behavior.evaluation.tables import (
    candidates_table,
    history_table,
    interval_text,
    protocol_caption,
    result_rows,
    results_markdown,
    results_table,
    stage_effect_table,
)
from edge_behavior.util.resampling import Resampled


def metrics(
    six: tuple[float | None, ...],
    nll: float | None = None,
    interval: dict[str, tuple[float, float] | None] | None = None,
) -> Metrics:
    names = ("weighted_precision", "weighted_recall", "overall", "head", "medium", "tail")
    found: dict[str, Any] = dict(zip(names, six, strict=True))
    ranks = dict.fromkeys(("hit_at_3", "hit_at_5", "mrr"), 0.5)
    rows = tuple(BehaviorMetrics(f"b{i}", "tail", 1, None, None, 0) for i in range(4))
    counted = {"windows": 1412, "users": 81, "behaviors_measured": 3, "per_behavior": rows}
    return Metrics(**found, **ranks, nll=nll, **counted, interval=interval, resampled=None)


COUNTERS = {
    "most_frequent": {"balanced": metrics((0.01, 0.0466, 0.25, 1.0, 0.0, None))},
    "place_hour_backoff": {
        "balanced": metrics(
            (0.4, 0.401, 0.256, 0.5, 0.3, None), interval={"weighted_recall": (0.372, 0.43), "overall": None}
        )
    },
}
MODELS = {
    "untuned": {"balanced": metrics((0.1, 0.12, 0.1, 0.2, 0.1, None), nll=3.456)},
    "a_tuning": {"balanced": metrics((0.3, 0.35, 0.2, 0.6, 0.3, None), nll=2.5)},
    "b_tuning": {
        "balanced": metrics((0.41, 0.39, 0.31, 0.55, 0.2996, None), nll=2.6, interval={"weighted_recall": (0.38, 0.44)})
    },
}
SYSTEMS = RunMetrics(MODELS, COUNTERS, 0.01, 0).systems


def printed(table: Table, width: int = 120) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.mark.parametrize(
    ("value", "interval", "text"),
    [
        (0.386, [0.365, 0.407], "±.021"),
        (0.386, [0.350, 0.400], "[.350,.400]"),  # off center
        (0.003, [0.0, 0.012], "[.000,.012]"),  # ±.006 would reach below zero
        (0.5, [0.5, 0.5], ""),
        (0.5, None, ""),
    ],
)
def test_interval_text(value: float, interval: list[float] | None, text: str) -> None:
    assert interval_text(value, interval) == text


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_interval_text_says_both_ends(a: float, b: float, c: float) -> None:
    low, value, high = sorted((a, b, c))
    text = interval_text(value, [low, high])
    numbers = [float(x) for x in re.findall(r"\d?\.\d{3}", text)]
    if text.startswith("±"):
        assert value - numbers[0] == pytest.approx(low, abs=0.0056)
        assert value + numbers[0] == pytest.approx(high, abs=0.0056)
    elif text:
        assert numbers == pytest.approx([low, high], abs=0.0006)
    else:
        assert high - low < 1.1e-3


def test_markdown_is_exact() -> None:
    assert results_markdown(SYSTEMS, "balanced").splitlines() == [
        "|  | Prec_w | Rec_w | Overall | Head | Medium | Tail | NLL |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| most frequent | .010 | .047 | .250 | **1.000** | .000 | – | – |",
        "| place+hour back-off | .400 | **.401** ±.029 | .256 | .500 | **.300** | – | – |",
        "| untuned backbone | .100 | .120 | .100 | .200 | .100 | – | 3.46 |",
        "| after A-Tuning | .300 | .350 | .200 | .600 | **.300** | – | **2.50** |",
        "| after B-Tuning | **.410** | .390 [.380,.440] | **.310** | .550 | **.300** | – | 2.60 |",
        "",
        "Balanced protocol: 1,412 windows of 81 users; 3 of 4 behaviors occur.",
    ]


def test_terminal_table_is_exact() -> None:
    assert printed(results_table(SYSTEMS, "balanced")) == [
        "balanced windows",
        "                    Prec_w Rec_w            Overall  Head Medium Tail  NLL",
        "most frequent         .010 .047             .250    1.000   .000 –       –",
        "place+hour back-off   .400 .401 ±.029       .256     .500   .300 –       –",
        "",
        "untuned backbone      .100 .120             .100     .200   .100 –    3.46",
        "after A-Tuning        .300 .350             .200     .600   .300 –    2.50",
        "after B-Tuning        .410 .390 [.380,.440] .310     .550   .300 –    2.60",
        "1,412 windows of 81 users; 3 of 4 behaviors occur",
    ]


def test_narrow_terminal_cuts_no_number() -> None:
    interval = dict.fromkeys(("weighted_recall", "overall", "tail"), (0.101, 0.402))
    rows = {
        "place_hour_backoff": {"natural": metrics((0.2, 0.2, 0.2, 0.2, 0.2, 0.2), nll=1.0, interval=dict(interval))}
    }
    text = "\n".join(printed(results_table(rows, "natural"), width=80))
    assert text.count("[.101,.402]") == 3
    assert "…" not in text


def test_best_of_a_column_is_bold_on_a_terminal() -> None:
    console = Console(width=120, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(results_table(SYSTEMS, "balanced"))
    bold = re.findall(r"\x1b\[1;32m([^\x1b]+)\x1b", capture.get())
    assert sorted(bold) == [".300", ".300", ".300", ".310", ".401", ".410", "1.000", "2.50"]


def test_no_best_where_all_are_equal_or_alone() -> None:
    rows = {
        "untuned": {"natural": metrics((0.0, 0.0, 0.0, 0.0, 0.0, 0.5))},
        "x": {"natural": metrics((0.0,) * 5 + (None,))},
    }
    assert not any(cell.best for row in result_rows(rows, "natural") for cell in row.cells)


def test_rows_without_the_protocol_are_left_out_and_nll_needs_a_value() -> None:
    rows = {**COUNTERS, "bundle q4": {"natural": metrics((0.1,) * 6)}}
    assert [row.name for row in result_rows(rows, "natural")] == ["bundle q4"]
    assert "NLL" not in results_markdown(rows, "natural")
    assert results_markdown(rows, "nothing").endswith("no windows measured.\n")


def test_counters_come_first() -> None:
    rows = {"a_tuning": MODELS["a_tuning"], **COUNTERS, "model": MODELS["b_tuning"]}
    names = [row.key for row in result_rows(rows, "balanced")]
    assert names == ["most_frequent", "place_hour_backoff", "a_tuning", "model"]


def test_a_caption_claims_nothing_of_what_was_trained_on() -> None:
    """Any part of any dataset can be measured, training's own, too."""
    measured = replace(
        metrics((0.1,) * 6, interval={"overall": (0, 1)}),
        windows=20,
        users=1,
        behaviors_measured=1,
        per_behavior=metrics((0.1,) * 6).per_behavior[:2],
    )
    blocks = Resampled("time", "day_blocks", 7, 2)
    caption = protocol_caption({"model": {"natural": replace(measured, resampled=blocks)}}, "natural")
    assert (
        caption == "20 windows of 1 user, split by time; 1 of 2 behaviors occur; 95 % intervals over 7 blocks of 2 days"
    )
    caption = protocol_caption({"model": {"natural": measured}}, "natural")
    assert caption == "20 windows of 1 user; 1 of 2 behaviors occur; 95 % intervals over users"


def test_names_are_shown_literally() -> None:
    rows = {"[bold]a|b <i>": {"natural": metrics((0.1,) * 6)}}
    assert any(line.startswith("[bold]a|b <i>") for line in printed(results_table(rows, "natural")))
    assert "| \\[bold\\]a\\|b &lt;i&gt; |" in results_markdown(rows, "natural")


def test_stage_effects() -> None:
    assert printed(stage_effect_table(MODELS)) == [
        "mean recall per behavior, balanced windows",
        "         untuned backbone  after A-Tuning         after B-Tuning",
        "head                 .200            .600  +.400            .550  -.050",
        "medium               .100            .300  +.200            .300  +.000",
        "tail                    –               –  –                   –  –",
        "overall              .100            .200  +.100            .310  +.110",
    ]


def test_stage_effects_without_a_stage() -> None:
    lines = printed(stage_effect_table({"untuned": MODELS["untuned"]}))
    assert lines[2].split() == ["head", ".200", "–", "–", "–", "–"]


def test_candidates() -> None:
    lines = printed(
        candidates_table(
            [{"behavior": "Short [video]", "probability": 0.5}, {"behavior": "News", "probability": 0.00625}]
        )
    )
    assert lines == [
        "#  behavior       probability",
        "1  Short [video]        50.0%  ██████████",
        "2  News                  0.6%  ▏",
    ]


@given(st.floats(0, 1))
def test_bar_length_is_the_probability(share: float) -> None:
    line = printed(candidates_table([{"behavior": "x", "probability": share}]))[1]
    bar = line.split("%", 1)[1].strip()
    cells = sum(1 if c == "█" else " ▏▎▍▌▋▊▉".index(c) / 8 for c in bar)
    assert cells == pytest.approx(20 * share, abs=1 / 16 + 1e-9)


def test_import_is_light() -> None:
    heavy = ["rich", "torch", "matplotlib", "pyarrow"]
    code = f"import sys, edge_behavior.evaluation.tables; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


class TestHistoryTable:
    BINS = (
        HistoryBin(20, 40, 620, 81, {"model": 0.3, "habits": 0.469, "fused": 0.471}),
        HistoryBin(160, None, 12, 3, {"model": 0.3, "habits": 0.5, "fused": 0.5}),
    )

    def test_a_row_per_bin(self):
        lines = printed(history_table(self.BINS, "natural"))
        assert lines[0] == "accuracy by events seen, natural"
        assert lines[1].split() == ["events", "windows", "users", "model", "habits", "fused"]
        assert lines[2].split() == ["20–39", "620", "81", ".300", ".469", ".471"]
        assert lines[3].split() == ["160+", "12", "3", ".300", ".500", ".500"]

    def test_the_best_are_bold(self):
        table = history_table(self.BINS, "natural")
        bold = [[cell.style == "bold" for cell in column._cells] for column in table.columns[3:]]
        assert bold == [[False, False], [False, True], [True, True]]

    def test_no_bins(self):
        assert history_table([], "natural").row_count == 0
