"""What a prediction costs at Qwen2-0.5B's size: edgeb, its peers and the floor, on three bundles of one geometry.

    python -m benchmarks.runtime_05b --tokenizer FOLDER --work FOLDER

`--tokenizer` is a Hugging Face folder with the Qwen2 or Qwen2.5 tokenizer. `--work` takes models and bundles (about
7 GB while they are made) and keeps them for the next run. Making them takes most of an hour on two cores, measuring
about twenty minutes; nothing else should run meanwhile. Writes runtime_05b.json, .md and .png under results/.

The bundles: `random` (random weights: the worst case of a best-first search), `tuned` (the same geometry after a short
training, so that the labels hold the probability; see model_05b.py) and `tuned-pruned` (its vocabulary pruned).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import model_05b
from edge_behavior.bench.chart import draw
from edge_behavior.bench.diary import diary_of
from edge_behavior.bench.latency import measure, tick_count
from edge_behavior.bench.measurement import Measurement
from edge_behavior.bench.options import BenchOptions, HistoryFile
from edge_behavior.bench.report import markdown
from edge_behavior.bench.sustained import sustained, threads_sweep
from edge_behavior.data.simulator.behaviors import PLACES
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.export.source import ExportSource
from edge_behavior.records.history import write_history
from edge_behavior.runtime.llama.context import ContextOptions, LlamaContext
from edge_behavior.runtime.llama.model import LlamaModel
from edge_behavior.runtime.predictor import Predictor
from edge_behavior.util.progress import progress_bar

RESULTS = Path(__file__).parent / "results"
NAME = "runtime_05b"
# Bundle → model folder, whether its vocabulary is pruned.
BUNDLES = {"random": ("random", "off"), "tuned": ("tuned", "off"), "tuned-pruned": ("tuned", "on")}
QUANT = "q4_0"
# (what, key of `ratios` or None, at least / at most, limit)
TARGETS = (
    ("session / floor (d)", "session_over_floor", "at most", 1.10),
    ("(a) / session", "completion_over_session", "at least", 20.0),
    ("(b) / session", "completion_cached_over_session", "at least", 5.0),
    ("(c) / session", "labels_over_session", "at least", 30.0),
    ("static prompt: evaluate / restore", "prefix_evaluate_over_restore", "at least", 50.0),
    ("session's time outside the engine, ms, p50", None, "at most", 2.0),
)
FILE_TARGET = 0.66
# The tuning is repeated until the labels hold so much of the probability.
WANTED_MASS, MOST_TUNINGS = 0.85, 5
DECODE_SIZES = (1, 2, 3, 4, 7, 8, 13, 14, 15, 16, 20, 32, 63, 64, 128, 240)


def make(work: Path, tokenizer: Path, tuning_steps: int, threads: int) -> dict[str, Path]:
    """Whatever is missing of models, bundles and the user's log; the bundles by name."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "random" / "model.safetensors").exists():
        model_05b.make_random(tokenizer, work / "random")
    if not (work / "history.csv").exists():
        # Neither seed nor user of the tuning.
        write_history(work / "history.csv", next(model_05b.users(1, 14, model_05b.SEED + 2)))
    if not (work / "tuned" / "model.safetensors").exists():
        model_05b.tune(work / "random", work / "tuned", tuning_steps)
    paths = {name: bundle(work, name) for name in BUNDLES}
    for again in range(1, MOST_TUNINGS):
        mass = candidate_mass(paths["tuned"], work / "history.csv", threads)
        print(f"probability on the candidates: {mass:.3f}", file=sys.stderr)
        if mass >= WANTED_MASS:
            break
        model_05b.tune(work / "tuned", work / "next", tuning_steps, again)
        shutil.rmtree(work / "tuned")
        (work / "next").rename(work / "tuned")
        for name in ("tuned", "tuned-pruned"):
            paths[name].unlink()
            bundle(work, name)
    return paths


def bundle(work: Path, name: str) -> Path:
    """A bundle, exported if it is not there."""
    path = work / f"{name}.gguf"
    if not path.exists():
        model, prune = BUNDLES[name]
        source = ExportSource(work / model, None, model_05b.candidates(), model_05b.LAYOUT, places=PLACES)
        export_gguf(source, path, ExportProfile(quant=QUANT, prune=prune, **model_05b.UNGATED))
    return path


def candidate_mass(path: Path, history: Path, threads: int, windows: int = 10) -> float:
    """Mean probability that the model gives to the candidates all together, under its whole vocabulary."""
    with Predictor.load(path, threads=threads, prefix_cache=False) as predictor:
        manifest = predictor.manifest
        diary = diary_of(HistoryFile(history), manifest.candidates, manifest.layout.history_length, windows)
        cases = [diary.case(i) for i in range(windows)]
        return float(np.mean([np.exp(predictor.log_probs(c.history, c.when, c.place)).sum() for c in cases]))


def run(path: Path, options: BenchOptions, thorough: bool) -> Measurement:
    """One bundle's measurement; `thorough` adds other thread counts and a minute without a pause."""
    with progress_bar(path.name, tick_count(options), transient=True) as advance:
        result = measure(path, options, lambda what: advance())
    if not thorough:
        return result
    sweep = threads_sweep(path, options, [options.threads, 1])
    return replace(result, threads=sweep, sustained=sustained(path, options, 60))


