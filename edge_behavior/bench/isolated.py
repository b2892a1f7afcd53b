"""One scenario in a process of its own: what a cold start takes, and how much memory a scenario needs.

`python -m edge_behavior.bench.isolated SPEC` prints one JSON object; SPEC is an `Isolated` as JSON. The child imports
nothing else of edgeb before its clock runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

COLD = "cold"


@dataclass(frozen=True)
class Isolated:
    """What a child process is to run, in plain types.

    Attributes:
        scenario: `COLD`, or a name that `Setup.scenario` knows.
        bundle: Path of the file.
        case: For `COLD`: the prediction, as `Case.to_dict` gives it.
        snapshots: For `COLD`: folder of prefix snapshots; None for none.
        accelerator: As in `BenchOptions`.
        history: For other scenarios: as `HistoryFile.to_dict` gives it; None for synthetic events.
    """

    scenario: str
    bundle: str
    threads: int
    scoring: str
    case: dict[str, Any] | None = None
    snapshots: str | None = None
    accelerator: str | None = None
    history: dict[str, str | None] | None = None


@dataclass(frozen=True)
class IsolatedRun:
    """What a child process took.

    Attributes:
        process_ms: From starting the process to its answer.
        tokens: Of a cold start: tokens the model was run on.
        parts_ms: Of a cold start: `import_ms`, `verify_ms` (hashing the file), `open_ms`, `prefix_ms` (restoring the
            static prompt, 0 without snapshots) and `first_ms` (the first prediction).
    """

    process_ms: float
    peak_rss_bytes: int
    tokens: int = 0
    parts_ms: dict[str, float] = field(default_factory=dict)


def run_isolated(spec: Isolated) -> IsolatedRun:
    """Run a scenario in a fresh Python process.

    Raises:
        EdgebError: the process failed.
    """
    from edge_behavior.bundle.bundle import bundle_form
    from edge_behavior.errors import EdgebError

    if bundle_form(Path(spec.bundle)) != "sequence":
        from edge_behavior.runtime.llama.build import verdict

        # Here, so that the first look at this llama.cpp is not in the time measured, and what it says is seen.
        verdict()
    started = perf_counter()
    command = [sys.executable, "-m", "edge_behavior.bench.isolated", json.dumps(asdict(spec))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        line = child.stdout.readline()
        process_ms = (perf_counter() - started) * 1000
        reason = child.stderr.read().strip().splitlines()
    if not line:
        raise EdgebError(
            f"measuring {spec.scenario} in a process of its own failed: {reason[-1] if reason else 'no reason given'}",
            "run it with more free memory, or report this as a bug",
        )
    return IsolatedRun(process_ms, **json.loads(line))


def _cold(spec: Isolated) -> dict[str, Any]:
    assert spec.case is not None
    times: dict[str, float] = {}
    began = perf_counter()

    def lap(name: str) -> None:
        nonlocal began
        now = perf_counter()
        times[name] = (now - began) * 1000
        began = now

    from edge_behavior.bench.diary import Case
    from edge_behavior.bundle.bundle import bundle_form, verify_bundle
    from edge_behavior.runtime.predictor import PredictOptions, Predictor

    bundle, case = Path(spec.bundle), Case.from_dict(spec.case)
    form = bundle_form(bundle)
    # What answers is imported here, so that it counts as importing and not as opening.
    if form == "sequence":
        import edge_behavior.runtime.backends.sequence
    else:
        import edge_behavior.runtime.backends.llama  # noqa: F401
    if form == "litert":
        from edge_behavior.runtime.litert.package import load_litert

        load_litert()
    lap("import_ms")
    verify_bundle(bundle)
    lap("verify_ms")
    # Never closed: the process ends after its answer.
    predictor = Predictor.load(
        bundle, threads=spec.threads, verify=False, prefix_cache=False, accelerator=spec.accelerator
    )
    lap("open_ms")
    if spec.snapshots is not None:
        predictor.warm(Path(spec.snapshots))
    lap("prefix_ms")
    options = PredictOptions(scoring=spec.scoring, source="model")
    answer = predictor.predict(case.history, case.when, case.place, 1, options=options)
    lap("first_ms")
    return {"parts_ms": times, "tokens": answer.tokens_evaluated}


def _scenario(spec: Isolated) -> None:
    from edge_behavior.bench.options import CYCLE, BenchOptions, HistoryFile
    from edge_behavior.bench.setup import Setup

    history = None if spec.history is None else HistoryFile.from_dict(spec.history)
    options = BenchOptions(
        repeats=2, threads=spec.threads, scoring=spec.scoring, history=history, accelerator=spec.accelerator
    )
    with Setup(Path(spec.bundle), options) as setup:
        scenario = setup.scenario(spec.scenario)
        for i in range(CYCLE):
            scenario.turn(i)


def main() -> None:
    """Entry point of the child process."""
    spec = Isolated(**json.loads(sys.argv[1]))
    found: dict[str, Any] = {}
    if spec.scenario == COLD:
        found = _cold(spec)
    else:
        _scenario(spec)
    from edge_behavior.bench.timing import peak_rss_bytes

    print(json.dumps({**found, "peak_rss_bytes": peak_rss_bytes()}), flush=True)


if __name__ == "__main__":
    main()
