"""Peak memory of converting a checkpoint of Llama-3.1-8B's geometry to GGUF, against the size of its f16 weights.

    python -m benchmarks.convert_memory --tokenizer FOLDER --work FOLDER [--layers 32]

`--tokenizer` is a Hugging Face folder with the Llama 3 tokenizer. Writes bf16 shards of random weights (16 GB with all
32 layers; as much again for the result) under `--work`, converts them in a process of its own, takes that process's
peak resident memory (pages of mapped input files included, which the system may drop) and removes everything. Writes
convert_memory.json under results/.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig

from edge_behavior.bench.timing import peak_rss_bytes
from edge_behavior.export.gguf.writer import write_gguf

RESULTS = Path(__file__).parent / "results"
ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
NOISE = 1 << 24


def config(layers: int) -> LlamaConfig:
    """Llama-3.1-8B's shape."""
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=131072,
        tie_word_embeddings=False,
        rms_norm_eps=1e-5,
        rope_parameters=ROPE,
        bos_token_id=128000,
        eos_token_id=128001,
    )


def write_checkpoint(folder: Path, layers: int) -> int:
    """A sharded checkpoint, a shard per layer; returns the number of weights."""
    folder.mkdir(parents=True)
    shape = config(layers)
    shape.save_pretrained(folder)
    hidden, inner, keys = 4096, 14336, 1024
    noise = torch.randn(NOISE, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    shards: list[dict[str, tuple[int, ...]]] = [
        {
            "model.embed_tokens.weight": (128256, hidden),
            "model.norm.weight": (hidden,),
            "lm_head.weight": (128256, hidden),
        }
    ]
    for i in range(layers):
        at = f"model.layers.{i}."
        shards.append(
            {
                f"{at}input_layernorm.weight": (hidden,),
                f"{at}post_attention_layernorm.weight": (hidden,),
                f"{at}self_attn.q_proj.weight": (hidden, hidden),
                f"{at}self_attn.k_proj.weight": (keys, hidden),
                f"{at}self_attn.v_proj.weight": (keys, hidden),
                f"{at}self_attn.o_proj.weight": (hidden, hidden),
                f"{at}mlp.gate_proj.weight": (inner, hidden),
                f"{at}mlp.up_proj.weight": (inner, hidden),
                f"{at}mlp.down_proj.weight": (hidden, inner),
            }
        )
    names, weights = {}, 0
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {}
        for name, size in shard.items():
            count = 1
            for side in size:
                count *= side
            repeats = -(-count // NOISE)
            tensors[name] = noise.repeat(repeats)[:count].reshape(size).contiguous()
            names[name], weights = file, weights + count
        save_file(tensors, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 2 * weights}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return weights


def convert(folder: Path, out: Path) -> dict[str, Any]:
    """Convert in this process; seconds and peak resident memory in bytes."""
    started = time.perf_counter()
    write_gguf(folder, out)
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 1), "peak_rss_bytes": peak_rss_bytes()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--convert-only", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.convert_only is not None:
        print(json.dumps(convert(args.convert_only, args.work / "f16.gguf")))
        return
    model = args.work / "model"
    try:
        weights = write_checkpoint(model, args.layers)
        AutoTokenizer.from_pretrained(args.tokenizer).save_pretrained(model)
        command = [sys.executable, "-m", "benchmarks.convert_memory", "--work", str(args.work)]
        command += ["--tokenizer", str(args.tokenizer)]
        done = subprocess.run([*command, "--convert-only", str(model)], stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout)
        document = {
            "command": f"python -m benchmarks.convert_memory --tokenizer FOLDER --work FOLDER --layers {args.layers}",
            "measured": time.strftime("%Y-%m-%d"),
            "geometry": f"Llama-3.1-8B, {args.layers} layers",
            "weights": weights,
            "f16_bytes": 2 * weights,
            "file_bytes": (args.work / "f16.gguf").stat().st_size,
            **found,
            "peak_over_f16": round(found["peak_rss_bytes"] / (2 * weights), 3),
        }
    finally:
        shutil.rmtree(model, ignore_errors=True)
        (args.work / "f16.gguf").unlink(missing_ok=True)
    (args.out / "convert_memory.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
