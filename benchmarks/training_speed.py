"""How fast a CPU trains: edgeb's trainer against a bare forward and backward pass of the same batches.

    python -m benchmarks.training_speed --backbone FOLDER --data DATA --out benchmarks/results/training_speed
    python -m benchmarks.training_speed --backbone FOLDER --data DATA --smoke        anywhere: proves that it runs

FOLDER is a Hugging Face folder, DATA a dataset of `edgeb data import`. Every line runs in a process of its own, one
after the other. Bare is the model under the same adapter: forward pass over padded batches of similar lengths, logits
and cross-entropy at label positions, backward pass; no optimizer, no trainer. edgeb is `train_sft` with everything that
belongs to a step. Tokens are those of the sequences, without padding, so every line counts the same work; warm-up steps
are not timed. Shared lines run beside another process that multiplies matrices with as many threads.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

_BUSY = "import torch; torch.set_num_threads({threads}); a = torch.randn(1024, 1024)\nwhile True: a @ a"
_WAITS = {
    "spinning": {},
    "brief": {"GOMP_SPINCOUNT": "10000"},
    "passive": {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"},
}


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        trainer: `bare` or `edgeb`.
        waits: A key of `_WAITS`: how OpenMP's threads wait for each other.
        shared: Beside a busy process.
        fitted: As many threads as are free, in place of `--threads`.
    """

    trainer: str
    dtype: str
    padded: bool
    waits: str = "passive"
    shared: bool = False
    fitted: bool = False

    def steps(self, most: int) -> int:
        """Steps to time: fewer where each takes long."""
        return max(1, most // 2) if self.shared or self.dtype == "float32" else most


LINES = [
    Line("bare", "float32", True),
    Line("edgeb", "float32", False),
    Line("bare", "bfloat16", True),
    Line("edgeb", "bfloat16", True),
    Line("edgeb", "bfloat16", False),
    Line("edgeb", "bfloat16", False, waits="brief"),
    Line("edgeb", "bfloat16", False, waits="spinning"),
    Line("edgeb", "bfloat16", False, waits="brief", shared=True, fitted=True),
    Line("edgeb", "bfloat16", False, shared=True),
    Line("edgeb", "bfloat16", False, waits="brief", shared=True),
    Line("edgeb", "bfloat16", False, waits="spinning", shared=True),
]


def measure(line: Line, options: argparse.Namespace) -> dict[str, Any]:
    """Time the steps of one line, in this process."""
    import numpy as np
    import torch

    from edge_behavior.data.dataset import Dataset
    from edge_behavior.hf.tokenizers import encoder_for
    from edge_behavior.train.recipe import Recipe
    from edge_behavior.train.rows.batches import batch_order
    from edge_behavior.train.rows.lazy import OrderedRows
    from edge_behavior.train.rows.samples import behavior_rows
    from edge_behavior.train.trainer.backbone import load_model, load_tokenizer
    from edge_behavior.train.trainer.threads import Threads

    torch.set_num_threads(options.threads)
    threads = Threads(None).fit() if line.fitted else options.threads
    torch.manual_seed(0)
    steps = options.warm + line.steps(options.steps)
    recipe = Recipe.model_validate(
        {
            "backbone": {"path": options.backbone, "dtype": line.dtype},
            "layout": {"list_candidates": False},
            "lora": {"rank": 16, "alpha": 32},
            "report_to": [],
            "a_tuning": {"targets": "all", "aux_ratio": 0, "max_steps": steps, "padding_free": not line.padded},
        }
    )
    stage, dataset = recipe.a_tuning, Dataset.open(Path(options.data))
    tokenizer = load_tokenizer(options.backbone)
    encoder = encoder_for(tokenizer, recipe.layout.layout(dataset.has_places, tokenizer), dataset.candidates)
    rows = behavior_rows(dataset.events("train"), encoder, stage, stage.max_targets, 0)
    # The first batch has the longest rows of all.
    order = batch_order(rows.lengths, stage.batch_size, 0, by_length=True)[stage.batch_size :]
    ordered = OrderedRows(rows, order[: steps * stage.batch_size])
    lengths = ordered.lengths.reshape(steps, -1)
    tokens = lengths.sum(1)
    model: Any = load_model(options.backbone, recipe.backbone)
    run = _bare if line.trainer == "bare" else _edgeb
    seconds = np.array(run(model, tokenizer, ordered, recipe, steps))
    speeds = tokens[options.warm :] / seconds[options.warm :]
    return {
        **asdict(line),
        "threads": threads,
        "tokens_per_second": float(tokens[options.warm :].sum() / seconds[options.warm :].sum()),
        "of_each_step": [round(float(speed), 1) for speed in speeds],
        "tokens": int(tokens[options.warm :].sum()),
        "padding": float(1 - lengths.sum() / (lengths.max(1).sum() * stage.batch_size)),
        "peak_rss_mib": _peak(),
    }


def _bare(model: Any, tokenizer: Any, rows: Any, recipe: Any, steps: int) -> list[float]:
    import torch
    from peft import get_peft_model

    from edge_behavior.train.trainer.lora import lora_config

    wrapped: Any = get_peft_model(model, lora_config(recipe.lora)).train()
    size, seconds = recipe.a_tuning.batch_size, []
    for step in range(steps):
        batch = [rows[step * size + i] for i in range(size)]
        length = max(len(row["input_ids"]) for row in batch)
        ids, labels, mask = (torch.full((size, length), fill) for fill in (0, -100, 0))
        for i, row in enumerate(batch):
            end = len(row["input_ids"])
            ids[i, :end], labels[i, :end] = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
            mask[i, :end] = 1
        started = perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=model.dtype == torch.bfloat16):
            states = wrapped.base_model.model.model(input_ids=ids, attention_mask=mask, use_cache=False)
            wanted = labels[:, 1:] != -100
            logits = model.get_output_embeddings()(states.last_hidden_state[:, :-1][wanted])
        loss: Any = torch.nn.functional.cross_entropy(logits.float(), labels[:, 1:][wanted])
        loss.backward()
        seconds.append(perf_counter() - started)
    return seconds


