"""Try to break edgeb: corrupted files, fuzzed logs, kills, long sessions, threads, malformed requests.

    python -m benchmarks.torture                        all campaigns, an hour or two; or make torture
    python -m benchmarks.torture --only bundles,server  some of them
    python -m benchmarks.torture --scale 0.01           a smoke test

Each campaign's result is written as soon as it ends, so that a later call can do the rest with --only.
Exits with 1 if a campaign found a crash, a hang, a traceback or a silent difference. Needs the `[dev]` extra.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.torture import bundles, imports, kills, server, sessions
from edge_behavior.util.files import write_file
from edge_behavior.util.markdown import markdown_table
from edge_behavior.util.progress import progress_bar

RESULT = Path(__file__).parent.parent / "results" / "torture.json"
Campaign = Callable[[Path, int, Callable[[], None]], dict[str, Any]]
# Its function, how many cases, kills, steps, seconds or requests at scale 1, and a description.
CAMPAIGNS: dict[str, tuple[Campaign, int, str]] = {
    "bundles": (bundles.run, 1000, "corrupted bundles, session files and snapshots"),
    "imports": (imports.run, 10_000, "fuzzed logs through every importer"),
    "kills": (kills.run, 200, "SIGKILLs of a training run, resumed"),
    "sessions": (sessions.run_steps, 100_000, "steps of one session"),
    "threads": (sessions.run_threads, 60, "seconds of eight threads on one predictor"),
    "server": (server.run, 5000, "malformed requests to the demo page's server"),
}


def main() -> int:
    """Run the campaigns asked for and update the result file and its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CAMPAIGNS), help="campaigns, by name and with commas between them")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of cases")
    parser.add_argument("--out", type=Path, default=RESULT, help="result file; its table goes beside it as .md")
    args = parser.parse_args()
    names = args.only.split(",")
    if unknown := [name for name in names if name not in CAMPAIGNS]:
        parser.error(f"unknown campaign {unknown[0]}; known: {', '.join(CAMPAIGNS)}")
    found: dict[str, Any] = json.loads(args.out.read_text()) if args.out.is_file() else {}
    for name in names:
        run, cases, what = CAMPAIGNS[name]
        cases = max(1, round(cases * args.scale))
        started = time.monotonic()
        with (
            tempfile.TemporaryDirectory(prefix=f"edgeb-torture-{name}-") as folder,
            progress_bar(what, cases) as advance,
        ):
            result = run(Path(folder), cases, advance)
        found[name] = {
            "what": what,
            **result,
            "minutes": round((time.monotonic() - started) / 60, 1),
            "when": datetime.now(timezone.utc).isoformat(timespec="minutes"),
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            "versions": {p: version(p) for p in ("edgeb", "llama-cpp-python", "duckdb", "torch")},
            "command": f"python -m benchmarks.torture --only {name} --scale {args.scale:g}",
        }
        write_file(args.out, json.dumps(found, indent=1) + "\n")
        write_file(args.out.with_suffix(".md"), table(found))
    print(table(found))
    return int(any(found[name]["bad"] for name in names))


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    cells = (
        (f"{name}: {result['what']}", _summary(result), str(result["bad"]), str(result["minutes"]))
        for name, result in found.items()
    )
    rows = ["# Torture", "", *markdown_table(("campaign", "result", "bad", "minutes"), cells, left=2)]
    rows += ["", "Bad: a crash, a hang, a traceback, a silently different answer or file, leftovers."]
    return "\n".join([*rows, "Raw result: torture.json; repeat with `make torture`.", ""])


def _summary(result: dict[str, Any]) -> str:
    shown = {k: v for k, v in result.items() if k not in _META}
    if "outcomes" in shown:
        return ", ".join(f"{key} {n:,}" for key, n in shown["outcomes"].items())
    return "; ".join(f"{key.replace('_', ' ')} {_short(value)}" for key, value in shown.items())


_META = ("what", "bad", "minutes", "when", "machine", "versions", "command", "examples", "cases", "files_compared")


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {n}" for key, n in value.items())
    if isinstance(value, list):
        return " to ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    sys.exit(main())