def flash_sweep(path: Path, threads: int, held: int = 440, repeats: int = 7) -> dict[str, dict[str, float]]:
    """Median milliseconds of one decode on a cache of `held` tokens, with flash attention and without it."""
    ids = list(range(1000, 1000 + held + max(DECODE_SIZES)))
    taken: dict[str, dict[str, list[float]]] = {str(n): {"on": [], "off": []} for n in DECODE_SIZES}
    with LlamaModel(path) as model, ExitStack() as stack:
        contexts = {
            name: stack.enter_context(LlamaContext(model, ContextOptions(len(ids), threads, flash=flash)))
            for name, flash in (("on", True), ("off", False))
        }
        for context in contexts.values():
            context.decode(ids[:held])
        for _ in range(repeats):
            for count in DECODE_SIZES:
                for name, context in contexts.items():
                    context.keep(held)
                    taken[str(count)][name].append(context.decode(ids[held : held + count]) * 1000)
    return {n: {name: round(float(np.median(ms)), 2) for name, ms in row.items()} for n, row in taken.items()}


def verdicts(result: Measurement) -> list[tuple[str, str, float, float, bool]]:
    """(what, at least / at most, limit, measured, met) per target."""
    rows = []
    for what, key, side, limit in TARGETS:
        if key is None:
            assert result.scenarios["session"].overhead_ms is not None
            value = result.scenarios["session"].overhead_ms["p50"]
        else:
            assert result.comparison is not None
            value = result.comparison.ratios[key]
        rows.append((what, side, limit, value, value <= limit if side == "at most" else value >= limit))
    return rows


def page(document: Mapping[str, Any], results: Mapping[str, Measurement]) -> str:
    """The results as Markdown."""
    heads = list(results)
    lines = [
        "# Cost of a prediction at Qwen2-0.5B's geometry",
        f"`{document['command']}`, {document['measured']}. 151,936 rows of vocabulary, Q4_0, no trained model: ratios "
        "matter, and they hold for this machine. How to read the tables: [docs/operate.md](../../docs/operate.md).",
        f"![bars](./{NAME}.png)",
        "## Targets",
        f"| | target | {' | '.join(heads)} |\n|---|---:|{'---:|' * len(heads)}\n"
        + "\n".join(_target_rows({name: verdicts(result) for name, result in results.items()}))
        + f"\n| pruned file / unpruned | at most {FILE_TARGET} |{' |' * (len(heads) - 1)} "
        + f"{_met(*document['file_ratio'])} |",
        "Probability on the candidates: "
        + ", ".join(f"`{name}` {100 * mass:.3g} %" for name, mass in document["candidate_mass"].items())
        + ".",
    ]
    lines += [
        "## Flash attention on and off\n\nOne decode of so many tokens after 440, `tuned`, milliseconds.",
        "| tokens | on | off |\n|---:|---:|---:|\n"
        + "\n".join(f"| {n} | {row['on']:.1f} | {row['off']:.1f} |" for n, row in document["flash_attention"].items()),
    ]
    for name, result in results.items():
        lines += [f"## {name}", markdown(result).rstrip()]
    return "\n\n".join(lines) + "\n"


def _target_rows(found: Mapping[str, list[tuple[str, str, float, float, bool]]]) -> list[str]:
    rows = []
    for i, (what, side, limit, _, _) in enumerate(next(iter(found.values()))):
        cells = " | ".join(_met(*verdict[i][3:]) for verdict in found.values())
        rows.append(f"| {what} | {side} {limit:g} | {cells} |")
    return rows


def _met(value: float, met: bool) -> str:
    return f"{value:.2f}" if met else f"**{value:.2f}, missed**"


def compact_json(document: Any) -> str:
    """Indented JSON with lists of numbers on one line."""
    text = json.dumps(document, indent=1, ensure_ascii=False)
    return re.sub(r"\[[-\d.,e\s]*\]", lambda found: re.sub(r"\s+", " ", found.group()), text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tuning-steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--bundles", default=",".join(BUNDLES), help="which to measure, in this order")
    parser.add_argument("--label-repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--make-only", action="store_true", help="make models and bundles, measure nothing")
    args = parser.parse_args()
    bundles = make(args.work, args.tokenizer, args.tuning_steps, args.threads)
    if args.make_only:
        return
    history = args.work / "history.csv"
    options = BenchOptions(
        budget=6 * 3600.0,
        repeats=args.repeats,
        threads=args.threads,
        compare=True,
        history=HistoryFile(history),
        label_repeats=args.label_repeats,
    )
    sizes = {name: path.stat().st_size for name, path in bundles.items()}
    file_ratio = sizes["tuned-pruned"] / sizes["tuned"]
    document: dict[str, Any] = {
        "command": f"python -m benchmarks.{NAME} --tokenizer FOLDER --work FOLDER --tuning-steps {args.tuning_steps}"
        f" --threads {args.threads} --repeats {args.repeats} --label-repeats {args.label_repeats}"
        f" --bundles {args.bundles}",
        "measured": time.strftime("%Y-%m-%d"),
        "candidate_mass": {name: candidate_mass(path, history, args.threads) for name, path in bundles.items()},
        "file_ratio": [round(file_ratio, 4), file_ratio <= FILE_TARGET],
        "flash_attention": flash_sweep(bundles["tuned"], args.threads),
    }
    results: dict[str, Measurement] = {}
    for name in args.bundles.split(","):
        results[name] = run(bundles[name], options, name == "tuned")
        document["results"] = {name: result.to_dict() for name, result in results.items()}
        # Whatever is measured is kept, should the rest be interrupted.
        (args.out / f"{NAME}.json").write_text(compact_json(document), encoding="utf-8")
        (args.out / f"{NAME}.md").write_text(page(document, results), encoding="utf-8")
        if name == "tuned":
            draw(results[name], args.out / f"{NAME}.png")
    print(page(document, results))


if __name__ == "__main__":
    main()
