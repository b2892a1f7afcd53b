"""Does a log of the paper's size fit? Generate, import and window 50 million events; record time, memory and disk.

    python -m benchmarks.import_scale --events 50000000

Every stage runs in its own process, so that its peak memory is its own. The claim is that the import stays within its
memory on a small machine; seconds are context. Needs the `[data]` extra and about 200 bytes of disk per event.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results"
STAGES = ("generate", "import", "window")
DAYS = 90


def generate(args: argparse.Namespace, log: Path) -> dict[str, Any]:
    """Write a log in order of time, users interleaved: the order a server would write, the hardest to sort.

    One row in a thousand repeats the one before it, so that there are duplicates to find.
    """
    import duckdb

    share = "(hash(i, 1) % 1000000) / 1e6"
    connection = duckdb.connect(config={"memory_limit": args.memory_limit, "threads": os.cpu_count() or 1})
    connection.execute(
        f"""COPY (
            SELECT printf('u%06d', (hash(i, 0) % {args.users})::BIGINT) AS user_id,
                   TIMESTAMP '2025-01-06' + to_seconds((i * {DAYS * 86_400}) // {args.events}) AS timestamp,
                   'place ' || (hash(i, 2) % 40) AS place,
                   'behavior ' || floor({args.behaviors} * pow({share}, 3))::INT AS behavior
            FROM (SELECT i - (i % 1000 = 999)::INT AS i FROM range({args.events}) r(i))
        ) TO '{log}' {"(FORMAT csv, HEADER)" if args.format == "csv" else "(FORMAT parquet)"}"""
    ).fetchall()
    return {"log_bytes": log.stat().st_size}


def run_import(args: argparse.Namespace, log: Path) -> dict[str, Any]:
    """Import the log with the options a user would have."""
    from edge_behavior.data.importers.importer import import_log
    from edge_behavior.data.importers.options import ImportOptions

    out = log.parent / "dataset"
    info = import_log(log, args.format, out, ImportOptions(memory_limit=args.memory_limit)).to_dict()
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return {"dataset_bytes": size, **{key: info[key] for key in ("rows", "users", "splits")}}


def window(args: argparse.Namespace, log: Path) -> dict[str, Any]:
    """Open every part and make all its windows, a sample of them, and a balanced set."""
    from edge_behavior.data.dataset import SPLITS, Dataset
    from edge_behavior.data.windows import balanced_windows, eligible, natural_windows

    dataset = Dataset.open(log.parent / "dataset")
    counts = {}
    for split in SPLITS:
        table = dataset.events(split)
        counts[split] = {
            "eligible": len(eligible(table)),
            "natural, limit 100000": len(natural_windows(table, limit=100_000)),
            "natural, 16 per user": len(natural_windows(table, per_user=16)),
            "balanced, 500 per behavior": len(balanced_windows(table, 500)),
        }
    return {"windows": counts, "fingerprint": dataset.fingerprint}


def measure(command: list[str], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a stage; returns its measurements and what it printed."""
    peak = {"rss": 0, "disk": 0}
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    watched = psutil.Process(process.pid)

    def watch() -> None:
        while process.returncode is None:
            try:
                peak["rss"] = max(peak["rss"], watched.memory_info().rss)
            except psutil.Error:
                return
            peak["disk"] = max(peak["disk"], folder_bytes(folder))
            time.sleep(0.1)

    threading.Thread(target=watch, daemon=True).start()
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"stage failed with exit code {process.returncode}: {shlex.join(command)}")
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_rss_mib": round(usage.ru_maxrss / 1024),  # KiB on Linux
        "peak_rss_mib_polled": round(peak["rss"] / 2**20),
        "peak_disk_mib": round(peak["disk"] / 2**20),
    }, json.loads(printed)


def folder_bytes(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except OSError:
                continue
    return total


def table(result: dict[str, Any]) -> str:
    """The result as a short Markdown page."""
    from edge_behavior.util.markdown import markdown_table

    made, rows = result["results"], result["results"]["import"]
    lines = [
        f"# Import at scale: {result['events']:,} events",
        "",
        f"Generated {result['format'].upper()} log, {result['users']:,} users, {result['behaviors']} behaviors, "
        f"in order of time with users interleaved. {result['machine']['cores']} cores, "
        f"{result['machine']['memory_gib']} GiB; DuckDB limited to {result['memory_limit']}. "
        "Seconds are context: the claim is that it fits.",
        "",
        f"    {result['command']}",
        "",
    ]
    heads = ("stage", "seconds", "CPU seconds", "peak memory, MiB", "disk in use at peak, MiB")
    shown = ((stage, result["stages"][stage]) for stage in STAGES)
    lines += markdown_table(
        heads,
        (
            (stage, str(m["seconds"]), str(m["cpu_seconds"]), f"{m['peak_rss_mib']:,}", f"{m['peak_disk_mib']:,}")
            for stage, m in shown
        ),
    )
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in rows["rows"]["dropped"].items())
    events = sum(part["events"] for part in rows["splits"].values())
    windows = sum(part["eligible"] for part in made["window"]["windows"].values())
    lines += [
        "",
        f"Log {made['generate']['log_bytes'] / 1e6:,.0f} MB; dataset {rows['dataset_bytes'] / 1e6:,.0f} MB. Rows read "
        f"{rows['rows']['read']:,}; dropped: {dropped}; events {events:,}; windows {windows:,}.",
        "",
        "Versions: " + ", ".join(f"{name} {number}" for name, number in result["versions"].items()) + ".",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=50_000_000)
    parser.add_argument("--users", type=int, default=24_000)
    parser.add_argument("--behaviors", type=int, default=37)
    parser.add_argument("--format", choices=("csv", "parquet"), default="csv")
    parser.add_argument("--memory-limit", default="8GB", help="DuckDB's")
    parser.add_argument("--scratch", type=Path, help="where to make the scratch folder (default: the system's)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for import_scale.json and .md")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        work = {"generate": generate, "import": run_import, "window": window}[args.stage]
        print(json.dumps(work(args, args.log)))
        return
    folder = Path(tempfile.mkdtemp(prefix="import_scale-", dir=args.scratch))
    options = [f"--{name}={getattr(args, name)}" for name in ("events", "users", "behaviors", "format")]
    options.append(f"--memory-limit={args.memory_limit}")
    stages: dict[str, Any] = {}
    results: dict[str, Any] = {}
    try:
        for stage in STAGES:
            print(f"{stage} …", file=sys.stderr)
            command = [
                sys.executable,
                "-m",
                "benchmarks.import_scale",
                *options,
                "--stage",
                stage,
                "--log",
                str(folder / f"log.{args.format}"),
            ]
            stages[stage], results[stage] = measure(command, folder)
            print(f"{stage}: {stages[stage]}", file=sys.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.import_scale", *options]),
        "events": args.events,
        "users": args.users,
        "behaviors": args.behaviors,
        "format": args.format,
        "memory_limit": args.memory_limit,
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("duckdb", "pyarrow", "numpy")},
        },
        "stages": stages,
        "results": results,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "import_scale.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (args.out / "import_scale.md").write_text(table(result), encoding="utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
