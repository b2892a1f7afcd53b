"""SIGKILL at random moments of a small training run, each time resumed: the result equals an undisturbed run's.

Children are forked from a process that has imported torch, so that kills hit the work and not the imports.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.small import LOG, SMALL

_STEPS = (
    "method=two-stage",
    "a_tuning.epochs=3", "b_tuning.epochs=2", "b_tuning.evals_per_epoch=2", "b_tuning.patience=9",
    "a_tuning.max_targets=120", "backbone.pretrain_tokens=6000",
)  # fmt: skip
_STAGES = ("a_tuning", "b_tuning")
_FILES = (*(f"{stage}/adapter/adapter_model.safetensors" for stage in _STAGES), "metrics.json", "pairs.jsonl")
# After so many kills, a run may finish.
_KILLS_PER_RUN = 10


def run(folder: Path, kills: int, advance: Callable[[], None]) -> dict[str, Any]:
    """Kill training runs `kills` times in all, up to ten times each, and compare every one that ends."""
    os.environ |= {"EDGEB_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    import torch
    import trl  # noqa: F401

    import edge_behavior.train.pipeline  # noqa: F401

    torch.set_num_threads(1)
    data, whole = folder / "data", folder / "whole"
    _finish([*map(str, LOG), "--out", str(data)], folder / "data.log")
    settings = [word for setting in (*SMALL, *_STEPS) for word in ("--set", setting)]
    started = time.monotonic()
    _finish(_training(whole, data, settings, False), folder / "whole.log")
    length = time.monotonic() - started
    random_, out = random.Random(0), folder / "run"
    done, runs, different, failed = 0, 0, [], []
    where: Counter[str] = Counter()
    mine = 0
    while done < kills or mine:
        begun = (out / "run.json").is_file()
        log = folder / "run.log"
        child = _start(_training(out, data, settings, begun), log)
        wait = random_.uniform(0, length) if mine < _KILLS_PER_RUN and done < kills else None
        status = _killed_after(child, wait)
        if status is None:
            where[_place(out)] += 1
            done, mine = done + 1, mine + 1
            advance()
        elif status != 0:
            failed.append(f"kill {done}: exit code {status}: {log.read_text()[-600:]}")
            shutil.rmtree(out)
            mine = 0
        else:
            runs += 1
            changed = [name for name in _FILES if not _equal(whole / name, out / name)]
            different += [f"run {runs}, {mine} kills: {name}" for name in changed]
            shutil.rmtree(out)
            mine = 0
    return {
        "kills": done,
        "runs_finished": runs,
        "killed_during": dict(sorted(where.items())),
        "files_compared": list(_FILES),
        "different": different,
        "failed": failed,
        "bad": len(different) + len(failed),
    }


def _training(out: Path, data: Path, settings: list[str], resume: bool) -> list[str]:
    more = ["--resume"] if resume else ["--recipe", "tiny", *settings]
    return ["train", "--out", str(out), "--data", str(data), *more]


def _start(arguments: list[str], log: Path) -> int:
    """Fork a child that runs `edgeb` with these arguments; its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        target = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(target, 1)
        os.dup2(target, 2)
        from edge_behavior.cli import main

        sys.argv = ["edgeb", *arguments]
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _killed_after(child: int, seconds: float | None) -> int | None:
    """Exit code of a child that ended by itself; None where it was killed after so many seconds."""
    until = float("inf") if seconds is None else time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _finish(arguments: list[str], log: Path) -> None:
    status = _killed_after(_start(arguments, log), None)
    if status != 0:
        raise SystemExit(f"edgeb {' '.join(arguments)} ended with {status}:\n{log.read_text()}")


def _place(out: Path) -> str:
    """Where a run was when it was killed."""
    if not (out / "run.json").is_file():
        return "before the run began"
    done = json.loads((out / "run.json").read_text())["done"]
    return next((stage for stage in ("backbone", *_STAGES) if stage not in done), "evaluation and report")


def _equal(one: Path, two: Path) -> bool:
    if one.suffix == ".json":
        return bool(json.loads(one.read_text()) == json.loads(two.read_text()))
    return one.read_bytes() == two.read_bytes()
