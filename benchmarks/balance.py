"""What the balance dial does on test users, by a source that needs no model: the users' own habits.

    python -m edge_behavior data import dataset_TSMC2014_NYC.txt.gz --format tsmc2014 --out out/nyc
    python -m benchmarks.balance foursquare-nyc out/nyc

Fits τ on the validation users as export does, and measures it on the test users, beside τ = 0 and the τ whose mean
recall on the validation users is the highest. Writes results/balance-NAME.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from edge_behavior.core.balance import balance_offsets
from edge_behavior.data.dataset import Dataset
from edge_behavior.data.resampling import resampling
from edge_behavior.data.windows import natural_stretches
from edge_behavior.evaluation.balance_tables import balance_lines
from edge_behavior.evaluation.evaluate import metrics_by_protocol
from edge_behavior.evaluation.habits import habit_log_probs
from edge_behavior.evaluation.protocols import EvaluationWindows, WindowChoice
from edge_behavior.evaluation.tables import results_markdown
from edge_behavior.fit.balance import MeasuredBalance, fit_balance
from edge_behavior.fit.mixture import PER_USER, STRETCH, WINDOWS, HeldOut

RESULTS = Path(__file__).parent / "results"
HISTORY = 20


def fitted(dataset: Dataset) -> MeasuredBalance:
    """τ of habits, on as many validation windows as a small bundle is scored on."""
    table, counts = dataset.events("validation"), dataset.candidates.counts
    targets = np.concatenate(natural_stretches(table, HISTORY, STRETCH, PER_USER, WINDOWS[1], 0))
    habits = habit_log_probs(table, targets, counts)
    truth, users = table.behavior[targets].astype(np.int64), table.user_of(targets)
    held = HeldOut(habits, habits, truth, users, dataset.candidates.groups(), resampling=resampling(table, targets))
    return fit_balance(held, counts, fused=False)


def page(name: str, dataset: Dataset) -> str:
    """The result as Markdown."""
    found = fitted(dataset)
    habits = found.sources["habits"]
    best = max(habits.curve, key=lambda balance: habits.curve[balance].overall)
    windows = EvaluationWindows.draw("both", dataset.events("test"), HISTORY, WindowChoice())
    scores = habit_log_probs(windows.table, windows.targets, dataset.candidates.counts)
    results = {
        f"τ = {balance:g}, {why}": metrics_by_protocol(
            windows, scores + balance_offsets(balance, dataset.candidates.counts)
        )
        for balance, why in ((0.0, "without"), (habits.fitted, "fitted"), (best, "highest on validation users"))
    }
    curve = balance_lines({"fitted": found.fitted, "measured": found.to_dict()}, ["habits"])
    return "\n".join(
        [
            f"# The balance dial on {name}",
            "",
            "Made by `python -m benchmarks.balance`: habits, no model. Validation users:",
            "",
            *(f"    {line}" for line in curve.splitlines()),
            "",
            "Test users:",
            "",
            *(results_markdown(results, protocol.name) for protocol in windows.protocols),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="what the page calls the dataset")
    parser.add_argument("data", type=Path, help="a dataset")
    args = parser.parse_args()
    (RESULTS / f"balance-{args.name}.md").write_text(page(args.name, Dataset.open(args.data)), encoding="utf-8")


if __name__ == "__main__":
    main()
