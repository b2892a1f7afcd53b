"""The results of a comparison, made of its folder's files alone: rows, paired differences, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edge_behavior.baselines.cost import SystemCost
from edge_behavior.evaluation.protocols import PROTOCOLS
from edge_behavior.studies.compare.folder import Asked, CompareFolder
from edge_behavior.studies.compare.measure import Gap, Measured, Outcomes, Scope, gap, measure, outcomes, scopes
from edge_behavior.studies.compare.plan import Point, entries
from edge_behavior.studies.compare.sources import HABITS, MIXED, PRIOR, SHUFFLED, Source, read_sources
from edge_behavior.studies.compare.windows import Windows, read_windows

PLAIN = "plain"
_RECALLS = ("weighted_recall", "overall", "tail")


@dataclass(frozen=True)
class Row:
    """One source: its metrics per scope.

    Attributes:
        name, title, system, derived: As in `Source`.
        seeds: Finished seeds.
        learned: Whether the system learns.
        tau: Mean over seeds; None where no prior was adjusted.
        point: Where in a sweep.
        scopes: Metrics by scope.
        answers: What the system said of its answers, by set of windows, see `baselines.system.Reporting`; of the first
            seed. Empty where it has nothing to say.
    """

    name: str
    title: str
    system: str
    derived: str
    seeds: tuple[int, ...]
    learned: bool
    tau: float | None
    point: Point | None
    scopes: Mapping[str, Mapping[str, Measured]]
    answers: Mapping[str, Mapping[str, Any]]

    def value(self, scope: str, metric: str = "weighted_recall") -> float | None:
        """A metric; None where it was not measured."""
        held = self.scopes.get(scope, {}).get(metric)
        return None if held is None else held.value


@dataclass(frozen=True)
class Results:
    """Content of results.json.

    Attributes:
        asked: What was asked for.
        unit: What intervals are over: `users`, `groups` or `day_blocks`.
        windows: Windows and units per scope.
        titles: Of the scopes.
        rows: Systems and what is derived of them.
        reference: The system that learns nothing and is most accurate on validation windows; None without one.
        gaps: Paired differences.
        rates: As in rates.json.
        costs: As in costs.json.
        missing: What is not scored yet; `failed`: why something failed.
    """

    asked: Asked
    unit: str
    windows: Mapping[str, Mapping[str, int]]
    titles: Mapping[str, str]
    rows: tuple[Row, ...]
    reference: str | None
    gaps: tuple[Gap, ...]
    rates: Mapping[str, Any]
    costs: Mapping[str, SystemCost]
    missing: tuple[str, ...]
    failed: Mapping[str, str]

    def row(self, name: str) -> Row | None:
        """The row of that name."""
        return next((row for row in self.rows if row.name == name), None)

    def gap(self, first: str, second: str, scope: str, metric: str = "weighted_recall") -> Gap | None:
        """A paired difference; None where it was not measured."""
        wanted = (first, second, scope, metric)
        return next((g for g in self.gaps if (g.first, g.second, g.scope, g.metric) == wanted), None)

    @property
    def main_rows(self) -> list[Row]:
        """The rows that are no point of a sweep."""
        return [row for row in self.rows if row.point is None]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        held = {name: getattr(self, name) for name in ("unit", "windows", "titles", "reference", "rates")}
        return {
            "schema_version": 1,
            "asked": self.asked.to_dict(),
            **held,
            "rows": [asdict(row) for row in self.rows],
            "gaps": [asdict(one) for one in self.gaps],
            "costs": {name: one.to_dict() for name, one in self.costs.items()},
            "missing": list(self.missing),
            "failed": dict(self.failed),
        }


def read_results(folder: CompareFolder) -> Results:
    """Everything that the finished predictions say.

    Raises:
        EdgebError: no comparison, no windows yet, or a damaged file.
    """
    asked, windows = folder.read(), read_windows(folder.windows)
    planned = entries(asked)
    sources = read_sources(asked, planned, windows, folder)
    wanted = scopes(windows, asked.cold)
    found = {s.name: {w.name: o for w in wanted if (o := outcomes(s, w, windows)) is not None} for s in sources}
    points = {entry.name: entry.point for entry in planned}
    files = [(f"{e.name}-seed{s}", e, s) for e in planned for s in e.seeds]
    left = [n for n, e, s in files if not all(folder.predictions(e.name, s, h).is_file() for h in e.sets)]
    errors = {name: folder.error_of(name) for name in left}
    reference, answers = _reference(sources, asked, windows), folder.answers()
    return Results(
        asked=asked,
        unit=windows.unit,
        windows={w.name: _counted(w, found) for w in wanted},
        titles={w.name: w.title for w in wanted},
        rows=tuple(_row(s, asked, points.get(s.name), wanted, found[s.name], answers) for s in sources),
        reference=reference,
        gaps=tuple(_gaps(sources, reference, wanted, found)),
        rates=folder.rates(),
        costs=folder.costs(),
        missing=tuple(name for name, error in errors.items() if error is None),
        failed={name: error for name, error in errors.items() if error is not None},
    )


def _reference(sources: Sequence[Source], asked: Asked, windows: Windows) -> str | None:
    truth = windows.validation.truth
    plain = [s for s in sources if not s.derived and s.system not in asked.learned]
    if not plain:
        return None
    return max(plain, key=lambda s: float((s.scores[0]["validation"].argmax(1) == truth).mean())).name


def _row(
    source: Source,
    asked: Asked,
    point: Point | None,
    wanted: Sequence[Scope],
    found: Mapping[str, Outcomes],
    answers: Mapping[str, Mapping[str, Any]],
) -> Row:
    measured = {w.name: measure(found[w.name], w.metrics) for w in wanted if w.name in found}
    return Row(
        source.name,
        source.title,
        source.system,
        source.derived,
        source.seeds,
        source.system in asked.learned,
        float(np.mean(source.tau)) if source.tau else None,
        point,
        measured,
        {} if source.derived else answers.get(f"{source.name}-seed{source.seeds[0]}", {}),
    )


def _gaps(
    sources: Sequence[Source],
    reference: str | None,
    wanted: Sequence[Scope],
    found: Mapping[str, Mapping[str, Outcomes]],
) -> list[Gap]:
    names = [source.name for source in sources if "@" not in source.name]
    gaps = []
    for first, second in dict.fromkeys(_pairs(names, reference)):
        for scope in wanted:
            ours, theirs = found[first].get(scope.name), found[second].get(scope.name)
            if ours is None or theirs is None:
                continue
            for metric in _metrics(scope):
                one = gap(ours, theirs, (first, second), scope.name, metric)
                if one is not None:
                    gaps.append(one)
    return gaps


def _pairs(names: Sequence[str], reference: str | None) -> list[tuple[str, str]]:
    """Each row minus the reference and minus plain fine-tuning, each mixture minus its parts and minus plain's."""
    pairs = [(n, r) for r in (reference, PLAIN) if r in names for n in names if r is not None and n != r]
    # How methods of tuning are chosen among: as a bundle answers (docs/train.md).
    mixed = PLAIN + MIXED
    pairs += [(n, mixed) for n in names if mixed in names and n.endswith(MIXED) and n != mixed]
    for name in names:
        if name.endswith(SHUFFLED):
            pairs.append((name, HABITS))
            pairs.append((name.removesuffix(SHUFFLED) + MIXED, name))
        elif name.endswith(MIXED):
            pairs += [(name, name.removesuffix(MIXED)), (name, HABITS)]
        elif name.endswith(PRIOR):
            pairs.append((name, name.removesuffix(PRIOR)))
            if name.endswith(MIXED + PRIOR):
                pairs += [(name, name.removesuffix(MIXED + PRIOR)), (name, HABITS)]
                pairs += [(name, f"{HABITS}{PRIOR}")] if f"{HABITS}{PRIOR}" in names else []
    return pairs


def _metrics(scope: Scope) -> tuple[str, ...]:
    return (*_RECALLS, "nll") if scope.name in PROTOCOLS else ("weighted_recall",)


def _counted(scope: Scope, found: Mapping[str, Mapping[str, Outcomes]]) -> dict[str, int]:
    one = next((held[scope.name] for held in found.values() if scope.name in held), None)
    return {"windows": int(scope.rows.sum()), "units": 0 if one is None else len(np.unique(one.units))}
