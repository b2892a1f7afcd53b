"""One scenario in a process of its own: what a cold start takes, and how much memory a scenario needs.

`python -m edge_behavior.bench.isolated SPEC` prints one JSON object; SPEC is JSON, see `run_alone`. Nothing of edgeb is
imported before the clock runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any


def run_alone(spec: dict[str, Any]) -> dict[str, Any]:
    """Run a scenario in a fresh Python process.

    Args:
        spec: `scenario`, `bundle`, `threads`, `scoring`; for the scenario "cold" also `question` (as `Question.to_dict`
            gives it) and `snapshots` (folder of prefix snapshots, or None); for a name of `Setup.scenario` also
            `history` (path or None).

    Returns:
        `process_ms` (from starting the process to its answer), `peak_rss_bytes`, and for "cold" `import_ms`,
        `verify_ms` (hashing the file), `open_ms`, `prefix_ms` (restoring the static prompt, 0 without snapshots),
        `first_ms` (the first prediction) and `tokens`.

    Raises:
        EdgebError: the process failed.
    """
    from edge_behavior.errors import EdgebError
    from edge_behavior.runtime.llama.build import verdict

    # Here, so that the first look at this llama.cpp is not in the time measured, and what it says is seen.
    verdict()
    started = perf_counter()
    command = [sys.executable, "-m", "edge_behavior.bench.isolated", json.dumps(spec)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        line = child.stdout.readline()
        process_ms = (perf_counter() - started) * 1000
        reason = child.stderr.read().strip().splitlines()
    if not line:
        raise EdgebError(
            f"measuring {spec['scenario']} in a process of its own failed: {reason[-1] if reason else 'no reason'}",
            "run it with more free memory, or report this as a bug",
        )
    found: dict[str, Any] = json.loads(line)
    return {"process_ms": process_ms, **found}


def _cold(spec: dict[str, Any]) -> dict[str, Any]:
    times: dict[str, float] = {}
    began = perf_counter()

    def lap(name: str) -> None:
        nonlocal began
        now = perf_counter()
        times[name] = (now - began) * 1000
        began = now

    import edge_behavior.runtime.backends.llama  # noqa: F401
    from edge_behavior.bench.diary import Question
    from edge_behavior.bundle.bundle import verify_bundle
    from edge_behavior.runtime.predictor import PredictOptions, Predictor

    lap("import_ms")
    bundle, question = Path(spec["bundle"]), Question.from_dict(spec["question"])
    verify_bundle(bundle)
    lap("verify_ms")
    # Never closed: the process ends after its answer.
    predictor = Predictor.load(bundle, threads=spec["threads"], verify=False, prefix_cache=False)
    lap("open_ms")
    if spec["snapshots"] is not None:
        predictor.warm(Path(spec["snapshots"]))
    lap("prefix_ms")
    options = PredictOptions(scoring=spec["scoring"], source="model")
    answer = predictor.predict(question.history, question.when, question.place, 1, options=options)
    lap("first_ms")
    return {**times, "tokens": answer.tokens_evaluated}


def _scenario(spec: dict[str, Any]) -> dict[str, Any]:
    from edge_behavior.bench.scenarios import CYCLE
    from edge_behavior.bench.setup import BenchOptions, Setup

    history = None if spec["history"] is None else Path(spec["history"])
    options = BenchOptions(repeats=2, threads=spec["threads"], scoring=spec["scoring"], history=history)
    with Setup(Path(spec["bundle"]), options) as setup:
        scenario = setup.scenario(spec["scenario"])
        for i in range(CYCLE):
            scenario.turn(i)
    return {}


def main() -> None:
    """Entry point of the child process."""
    spec = json.loads(sys.argv[1])
    found = _cold(spec) if spec["scenario"] == "cold" else _scenario(spec)
    from edge_behavior.bench.timing import peak_rss_bytes

    print(json.dumps({**found, "peak_rss_bytes": peak_rss_bytes()}), flush=True)


if __name__ == "__main__":
    main()
