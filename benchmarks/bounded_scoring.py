"""What scoring a tuned model takes and loses where not every label is scored: tokens and time against the bound.

    python -m benchmarks.bounded_scoring --run RUN --data DATA --windows 30 --threads 2

A run's tuned model scores the same windows again and again in one process: every label (`scoring.bound=null`), then the
first ranks and the truth alone, and with the sum over all labels proven within 0.3 to 0.001 nats. Tokens are those of
the label trie, per window and as a share of the window's own prompt; padding is in the time only. What a bound costs in
accuracy is measured against every label's score: metrics, the truth's log-probability, and the normalizer.

Then all windows of some users in a row, as a session keeps them (`scoring.windows=session`), beside each window alone:
tokens, time, accuracy and NLL, with a paired interval over users. The raw numbers are written after every step to
results/bounded-scoring.json, the table to the .md, where a `note` added to the JSON by hand is shown, too.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_behavior.core import REBASE_EVERY
from edge_behavior.core.scoring import log_softmax
from edge_behavior.core.search import Goal
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.data.windows import eligible, natural_windows
from edge_behavior.evaluation.metrics import expected_ranks
from edge_behavior.hf.tree_scoring import PromptScores
from edge_behavior.train.rows.windows import WindowSet, draw_formats
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.run.models import RunModels
from edge_behavior.train.stages.scoring import ScoringPass, proving, score_windows

RESULTS = Path(__file__).parent / "results"
BOUNDS = (0.3, 0.1, 0.03, 0.01, 0.001)
RESAMPLES = 2_000


@dataclass(frozen=True)
class Measured:
    """Scores of some windows, and what they took."""

    scores: PromptScores
    seconds: float


class Case:
    """A run's model and its windows."""

    def __init__(self, run: Path, data: Path, stage: str, dtype: str, tokens: int) -> None:
        folder, dataset = RunFolder.open(run), Dataset.open(data)
        models = RunModels(folder, folder.recipe.backbone.model_copy(update={"dtype": dtype}))
        self.model, self.encoder = models.load(stage), models.encoder
        self.table: EventTable = dataset.events("validation")
        self.length, self.tokens = folder.layout.history_length, tokens

    def windows(self, targets: NDArray[np.int64], rebase_every: int | None = None) -> WindowSet:
        """As `edgeb evaluate` asks them."""
        return WindowSet(self.table, targets, draw_formats(self.encoder, len(targets), 0), rebase_every)

    def measure(self, windows: WindowSet, goal: Goal) -> Measured:
        """Score, and time it."""
        started = time.perf_counter()
        scores = score_windows(self.model, self.encoder, windows, ScoringPass("windows", self.tokens, goal))
        return Measured(scores, time.perf_counter() - started)

    def prompt_tokens(self, windows: WindowSet) -> int:
        """Tokens behind the static part, those that windows share once."""
        static = len(self.encoder.static_ids)
        return sum(len(one.ids) - static for one in windows.prompts(self.encoder, Goal())[0])


def quality(scores: PromptScores, truth: NDArray[np.int64]) -> dict[str, float]:
    """The metrics that a bound might change."""
    ranks = expected_ranks(scores.log_probs, truth)
    return {
        "accuracy": float((scores.log_probs.argmax(1) == truth).mean()),
        "hit_at_3": float((ranks <= 3).mean()),
        "hit_at_5": float((ranks <= 5).mean()),
        "mrr": float((1 / ranks).mean()),
        "nll": float(losses(scores, truth).mean()),
    }


def losses(scores: PromptScores, truth: NDArray[np.int64]) -> NDArray[np.float64]:
    """[n] negative log-likelihood of the truth among the candidates."""
    return np.asarray(-log_softmax(scores.log_probs)[np.arange(len(truth)), truth])


