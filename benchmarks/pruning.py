"""What vocabulary pruning saves and costs: file size, place names that keep their pieces, predictions that change.

    python -m benchmarks.pruning --shared FOLDER --work FOLDER [--run RUN ...]

`--shared` holds `models/qwen2.5-tokenizer`, `models/llama3-tokenizer/tokenizer.json.gz` and
`data/sgd-conversations/conversations.jsonl.gz` (Schema-Guided Dialogue), the source of place names that no export has
seen. `--work` takes a random model of Qwen2-0.5B's geometry and its bundles (4 GB while they are made). Every `--run`
is a finished run with its dataset; its pruned bundle is compared with its unpruned one. Writes pruning.json and
pruning.md under results/. Nothing is timed, so the machine may be busy.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import resource
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from benchmarks import model_05b
from edge_behavior.core.events import clean_place
from edge_behavior.core.scoring import log_softmax
from edge_behavior.data.dataset import Dataset
from edge_behavior.data.simulator.behaviors import PLACES
from edge_behavior.data.windows import eligible
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.export.prune.vocabulary import plan_pruning
from edge_behavior.export.prune.words import domain_texts
from edge_behavior.export.run_source import run_source
from edge_behavior.export.source import ExportSource
from edge_behavior.hf.tokenizers import plain_encoder
from edge_behavior.runtime.predictor import Predictor

RESULTS = Path(__file__).parent / "results"
ROWS = {"Qwen2.5": 151_936, "Llama 3": 128_256}
EXTRA = (0, 512, 1024, 2048, 4096, 6144, 8192, 16_384)
QUANTS = ("q4_0", "q4")
TARGET = 0.66
WINDOWS = 200
# Capitalized words after a lower-case letter or a comma, and the words that join them.
_NAME = re.compile(
    r"(?<=[a-z,] )(?:[A-Z0-9][\w'&.-]*)(?: (?:[A-Z0-9&][\w'&.-]*|of|the|and|at|de|la))*",
)


def names(conversations: Path) -> list[str]:
    """Proper names of the dialogues: restaurants, theaters, addresses, teams, airports, cities."""
    found: dict[str, None] = {}
    with gzip.open(conversations, "rt", encoding="utf-8") as file:
        for line in file:
            for turn in json.loads(line)["conversations"]:
                for match in _NAME.finditer(turn["value"]):
                    name = clean_place(match.group(0).rstrip("."))
                    if len(name) > 2 and re.search("[A-Z]", name):
                        found[name] = None
    return list(found)


def coverage(tokenizer: Any, rows: int, places: list[str]) -> list[dict[str, Any]]:
    """Per number of everyday pieces: rows kept, share of unseen names that keep all pieces, growth in tokens."""
    layout = model_05b.LAYOUT
    texts = domain_texts(layout, model_05b.candidates(), PLACES)
    contexts = [layout.context(datetime(2024, 1, 1), place) for place in places]
    whole = [plain_encoder(tokenizer)(text) for text in contexts]
    found = []
    for extra in EXTRA:
        plan = plan_pruning(tokenizer, rows, texts, len(PLACES), extra)
        encode = plain_encoder(wrapped(plan.tokenizer))
        pieces = [encode(text) for text in contexts]
        same = [plan.kept[b].tolist() == a for a, b in zip(whole, pieces, strict=True)]
        growth = sum(map(len, pieces)) / sum(map(len, whole)) - 1
        found.append({"extra_tokens": extra, "kept": len(plan.kept), "same": float(np.mean(same)), "growth": growth})
    return found


def wrapped(fields: Mapping[str, Any]) -> Any:
    """A tokenizer of a tokenizer.json's content."""
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=Tokenizer.from_str(json.dumps(fields)))


def sizes(work: Path, tokenizer: Path) -> list[dict[str, Any]]:
    """Bytes of the random model's bundles, unpruned and pruned."""
    if not (work / "random" / "model.safetensors").exists():
        model_05b.make_random(tokenizer, work / "random")
    source = ExportSource(work / "random", None, model_05b.candidates(), model_05b.LAYOUT, places=PLACES)
    found = []
    for quant in QUANTS:
        row: dict[str, Any] = {"quant": quant}
        for prune in ("off", "on"):
            out = work / f"{quant}-{prune}.gguf"
            profile = ExportProfile(quant=quant, prune=prune, **model_05b.UNGATED)
            report = export_gguf(source, out, profile, force=True).to_dict()
            row[prune] = {key: report[key] for key in ("bytes", "quantization", "tensor_types", "pruning")}
            out.unlink()
        row["ratio"] = row["on"]["bytes"] / row["off"]["bytes"]
        found.append(row)
    return found