def _edgeb(model: Any, tokenizer: Any, rows: Any, recipe: Any, steps: int) -> list[float]:
    from transformers import TrainerCallback

    from edge_behavior.train.stages.sft import train_sft
    from edge_behavior.train.stages.tuning import Tuning

    ends: list[float] = []

    class Watch(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            ends.append(perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        tuning = Tuning(recipe, "a_tuning", steps, steps, Path(folder), Path(folder) / "logs")
        train_sft(model, tokenizer, rows, None, tuning, [Watch()])
    return [stop - start for start, stop in itertools.pairwise(ends)]


def _peak() -> int:
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def run_line(line: Line, options: argparse.Namespace) -> dict[str, Any]:
    """Time one line in a process of its own, beside a busy one where it is shared."""
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment |= _WAITS[line.waits]
    given = ["--backbone", options.backbone, "--data", options.data, "--threads", str(options.threads)]
    given += ["--warm", str(options.warm), "--steps", str(options.steps), "--line", json.dumps(asdict(line))]
    busy = None
    if line.shared:
        busy = subprocess.Popen([sys.executable, "-c", _BUSY.format(threads=options.threads)])
        sleep(3)
    try:
        command = [sys.executable, "-m", "benchmarks.training_speed", *given]
        made = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    finally:
        if busy is not None:
            busy.kill()
            busy.wait()
    found: dict[str, Any] = json.loads(made.stdout.splitlines()[-1])
    return found


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The lines in Markdown, each with its ratio to the bare line of its dtype."""
    bare = {line["dtype"]: line["tokens_per_second"] for line in lines if line["trainer"] == "bare"}
    names = ("trainer", "dtype", "batches", "threads", "waiting", "beside", "tokens/s", "of bare", "peak memory")
    text = f"| {' | '.join(names)} |\n{'|---' * len(names)}|\n"
    for line in lines:
        speed = line["tokens_per_second"]
        cells = (
            line["trainer"], line["dtype"], "padded" if line["padded"] else "packed", str(line["threads"]),
            line["waits"], "a busy process" if line["shared"] else "nothing", f"{speed:.0f}",
            f"{speed / bare[line['dtype']]:.2f}" if line["dtype"] in bare else "",
            f"{line['peak_rss_mib'] / 1024:.1f} GiB",
        )  # fmt: skip
        text += f"| {' | '.join(cells)} |\n"
    return text


def main() -> None:
    """Parse the command line and run all lines, or the one that `--line` names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warm", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", type=int, nargs="*", help="positions of the lines to run")
    parser.add_argument("--line", help="for the script itself")
    options = parser.parse_args()
    if options.smoke:
        options.warm, options.steps, options.threads = 1, 1, 1
    if options.line:
        print(json.dumps(measure(Line(**json.loads(options.line)), options)))
        return
    found = []
    for line in LINES if options.only is None else [LINES[i] for i in options.only]:
        found.append(run_line(line, options))
        print(table(found[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    machine = {"processor": platform.processor() or platform.machine(), "threads": options.threads}
    raw = json.dumps({"machine": machine, "lines": found}, indent=1) + "\n"
    if options.out is None:
        print(f"{table(found)}\n{raw}")
    else:
        options.out.with_suffix(".json").write_text(raw)
        options.out.with_suffix(".md").write_text(table(found))


if __name__ == "__main__":
    main()
