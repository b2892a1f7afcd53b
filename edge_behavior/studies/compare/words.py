"""A comparison in words: what won where, by how much, and what cannot be told.

Sentences of numbers that `results` holds; computes none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_behavior.studies.compare.measure import Gap
from edge_behavior.studies.compare.results import PLAIN, Results, Row
from edge_behavior.studies.compare.sources import HABITS, MIXED, PRIOR, SHUFFLED
from edge_behavior.util.numbers import difference_within, number

_UNITS = {"users": "people", "groups": "groups of people", "day_blocks": "blocks of days"}
_FEW_UNITS = 20
_METRIC = {
    "weighted_recall": "accuracy",
    "overall": "mean recall per behavior",
    "tail": "recall of rare behaviors (tail)",
    "nll": "mean loss in nats",
}


def verdict(results: Results) -> list[str]:
    """The paragraph: a list of sentences, empty where nothing is scored."""
    scope = main_scope(results)
    rows = [row for row in results.main_rows if not row.derived and row.value(scope) is not None]
    if not rows:
        return []
    best = _best(rows, scope)
    sentences = [f"Of the systems as they are, {best.title} is right most often on {_where(results, scope)}: "
                 f"{_shown(best, scope)}."]  # fmt: skip
    second = _best([row for row in rows if row is not best], scope) if len(rows) > 1 else None
    if second is not None:
        gap = results.gap(best.name, second.name, scope)
        told = results.gap(second.name, best.name, scope) if gap is None else None
        if gap is not None:
            sentences.append(gap_sentence(results, gap))
        elif told is not None:
            sentences.append(gap_sentence(results, flipped(told)))
        else:
            sentences.append(f"Next is {second.title}, {_shown(second, scope)}.")
    subject = _subject(results, scope)
    if subject is not None:
        sentences += _subject_sentences(results, subject, scope)
    sentences += _scope_winners(results, rows)
    return sentences


def main_scope(results: Results) -> str:
    """The protocol that the first question is asked of: natural where it was measured."""
    return "natural" if "natural" in results.titles else "balanced"


def gap_sentence(results: Results, gap: Gap) -> str:
    """One paired difference: who is ahead by how much, or that the two are not told apart and what would settle it."""
    first, second = (_title(results, name) for name in (gap.first, gap.second))
    metric, where = _METRIC.get(gap.metric, gap.metric), results.titles[gap.scope]
    low, high = gap.interval
    ahead = -gap.sign if gap.metric == "nll" else gap.sign
    if ahead:
        verb = "ahead of" if ahead > 0 else "behind"
        near, far = sorted((abs(low), abs(high)))
        by = f"{number(abs(gap.value))} [{number(near)}, {number(far)}]"
        return f"{first} is {verb} {second} by {by} in {metric} on {where}."
    if low == high == 0:
        return f"{first} and {second} have the same {metric} on {where}, in every resample."
    shown = difference_within(gap.value, gap.interval)
    text = f"{first} and {second} are not told apart in {metric} on {where}: {shown}"
    people = _UNITS[results.unit]
    settle = f"; about {gap.needed:,} {people} instead of {gap.units:,} would settle it" if gap.needed else ""
    return f"{text}{settle}."


def flipped(gap: Gap) -> Gap:
    """The same difference seen from the other side."""
    low, high = gap.interval
    return Gap(gap.second, gap.first, gap.scope, gap.metric, -gap.value, (-high, -low), gap.units, gap.needed)


def method_sentences(results: Results) -> list[str]:
    """How the numbers were made."""
    sizes, unit = results.asked.sizes, _UNITS[results.unit]
    counts = sorted({len(results.asked.seeds_of(name)) for name in results.asked.learned})
    seeds = " or ".join(map(str, counts)) or "1"
    found = [
        f"Intervals are 95 % bootstrap intervals over whole {unit}, the same resamples for all systems; a difference "
        "is resampled as a difference. They are not corrected for multiple comparisons.",
        f"Systems that learn ran with {seeds} seed{'' if seeds == '1' else 's'}; a window counts with the mean of its "
        "outcomes.",
        f"Mixing weights and τ are fitted on {sizes.validation} windows, at most, of validation users; no test window "
        "decides anything.",
        "How many would settle a difference: the number measured, times the square of (distance from the difference to "
        "the interval's end beyond zero, divided by the difference), since an interval's width goes with one over the "
        "root of their number.",
    ]
    if sizes.rate_targets and results.rates:
        rates = ", ".join(f"{name} {held['rate']:g}" for name, held in results.rates.items())
        found.append(
            f"Learning rates were chosen by the loss on validation windows after {sizes.rate_targets:,} training "
            f"targets each: {rates}."
        )
        if lost := _diverged(results):
            found.append(f"Training diverged at these rates: {', '.join(lost)}.")
    if results.asked.settings:
        found.append(f"Settings other than by default: {', '.join(_settings(results.asked.settings))}.")
    if sizes.small_targets:
        found.append(
            f"Small networks learn from {sizes.small_targets:,} targets at most, counters and habits from all events."
        )
    return found


def state_sentences(results: Results) -> list[str]:
    """What is missing and what failed."""
    found = []
    if results.missing:
        found.append(f"Not finished ({len(results.missing)}): {', '.join(results.missing)}.")
    found += [f"{name} failed: {error}" for name, error in results.failed.items()]
    units = results.windows[main_scope(results)]["units"]
    if units < _FEW_UNITS:
        found.append(f"Only {units} {_UNITS[results.unit]} were measured: intervals over so few say little.")
    return found or ["Everything is scored."]


def answer_sentences(results: Results, sets: Sequence[str]) -> list[str]:
    """How systems answered that are asked for text, and how often outside the list, on some sets of windows."""
    found = []
    for row in results.main_rows:
        held = [row.answers[name] for name in sets if name in row.answers]
        if held:
            windows, outside = (sum(one[name] for one in held) for name in ("windows", "outside"))
            kinds = " and ".join(dict.fromkeys(one["kind"] for one in held))
            found.append(f"{row.title}: answers by {kinds}, {outside:,} of {windows:,} outside the list.")
    return found


def _settings(held: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`llara.curriculum 0.5` for every setting of every system."""
    found = []
    for name, value in held.items():
        key = f"{prefix}{name}"
        found += _settings(value, f"{key}.") if isinstance(value, Mapping) else [f"{key} {value}"]
    return found


