"""Runs cases in a child process, so that a crash or a hang is an outcome like any other."""

from __future__ import annotations

import multiprocessing
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from edge_behavior.errors import EdgebError

REFUSED, SAME, DIFFERENT = "refused", "same", "silent difference"
# Outcomes that count as failures.
BAD = (DIFFERENT, "crash", "hang", "exception", "left behind")
_HANGS_AFTER = 120.0
_KEPT_EXAMPLES = 20

Judge = Callable[[int], str]


@dataclass
class Outcomes:
    """Counts of outcomes, and the first few bad ones as examples."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, Any]] = field(default_factory=list)

    def add(self, kind: str, case: int, outcome: str) -> None:
        """Count an outcome; its first word up to a colon is its class."""
        name = outcome.partition(":")[0]
        self.counts[f"{kind}: {name}"] += 1
        if name.startswith(BAD) and len(self.examples) < _KEPT_EXAMPLES:
            self.examples.append({"kind": kind, "case": case, "outcome": outcome[:1500]})

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready counts, with the number of bad ones."""
        bad = sum(n for key, n in self.counts.items() if key.partition(": ")[2].startswith(BAD))
        return {"outcomes": dict(sorted(self.counts.items())), "bad": bad, "examples": self.examples}


def judged(make_judge: Callable[[Path], Judge], folder: Path, cases: int, first: int = 0) -> Iterator[tuple[int, str]]:
    """Each case with its outcome, in order.

    Args:
        make_judge: Called in the child with `folder`; importable by name. The judge returns an outcome, or raises.
        folder: Where the child works.
        cases: How many; a case is its number.
        first: The first number.
    """
    context = multiprocessing.get_context("spawn")
    case = first
    while case < first + cases:
        ours, theirs = context.Pipe()
        child = context.Process(target=_serve, args=(make_judge, folder, theirs), daemon=True)
        child.start()
        theirs.close()
        try:
            while case < first + cases:
                ours.send(case)
                if not ours.poll(_HANGS_AFTER):
                    yield case, f"hang: more than {_HANGS_AFTER:.0f} s"
                    break
                try:
                    outcome = ours.recv()
                except EOFError:
                    child.join()
                    yield case, f"crash: exit code {child.exitcode}"
                    break
                yield case, outcome
                case += 1
            else:
                return
        finally:
            ours.close()
            child.kill()
            child.join()
        case += 1


def _serve(make_judge: Callable[[Path], Judge], folder: Path, pipe: Connection) -> None:
    judge = make_judge(folder)
    with suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        while True:
            pipe.send(outcome_of(judge, pipe.recv()))


def outcome_of(judge: Judge, case: int) -> str:
    """The judge's outcome, or the class of what it raised: a one-line refusal, or an exception."""
    try:
        return judge(case)
    except EdgebError as error:
        if "\n" in error.message or not error.message or not error.hint:
            return f"exception: an EdgebError of several lines or without a hint: {error!r}"
        return REFUSED
    except Exception:
        return f"exception: {traceback.format_exc()[-1200:]}"
