"""Folders of `edgeb export --format hf` in optimum's ONNX exporter, which pins an older Transformers: same logits?

    python -m venv /tmp/optimum
    /tmp/optimum/bin/pip install torch==2.13.0 'optimum-onnx[onnxruntime]==0.1.0' 'transformers<4.58'
    edgeb export runs/mine --format hf --out mine-hf
    python -m benchmarks.optimum_onnx --optimum /tmp/optimum/bin/python --families mine-hf --out results/optimum-onnx

Prompts are evaluated here with this environment's Transformers, in float32. The other environment tokenizes the same
texts, evaluates the same token ids with its own Transformers, exports the folder, and runs the graph in onnxruntime on
the CPU. As a control, its Transformers also evaluates each folder without the fields of config.json that only version 4
reads: where the rotary embedding is not the default one, that is another model. `--families` adds a small random model
of each architecture, with a rotary scaling where it has one, and with prompts longer than the sliding window. Writes
FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

EVENTS = (0, 4, 12)
LABELS = ("Check email", "Listen to music", "Watch videos", "Make a call", "Take a photo", "Navigate")
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1e6, "factor": 2.0}
GEMMA = {"full_attention": LINEAR, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
GEOMETRY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
}


def family_folders(work: Path) -> dict[str, Path]:
    """A folder of `export_hf` per architecture, made of random weights; by what it shows."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        Gemma3TextConfig,
        LlamaConfig,
        PretrainedConfig,
        Qwen2Config,
        Qwen3Config,
    )

    from edge_behavior.core.candidates import CandidateSet
    from edge_behavior.core.prompts import PromptLayout
    from edge_behavior.export.hf.pipeline import export_hf
    from edge_behavior.export.profiles import ExportProfile
    from edge_behavior.export.source import ExportSource
    from edge_behavior.train.standin.model import train_tokenizer

    layout = PromptLayout("stream")
    text = [*layout.static(LABELS), *(f"(Mon {hour}, home, {label})\n" for hour in range(24) for label in LABELS)]
    tokenizer = train_tokenizer(iter(text), 400)
    ids: dict[str, Any] = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    window: dict[str, Any] = {"sliding_window": 64, "query_pre_attn_scalar": 16}
    configs: dict[str, PretrainedConfig] = {
        "Qwen2": Qwen2Config(**GEOMETRY, **ids, rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
        "Qwen3, linear rope": Qwen3Config(**GEOMETRY, **ids, rope_parameters=LINEAR),
        "Llama, Llama 3.1 rope": LlamaConfig(**GEOMETRY, **ids, rope_parameters=LLAMA3),
        "Gemma 3, window 64, linear rope": Gemma3TextConfig(**GEOMETRY, **ids, **window, rope_parameters=GEMMA),
    }
    made = {}
    for name, config in configs.items():
        torch.manual_seed(0)
        make: Any = AutoModelForCausalLM
        model = make.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                # Fresh weights give logits so small that a wrong rotary embedding hardly shows.
                parameter.mul_(2.0) if parameter.ndim > 1 else parameter.add_(0.1 * torch.randn(parameter.shape))
        folder = work / config.model_type
        model.save_pretrained(folder / "base")
        tokenizer.save_pretrained(folder / "base")
        source = ExportSource(folder / "base", None, CandidateSet.of(LABELS), layout)
        profile = ExportProfile(prune="off", parity={"windows": 4, "per_behavior": 0})
        export_hf(source, folder / "hf", "f32", profile)
        made[name] = folder / "hf"
    return made


def evaluate_here(folder: Path) -> tuple[list[str], list[list[int]], list[np.ndarray]]:
    """Texts, token ids of prompts, and the logits [T, V] of this environment."""
    from datetime import datetime, timedelta

    from edge_behavior.bundle.folder import read_folder_manifest
    from edge_behavior.core.events import BehaviorEvent
    from edge_behavior.export.merge import load_model, model_logits
    from edge_behavior.hf.architectures import load_tokenizer
    from edge_behavior.hf.tokenizers import encoder_for

    manifest = read_folder_manifest(folder)
    layout, labels = manifest.layout, manifest.candidates.labels
    encoder = encoder_for(load_tokenizer(folder), layout, manifest.candidates)
    when, place = datetime(2024, 3, 18, 9), "home" if layout.places else None
    history = [
        BehaviorEvent("home", when + timedelta(minutes=40 * i), labels[i % len(labels)]) for i in range(max(EVENTS))
    ]
    asked = when + timedelta(hours=12)
    prompts = [encoder.prompt_ids(history[:count], asked, place) for count in EVENTS]
    texts = [layout.prompt(history[:count], asked, place, labels).text for count in EVENTS]
    model = load_model(folder, "float32", str(folder))
    return texts, prompts, [model_logits(model, ids) for ids in prompts]


def inside(folder: Path, work: Path) -> None:
    """In the other environment: tokenize, evaluate, export and run; results go to `work`."""
    from importlib.metadata import version

    import onnxruntime
    import torch
    import transformers
    from optimum.exporters.onnx import main_export

    asked = json.loads((work / "asked.json").read_text(encoding="utf-8"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found = {}
    for what, place in (("torch", folder), ("control", without_old_fields(folder, work / "control"))):
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(place, torch_dtype=torch.float32)
        model.eval()
        with torch.no_grad():
            for i, ids in enumerate(asked["ids"]):
                found[f"{what}{i}"] = model(input_ids=torch.tensor([ids])).logits[0].numpy()
        del model
    main_export(str(folder), output=work / "onnx", task="text-generation", do_validation=False)
    session = onnxruntime.InferenceSession(str(work / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"])
    wanted = {node.name for node in session.get_inputs()}
    for i, ids in enumerate(asked["ids"]):
        tokens = np.asarray([ids], dtype=np.int64)
        inputs = {
            "input_ids": tokens,
            "attention_mask": np.ones_like(tokens),
            "position_ids": np.arange(len(ids), dtype=np.int64)[None],
        }
        feed = {name: value for name, value in inputs.items() if name in wanted}
        found[f"onnx{i}"] = session.run(["logits"], feed)[0][0]
    np.savez(work / "found.npz", **found)
    facts = {
        "tokens": [tokenizer(text, add_special_tokens=False).input_ids for text in asked["texts"]],
        "versions": {name: version(name) for name in ("torch", "transformers", "optimum-onnx", "onnxruntime")},
    }
    (work / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def without_old_fields(folder: Path, control: Path) -> Path:
    """The same folder, its rotary embedding under the name of Transformers 5 alone."""
    control.mkdir()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for name in ("rope_theta", "rope_scaling", "rope_local_base_freq"):
        config.pop(name, None)
    (control / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for file in folder.glob("*.safetensors*"):
        (control / file.name).symlink_to(file)
    return control


def compare(folder: Path, python: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What the other environment makes of a folder, against this one; and its versions."""
    from edge_behavior.bundle.folder import read_folder_manifest
    from edge_behavior.hf.architectures import load_tokenizer

    texts, prompts, expected = evaluate_here(folder)
    here = load_tokenizer(folder)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "asked.json").write_text(json.dumps({"texts": texts, "ids": prompts}), encoding="utf-8")
        command = [str(python), __file__, "--inside", str(work), str(folder.resolve())]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{folder} in the other environment:\n{done.stderr[-3000:]}")
        found = np.load(work / "found.npz")
        facts = json.loads((work / "facts.json").read_text(encoding="utf-8"))
        size = sum(file.stat().st_size for file in (work / "onnx").glob("model.onnx*"))
        row: dict[str, Any] = {
            "weights": read_folder_manifest(folder).quantization,
            "prompt_tokens": [len(ids) for ids in prompts],
            "tokens_equal": facts["tokens"] == [here(t, add_special_tokens=False).input_ids for t in texts],
            "largest_logit": max(float(np.abs(logits).max()) for logits in expected),
            "onnx_bytes": size,
        }
        for what in ("torch", "control", "onnx"):
            pairs = [(found[f"{what}{i}"], logits) for i, logits in enumerate(expected)]
            row[f"{what}_difference"] = max(float(np.abs(a - b).max()) for a, b in pairs)
            row[f"{what}_same_first"] = float(np.mean([np.mean(a.argmax(1) == b.argmax(1)) for a, b in pairs]))
    return row, facts["versions"]


def table(rows: dict[str, dict[str, Any]], versions: dict[str, dict[str, str]]) -> str:
    """The results as Markdown."""
    from edge_behavior.util.markdown import markdown_table, markdown_text

    heads = (
        "folder",
        "weights",
        "prompt tokens",
        "tokens",
        "largest logit",
        "control",
        "Transformers",
        "ONNX",
        "same first",
    )
    cells = [
        (
            markdown_text(name),
            row["weights"],
            ", ".join(map(str, row["prompt_tokens"])),
            "equal" if row["tokens_equal"] else "differ",
            f"{row['largest_logit']:.1f}",
            f"{row['control_difference']:.1e}",
            f"{row['torch_difference']:.1e}",
            f"{row['onnx_difference']:.1e}",
            f"{row['onnx_same_first']:.4f}",
        )
        for name, row in rows.items()
    ]
    said = "; ".join(f"{where}: {', '.join(f'{k} {v}' for k, v in held.items())}" for where, held in versions.items())
    return "\n".join(
        [
            "# Hugging Face folders in optimum's ONNX exporter",
            "",
            "Largest difference from this environment's logits, over all tokens of the prompts: with the other",
            "environment's Transformers, and in the graph that optimum exported there. *control*: that Transformers",
            "without the fields of config.json that only version 4 reads. *same first*: share of tokens whose most",
            "probable next token is the same in the graph. All in float32.",
            "",
            *markdown_table(heads, cells),
            "",
            f"Versions. {said}.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="made by `edgeb export --format hf`")
    parser.add_argument("--optimum", type=Path, help="Python of an environment with optimum-onnx")
    parser.add_argument("--families", action="store_true", help="also a small random model of each architecture")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside is not None:
        return inside(arguments.folders[0], arguments.inside)
    if arguments.optimum is None:
        parser.error("--optimum is needed")
    from importlib.metadata import version

    versions = {"here": {name: version(name) for name in ("torch", "transformers")}}
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as work:
        folders = family_folders(Path(work)) if arguments.families else {}
        folders |= {folder.name: folder for folder in arguments.folders}
        for name, folder in folders.items():
            rows[name], versions["optimum's environment"] = compare(folder, arguments.optimum)
            print(name, json.dumps(rows[name]), file=sys.stderr)
    text = table(rows, versions)
    print(text)
    if arguments.out is not None:
        document = {"versions": versions, "folders": rows}
        arguments.out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        arguments.out.with_suffix(".md").write_text(text, encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
