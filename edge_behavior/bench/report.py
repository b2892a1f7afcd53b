"""A measurement as tables, for the terminal and for a Markdown file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge_behavior.bench.measurement import Comparison, Measurement, NpuWork, Sustained
from edge_behavior.bench.timing import Timing
from edge_behavior.bundle.sequence_file import BERT4REC, SASREC
from edge_behavior.util.markdown import markdown_table
from edge_behavior.util.numbers import NONE, significant

TITLES = {
    "cold_start": "cold start: new process, first answer",
    "cold_start_snapshot": "cold start, static prompt restored",
    "warm": "warm single-shot `predict`",
    "session": "session: observe + predict, top 1",
    "session_top5": "session, top 5",
    "session_full": "session, all candidates",
    "prefix_evaluate": "static prompt evaluated",
    "prefix_restore": "static prompt restored from disk",
    "prefix_load": "static prompt restored from memory",
    "completion": "(a) grammar completion, full prompt",
    "completion_cached": "(b) grammar completion, static prefix cached",
    "completion_appended": "(b') grammar completion, the session's prompts",
    "labels": "(c) every label on its own",
    "labels_cached": "(c') every label on its own, prompt cached",
}
RATIOS = {
    "session_over_floor": "session / lower bound (d)",
    "completion_over_session": "(a) / session",
    "completion_cached_over_session": "(b) / session",
    "completion_appended_over_session": "(b') / session",
    "labels_over_session": "(c) / session",
    "labels_cached_over_session": "(c') / session",
    "prefix_evaluate_over_restore": "static prompt: evaluate / restore",
}
_MIB = 2**20


@dataclass(frozen=True)
class Grid:
    """One table: title, column heads, rows of text; the first column is names, the others numbers."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def grids(result: Measurement) -> list[Grid]:
    """Everything a measurement holds, as tables."""
    made = [_scenarios(result)]
    if result.npu is not None:
        made.append(_npu(result.npu))
    if result.comparison is not None:
        made += [_lower_bound(result.comparison), _native(result.comparison), _ratios(result.comparison)]
        made = [grid for grid in made if grid.rows]
    if result.threads is not None:
        made.append(_threads(result.threads))
    if result.sustained is not None:
        made.append(_sustained(result.sustained))
    return made


def heading(result: Measurement) -> str:
    """What was measured, in a line."""
    return (
        f"{result.bundle}: {result.architecture} {result.quantization}, {result.file_bytes / _MIB:.1f} MiB, "
        f"{result.candidates} candidates, {result.static_tokens} static tokens"
    )


def footing(result: Measurement) -> str:
    """Where and how it was measured, in a line."""
    machine = result.machine
    engine = f"llama-cpp-python {machine.llama_cpp_python}"
    if machine.ai_edge_litert is not None:
        engine = f"ai-edge-litert {machine.ai_edge_litert} on the {(result.accelerator or 'cpu').upper()}"
    elif result.architecture in (SASREC, BERT4REC):
        engine = f"numpy {np.__version__}"
    return (
        f"{machine.processor}, {machine.cores} cores, {machine.threads} thread{'' if machine.threads == 1 else 's'}; "
        f"{engine}; {result.scoring} scoring, "
        f"re-based every {result.anchor_every} events"
    )


def cuts(result: Measurement) -> list[str]:
    """What was cut to keep the time budget, in lines; none if nothing was."""
    budget = result.budget
    if budget is None or not budget.cut:
        return []
    return [f"cut to {budget.seconds:g} s ({budget.spent:.0f} s taken):", *(f"- {what}" for what in budget.cut)]


def markdown(result: Measurement) -> str:
    """The tables as Markdown."""
    parts = [f"### {heading(result)}", footing(result)]
    parts += [grid_markdown(grid) for grid in grids(result)]
    said = cuts(result)
    if said:
        parts += [said[0], "\n".join(said[1:])]
    return "\n\n".join(parts) + "\n"


def grid_markdown(grid: Grid) -> str:
    """A table as Markdown, its title in bold."""
    rows = ([cell.replace("|", "\\|") for cell in row] for row in grid.rows)
    return f"**{grid.title}**\n\n" + "\n".join(markdown_table(grid.heads, rows))


def _scenarios(result: Measurement) -> Grid:
    rows = []
    for name, title in TITLES.items():
        timing, peak = result.scenarios.get(name), result.peak_rss_bytes.get(name)
        if timing is None:
            continue
        rows.append(
            (
                title,
                significant(timing.p50_ms),
                significant(timing.p95_ms),
                significant(timing.mean_ms),
                significant(timing.tokens_per_prediction),
                significant(timing.overhead_ms["p50"]) if timing.overhead_ms else "",
                "" if peak is None else f"{peak / _MIB:,.0f}",
                str(timing.predictions),
            )
        )
    return Grid(
        "per prediction",
        ("scenario", "p50 ms", "p95 ms", "mean ms", "tokens", "outside engine, ms", "peak MiB", "n"),
        rows,
    )


def _npu(work: NpuWork) -> Grid:
    rows = [
        (TITLES[name], f"{np.mean(calls):.1f}", str(max(calls)), f"{np.mean(work.tokens[name]):.1f}", str(len(calls)))
        for name, calls in work.calls.items()
        if calls
    ]
    heads = ("scenario", f"calls of {work.size} tokens, mean", "most", "tokens, mean", "n")
    return Grid("on an NPU, by the contexts beside the bundle: calls, whose times only a phone can tell", heads, rows)


def _lower_bound(found: Comparison) -> Grid:
    rows = []
    for depth, bound in found.floor.items():
        at_once, same_calls = bound.forms["floor"], bound.forms["floor_same_calls"]
        rows.append(
            (
                TITLES[depth],
                significant(bound.tokens_p50),
                significant(bound.session_p50_ms),
                significant(at_once.p50_ms),
                f"{at_once.over:.2f}×",
                significant(bound.forms["floor_one_row"].p50_ms),
                significant(same_calls.p50_ms),
                f"{same_calls.over:.2f}×",
            )
        )
    heads = (
        "(d) lower bound", "tokens", "session ms", "one decode ms", "ratio", "one decode, one logit row ms",
        "same calls ms", "ratio",
    )  # fmt: skip
    return Grid("lower bound: llama.cpp alone on as many new tokens", heads, rows)


def _native(found: Comparison) -> Grid:
    rows = [(name, f"{s.tokens_per_second:,.1f} ± {s.deviation:.1f}") for name, s in found.native.items()]
    return Grid("llama.cpp's speed as llama-bench defines it", ("test", "tokens/s"), rows)


def _ratios(found: Comparison) -> Grid:
    rows = [(title, f"{found.ratios[name]:,.2f}×") for name, title in RATIOS.items() if name in found.ratios]
    return Grid("ratios", ("ratio", "measured"), rows)


def _threads(sweep: Mapping[str, Timing]) -> Grid:
    rows = [(count, significant(timing.p50_ms), significant(timing.p95_ms)) for count, timing in sweep.items()]
    return Grid("session, top 1, by threads", ("threads", "p50 ms", "p95 ms"), rows)


def _sustained(found: Sustained) -> Grid:
    rows = [(f"from {s.from_s:g} s", significant(s.p50_ms), str(s.predictions)) for s in found.slices]
    drift = NONE if found.drift is None else f"{found.drift:.3f}"
    return Grid(f"sustained for {found.seconds:g} s: last slice / first slice {drift}", ("time", "p50 ms", "n"), rows)