def predictions(run: Path, work: Path) -> dict[str, Any]:
    """A run's bundle pruned to the domain's tokens alone against the unpruned one, in f32 on test users' windows."""
    source = run_source(run)
    if source.data is None:
        raise SystemExit(f"{run}: {source.data_note}")
    table = Dataset.open(source.data).events("test")
    targets = np.random.default_rng(0).choice(eligible(table), WINDOWS, replace=False)
    scores, reports = [], []
    for prune in ("off", "on"):
        out = work / f"run-{prune}.gguf"
        profile = ExportProfile(
            quant="f32", prune=prune, extra_tokens=0, habits="off", calibrate="off", **model_05b.UNGATED
        )
        reports.append(export_gguf(source, out, profile, force=True).to_dict())
        with Predictor.load(out, threads=1, exact_math=True, prefix_cache=False) as predictor:
            asked = [(table.history(int(t)), table.event(int(t))) for t in targets]
            scores.append([predictor.log_probs(history, e.time, e.place) for history, e in asked])
        out.unlink()
    whole, pruned = (log_softmax(np.stack(rows)) for rows in scores)
    truth = table.behavior[targets]
    divergence = (np.exp(whole) * (whole - pruned)).sum(axis=1)
    return {
        "recipe": source.training["name"],
        "candidates": len(source.candidates),
        "windows": WINDOWS,
        "flips": int((whole.argmax(axis=1) != pruned.argmax(axis=1)).sum()),
        "mean_kl": float(divergence.mean()),
        "max_kl": float(divergence.max()),
        "accuracy": [float((rows.argmax(axis=1) == truth).mean()) for rows in (whole, pruned)],
        "check": reports[1]["pruning"],
    }


def markdown(found: Mapping[str, Any]) -> str:
    """The tables of the result page."""
    lines = [
        "# Vocabulary pruning",
        "",
        "    python -m benchmarks.pruning --shared FOLDER --work FOLDER --run RUN …",
        "",
    ]
    lines += [
        "Random weights in Qwen2-0.5B's shape (vocabulary 151,936, tied), real Qwen2.5 tokenizer, 37 labels, 4 places:",
        "",
        "| `--quant` | whole, MB | pruned, MB | ratio | tokens kept |",
        "|---|---|---|---|---|",
    ]
    for row in found["sizes"]:
        kept = row["on"]["pruning"]["vocabulary"]["kept"]
        sizes = " | ".join(f"{row[prune]['bytes'] / 1e6:.1f}" for prune in ("off", "on"))
        lines.append(f"| {row['quant']} ({row['on']['quantization']}) | {sizes} | **{row['ratio']:.3f}** | {kept:,} |")
    lines += [
        "",
        f"Target: at most {TARGET}. Peak memory of all of this {found['peak_rss_bytes'] / 2**30:.1f} GiB.",
        "",
        f"Names that the export has not seen ({found['names']:,} proper names from dialogues, most of several words):",
        "how many keep all their pieces, and how many tokens more all of them together take.",
        "",
        "| `--extra-tokens` | "
        + " | ".join(f"{name}: kept | same pieces | tokens" for name in found["coverage"])
        + " |",
        "|---|" + "---|---|---|" * len(found["coverage"]),
    ]
    for rows in zip(*found["coverage"].values(), strict=True):
        cells = " | ".join(f"{r['kept']:,} | {r['same']:.1%} | +{r['growth']:.1%}" for r in rows)
        lines.append(f"| {rows[0]['extra_tokens']:,} | {cells} |")
    if found["predictions"]:
        lines += [
            "",
            "Trained runs on test users' windows, f32, pruned with `--extra-tokens 0` (the utmost) against whole:",
            "",
            "| run | labels | tokens kept | windows | other first | mean KL | largest KL | accuracy whole / pruned |",
            "|---|---|---|---|---|---|---|---|",
        ]
    for row in found["predictions"]:
        vocabulary = row["check"]["vocabulary"]
        whole, pruned = row["accuracy"]
        model = [row["recipe"], row["candidates"], f"{vocabulary['kept']} of {vocabulary['of']}", row["windows"]]
        change = [row["flips"], f"{row['mean_kl']:.1e}", f"{row['max_kl']:.1e}", f"{whole:.3f} / {pruned:.3f}"]
        lines.append("| " + " | ".join(map(str, model + change)) + " |")
    lines += ["", f"Versions: {', '.join(f'{k} {v}' for k, v in found['versions'].items())}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--run", type=Path, action="append", default=[])
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    models = arguments.shared / "models"
    llama3 = json.loads(gzip.decompress((models / "llama3-tokenizer" / "tokenizer.json.gz").read_bytes()))
    tokenizers = {"Qwen2.5": AutoTokenizer.from_pretrained(models / "qwen2.5-tokenizer"), "Llama 3": wrapped(llama3)}
    places = names(arguments.shared / "data" / "sgd-conversations" / "conversations.jsonl.gz")
    found: dict[str, Any] = {
        "names": len(places),
        "coverage": {name: coverage(tokenizer, ROWS[name], places) for name, tokenizer in tokenizers.items()},
        "predictions": [predictions(run, arguments.work) for run in arguments.run],
        "sizes": sizes(arguments.work, models / "qwen2.5-tokenizer"),
        "versions": {
            name: version(name) for name in ("llama-cpp-python", "gguf", "tokenizers", "transformers", "torch")
        },
    }
    # Linux counts in KiB.
    found["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pruning.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "pruning.md").write_text(markdown(found), encoding="utf-8")
    print(markdown(found))
    for row in found["sizes"]:
        if row["ratio"] > TARGET:
            raise SystemExit(f"{row['quant']}: {row['ratio']:.3f} is above the target of {TARGET}")


if __name__ == "__main__":
    main()
