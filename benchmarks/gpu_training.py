"""What training takes on one GPU, at the real models' sizes: every line of evidence in one call.

    python -m benchmarks.gpu_training [--tokenizer qwen2-1.5b=FOLDER …] [--qlora]      on the GPU's machine
    python -m benchmarks.gpu_training --smoke --out FOLDER/smoke                       anywhere: proves that it runs

Qwen2-1.5B's and Llama-3.1-8B's geometries with random weights, built on the device in bfloat16, and the recipes of the
same names, through edgeb's own train_sft, train_dpo and score_pool on rows of a simulated log. Nothing is downloaded.
Without --tokenizer one is trained on the spot; the model's vocabulary keeps its real size. Warm-up steps are not
timed. A line that fails, out of memory for example, is recorded and the rest goes on; the files are written anew after
every line. Per line: tokens and supervised targets per second, peak memory, model FLOPs utilisation; per model,
what the whole recipe would take at these rates.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from trl.trainer.utils import compute_flops_per_token, compute_mfu, get_peak_flops

from benchmarks import gpu_lines, gpu_total, pool_scoring
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.data.importers.importer import import_log
from edge_behavior.data.simulator.simulator import simulate
from edge_behavior.data.windows import natural_windows
from edge_behavior.hf.internals import attention_of
from edge_behavior.hf.tokenizers import encoder_for
from edge_behavior.train.plan.counts import count
from edge_behavior.train.recipe import Recipe, load_recipe
from edge_behavior.train.rows.lazy import Row, joined
from edge_behavior.train.rows.samples import supervised_targets
from edge_behavior.train.stages.dpo import train_dpo
from edge_behavior.train.stages.pool import choose_pairs, score_pool, tokenized
from edge_behavior.train.stages.sft import train_sft
from edge_behavior.train.stages.tuning import Tuning
from edge_behavior.train.trainer.arguments import batching
from edge_behavior.train.trainer.backbone import load_tokenizer
from edge_behavior.train.trainer.lora import lora_config
from edge_behavior.util.files import write_file

RESULTS = Path(__file__).parent / "results"
GEOMETRIES = {"qwen2-1.5b": gpu_lines.qwen2_1_5b, "llama3.1-8b": gpu_lines.llama3_1_8b}
# Recipe fields by line; every line starts from the recipe of the geometry's name.
LINES: dict[str, list[str]] = {
    "a_tuning": [],
    "packed 1024": ["a_tuning.micro_batch_size=4", "a_tuning.gradient_checkpointing=false"],
    "packed 4096": ["a_tuning.micro_batch_size=1", "a_tuning.gradient_checkpointing=false"],
    "packed 4096, checkpointing": ["a_tuning.micro_batch_size=1", "a_tuning.gradient_checkpointing=true"],
    "pool": [],
    "labels": [],
    "b_tuning": [],
}
QLORA = {f"{name}, 4-bit": [*LINES[name], "backbone.quantize=4bit"] for name in ("a_tuning", "packed 4096", "pool")}
# Published by others, on other data and code; (line, geometry) → what they report.
REFERENCES = {
    ("packed 4096", "llama3.1-8b"): "12,473 tokens/s per H100, 8B LoRA at length 4096 (NeMo AutoModel)",
    ("packed 4096, checkpointing", "llama3.1-8b"): "12,473 tokens/s per H100, 8B LoRA at length 4096 (NeMo AutoModel)",
    ("packed 1024", "llama3.1-8b"): "2,392 (plain) to 4,007 (Unsloth) tokens/s, 7B LoRA at length 1024 "
    "(LLaMA-Factory's wiki)",
}
SAMPLES = gpu_total.SAMPLES
# Packed rows of a smoke test.
_SHORTER = 8
SMOKE = [
    "a_tuning.batch_size=2", "a_tuning.micro_batch_size=2", "b_tuning.batch_size=2", "b_tuning.micro_batch_size=1",
    "b_tuning.samples_per_behavior=1", "a_tuning.stretch_max=6", "layout.history_length=5", "threads=1",
]  # fmt: skip


@dataclass
class Bench:
    """One geometry with its recipe, tokenizer and log; every line builds its model anew.

    Attributes:
        warm_up: Optimizer steps that are not timed.
        steps: Optimizer steps that are.
        pool_per_behavior: Scored windows per behavior.
        label_windows: Windows scored by a forward pass per label.
        shorter: Divides the length of packed rows.
    """

    config: Any
    recipe: Recipe
    table: EventTable
    tokenizer: Any
    work: Path
    warm_up: int
    steps: int
    pool_per_behavior: int
    label_windows: int
    shorter: int
    encoder: PromptEncoder = field(init=False)

    def __post_init__(self) -> None:
        self.encoder = encoder_for(
            self.tokenizer, self.recipe.layout.layout(True, self.tokenizer), self.table.candidates
        )

    def a_tuning(self) -> dict[str, Any]:
        """Stage 1 on the recipe's rows."""
        model = self._model()
        rows = gpu_lines.recipe_rows(self.table, self.encoder, self.recipe, model, self._all_steps)
        return self._sft(
            model, rows, supervised_targets(self._timed(rows, self.recipe.a_tuning.batch_size), self.encoder)
        )

    def packed(self, length: int) -> dict[str, Any]:
        """Plain LoRA at one length, a loss on every token: what others publish."""
        rows = gpu_lines.packed_rows(self.table, self.encoder, self.recipe, length // self.shorter, self._all_steps)
        return self._sft(self._model(), rows, None)

    def pool(self) -> dict[str, Any]:
        """The pass over the pool: every window with its whole label trie."""
        model = self._model()
        self._scored(model, 1)
        began = time.perf_counter()
        pool = self._scored(model, self.pool_per_behavior)
        seconds = time.perf_counter() - began
        windows = len(pool.truth)
        return {
            "seconds": seconds,
            "windows": windows,
            "windows_per_second": windows / seconds,
            "hours_for_200k": SAMPLES / (windows / seconds) / 3600,
            "trie_tokens": len(self.encoder.trie.evaluated),
        }

    def labels(self) -> dict[str, Any]:
        """What the pool pass saves: windows whose labels have a forward pass each, and how far the scores differ."""
        case = pool_scoring.Case(self._model(), self.encoder, self.table)
        every = natural_windows(self.table, self.recipe.layout.history_length)
        targets = np.random.default_rng(self.recipe.seed).choice(every, self.label_windows, replace=False)
        pool_scoring.by_labels(case, targets[:1])
        began = time.perf_counter()
        scores = pool_scoring.by_labels(case, targets)
        seconds = time.perf_counter() - began
        difference = np.abs(scores - pool_scoring.by_trie(case, targets)).max()
        return {
            "seconds": seconds,
            "windows": len(targets),
            "windows_per_second": len(targets) / seconds,
            "hours_for_200k": SAMPLES / (len(targets) / seconds) / 3600,
            "forward_passes": len(targets) * scores.shape[1],
            "max_difference": float(difference),
        }

    def b_tuning(self) -> dict[str, Any]:
        """DPO on pairs that this very model's pool pass selected."""
        stage = self.recipe.b_tuning
        model = get_peft_model(self._model(), lora_config(self.recipe.lora))
        wanted = self._all_steps * stage.batch_size
        pool = self._scored(model, -(-2 * wanted // len(self.table.candidates)))
        pairs, _ = choose_pairs(pool, self.table, self.recipe)
        rows = tokenized(pairs, self.table, self.encoder)
        rows = [rows[i % len(rows)] for i in range(wanted)]
        clock, tuning = gpu_lines.StepClock(), self._tuning("b_tuning", "dpo")
        reset_memory()
        train_dpo(model, self.tokenizer, rows, tuning, [clock])
        lengths, labels = [], []
        for row in self._timed(rows, stage.batch_size):
            for answer in (row["chosen_ids"], row["rejected_ids"]):
                lengths.append(len(row["prompt_ids"]) + len(answer))
                labels.append(len(answer))
        micro = 2 * batching(stage, "b_tuning")["per_device_train_batch_size"]
        counted = gpu_lines.work_of(lengths, labels, micro, len(lengths) // 2, padded=True)
        return self._figures(counted, clock, model)

    def _sft(self, model: Any, rows: list[Row], targets: int | None) -> dict[str, Any]:
        stage, clock = self.recipe.a_tuning, gpu_lines.StepClock()
        reset_memory()
        tuning = self._tuning("a_tuning", "sft")
        found = train_sft(model, self.tokenizer, joined([rows]), None, tuning, [clock])
        timed = self._timed(rows, stage.batch_size)
        lengths, labels = [len(row["input_ids"]) for row in timed], [gpu_lines.labelled(row) for row in timed]
        micro = batching(stage, "a_tuning")["per_device_train_batch_size"]
        counted = gpu_lines.work_of(lengths, labels, micro, targets, padded=not found["padding_free"])
        return {**self._figures(counted, clock, model), "padding_free": found["padding_free"]}

    def _tuning(self, stage: str, folder: str) -> Tuning:
        steps = self._all_steps
        return Tuning(self.recipe, stage, steps, steps, self.work / folder, self.work / "logs")

    def _figures(self, work: gpu_lines.Work, clock: gpu_lines.StepClock, model: Any) -> dict[str, Any]:
        seconds = clock.seconds(self.warm_up)
        tokens, length = work.tokens / seconds, work.tokens / work.sequences
        by_trl = compute_flops_per_token(self.config, round(length))
        frozen = gpu_lines.lora_flops_per_token(self.config, round(length), work.label_tokens / work.tokens)
        peak = get_peak_flops(device_name(), "bfloat16")
        found = {
            "steps": self.steps,
            "warm_up_steps": self.warm_up,
            "seconds": seconds,
            "step_seconds": float(np.median(np.diff(clock.ends[self.warm_up - 1 :]))),
            **asdict(work),
            "mean_length": length,
            "tokens_per_second": tokens,
            "targets_per_second": None if work.targets is None else work.targets / seconds,
            "flops_per_token": by_trl,
            "lora_flops_per_token": frozen,
            "peak_flops": peak,
            "mfu_percent": None if peak is None else compute_mfu(by_trl, tokens, 1, peak),
            "mfu_lora_percent": None if peak is None else compute_mfu(round(frozen), tokens, 1, peak),
            "attention": attention_of(model),
            "adapter_dtype": str(next(p for n, p in model.named_parameters() if "lora_A" in n).dtype),
            "weights_dtype": str(model.dtype),
        }
        if found["targets_per_second"]:
            found["hours_for_200k"] = SAMPLES / found["targets_per_second"] / 3600
        return found

    @property
    def _all_steps(self) -> int:
        return self.warm_up + self.steps

    def _timed(self, rows: list[Any], batch_size: int) -> list[Any]:
        """The rows of the steps after the warm-up; trainers take rows in their order."""
        return rows[self.warm_up * batch_size :]

    def _model(self) -> Any:
        model = gpu_lines.build(self.config, self.recipe, self.work)
        reset_memory()
        return model

    def _scored(self, model: Any, per_behavior: int) -> Any:
        stage = self.recipe.b_tuning.model_copy(update={"pool_per_behavior": per_behavior})
        recipe = self.recipe.model_copy(update={"b_tuning": stage})
        with tempfile.TemporaryDirectory(dir=self.work) as shards:
            return score_pool(model, self.encoder, self.table, recipe, Path(shards) / "pool")


def reset_memory() -> None:
    """Peaks count from here."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def lines_of(name: str) -> Callable[[Bench], dict[str, Any]]:
    """The method that measures a line."""
    kind, _, rest = name.partition(",")[0].partition(" ")
    if kind == "packed":
        return lambda bench: bench.packed(int(rest))
    method: Callable[[Bench], dict[str, Any]] = getattr(Bench, kind)
    return method


def measured(name: str, make: Callable[[], Bench]) -> dict[str, Any]:
    """One line: its figures and peak memory, or what went wrong."""
    began = time.perf_counter()
    # A line may fail before its model is there.
    reset_memory()
    try:
        found = lines_of(name)(make())
    except Exception as error:
        traceback.print_exc()
        reason = str(error).strip().splitlines() or [""]
        found = {"error": {"type": type(error).__name__, "message": reason[0][:300]}}
    if torch.cuda.is_available():
        found["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
        found["peak_reserved_bytes"] = torch.cuda.max_memory_reserved()
    # The failed line's frames hold its model until here.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {**found, "line_seconds": time.perf_counter() - began}


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    found: dict[str, Any] = {"device": device_name(), "python": platform.python_version(), "cpus": os.cpu_count()}
    for package in ("torch", "transformers", "trl", "peft", "bitsandbytes", "flash-attn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {"cuda": torch.version.cuda, "memory_bytes": properties.total_memory}
        found |= {"compute_capability": f"{properties.major}.{properties.minor}", "devices": torch.cuda.device_count()}
    return found


def page(document: dict[str, Any]) -> str:
    facts = ", ".join(f"{key} {value}" for key, value in document["machine"].items() if value is not None)
    smoke = document["smoke"]
    lines = [
        "# Smoke test of gpu_training.py: measures nothing" if smoke else "# What training takes on one GPU",
        f"`{document['command']}`",
        f"{facts}.",
    ]
    if smoke:
        lines.append("Two narrow layers on a CPU. The figures below only show that every line runs and is counted.")
    lines.append(
        "Random weights at the real sizes, rows of a simulated log (tokenizer: see the JSON). Tokens without padding, "
        "warm-up steps left out. MFU: TRL's convention (three forward passes per token, full attention scores) and, in "
        "brackets, without the weight gradients that frozen weights do not have and with the LM head at labels only. "
        f"Hours: {SAMPLES:,} supervised targets, preference pairs or scored windows at this rate, one pass."
    )
    rows = [
        "| model | line | tokens/s | targets/s | windows/s | peak memory, GiB | MFU (LoRA), % | hours for 200,000 |"
    ]
    rows.append("|---|---|" + "---:|" * 6)
    notes = []
    for name, found in document["models"].items():
        for line, row in found["lines"].items():
            if "error" in row:
                rows.append(f"| {name} | {line} | failed: {row['error']['type']} |" + " |" * 5)
                continue
            memory = row.get("peak_memory_bytes")
            cells = [row.get("tokens_per_second"), row.get("targets_per_second"), row.get("windows_per_second")]
            cells += [None if memory is None else memory / 2**30]
            shown = ["–" if cell is None else f"{cell:,.1f}" for cell in cells]
            mfu = row.get("mfu_percent")
            shown.append("–" if mfu is None else f"{mfu:.1f} ({row['mfu_lora_percent']:.1f})")
            shown.append(f"{row['hours_for_200k']:.2f}" if "hours_for_200k" in row else "–")
            rows.append(f"| {name} | {line} | " + " | ".join(shown) + " |")
            if (line, name) in REFERENCES and not smoke:
                notes.append(f"- {name}, {line}: others report {REFERENCES[line, name]}.")
    lines.append("\n".join(rows))
    lines += gpu_total.summary(document["models"])
    if notes:
        lines.append("For comparison, on other code and data and not run here:\n\n" + "\n".join(notes))
    return "\n\n".join(lines) + "\n"


def without_folders(word: str) -> str:
    """A word of the command line; a page needs no paths of the machine it was made on."""
    name, equals, value = word.rpartition("=")
    return f"{name}{equals}FOLDER" if Path(value).is_absolute() else word


def write(out: Path, document: dict[str, Any]) -> None:
    """Both files, each under its name only when it is complete."""
    for suffix, text in ((".json", json.dumps(document, indent=1) + "\n"), (".md", page(document))):
        path = out.with_name(out.name + suffix)
        write_file(path, text)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=sorted(GEOMETRIES), help="default: both")
    parser.add_argument("--line", action="append", choices=[*LINES, *QLORA], help="default: all without 4-bit")
    parser.add_argument("--qlora", action="store_true", help="the 4-bit lines too; weights pass through a folder")
    parser.add_argument("--tokenizer", action="append", default=[], metavar="MODEL=FOLDER")
    parser.add_argument("--users", type=int, default=400, help="simulated users")
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="timed optimizer steps per line")
    parser.add_argument("--pool", type=int, default=20, help="scored windows per behavior")
    parser.add_argument("--label-windows", type=int, default=8, help="windows scored by a forward pass per label")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="recipe fields, for all lines")
    parser.add_argument("--smoke", action="store_true", help="two narrow layers on any machine; measures nothing")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu_training", help="writes OUT.json and OUT.md")
    args = parser.parse_args(arguments)
    if not args.smoke and not torch.cuda.is_available():
        parser.error("no GPU here; --smoke proves that the script runs")
    if torch.cuda.device_count() > 1:
        parser.error("several GPUs here and this measures one; set CUDA_VISIBLE_DEVICES=0")
    given = dict(text.split("=", 1) for text in args.tokenizer)
    lines = LINES | QLORA
    chosen = args.line or [*LINES, *(QLORA if args.qlora else {})]
    sizes = (1, 1, 1, 1, _SHORTER) if args.smoke else (args.warm_up, args.steps, args.pool, args.label_windows, 1)
    words = sys.argv[1:] if arguments is None else arguments
    document: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.gpu_training", *map(without_folders, words)]),
        "smoke": args.smoke,
        "measured": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "models": {},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="edgeb-gpu-") as folder:
        work = Path(folder)
        simulate(30 if args.smoke else args.users, 28, 0, work / "log.csv")
        import_log(work / "log.csv", "csv", work / "data")
        dataset = Dataset.open(work / "data")
        table = dataset.events("train")
        for name in args.model or sorted(GEOMETRIES, reverse=True):
            plain = load_recipe(name, ["method=two-stage", *(SMOKE if args.smoke else []), *args.set])
            tokenizer = (
                load_tokenizer(given[name])
                if name in given
                else gpu_lines.own_tokenizer(table.candidates, table.places, plain.layout.layout(True, None))
            )
            config = gpu_lines.shrunk(GEOMETRIES[name]()) if args.smoke else GEOMETRIES[name]()
            counts = count(
                plain,
                dataset,
                encoder_for(tokenizer, plain.layout.layout(True, tokenizer), table.candidates),
                tokenizer,
            )
            lines_found: dict[str, Any] = {}
            document["models"][name] = {
                "tokenizer": "given" if name in given else f"trained on the spot, {len(tokenizer)} tokens",
                "geometry": config.to_dict(),
                "recipe": plain.model_dump(),
                "counts": counts.shown | {f"{kind}_windows": number for kind, number in counts.windows.items()},
                "lines": lines_found,
                "whole_run": None,
            }
            for line in chosen:
                # A smoke test's machine has no bfloat16 to speak of.
                smoke = [*SMOKE, "backbone.dtype=float32"] if args.smoke else []
                recipe = load_recipe(name, ["method=two-stage", "report_to=[]", *lines[line], *smoke, *args.set])
                make = partial(Bench, config, recipe, table, tokenizer, work, *sizes)
                print(f"{name}: {line}", file=sys.stderr, flush=True)
                lines_found[line] = measured(line, make)
                document["models"][name]["whole_run"] = gpu_total.composed(plain, counts, lines_found)
                write(args.out, document)
    print(page(document))


if __name__ == "__main__":
    main()
