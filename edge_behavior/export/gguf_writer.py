"""From a Hugging Face model folder to an unquantized GGUF file, one tensor in memory at a time.

Knows the tensor names and hyperparameters of Qwen2 and Llama. Knows nothing of adapters, quantization or bundles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.errors import EdgebError
from edge_behavior.export.base_model import (
    architecture,
    head_dim,
    load_config,
    load_tokenizer,
    open_weights,
    weight_files,
)
from edge_behavior.export.progress import progress_bar
from edge_behavior.export.tokenizer_gguf import read_vocab, write_vocab

DTYPES: dict[str, np.dtype[Any]] = {"f16": np.dtype(np.float16), "f32": np.dtype(np.float32)}
_FILE_TYPES = {"f16": 1, "f32": 0}
_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass(frozen=True)
class _Tensor:
    """One tensor to write: its GGUF and Hugging Face names, shape, and heads to regroup (0: leave as it is)."""

    gguf: str
    source: str
    shape: tuple[int, ...]
    heads: int = 0


def write_gguf(model_dir: Path, out: Path, dtype: str = "f16") -> None:
    """Convert a model folder with its tokenizer.

    Args:
        model_dir: config.json, safetensors weights and a fast tokenizer.
        out: File to write, directly.
        dtype: "f16" or "f32" for matrices; vectors are always f32.

    Raises:
        EdgebError: an unsupported architecture, setting or tokenizer; missing, unknown, misshapen or damaged
            tensors; weights that are not finite or do not fit f16.
    """
    from gguf import GGUFWriter

    config = load_config(model_dir)
    files = weight_files(model_dir)
    with ExitStack() as stack:
        sources: dict[str, Any] = {}
        for file in files:
            weights = stack.enter_context(open_weights(file))
            sources.update(dict.fromkeys(weights.keys(), weights))
        plan = _plan(config, sources, model_dir)
        writer = GGUFWriter(str(out), architecture(config))
        stack.callback(writer.close)
        _write_settings(writer, config, dtype)
        write_vocab(writer, read_vocab(load_tokenizer(model_dir), int(config.vocab_size)))
        factors = rope_factors(config)
        for tensor in plan:
            kind = _stored_dtype(tensor, dtype)
            writer.add_tensor_info(tensor.gguf, tensor.shape, kind, math.prod(tensor.shape) * kind.itemsize)
        if factors is not None:
            writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with progress_bar("Converting", len(plan)) as advance:
            for tensor in plan:
                writer.write_tensor_data(_read(tensor, sources[tensor.source], dtype))
                advance(1)
        if factors is not None:
            writer.write_tensor_data(factors)


def tensor_names(config: Any) -> dict[str, str]:
    """GGUF name of every matrix and vector by its Hugging Face name."""
    return {tensor.source: tensor.gguf for tensor in _tensors(config)}


def rope_factors(config: Any) -> NDArray[np.float32] | None:
    """Per-frequency divisors of Llama 3.1's rotary scaling, shape [head_dim / 2], or None without it.

    Long wavelengths are divided by `factor`, short ones left alone, those between blended (Llama 3.1's rule).
    """
    rope = config.rope_parameters
    if rope["rope_type"] != "llama3":
        return None
    width = head_dim(config)
    wavelengths = 2 * math.pi * float(rope["rope_theta"]) ** (np.arange(0, width, 2, dtype=np.float64) / width)
    low, high, factor = (float(rope[name]) for name in ("low_freq_factor", "high_freq_factor", "factor"))
    turns = float(rope["original_max_position_embeddings"]) / wavelengths
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - blend) / factor + blend), dtype=np.float32)


def _write_settings(writer: Any, config: Any, dtype: str) -> None:
    from gguf import RopeScalingType

    rope = config.rope_parameters
    kind = rope["rope_type"]
    if kind not in ("default", "linear", "llama3"):
        raise EdgebError(f"unsupported rope scaling '{kind}'", "supported: default, linear, llama3")
    if float(rope.get("partial_rotary_factor") or 1.0) != 1.0:
        raise EdgebError("a partial rotary embedding is not supported", "use another backbone")
    writer.add_type("model")
    writer.add_context_length(int(config.max_position_embeddings))
    writer.add_embedding_length(int(config.hidden_size))
    writer.add_block_count(int(config.num_hidden_layers))
    writer.add_feed_forward_length(int(config.intermediate_size))
    writer.add_head_count(int(config.num_attention_heads))
    writer.add_head_count_kv(int(config.num_key_value_heads))
    writer.add_key_length(head_dim(config))
    writer.add_value_length(head_dim(config))
    writer.add_rope_dimension_count(head_dim(config))
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    writer.add_layer_norm_rms_eps(float(config.rms_norm_eps))
    writer.add_vocab_size(int(config.vocab_size))
    writer.add_file_type(_FILE_TYPES[dtype])
    writer.add_quantization_version(2)


def _plan(config: Any, sources: dict[str, Any], model_dir: Path) -> list[_Tensor]:
    """Every tensor in file order, after checking that the folder holds exactly these, in these shapes."""
    plan = []
    expected = set()
    for tensor in _tensors(config):
        bias = tensor.source.endswith(".bias")
        expected.add(tensor.source)
        if tensor.source not in sources:
            # Qwen2 always has q/k/v biases; elsewhere a bias is the config's choice.
            if bias and not _bias_required(config, tensor.source):
                continue
            raise EdgebError(
                f"{model_dir}: the tensor '{tensor.source}' is missing", "download or train the model again"
            )
        found = tuple(sources[tensor.source].get_slice(tensor.source).get_shape())
        if found != tensor.shape:
            raise EdgebError(
                f"{model_dir}: '{tensor.source}' has shape {found}, the config says {tensor.shape}", "check config.json"
            )
        plan.append(tensor)
    # A tied output is the embedding again; rotary buffers are computed.
    ignorable = {"lm_head.weight"} if config.tie_word_embeddings else set()
    for name in sorted(set(sources) - expected - ignorable):
        if not name.endswith("rotary_emb.inv_freq"):
            raise EdgebError(
                f"{model_dir}: unknown tensor '{name}'", "the checkpoint is not of its config's architecture"
            )
    return plan


def _bias_required(config: Any, source: str) -> bool:
    return architecture(config) == "qwen2" and source.split(".")[-2] in ("q_proj", "k_proj", "v_proj")


def _tensors(config: Any) -> Iterator[_Tensor]:
    hidden, inner, width = int(config.hidden_size), int(config.intermediate_size), head_dim(config)
    queries, keys = int(config.num_attention_heads) * width, int(config.num_key_value_heads) * width
    # llama.cpp rotates adjacent pairs for Llama, halves for Qwen2 (as Hugging Face does for both).
    regroup = architecture(config) == "llama"
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    heads = {"attn_q": int(config.num_attention_heads), "attn_k": int(config.num_key_value_heads)}
    yield _Tensor("token_embd.weight", "model.embed_tokens.weight", (int(config.vocab_size), hidden))
    for layer in range(int(config.num_hidden_layers)):
        for module, name in _BLOCK.items():
            source, target = f"model.layers.{layer}.{module}", f"blk.{layer}.{name}"
            count = heads.get(name, 0) if regroup else 0
            shape = shapes.get(module, (hidden,))
            yield _Tensor(f"{target}.weight", f"{source}.weight", shape, count)
            if module in shapes:
                yield _Tensor(f"{target}.bias", f"{source}.bias", shape[:1], count)
    yield _Tensor("output_norm.weight", "model.norm.weight", (hidden,))
    if not config.tie_word_embeddings:
        yield _Tensor("output.weight", "lm_head.weight", (int(config.vocab_size), hidden))


def _stored_dtype(tensor: _Tensor, dtype: str) -> np.dtype[Any]:
    return DTYPES["f32"] if len(tensor.shape) == 1 else DTYPES[dtype]


def _read(tensor: _Tensor, weights: Any, dtype: str) -> NDArray[Any]:
    import torch

    loaded = weights.get_tensor(tensor.source)
    target = torch.float16 if _stored_dtype(tensor, dtype) == np.float16 else torch.float32
    values = loaded.to(target)
    if not bool(torch.isfinite(values).all()):
        what = "does not fit f16" if bool(torch.isfinite(loaded).all()) else "holds values that are not finite"
        raise EdgebError(f"the tensor '{tensor.source}' {what}", "train again with a lower learning rate")
    array: NDArray[Any] = values.numpy()
    if tensor.heads:
        half = tensor.shape[0] // tensor.heads // 2
        array = array.reshape(tensor.heads, 2, half, -1).swapaxes(1, 2).reshape(tensor.shape)
    return np.ascontiguousarray(array)
