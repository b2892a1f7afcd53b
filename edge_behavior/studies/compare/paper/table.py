"""The table in the paper's form: its rows and columns, its own numbers in brackets, and what each system costs."""

from __future__ import annotations

from dataclasses import dataclass

from edge_behavior.baselines.cost import shown_seconds
from edge_behavior.evaluation.tables import COLUMNS as HEADS
from edge_behavior.studies.compare.paper.published import COLUMNS, RIVALS, ROWS, Published, published_for
from edge_behavior.studies.compare.results import Results, Row
from edge_behavior.util.numbers import NONE, amount, duration, file_size, number, significant

# The paper measures precision and recall on windows as they occur, the rest on balanced ones.
_PROTOCOLS = {"weighted_precision": "natural", "weighted_recall": "natural"}
_COSTS = ("Weights", "Size", "Tokens", "Training", "Prediction")
_ENDPOINT = "endpoint"


@dataclass(frozen=True)
class Table:
    """A table: `heads` of the columns after the system's, a row of cells per system, and what stands below."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str


def paper_table(results: Results) -> Table:
    """All systems as they are: those of the paper's tables first, in its order.

    The endpoint's row is empty where one of the paper's rivals takes part and no endpoint was asked.
    """
    asked, published = results.asked, published_for(results.asked.source, results.asked.dataset_name)
    rows = {row.system: row for row in results.main_rows if not row.derived}
    names = [*(name for name in ROWS if name in rows), *(name for name in rows if name not in ROWS)]
    if _ENDPOINT not in rows and any(name in RIVALS for name in asked.systems):
        names = [name for name in ROWS if name in rows or name == _ENDPOINT] + [n for n in names if n not in ROWS]
    cells = tuple(_cells(results, published, name, rows.get(name)) for name in names)
    return Table("In the paper's form", (*(HEADS[c] for c in COLUMNS), *_COSTS), cells, _caption(results, published))


def _cells(results: Results, published: Published | None, name: str, row: Row | None) -> tuple[str, ...]:
    theirs = None if published is None else published.rows.get(name)
    found = [row.title if row is not None else "GPT-4o or another model behind an endpoint"]
    for i, column in enumerate(COLUMNS):
        value = None if row is None else row.value(_PROTOCOLS.get(column, "balanced"), column)
        found.append(number(value) + ("" if theirs is None else f" ({number(theirs[i])})"))
    return (*found, *_cost(results, row))


def _cost(results: Results, row: Row | None) -> tuple[str, ...]:
    held = None if row is None else results.costs.get(f"{row.name}-seed{row.seeds[0]}")
    if row is None or held is None:
        return (NONE,) * len(_COSTS)
    return (
        amount(held.parameters),
        file_size(held.bytes),
        NONE if held.tokens is None else amount(held.tokens),
        NONE if held.seconds is None else duration(held.seconds),
        f"{significant(1000 * shown_seconds(results.costs, held))} ms",
    )


def _caption(results: Results, published: Published | None) -> str:
    found = ["Prec_w and Rec_w on natural windows, recalls on balanced ones."]
    if published is not None:
        found.append(f"In brackets: the paper's {published.title}: other preprocessing, other windows, Llama 3.1 8B.")
    if results.costs:
        machines = " and ".join(dict.fromkeys(one.machine for one in results.costs.values()))
        found.append(
            "Size is that of weights as they were held. Tokens are positions in the training batches of all networks "
            "of a system, of text or of events; training leaves out the search for a rate. A prediction is a window by "
            "itself in PyTorch: every candidate scored, nothing reused, timed turn by turn with a fixed piece of work. "
            f"`edgeb bench` times bundles. Measured on {machines}, the first seed."
        )
    return " ".join(found)
