"""What the committed comparisons say, log by log: systems beside logs, and the paper's tables.

    python -m benchmarks.compare_logs

Reads every folder under results/compare, which are folders of `edgeb compare`, and writes results/compare/logs.md: each
system as it is and mixed with the user's habits, by accuracy on natural windows and by mean recall on balanced ones, of
all behaviors and of the tail. A system that was not compared on a log has a dash there. Below: what systems that learn
add to habits, paired by window; the control is the same mixture with the system's scores shuffled between windows, and
every mixture is held against plain fine-tuning's.
Folders with rivals of the paper also give its tables, in results/compare/paper.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from edge_behavior.evaluation.tables import interval_text
from edge_behavior.studies.compare.folder import CompareFolder
from edge_behavior.studies.compare.measure import Gap
from edge_behavior.studies.compare.paper.published import RIVALS
from edge_behavior.studies.compare.paper.table import paper_table
from edge_behavior.studies.compare.results import PLAIN, Results, Row, read_results
from edge_behavior.studies.compare.sources import HABITS, MIXED, SHUFFLED
from edge_behavior.util.markdown import markdown_table, markdown_text
from edge_behavior.util.numbers import NONE, amount, difference_within, number

FOLDER = Path(__file__).parent / "results" / "compare"
# Scope, metric, and what the column is called after the log's name.
COLUMNS = (
    ("natural", "weighted_recall", "accuracy"),
    ("balanced", "overall", "recall"),
    ("balanced", "tail", "tail"),
)
# What a mixture is held against, and on what: scope, metric, column.
GAINS = (
    ("natural", "weighted_recall", "accuracy"),
    ("return", "weighted_recall", "returns"),
    ("seen", "weighted_recall", "seen before"),
    ("discovery", "weighted_recall", "discoveries"),
    ("balanced", "overall", "mean recall"),
    ("balanced", "tail", "tail"),
)


def gains(logs: dict[str, Results]) -> list[str]:
    """Lines of Markdown: every system that learns mixed with habits, minus habits, the control and plain's mixture.

    Args:
        logs: Results by the name of their folder.
    """
    heads = ["", "minus", *(what for _, _, what in GAINS), "would settle accuracy"]
    rows = []
    for log, results in logs.items():
        for name in results.asked.learned:
            against = {HABITS: "habits", name + SHUFFLED: "the control", PLAIN + MIXED: "plain's mixture"}
            for second, title in against.items():
                found = {(g.scope, g.metric): g for g in results.gaps if (g.first, g.second) == (name + MIXED, second)}
                if found:
                    cells = [_gain(found.get((scope, metric))) for scope, metric, _ in GAINS]
                    needed = found[GAINS[0][:2]].needed
                    settled = NONE if needed is None else f"{amount(needed)} {results.unit.replace('_', ' ')}"
                    rows.append([f"{log}: {markdown_text(results.asked.titles[name])}", title, *cells, settled])
    return markdown_table(heads, rows)


def _gain(gap: Gap | None) -> str:
    return NONE if gap is None else difference_within(gap.value, gap.interval)


def table(logs: dict[str, Results]) -> list[str]:
    """Lines of Markdown.

    Args:
        logs: Results by the name of their folder.
    """
    titles: dict[str, str] = {}
    for results in logs.values():
        shown = (row for row in results.main_rows if row.derived in ("", MIXED))
        titles |= {row.name: row.title for row in shown if row.name not in titles}
    heads = ["", *(f"{log}: {what}" for log in logs for _, _, what in COLUMNS)]
    rows = [[markdown_text(title), *_cells(name, list(logs.values()))] for name, title in titles.items()]
    return markdown_table(heads, rows)


def _cells(name: str, logs: Sequence[Results]) -> list[str]:
    return [_cell(results.row(name), scope, metric) for results in logs for scope, metric, _ in COLUMNS]


def _cell(row: Row | None, scope: str, metric: str) -> str:
    held = None if row is None else row.scopes.get(scope, {}).get(metric)
    if held is None or held.value is None:
        return NONE
    return f"{number(held.value)} {interval_text(held.value, held.interval)}".rstrip()


def paper_tables(logs: dict[str, Results]) -> list[str]:
    """Lines of Markdown: the tables in the paper's form, of logs on which rivals of its were compared."""
    found: list[str] = []
    for log, results in logs.items():
        if RIVALS.isdisjoint(results.asked.systems):
            continue
        held = paper_table(results)
        rows = [[markdown_text(row[0]), *row[1:]] for row in held.rows]
        found += [f"## {log}", "", held.caption, "", *markdown_table(["", *held.heads], rows), ""]
    return found


def main() -> None:
    """Write the tables."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    logs = {
        path.parent.name: read_results(CompareFolder(path.parent)) for path in sorted(FOLDER.glob("*/compare.json"))
    }
    text = ["# The committed comparisons, log by log", "", "`python -m benchmarks.compare_logs`.", ""]
    for name, results in logs.items():
        natural = results.windows.get("natural", {"windows": 0, "units": 0})
        text.append(
            f"- `{name}`: {markdown_text(results.asked.dataset_name)}, {natural['windows']} natural windows of "
            f"{natural['units']} {results.unit.replace('_', ' ')}."
        )
    text += ["", *table(logs), "", "## What systems that learn add, mixed with habits", "", *gains(logs)]
    (FOLDER / "logs.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    text = ["# In the paper's form", "", "`python -m benchmarks.compare_logs`.", "", *paper_tables(logs)]
    (FOLDER / "paper.md").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
