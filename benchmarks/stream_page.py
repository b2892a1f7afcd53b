"""The page that stream_training.py writes: what each arm took, how well it predicts, and the answer in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_behavior.core.candidates import GROUPS

MEASURES = ("accuracy", "overall", *GROUPS)


def page(document: dict[str, Any]) -> str:
    took, found = document["took"], document["evaluation"]
    seeds = "one seed" if len(document["seeds"]) == 1 else f"{len(document['seeds'])} seeds"
    lines = [
        f"# A loss at every event against one label per prompt: {document['dataset']}",
        f"`{document['command']}`",
        f"Stand-in backbone of {document['parameters']:,} parameters (not a pretrained model), {seeds}, one CPU "
        "thread. `dense` is the `stream` layout as edgeb trains it; `last` has the same text and a loss on the last "
        "label of a whole window only. Of the learning rates tried an arm takes the one that validation windows "
        "favour. Counts are of one seed's training, mean over seeds; tokens without padding; "
        "seconds are wall time (CPU time) of training and its four validations, on a machine that was not idle.",
        "| arm | rate of each seed | optimizer steps | sequences | supervised targets | tokens | tokens per target "
        "| seconds (CPU) | validation loss |\n|---|---|" + "---:|" * 7,
    ]
    for name, runs in took.items():
        counted = [key for key in runs[0] if key not in ("past_events", "validation_loss_by_rate")]
        mean = {key: float(np.mean([run[key] for run in runs])) for key in counted}
        rates = " ".join(f"{run['learning_rate']:g}" for run in runs)
        lines[-1] += (
            f"\n| {name} | {rates} | {mean['optimizer_steps']:.0f} | {mean['sequences']:.0f} | {mean['targets']:.0f} "
            f"| {mean['tokens']:.0f} | {mean['tokens_per_target']:.1f} | {mean['seconds']:.0f} "
            f"({mean['cpu_seconds']:.0f}) | {mean['validation_loss']:.3f} |"
        )
    for protocol, result in found.items():
        lines.append(
            f"## {protocol.capitalize()} test windows\n\n{result['windows']} windows of {result['users']} users, "
            f"{seeds} together; 95 % intervals by a bootstrap over users (they hold no variation between seeds: "
            "the seeds' own accuracies stand beside). Groups are mean recall per behavior."
        )
        rows = ["| arm | accuracy | per seed | overall | head | medium | tail | NLL |\n|---|---:|---|" + "---:|" * 5]
        rows += [
            f"| {name} | {_cell(arm['accuracy'])} | {' '.join(_short(s['accuracy']) for s in arm['per_seed'])} | "
            + " | ".join(_cell(arm[m]) for m in MEASURES[1:])
            + f" | {arm['nll']:.2f} |"
            for name, arm in result["arms"].items()
        ]
        lines.append("\n".join(rows))
        rows = ["| difference | " + " | ".join(MEASURES) + " |\n|---|" + "---:|" * len(MEASURES)]
        rows += [
            f"| {pair['first']} − {pair['second']} | " + " | ".join(_cell(pair[m], sign=True) for m in MEASURES) + " |"
            for pair in result["differences"]
        ]
        lines.append("\n".join(rows))
    past = document["past_events"]
    p5, p25, p50, p75, p95 = past["percentiles_5_25_50_75_95"]
    lines.append(
        f"## What a target sees\n\nA prediction sees {document['history_length']} past events. A supervised event of a "
        f"`dense` row sees {past['mean']:.1f} on average (5th, 25th, 50th, 75th, 95th percentile {p5}, {p25}, {p50}, "
        f"{p75}, {p95}); {past['fewer_than_prediction']:.0%} see fewer than a prediction, "
        f"{past['more_than_prediction']:.0%} see more."
    )
    lines.append("## The question\n\n" + answer(document))
    return "\n\n".join(lines) + "\n"


def answer(document: dict[str, Any]) -> str:
    """In plain sentences: how many times fewer tokens a target costs, and where accuracy stands."""
    took, arms = document["took"], document["evaluation"]["natural"]["arms"]
    per_target = {name: float(np.mean([run["tokens_per_target"] for run in runs])) for name, runs in took.items()}
    total = {name: float(np.mean([run["tokens"] for run in runs])) for name, runs in took.items()}
    sentences = []
    for pair in document["evaluation"]["natural"]["differences"]:
        one, other = pair["first"], pair["second"]
        if other not in took:
            continue
        low, high = pair["accuracy"]["interval"]
        first, second = (arms[name]["accuracy"]["interval"] for name in (one, other))
        overlap = first[0] <= second[1] and second[0] <= first[1]
        verdict = f"`{one}` is ahead" if low > 0 else f"`{one}` is behind" if high < 0 else "neither is ahead"
        sentences.append(
            f"`{one}` against `{other}`: {per_target[other] / per_target[one]:.1f} times fewer tokens per supervised "
            f"target, {total[other] / total[one]:.1f} times fewer in all; the accuracy intervals "
            f"{'overlap' if overlap else 'do not overlap'}, and by the paired interval {verdict}."
        )
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _short(value: float | None, sign: bool = False) -> str:
    if value is None:
        return "–"
    text = f"{value:+.3f}" if sign else f"{value:.3f}"
    return text.replace("0.", ".", 1)


def _cell(measured: dict[str, Any], sign: bool = False) -> str:
    if measured["value"] is None or measured["interval"] is None:
        return "–"
    low, high = measured["interval"]
    return f"{_short(measured['value'], sign)} [{_short(low, sign)}, {_short(high, sign)}]"