def _diverged(results: Results) -> list[str]:
    """Systems, each with the rates at which it diverged."""
    rates = {name: [r for r, loss in held["measured"].items() if loss is None] for name, held in results.rates.items()}
    return [f"{name} {' and '.join(lost)}" for name, lost in rates.items() if lost]


def _subject(results: Results, scope: str) -> Row | None:
    """What the mixture sentences are about: the most accurate system that learns and has a mixture."""
    mixed = [row for row in results.main_rows if not row.derived and row.learned and results.row(row.name + MIXED)]
    return _best(mixed, scope) if mixed else None


def _subject_sentences(results: Results, row: Row, scope: str) -> list[str]:
    mixed, found = row.name + MIXED, []
    for second in dict.fromkeys((row.name, HABITS, results.reference)):
        gap = None if second in (None, mixed) else results.gap(mixed, str(second), scope)
        if gap is not None:
            found.append(gap_sentence(results, gap))
    wanted = [
        (row.name + MIXED + PRIOR, mixed, "balanced", "overall"),
        (row.name, results.reference, "return", "weighted_recall"),
        (row.name, results.reference, "discovery", "weighted_recall"),
        (row.name, results.reference, "cold0", "weighted_recall"),
        (row.name, results.reference, "balanced", "tail"),
    ]
    if row.name != PLAIN:
        wanted.append((row.name, PLAIN, scope, "weighted_recall"))
    gaps = [results.gap(a, b, s, m) for a, b, s, m in wanted if b is not None]
    found += [gap_sentence(results, gap) for gap in dict.fromkeys(gaps) if gap is not None]
    control = results.gap(row.name + SHUFFLED, HABITS, scope)
    if control is not None:
        found.append(
            f"Noise control: mixed with the scores of {row.title} shuffled between windows, habits change by "
            f"{difference_within(control.value, control.interval)}, which is what weights per group do without knowing "
            "the window."
        )
        gain = results.gap(mixed, row.name + SHUFFLED, scope)
        if gain is not None:
            found.append(gap_sentence(results, gain))
    return found


def _scope_winners(results: Results, rows: Sequence[Row]) -> list[str]:
    found = []
    for scope, metric in (("return", "weighted_recall"), ("discovery", "weighted_recall"), ("cold0", "weighted_recall"),
                          ("balanced", "overall"), ("balanced", "tail")):  # fmt: skip
        known = [row for row in rows if row.value(scope, metric) is not None]
        if len(known) > 1:
            best = _best(known, scope, metric)
            told = f"{best.title}, {_shown(best, scope, metric)}" if best.value(scope, metric) else "none is ever right"
            found.append(f"{results.titles[scope]} ({_METRIC[metric]}): {told}")
    return [f"Highest value by question, whether or not it is told apart: {'; '.join(found)}."] if found else []


def _best(rows: Sequence[Row], scope: str, metric: str = "weighted_recall") -> Row:
    return max(rows, key=lambda row: row.value(scope, metric) or 0.0)


def _shown(row: Row, scope: str, metric: str = "weighted_recall") -> str:
    held = row.scopes[scope][metric]
    if held.interval is None:
        return number(held.value)
    return f"{number(held.value)} [{number(held.interval[0])}, {number(held.interval[1])}]"


def _where(results: Results, scope: str) -> str:
    held = results.windows[scope]
    return f"{held['windows']:,} {results.titles[scope]} of {held['units']:,} {_UNITS[results.unit]}"


def _title(results: Results, name: str) -> str:
    row = results.row(name)
    return name if row is None else row.title
