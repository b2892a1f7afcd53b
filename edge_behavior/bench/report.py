"""A measurement's result as tables: for the terminal, for a Markdown file. Knows no clock and no bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
    "session_over_floor": "session / floor (d)",
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
    """One table: title, column heads, rows of text."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def grids(result: dict[str, Any]) -> list[Grid]:
    """Everything a result holds, as tables."""
    made = [_scenarios(result)]
    if "floor" in result:
        made += [_floor(result), _native(result), _ratios(result)]
    if "threads" in result:
        made.append(_threads(result["threads"]))
    if "sustained" in result:
        made.append(_sustained(result["sustained"]))
    return made


def heading(result: dict[str, Any]) -> str:
    """What was measured, in a line."""
    return (
        f"{result['bundle']}: {result['architecture']} {result['quantization']}, "
        f"{result['file_bytes'] / _MIB:.1f} MiB, {result['candidates']} candidates, "
        f"{result['static_tokens']} static tokens"
    )


def footing(result: dict[str, Any]) -> str:
    """Where it was measured, in a line."""
    machine = result["machine"]
    return (
        f"{machine['processor']}, {machine['cores']} cores, "
        f"{machine['threads']} thread{'' if machine['threads'] == 1 else 's'}; "
        f"llama-cpp-python {machine['llama_cpp_python']}; {result['scoring']} scoring, "
        f"anchored every {result['anchor_every']} events"
    )


def markdown(result: dict[str, Any]) -> str:
    """The tables as Markdown."""
    parts = [f"### {heading(result)}", footing(result)]
    for grid in grids(result):
        lines = [f"| {' | '.join(grid.heads)} |", "|---" + "|---:" * (len(grid.heads) - 1) + "|"]
        lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in grid.rows]
        parts += [f"**{grid.title}**", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _scenarios(result: dict[str, Any]) -> Grid:
    peaks, rows = result["peak_rss_bytes"], []
    for name, title in TITLES.items():
        row = result["scenarios"].get(name)
        if row is None:
            continue
        outside = row.get("overhead_ms")
        rows.append(
            (
                title,
                number(row["p50_ms"]),
                number(row["p95_ms"]),
                number(row["mean_ms"]),
                number(row["tokens_per_prediction"]),
                number(outside["p50"]) if outside else "",
                f"{peaks[name] / _MIB:,.0f}" if name in peaks else "",
                str(row["predictions"]),
            )
        )
    return Grid(
        "per prediction",
        ("scenario", "p50 ms", "p95 ms", "mean ms", "tokens", "outside engine, ms", "peak MiB", "n"),
        rows,
    )


def _floor(result: dict[str, Any]) -> Grid:
    rows = [
        (
            TITLES[depth],
            number(row["tokens_p50"]),
            number(row["session_p50_ms"]),
            number(row["floor_p50_ms"]),
            f"{row['over_floor']:.2f}×",
            number(row["floor_one_row_p50_ms"]),
            number(row["floor_same_calls_p50_ms"]),
            f"{row['over_floor_same_calls']:.2f}×",
        )
        for depth, row in result["floor"].items()
    ]
    heads = (
        "(d) the floor", "tokens", "session ms", "one decode ms", "ratio", "one decode, one logit row ms",
        "same calls ms", "ratio",
    )  # fmt: skip
    return Grid("the floor: llama.cpp alone on as many new tokens", heads, rows)


def _native(result: dict[str, Any]) -> Grid:
    rows = [(n, f"{r['tokens_per_second']:,.1f} ± {r['deviation']:.1f}") for n, r in result["native"].items()]
    return Grid("llama.cpp's speed as llama-bench defines it", ("test", "tokens/s"), rows)


def _ratios(result: dict[str, Any]) -> Grid:
    return Grid(
        "ratios", ("ratio", "measured"), [(title, f"{result['ratios'][n]:,.2f}×") for n, title in RATIOS.items()]
    )


def _threads(sweep: dict[str, Any]) -> Grid:
    rows = [(n, number(r["p50_ms"]), number(r["p95_ms"])) for n, r in sweep.items()]
    return Grid("session, top 1, by threads", ("threads", "p50 ms", "p95 ms"), rows)


def _sustained(found: dict[str, Any]) -> Grid:
    rows = [
        (f"from {s['from_s']:g} s", "–" if s["p50_ms"] is None else number(s["p50_ms"]), str(s["predictions"]))
        for s in found["slices"]
    ]
    drift = "–" if found["drift"] is None else f"{found['drift']:.3f}"
    return Grid(
        f"sustained for {found['seconds']:g} s: last slice / first slice {drift}", ("time", "p50 ms", "n"), rows
    )
