"""The tables of a comparison as rows of text, for Markdown, HTML and the terminal. Computes no number."""

from __future__ import annotations

from collections.abc import Sequence

from edge_behavior.evaluation.protocols import PROTOCOLS
from edge_behavior.evaluation.tables import COLUMNS, interval_text
from edge_behavior.studies.compare.measure import METRICS, Measured
from edge_behavior.studies.compare.paper.table import Table, paper_table
from edge_behavior.studies.compare.plan import SWEEPS
from edge_behavior.studies.compare.results import Results, Row
from edge_behavior.studies.compare.windows import KINDS
from edge_behavior.studies.compare.words import (
    answer_sentences,
    gap_sentence,
    method_sentences,
    state_sentences,
    verdict,
)
from edge_behavior.util.markdown import markdown_table, markdown_text
from edge_behavior.util.numbers import NONE, number

_HEADS = {**COLUMNS, "weighted_recall": "Accuracy", "hit_at_5": "Hit@5"}
_WITH_INTERVAL = ("weighted_recall", "overall", "tail")
_KIND_HEADS = {"return": "Returns", "seen": "Seen before", "discovery": "Discoveries"}


def tables(results: Results) -> list[Table]:
    """The paper's form, one per protocol, returns against discoveries, lengths of history, cold start, and sweeps."""
    found = [paper_table(results), *protocol_tables(results)]
    kinds = [kind for kind in KINDS if kind in results.titles]
    heads = tuple(f"{_KIND_HEADS[kind]} ({results.windows[kind]['windows']})" for kind in kinds)
    found.append(_scoped(results, "Returns against discoveries: accuracy", kinds, heads))
    history = history_scopes(results)
    if history:
        heads = tuple(f"{_events(results, scope)} ({results.windows[scope]['windows']})" for scope in history)
        found.append(_scoped(results, "Accuracy by events of the user before the target", history, heads))
    cold = cold_scopes(results)
    if cold:
        heads = tuple(f"{scope.removeprefix('cold')} known" for scope in cold)
        found.append(_scoped(results, "Cold start: accuracy when so many events are known", cold, heads))
    return found + [_sweep(results, name) for name in results.asked.sweeps if sweep_rows(results, name)]


def protocol_tables(results: Results) -> list[Table]:
    """Every metric of every row, by protocol."""
    return [_protocol(results, p) for p in PROTOCOLS if p in results.titles]


def history_scopes(results: Results) -> list[str]:
    """The scopes of lengths of history."""
    return [scope for scope in results.titles if scope.startswith("from")]


def cold_scopes(results: Results) -> list[str]:
    """The scopes of the cold start that some system was scored at."""
    return [s for s in results.titles if s.startswith("cold") and any(s in row.scopes for row in results.rows)]


def sweep_rows(results: Results, sweep: str) -> dict[str, list[Row]]:
    """The rows of a sweep's points by system, in the order of the values asked for."""
    order = {value: i for i, value in enumerate(results.asked.sweeps.get(sweep, ()))}
    found: dict[str, list[Row]] = {}
    for row in results.rows:
        if row.point is not None and row.point.sweep == sweep:
            found.setdefault(row.system, []).append(row)
    return {s: sorted(rows, key=lambda r: order[r.point.value] if r.point else 0) for s, rows in found.items()}


def notable_gaps(results: Results) -> list[str]:
    """A sentence for every paired difference in accuracy and recall on the protocols' windows."""
    return [
        gap_sentence(results, gap)
        for gap in results.gaps
        if gap.scope in PROTOCOLS and gap.metric in (("weighted_recall",) if gap.scope == "natural" else _WITH_INTERVAL)
    ]


def render_markdown(results: Results) -> str:
    """results.md."""
    asked = results.asked
    lines = [f"# Which system predicts best: {markdown_text(asked.dataset_name)}", ""]
    lines += [f"Recipe {markdown_text(asked.recipe.name)}, edgeb {asked.edgeb}, dataset {asked.fingerprint}.", ""]
    lines += [*(markdown_text(s) for s in state_sentences(results)), ""]
    if said := verdict(results):
        lines += [" ".join(markdown_text(sentence) for sentence in said), ""]
    for table in tables(results):
        cells = ([markdown_text(row[0]), *row[1:]] for row in table.rows)
        lines += [f"## {table.title}", "", *markdown_table(["", *table.heads], cells), ""]
        lines += [markdown_text(table.caption), ""]
    if gaps := notable_gaps(results):
        lines += ["## Paired differences", "", *(f"- {markdown_text(sentence)}" for sentence in gaps), ""]
    lines += ["## How", "", *(f"- {sentence}" for sentence in method_sentences(results))]
    return "\n".join(lines) + "\n"


def _protocol(results: Results, protocol: str) -> Table:
    rows = [
        (row.title, *(_cell(row.scopes[protocol].get(metric), metric) for metric in METRICS), *_extra(row))
        for row in results.main_rows
        if protocol in row.scopes
    ]
    heads = (*(_HEADS[metric] for metric in METRICS), "τ", "seeds")
    caption = " ".join([_caption(results, protocol), *answer_sentences(results, ("test",))])
    return Table(f"{protocol.capitalize()} windows", heads, tuple(rows), caption)


def _extra(row: Row) -> tuple[str, str]:
    return NONE if row.tau is None else number(row.tau, 2), str(len(row.seeds)) if row.learned else NONE


def _scoped(results: Results, title: str, scopes: Sequence[str], heads: tuple[str, ...]) -> Table:
    rows = [
        (row.title, *(_cell(row.scopes.get(s, {}).get("weighted_recall"), "weighted_recall") for s in scopes))
        for row in results.main_rows
        if any(scope in row.scopes for scope in scopes)
    ]
    below = "Natural windows." if "natural" in results.titles else "Balanced windows."
    cold = [scope for scope in scopes if scope.startswith("cold")]
    return Table(title, heads, tuple(rows), " ".join([below, *answer_sentences(results, cold)]))


def _sweep(results: Results, sweep: str) -> Table:
    rows, scope = [], "natural" if "natural" in results.titles else "balanced"
    wanted = [
        (scope, "weighted_recall"),
        *((p, m) for p in PROTOCOLS if p in results.titles for m in ("overall", "tail")),
    ]
    for held in sweep_rows(results, sweep).values():
        rows += [(row.title, *(_cell(row.scopes[p].get(m), m) for p, m in wanted)) for row in held]
    heads = tuple(f"{p} {_HEADS[m]}" for p, m in wanted)
    return Table(SWEEPS[sweep][0], heads, tuple(rows), "One seed per point.")


def _cell(held: Measured | None, metric: str) -> str:
    if held is None or held.value is None:
        return NONE
    if metric == "nll":
        return f"{held.value:.2f}"
    shown = interval_text(held.value, held.interval) if metric in _WITH_INTERVAL else ""
    return f"{number(held.value)} {shown}".rstrip()


def _caption(results: Results, scope: str) -> str:
    held = results.windows[scope]
    unit = {"users": "users", "groups": "groups", "day_blocks": "blocks of days"}[results.unit]
    return f"{held['windows']:,} windows of {held['units']:,} {unit}; ± and brackets are 95 % intervals over {unit}."


def _events(results: Results, scope: str) -> str:
    return results.titles[scope].removeprefix("users with ").removesuffix(" earlier events")
