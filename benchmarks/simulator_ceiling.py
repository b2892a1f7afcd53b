"""How predictable the simulated users are: the simulator's own best guess against simple counters.

    python -m benchmarks.simulator_ceiling             # the table and JSON of results/simulator_ceiling
    python -m benchmarks.simulator_ceiling --fit 10    # fit the behaviors' weights to their target shares, print them

Every window is a user's last 20 events and the next one. Users are halved: the counters that learn from other
users learn from the even ones, everything is measured on the odd ones. The oracle knows the simulator's state,
hidden traits included: nothing can beat the first one's accuracy or the second one's mean recall by more than
luck, and a model that sees the window only must stay below them.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.data.simulator import simulator as synth
from edge_behavior.data.simulator.behaviors import (
    BEHAVIORS,
    FIRST_HOUR,
    LABELS,
    NOISE,
    PLACES,
    Behavior,
    Habit,
    Routine,
)
from edge_behavior.evaluation.counters import HOUR_BUCKET

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

WINDOW = 20
RESULT = Path(__file__).parent / "results" / "simulator_ceiling.json"
B = len(LABELS)


def joined(blocks: Sequence[synth.Events], name: str) -> Ints:
    column: Ints = np.concatenate([getattr(block, name) for block in blocks])
    return column


def window_mode(behaviors: Ints, ends: Ints, match: Sequence[Bools] = ()) -> Ints:
    """Most frequent of the 20 events before each of `ends` that match; ties to the most recent.

    `match` lists conditions [n, WINDOW], strictest first; the first that leaves any event counts.
    """
    past = behaviors[ends[:, None] - np.arange(1, WINDOW + 1)]  # newest first
    kept = np.ones(past.shape, dtype=np.bool_)
    for condition in reversed(match):
        kept = np.where(condition.any(axis=1, keepdims=True), condition, kept)
    votes = np.zeros((len(ends), B))
    rows = np.arange(len(ends))
    for lag in range(WINDOW):
        # 2^-(lag+7) breaks ties: all of them together stay below one event, and a newer one outweighs the older.
        np.add.at(votes, (rows, past[:, lag]), np.where(kept[:, lag], 1 + 2.0 ** -(lag + 7), 0.0))
    best: Ints = votes.argmax(axis=1)
    return best


def counted(keys: Sequence[Ints], behaviors: Ints, train: Ints, test: Ints, least: int = 3) -> Ints:
    """Most frequent behavior among training events with the same key; `keys` are tried in order.

    A key seen less than `least` times in training passes on to the next; the last answers with what there is.
    """
    answer = np.full(len(test), int(np.bincount(behaviors[train], minlength=B).argmax()))
    for key in reversed(keys):
        _, dense = np.unique(key, return_inverse=True)
        counts = np.zeros((dense.max() + 1, B), dtype=np.int32)
        np.add.at(counts, (dense[train], behaviors[train]), 1)
        known = counts.sum(axis=1)[dense[test]] >= least
        answer = np.where(known, counts.argmax(axis=1)[dense[test]], answer)
    return answer


def scores(truth: Ints, guess: Ints, users: Ints, groups: Sequence[str], rng: np.random.Generator) -> dict[str, Any]:
    """Accuracy and mean per-class recall (overall, head, medium, tail) with 95 % intervals over users."""
    _, user = np.unique(users, return_inverse=True)
    totals = np.zeros((user.max() + 1, B))
    hits = np.zeros_like(totals)
    np.add.at(totals, (user, truth), 1)
    np.add.at(hits, (user, truth), truth == guess)

    def measure(weights: Floats) -> dict[str, Floats]:
        hit, total = weights @ hits, weights @ totals
        recall = np.where(total > 0, hit / np.maximum(total, 1), np.nan)
        bins = {"overall": np.ones(B, dtype=np.bool_)} | {g: np.array(groups) == g for g in ("head", "medium", "tail")}
        return {"accuracy": hit.sum(axis=1) / total.sum(axis=1)} | {
            name: np.nanmean(recall[:, mask], axis=1) for name, mask in bins.items()
        }

    point = measure(np.ones((1, len(totals))))
    resampled = measure(rng.multinomial(len(totals), np.full(len(totals), 1 / len(totals)), size=500).astype(float))
    return {
        name: {
            "value": round(float(value[0]), 4),
            "low": round(float(np.percentile(resampled[name], 2.5)), 4),
            "high": round(float(np.percentile(resampled[name], 97.5)), 4),
        }
        for name, value in point.items()
    }


def measure(users: int, days: int, seed: int) -> dict[str, Any]:
    begun = time.perf_counter()
    blocks = list(synth.generate(users, days, seed))
    seconds = time.perf_counter() - begun
    user, minute, place, behavior, most_likely, highest_lift = (
        joined(blocks, name) for name in ("users", "minutes", "places", "behaviors", "most_likely", "highest_lift")
    )
    hour = minute // 60 % 24
    weekend = (synth.START.weekday() + minute // 1440) % 7 >= 5
    position = np.arange(len(user)) - np.searchsorted(user, user)
    ends = np.flatnonzero(position >= WINDOW)
    train, test = ends[user[ends] % 2 == 0], ends[user[ends] % 2 == 1]
    groups = CandidateSet.of(LABELS, np.bincount(behavior, minlength=B).tolist()).groups()

    past = test[:, None] - np.arange(1, WINDOW + 1)
    same_place = place[past] == place[test][:, None]
    same_hour = hour[past] // HOUR_BUCKET == hour[test][:, None] // HOUR_BUCKET
    previous, before, third = (np.roll(behavior, lag) for lag in (1, 2, 3))
    slot = (place * 24 + hour) * 2 + weekend
    context = [
        ((slot * B + previous) * B + before) * B + third,
        (slot * B + previous) * B + before,
        slot * B + previous,
        place * B + previous,
        previous,
    ]
    guesses = {
        "most frequent": counted([], behavior, train, test),
        "mode of the last 20": window_mode(behavior, test),
        "Markov-1": counted([previous], behavior, train, test),
        "mode of the last 20 given the hour": window_mode(behavior, test, [same_hour]),
        "mode of the last 20 given place and hour": window_mode(
            behavior, test, [same_place & same_hour, same_place, same_hour]
        ),
        "context counter": counted(context, behavior, train, test),
        "oracle": most_likely[test],
        "oracle, every behavior counted alike": highest_lift[test],
    }
    counts = np.bincount(behavior, minlength=B)
    hits = np.bincount(behavior[test][most_likely[test] == behavior[test]], minlength=B)
    tests = np.bincount(behavior[test], minlength=B)
    rates = trigger_rates(user, minute, place, behavior)
    rng = np.random.default_rng(0)
    return {
        "command": f"python -m benchmarks.simulator_ceiling --users {users} --days {days} --seed {seed}",
        "users": users,
        "days": days,
        "seed": seed,
        "events": len(user),
        "events_per_user_day": round(len(user) / users / days, 2),
        "place_shares": {p: round(float(s), 4) for p, s in zip(PLACES, np.bincount(place) / len(user), strict=True)},
        "windows": len(test),
        "oracle_nll": round(float(-np.log(np.concatenate([b.probabilities for b in blocks])[test]).mean()), 4),
        "simulation_seconds": round(seconds, 2),
        "environment": environment(),
        "scores": {n: scores(behavior[test], g, user[test], groups, rng) for n, g in guesses.items()},
        "behaviors": [
            {
                "label": b.label,
                "group": group,
                "target_share": b.share,
                "share": round(float(counts[i] / counts.sum()), 6),
                "windows": int(tests[i]),
                "trigger_rate": rates.get(b.label),
                "oracle_recall": round(float(hits[i] / tests[i]), 3) if tests[i] else None,
            }
            for i, (b, group) in enumerate(zip(BEHAVIORS, groups, strict=True))
        ],
    }


def fit(rounds: int, users: int, days: int) -> list[Behavior]:
    """Multiply weights and start chances by target/simulated share until they meet (damped, noise left out)."""
    table = list(BEHAVIORS)
    target = np.array([b.share for b in table])
    target /= target.sum()
    for turn in range(rounds):
        counts = sum(np.bincount(e.behaviors, minlength=B) for e in synth.generate(users, days, turn, behaviors=table))
        share = counts / np.sum(counts)
        ratio = target * (1 - NOISE) / np.maximum(share - NOISE * target, 1e-6)
        for i, step in enumerate(np.clip(ratio, 0.25, 4) ** 0.7):
            cause = table[i].cause
            if isinstance(cause, Routine):
                table[i] = replace(table[i], cause=replace(cause, weight=cause.weight * float(step)))
            else:
                table[i] = replace(table[i], cause=replace(cause, start=min(0.95, cause.start * float(step))))
    scale = sum(b.cause.weight for b in table if isinstance(b.cause, Routine))
    return [
        replace(b, cause=replace(b.cause, weight=b.cause.weight / scale)) if isinstance(b.cause, Routine) else b
        for b in table
    ]


def trigger_rates(user: Ints, minute: Ints, place: Ints, behavior: Ints) -> dict[str, float]:
    """How often each tail behavior follows its trigger, as far as a log shows it: slot and cues, all users alike."""
    shifted = minute - FIRST_HOUR * 60  # the simulated day starts at 05:00
    hour, weekday = shifted // 60 % 24 + FIRST_HOUR, (synth.START.weekday() + shifted // 1440) % 7
    clock_hour = user * (minute.max() // 60 + 1) + minute // 60
    rates = {}
    for code, row in enumerate(BEHAVIORS):
        habit = row.cause
        if not isinstance(habit, Habit):
            continue
        cued = (place == PLACES.index(habit.place)) & np.isin(weekday, habit.days)
        cued &= (hour >= habit.hours[0]) & (hour <= habit.hours[1])
        for lag, cue in enumerate(reversed(habit.cues), start=1):
            cued[:lag] = False
            cued[lag:] &= (clock_hour[lag:] == clock_hour[:-lag]) & (behavior[:-lag] == LABELS.index(cue))
        rates[row.label] = round(float((behavior[cued] == code).mean()), 4)
    return rates


def environment() -> dict[str, str]:
    """What a timing depends on."""
    return {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument(
        "--fit", type=int, metavar="ROUNDS", help="fit weights (on 3,000 users, 28 days) and print them"
    )
    args = parser.parse_args()
    if args.fit:
        for behavior in fit(args.fit, 3000, 28):
            cause = behavior.cause
            print(f"{behavior.label:24s}{cause.start if isinstance(cause, Habit) else cause.weight:.4f}")
        return
    result = measure(args.users, args.days, args.seed)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    names = ("accuracy", "overall", "head", "medium", "tail")
    print(f"{'':42s}" + "".join(f"{name:>10s}" for name in names))
    for predictor, row in result["scores"].items():
        print(f"{predictor:42s}" + "".join(f"{row[name]['value']:10.3f}" for name in names))


if __name__ == "__main__":
    main()
