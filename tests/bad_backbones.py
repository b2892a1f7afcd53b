"""Backbones that cannot be exported, one for every reason that shows in configuration, tokenizer or headers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests import helpers
from tests.unit.export.conftest import llama, llama3_tokenizer

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
Change = Callable[[Path], None]


def good(folder: Path) -> Path:
    """Two backbones that work, a small Qwen2 and a Llama, in folders of these names."""
    tokens, llama3 = helpers.tokenizer(), llama3_tokenizer()
    helpers.save(helpers.model(tokens), tokens, folder / "qwen2")
    helpers.save(llama(len(llama3), max_position_embeddings=4096), llama3, folder / "llama")
    return folder


def made(bases: Path, name: str, folder: Path) -> Path:
    """The backbone `name`: a copy of a good one, changed."""
    # Of a Qwen2's tokenizer Transformers makes up all but the vocabulary itself.
    shutil.copytree(bases / ("llama" if name in TOKENIZERS else "qwen2"), folder)
    ALL[name][0](folder)
    return folder


def edit(folder: Path, file: str, **changes: Any) -> None:
    """Set fields of a JSON file."""
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _config(**changes: Any) -> Change:
    return lambda folder: edit(folder, "config.json", **changes)


def _text(file: str, text: str | None) -> Change:
    def write(folder: Path) -> None:
        (folder / file).unlink() if text is None else (folder / file).write_text(text)

    return write


def _tokenizer(change: Callable[[dict[str, Any]], None]) -> Change:
    def write(folder: Path) -> None:
        fields = json.loads((folder / "tokenizer.json").read_text())
        change(fields)
        (folder / "tokenizer.json").write_text(json.dumps(fields))

    return write


def _weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Change:
    def write(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return write


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _lost_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _no_eos(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("eos_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


# What is done to a good one, and what is said of it.
ALL: dict[str, tuple[Change, str]] = {
    "mistral": (_config(architectures=["MistralForCausalLM"]), "unsupported architecture MistralForCausalLM"),
    "no architecture": (_config(architectures=None), "unsupported architecture model type 'qwen2'"),
    "own code": (_config(auto_map={"AutoModelForCausalLM": "modeling_x.X"}), "auto_map names custom code"),
    "other type": (_config(model_type="llama"), "model_type 'llama' is not that of a Qwen2ForCausalLM"),
    "quantized": (_config(quantization_config={"quant_method": "gptq", "bits": 4}), "already quantized weights"),
    "gelu": (_config(hidden_act="gelu"), "hidden_act = 'gelu' is not supported"),
    "sliding window": (
        _config(use_sliding_window=True, sliding_window=8),
        "use_sliding_window = True is not supported",
    ),
    "sliding layers": (_config(layer_types=["sliding_attention"] * 2), "layer_types has sliding_attention"),
    "yarn": (_config(rope_parameters=YARN), "unsupported rope scaling 'yarn'"),
    # llama.cpp reads these factors for Llama only.
    "llama3 rope": (_config(rope_parameters=LLAMA3), "unsupported rope scaling 'llama3'"),
    "partial rope": (
        _config(rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}),
        "partial rotary embedding",
    ),
    "adapter inside": (_text("adapter_config.json", "{}"), "holds an adapter beside the model"),
    "broken config": (_text("config.json", '{"architectures": ['), "config.json is not JSON"),
    "list as config": (_text("config.json", "[]"), "config.json is not a JSON object"),
    "wrong type": (_config(hidden_size="wide"), "config.json: "),
    "no config": (_text("config.json", None), "cannot read .*config.json"),
    "no tokenizer": (_text("tokenizer.json", None), "is empty: it has no tokenizer.json"),
    "broken tokenizer": (_text("tokenizer.json", '{"version": "1.0", "mod'), "cannot load the tokenizer"),
    "no merges": (_tokenizer(lambda f: f["model"].update(merges=[])), "has no merge table"),
    "too many tokens": (_config(vocab_size=100), "the tokenizer has .* tokens, the model 100 embeddings"),
    "pickled": (_pickled, "pytorch_model.bin is pickled, which is not read"),
    "lost shard": (_lost_shard, "weight file .*00002-of-00002.safetensors is missing"),
    "cut": (_cut, "model.safetensors is damaged"),
    "no bias": (_weights(lambda t: t.pop("model.layers.0.self_attn.q_proj.bias")), "q_proj.bias' is missing"),
    "unknown tensor": (_weights(lambda t: t.update(extra=torch.zeros(2))), "unknown tensor 'extra'"),
    "another shape": (_config(intermediate_size=64), r"has shape \(96, 64\), the config says \(64, 64\)"),
}
TOKENIZERS: dict[str, tuple[Change, str]] = {
    "normalizer": (
        _tokenizer(lambda f: f.update(normalizer={"type": "NFKC"})),
        "unsupported tokenizer normalizer NFKC",
    ),
    "whitespace": (
        _tokenizer(lambda f: f.update(pre_tokenizer={"type": "Whitespace"})),
        "unsupported pre-tokenizer Whitespace",
    ),
    "regex": (
        _tokenizer(lambda f: f["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\w+")),
        r"unknown pre-tokenizer regex",
    ),
    "no end": (_no_eos, "names no end-of-sequence token"),
}
# A plan needs no weights, so it does not miss them.
UNPLANNED: dict[str, tuple[Change, str]] = {
    "no weights": (_text("model.safetensors", None), "model.safetensors is missing"),
}
ALL |= TOKENIZERS | UNPLANNED