def curve(case: Case, targets: NDArray[np.int64], keep: Any) -> list[dict[str, Any]]:
    """One row per goal, the first of every label."""
    windows = case.windows(targets)
    truth, rows, own = windows.truth, np.arange(len(targets)), case.prompt_tokens(windows)
    goals = {"every label": Goal(), "first": Goal(1), "first 5": Goal(5)}
    goals |= {f"first 5, {bound:g} nats": proving(5, bound) for bound in BOUNDS}
    found: list[dict[str, Any]] = []
    whole = None
    for name, goal in goals.items():
        measured = case.measure(windows, goal)
        scores = measured.scores
        whole = whole or measured
        total, exact = (np.logaddexp.reduce(s.log_probs, axis=1) for s in (scores, whole.scores))
        lower = np.logaddexp.reduce(np.where(scores.known, scores.log_probs, -np.inf), axis=1)
        found.append(
            {
                "goal": name,
                "bound": None if goal.everything else float(-np.log1p(-min(goal.tolerance, 1 - 1e-9))),
                "trie_tokens": float(scores.trie_tokens.mean()),
                "share_of_prompt": float(scores.trie_tokens.sum() / own),
                "seconds": measured.seconds,
                "times_as_fast": whole.seconds / measured.seconds,
                "known": float(scores.known.mean(1).mean() * scores.known.shape[1]),
                **quality(scores, truth),
                "same_first": float((scores.log_probs.argmax(1) == whole.scores.log_probs.argmax(1)).mean()),
                "truth_differs": float(
                    np.abs(scores.log_probs[rows, truth] - whole.scores.log_probs[rows, truth]).max()
                ),
                "proven_within": float((total - lower).max()),
                "normalizer_off": float(np.abs(total - exact).max()),
                "normalizer_off_mean": float(np.abs(total - exact).mean()),
            }
        )
        keep(found)
        print(json.dumps(found[-1]), flush=True)
    return found


def shared(case: Case, targets: NDArray[np.int64], bound: float | None, keep: Any) -> dict[str, Any]:
    """Windows alone beside windows of a session: cost and quality."""
    goal, found = proving(5, bound), dict[str, Any]()
    users, wrong = case.table.user_of(targets), dict[str, NDArray[np.float64]]()
    for name, rebase in (("alone", None), ("session", REBASE_EVERY)):
        windows = case.windows(targets, rebase)
        measured = case.measure(windows, goal)
        nll, right = losses(measured.scores, windows.truth), measured.scores.log_probs.argmax(1) == windows.truth
        wrong[name], wrong[f"{name} right"] = nll, right.astype(np.float64)
        found[name] = {
            "windows": len(targets),
            "users": len(np.unique(users)),
            "prompt_tokens": case.prompt_tokens(windows) / len(targets),
            "trie_tokens": float(measured.scores.trie_tokens.mean()),
            "seconds": measured.seconds,
            **quality(measured.scores, windows.truth),
        }
        keep(found)
    for what, end in (("nll", ""), ("accuracy", " right")):
        found[f"{what}_difference"] = paired(wrong[f"session{end}"] - wrong[f"alone{end}"], users)
    keep(found)
    return found


def paired(difference: NDArray[np.float64], users: NDArray[np.int64]) -> list[float]:
    """Mean, and a 95 % percentile bootstrap interval over users."""
    _, unit = np.unique(users, return_inverse=True)
    count, total = np.bincount(unit), np.bincount(unit, difference)
    drawn = np.random.default_rng(0).multinomial(len(count), np.full(len(count), 1 / len(count)), size=RESAMPLES)
    low, high = np.percentile((drawn @ total) / (drawn @ count), [2.5, 97.5])
    return [float(difference.mean()), float(low), float(high)]


