"""Makes what the app opens with, out of the folder of a demo: a small model, and some weeks of one simulated user.

    make demo BACKBONE=standin
    python -m android_demo.tools.sample out/demo

The model is the demo's bundle as it is: a language model of under a megabyte, with all that a bundle can carry, so that
the app shows what it does with one of any size. The weeks are those of the first user of the test split, whom the model
was not trained on. Both go to the app's assets; the app moves the weeks so that they end now.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path

from edge_behavior.bundle.bundle import verify_bundle
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.records.history import FIELDS
from edge_behavior.util.files import write_file

ASSETS = Path(__file__).resolve().parents[1] / "app" / "src" / "main" / "assets"
BUNDLE, LOG = "sample.gguf", "sample-day.csv"
# What a repository and a first download can bear.
MOST_BYTES = 2_000_000
# Some weeks, so that every weekday has been there when the app moves them.
_DAYS = 21


def main(arguments: list[str] | None = None) -> int:
    """Write the assets.

    Returns:
        0, or 2 for a folder that is no demo's or a model that is too large.
    """
    parser = argparse.ArgumentParser(prog="sample", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("demo", type=Path, help="folder of a finished demo")
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder to write to (default: the app's assets)")
    asked = parser.parse_args(arguments)
    try:
        make_sample(asked.demo, asked.out)
    except EdgebError as error:
        print(f"sample: {error.message} ({error.hint})", file=sys.stderr)
        return 2
    return 0


def make_sample(demo: Path, out: Path) -> None:
    """Write the two files; neither is touched where the demo does not fit.

    Raises:
        EdgebError: no bundle, a damaged one, one above MOST_BYTES, or no data with whole weeks.
    """
    bundle = demo / "behavior.gguf"
    if not bundle.is_file():
        raise EdgebError(f"{bundle} is missing", "run make demo BACKBONE=standin first")
    verify_bundle(bundle)
    content = bundle.read_bytes()
    if len(content) > MOST_BYTES:
        raise EdgebError(f"{bundle} has {len(content)} bytes, {MOST_BYTES} at most", "take the demo of the stand-in")
    log = _as_csv(_weeks(Dataset.open(demo / "data")))
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / BUNDLE, content)
    write_file(out / LOG, log)


def _weeks(data: Dataset) -> list[BehaviorEvent]:
    """The last weeks of the first test user."""
    table = data.events("test")
    own = slice(int(table.user_offsets[0]), int(table.user_offsets[1]))
    days = table.time[own].astype("datetime64[D]")
    if len(days) == 0 or (days[-1] - days[0]).astype(int) + 1 < _DAYS:
        raise EdgebError(f"{data.path}: its first test user has less than {_DAYS} days", "run make demo again")
    return [
        BehaviorEvent(
            table.places[table.place[i]], table.time[i].astype(object), table.candidates.labels[table.behavior[i]]
        )
        for i in range(own.start, own.stop)
        if (days[-1] - table.time[i].astype("datetime64[D]")).astype(int) < _DAYS
    ]


def _as_csv(events: list[BehaviorEvent]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows((e.time.isoformat(timespec="minutes"), e.place, e.behavior) for e in events)
    return text.getvalue()


if __name__ == "__main__":
    sys.exit(main())
