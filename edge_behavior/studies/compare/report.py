"""Writes results.json, results.md and compare.html of what is scored so far; the page is one file without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from edge_behavior.evaluation.protocols import PROTOCOLS
from edge_behavior.studies.compare import texts
from edge_behavior.studies.compare.folder import CompareFolder
from edge_behavior.studies.compare.plan import SWEEPS
from edge_behavior.studies.compare.results import Results, Row, read_results
from edge_behavior.studies.compare.sources import HABITS, MIXED
from edge_behavior.studies.compare.words import main_scope, method_sentences, state_sentences, verdict
from edge_behavior.train.report import plots
from edge_behavior.train.report.plots import Estimate
from edge_behavior.train.report.summary import STANDIN_NOTE, templates
from edge_behavior.train.run.folder import write_json, write_text


def write_report(folder: CompareFolder) -> Results:
    """Write the three files, replacing earlier ones. Needs neither runs nor the dataset.

    Raises:
        EdgebError: no comparison there, or a damaged file.
    """
    results = read_results(folder)
    write_json(folder.path / "results.json", results.to_dict())
    write_text(folder.path / "results.md", texts.render_markdown(results))
    write_text(folder.path / "compare.html", render_html(results))
    return results


def render_html(results: Results) -> str:
    """The page: no script, and no reference to anything outside it."""
    asked = results.asked
    return (
        templates(autoescape=True)
        .get_template("compare.html.j2")
        .render(
            asked=asked,
            notes=[STANDIN_NOTE] if asked.recipe.backbone.path is None else [],
            backbone=asked.shown_recipe["backbone"]["path"] or "stand-in",
            state=state_sentences(results),
            incomplete=bool(results.missing or results.failed),
            verdict=verdict(results),
            tables=texts.tables(results),
            plots=_plots(results),
            gaps=texts.notable_gaps(results),
            method=method_sentences(results),
        )
    )


def _plots(results: Results) -> list[tuple[str, Markup]]:
    """(caption, plot) of every curve."""
    found = []
    shown = _shown(results)
    for title, scopes, names, axis in (
        (
            "Accuracy by events of the user before the target",
            texts.history_scopes(results),
            [results.titles[s].split()[2] for s in texts.history_scopes(results)],
            "earlier events",
        ),
        (
            "Cold start: accuracy by events known",
            texts.cold_scopes(results),
            [s.removeprefix("cold") for s in texts.cold_scopes(results)],
            "events known",
        ),
    ):
        rows = [row for row in shown if any(scope in row.scopes for scope in scopes)]
        if len(scopes) > 1 and rows:
            values = {row.title: [_estimate(row, scope, "weighted_recall") for scope in scopes] for row in rows}
            found.append((title, _drawn(title, names, values, (axis, "accuracy"))))
    scope = main_scope(results)
    for sweep in results.asked.sweeps:
        found += _sweep_plots(results, sweep, [(scope, "weighted_recall", "accuracy")])
        if "balanced" in results.titles:
            found += _sweep_plots(results, sweep, [("balanced", "tail", "recall of the tail")])
    return found


def _sweep_plots(results: Results, sweep: str, wanted: Sequence[tuple[str, str, str]]) -> list[tuple[str, Markup]]:
    found, (title, axis, _) = [], SWEEPS[sweep]
    by_system = texts.sweep_rows(results, sweep)
    shown = list(dict.fromkeys(row.point.shown for rows in by_system.values() for row in rows if row.point))
    for scope, metric, what in wanted:
        values = {}
        for system, rows in by_system.items():
            at = {row.point.shown: _estimate(row, scope, metric) for row in rows if row.point}
            values[results.asked.titles[system]] = [at.get(name, Estimate(None)) for name in shown]
        if values:
            caption = f"{title}: {what}, {scope} windows"
            found.append((caption, _drawn(caption, shown, values, (axis, what))))
    return found


def _shown(results: Results) -> list[Row]:
    """The systems that curves show: the reference, habits, the best that learn, and the best one's mixture."""
    scope = main_scope(results)
    if scope not in PROTOCOLS:
        return []
    rows = [row for row in results.main_rows if not row.derived]
    learned = sorted((row for row in rows if row.learned), key=lambda row: -(row.value(scope) or 0))
    names = [results.reference, HABITS, *(row.name for row in learned[: len(plots.LINES) - 3])]
    if learned:
        names.insert(2, learned[0].name + MIXED)
    found = [results.row(name) for name in dict.fromkeys(names) if name is not None]
    return [row for row in found if row is not None]


def _estimate(row: Row, scope: str, metric: str) -> Estimate:
    held = row.scopes.get(scope, {}).get(metric)
    return Estimate(None) if held is None else Estimate(held.value, held.interval)


def _drawn(title: str, names: Sequence[str], values: Mapping[str, Sequence[Estimate]], axes: tuple[str, str]) -> Markup:
    few = dict(list(values.items())[: len(plots.LINES)])
    return Markup(plots.system_lines(title, names, few, axes))