def page(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    rounding = max(row["truth_differs"] for row in document["curve"])
    lines = [
        "# Scoring as many labels as a metric needs",
        f"`{document['command']}`",
        f"{document['backbone']}, tuned on Foursquare-NYC: {document['labels']} labels, a trie of {document['trie']} "
        f"tokens, {document['windows']} windows with {document['prompt_tokens']:.0f} tokens of their own behind "
        f"{document['static']} that all share. {document['machine']}. Every row proves the first ranks it names and "
        "scores the truth; with a bound, the sum over all labels is proven within that many nats. Speed is relative to "
        "every label in the same process, one turn each. Normalizer: the difference to the true one, the largest and "
        f"the mean of the windows. The truth's own score, exact in every row, differs by up to {rounding:.1g} nats "
        "between rows, which is rounding in batches of other shapes.",
    ]
    rows = [
        "| proven | trie tokens | of the prompt's | labels scored | as fast | same first | accuracy | hit@5 | MRR "
        "| NLL | normalizer off (mean) |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    ]
    for row in document["curve"]:
        off = f"{row['normalizer_off']:.1e} ({row['normalizer_off_mean']:.1e})"
        rows.append(
            f"| {row['goal']} | {row['trie_tokens']:.0f} | {row['share_of_prompt']:.2f} | {row['known']:.0f} "
            f"| {row['times_as_fast']:.2f} | {row['same_first']:.3f} | {row['accuracy']:.3f} | {row['hit_at_5']:.3f} "
            f"| {row['mrr']:.4f} | {row['nll']:.4f} | {off} |"
        )
    lines.append("\n".join(rows))
    by_goal = {row["goal"]: row for row in document["curve"]}
    first, chosen = by_goal["first"], by_goal["first 5, 0.1 nats"]
    lines.append(
        f"First candidate and truth alone take {1 + first['share_of_prompt']:.2f} times the prompt's own tokens. "
        f"`scoring.bound` is 0.1 nats by default: {1 + chosen['share_of_prompt']:.2f} times, and NLL is off by "
        f"{chosen['normalizer_off_mean']:.3f} nats in the mean, since labels that were not looked at hold nearly as "
        "much as their bound says."
    )
    if "note" in document:
        lines.append(document["note"])
    if "shared" in document:
        held = document["shared"]
        lines.append(
            "## Windows of a session\n\nAll windows of some users in a row, each alone (its last L events) and as a "
            f"session keeps them (L to L + {REBASE_EVERY} events, one sequence for all in between)."
        )
        rows = [
            "| windows | count | prompt tokens each | trie tokens each | seconds | accuracy | NLL |\n"
            "|---|---:|---:|---:|---:|---:|---:|"
        ]
        rows += [
            f"| {name} | {held[name]['windows']} | {held[name]['prompt_tokens']:.0f} | "
            f"{held[name]['trie_tokens']:.0f} | {held[name]['seconds']:.1f} | {held[name]['accuracy']:.3f} | "
            f"{held[name]['nll']:.4f} |"
            for name in ("alone", "session")
        ]
        lines.append("\n".join(rows))
        accuracy, nll = ("{:+.4f} [{:+.4f}, {:+.4f}]".format(*held[f"{x}_difference"]) for x in ("accuracy", "nll"))
        lines.append(f"Session minus alone, 95 % over {held['alone']['users']} users: accuracy {accuracy}, NLL {nll}.")
    return "\n\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write results as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--stage", default="a_tuning")
    parser.add_argument("--dtype", default="float32", help="bfloat16 rounds by more than a bound is worth")
    parser.add_argument("--windows", type=int, default=30)
    parser.add_argument("--users", type=int, default=4, help="whose windows are scored in a row; 0 leaves that out")
    parser.add_argument("--in-a-row", type=int, default=30, help="windows of each of them")
    parser.add_argument("--bound", type=float, default=0.1, help="of the windows in a row")
    parser.add_argument("--tokens", type=int, default=8192, help="scoring.tokens_per_pass")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    case = Case(args.run, args.data, args.stage, args.dtype, args.tokens)
    targets = natural_windows(case.table, case.length, per_user=20, limit=args.windows, seed=0)
    config = case.model.config
    document: dict[str, Any] = {
        "command": f"python -m benchmarks.bounded_scoring --run RUN --data DATA --dtype {args.dtype} "
        f"--windows {args.windows} --users {args.users} --in-a-row {args.in_a_row} --threads {args.threads}",
        "measured": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, threads: {args.threads}, {case.model.dtype}, torch {torch.__version__}",
        "backbone": f"{config.model_type}, {config.num_hidden_layers} layers of {config.hidden_size}",
        "windows": len(targets),
        "labels": case.encoder.trie.n_candidates,
        "trie": len(case.encoder.trie.evaluated),
        "static": len(case.encoder.static_ids),
        "prompt_tokens": case.prompt_tokens(case.windows(targets)) / len(targets),
    }
    args.out.mkdir(parents=True, exist_ok=True)

    def keep(name: str) -> Any:
        def write(found: Any) -> None:
            document[name] = found
            (args.out / "bounded-scoring.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

        return write

    curve(case, targets, keep("curve"))
    if args.users:
        every = eligible(case.table, case.length)
        users = case.table.user_of(every)
        counts = np.bincount(users)
        busy = np.flatnonzero(counts >= args.in_a_row)[: args.users]
        in_a_row = np.concatenate([every[users == user][: args.in_a_row] for user in busy])
        shared(case, in_a_row, args.bound, keep("shared"))
    (args.out / "bounded-scoring.md").write_text(page(document), encoding="utf-8")
    print(page(document))


if __name__ == "__main__":
    main()
