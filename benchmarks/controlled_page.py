"""controlled.md: the tables and sentences of `benchmarks/controlled.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_behavior.util.markdown import markdown_table
from edge_behavior.util.numbers import difference, number

ARMS = {"with": "text with tail contexts", "without": "text that only names the tail"}
RULES = ("intended", "as-printed")
MODELS = ("untuned", "a_tuning", *RULES)
TITLES = {"untuned": "untuned", "a_tuning": "after A-Tuning", **{r: f"after B-Tuning, {r}" for r in RULES}}


def run_name(arm: str, rule: str, seed: int) -> str:
    return f"{arm}-{rule}-seed{seed}"


def verdict(held: Mapping[str, Any]) -> str:
    """Up or down only if the interval over users excludes 0 and every seed has the same sign."""
    low, high = held["interval_users"]
    if low > 0 and min(held["values"]) > 0:
        return "up"
    if high < 0 and max(held["values"]) < 0:
        return "down"
    return "not distinguished from 0"


def sentences(result: Mapping[str, Any]) -> list[str]:
    """An answer to each question, as far as its interval allows."""
    d = result["differences"]

    def say(title: str, metric: str) -> str:
        held = d[title][metric]
        seeds = ", ".join(difference(value) for value in held["values"])
        return (
            f"{metric} {difference(held['mean'])} {_span(held['interval_users'])} (seeds {seeds}): **{verdict(held)}**"
        )

    found = []
    for arm, text in ARMS.items():
        a = f"{arm}: A-Tuning − untuned"
        found.append(
            f"**A-Tuning, {text}**: {say(a, 'balanced tail')}; {say(a, 'ln p of balanced tail')}; "
            f"{say(a, 'balanced head')}; {say(a, 'natural accuracy')}."
        )
        for rule in RULES:
            b = f"{arm}: B-Tuning ({rule}) − A-Tuning"
            found.append(
                f"**B-Tuning ({rule}), {text}**: {say(b, 'balanced tail')}; {say(b, 'ln p of balanced tail')}; "
                f"{say(b, 'balanced head')}; {say(b, 'natural accuracy')}."
            )
        r = f"{arm}: intended − as-printed"
        shown = ("balanced overall", "balanced tail", "ln p of balanced tail", "balanced head", "natural accuracy")
        found.append(f"**Rules, {text}**, intended minus as-printed: {'; '.join(say(r, m) for m in shown)}.")
    return found


def _span(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"[{difference(interval[0])}, {difference(interval[1])}]"


def page(result: Mapping[str, Any]) -> str:
    """The whole page."""
    heads = list(result["support"])
    seeds, setup = result["seeds"], result["setup"]
    lines = [
        "# Tail knowledge in the backbone: a controlled experiment on stand-ins",
        "",
        f"    {result['command']}",
        "",
    ]
    lines += [setup["text"], ""]
    lines += [
        f"Mean over {len(seeds)} seeds; ± is the 95 % Student t interval over seeds. “Unseen”: the true behavior is "
        f"not among the window's {result['recipe']['layout']['history_length']} past events, so it cannot be copied. "
        "Counters on the same windows for comparison.",
        "",
    ]
    shown = []
    for name, held in result["counters"].items():
        shown.append([name, *(number(held.get(m)) for m in heads)])
    for arm, rows in result["levels"].items():
        for model, held in rows.items():
            shown.append([f"{arm}: {TITLES[model]}", *(_level(held[m]) for m in heads)])
    lines += markdown_table(["", *heads], shown)
    support = result["support"]
    lines += ["", "Windows (behaviors): " + ", ".join(
        f"{m} {support[m]['windows']:,} ({support[m]['behaviors']})" for m in heads) + "."]  # fmt: skip
    lines += [
        "",
        "Paired differences: mean, then the 95 % interval over seeds (t), then over users (bootstrap of the mean over "
        "these seeds).",
        "",
    ]
    shown = []
    for title, row in result["differences"].items():
        cells = [
            f"{difference(row[m]['mean'])} {_span(row[m]['interval'])} {_span(row[m]['interval_users'])}" for m in heads
        ]
        shown.append([title, *cells])
    lines += [*markdown_table(["", *heads], shown), "", "## In words", "", setup["verdict"], ""]
    lines += [f"- {sentence}" for sentence in sentences(result)]
    lines += ["", *(f"- {sentence}" for sentence in kept_sentences(result)), ""]
    return "\n".join(lines)


def kept_sentences(result: Mapping[str, Any]) -> list[str]:
    found = []
    for arm in ARMS:
        for rule in RULES:
            steps = [result["runs"][run_name(arm, rule, s)]["b_tuning_best_step"] for s in result["seeds"]]
            found.append(
                f"{arm}, {rule}: in {sum(s == 0 for s in steps)} of {len(steps)} runs no step of stage 2 beat the "
                f"A-tuned weights on validation users, which were kept (kept steps: {', '.join(map(str, steps))})."
            )
    return found


def _level(held: Mapping[str, Any]) -> str:
    if held["interval"] is None:
        return number(held["mean"])
    return f"{number(held['mean'])} ±{number((held['interval'][1] - held['interval'][0]) / 2)}"
