"""Convert a Hugging Face model folder to an unquantized GGUF file, one tensor in memory at a time.

Knows the hyperparameters of Qwen2, Qwen3, Llama and Gemma 3; knows nothing of adapters, quantization or bundles.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bundle.manifest import BaseModelInfo
from edge_behavior.core.license import OTHER
from edge_behavior.errors import EdgebError
from edge_behavior.hf.architectures import (
    architecture,
    load_config,
    load_tokenizer,
    local_rope,
    rope_parameters,
    tensor_plan,
    window_period,
)
from edge_behavior.hf.finite import KEEP_F32
from edge_behavior.hf.folder import open_weights, weight_files
from edge_behavior.hf.gguf_vocab import read_vocab, write_vocab
from edge_behavior.hf.rope import llama3_divisors
from edge_behavior.hf.tensors import TensorSpec, head_dim
from edge_behavior.util.progress import progress_bar

DTYPES: dict[str, np.dtype[Any]] = {"f16": np.dtype(np.float16), "f32": np.dtype(np.float32)}
_FILE_TYPES = {"f16": 1, "f32": 0}


def write_gguf(model_dir: Path, out: Path, dtype: str = "f16", base: BaseModelInfo | None = None) -> None:
    """Convert a model folder with its tokenizer.

    Args:
        model_dir: config.json, safetensors weights and a fast tokenizer.
        out: File to write, directly.
        dtype: "f16" or "f32" for matrices; vectors are always f32.
        base: The pretrained model, for the keys in which GGUF files name it and its license.

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
        plan = tensor_plan(config, files, model_dir)
        writer = GGUFWriter(str(out), architecture(config))
        stack.callback(writer.close)
        _write_settings(writer, config, dtype)
        if base is not None:
            write_origin(writer, base)
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


def write_vocabulary(model_dir: Path, out: Path) -> None:
    """Write a GGUF file of a model folder's tokenizer alone, without tensors: llama.cpp opens its vocabulary.

    Args:
        model_dir: config.json and a fast tokenizer.
        out: File to write, directly.

    Raises:
        EdgebError: an unsupported architecture, setting or tokenizer.
    """
    from gguf import GGUFWriter

    config = load_config(model_dir)
    with ExitStack() as stack:
        writer = GGUFWriter(str(out), architecture(config))
        stack.callback(writer.close)
        writer.add_type("vocab")
        write_vocab(writer, read_vocab(load_tokenizer(model_dir), int(config.vocab_size)))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()


def rope_factors(config: Any) -> NDArray[np.float32] | None:
    """Per-frequency divisors of Llama 3.1's rotary scaling, shape [head_dim / 2], or None without it."""
    rope = rope_parameters(config)
    if rope["rope_type"] != "llama3":
        return None
    return llama3_divisors(rope, head_dim(config))


def _write_settings(writer: Any, config: Any, dtype: str) -> None:
    from gguf import RopeScalingType

    rope, local = rope_parameters(config), local_rope(config)
    kind = rope["rope_type"]
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
    if local is not None:
        writer.add_rope_freq_base_swa(float(local["rope_theta"]))
        writer.add_sliding_window(int(config.sliding_window))
        writer.add_sliding_window_pattern(window_period(config))
    writer.add_layer_norm_rms_eps(float(config.rms_norm_eps))
    writer.add_vocab_size(int(config.vocab_size))
    writer.add_file_type(_FILE_TYPES[dtype])
    writer.add_quantization_version(2)


def write_origin(writer: Any, base: BaseModelInfo) -> None:
    """Backbone and license under GGUF's own keys, for tools that know nothing of manifests."""
    stated = base.license
    if base.name is not None:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, base.name)
        if stated is not None and stated.author is not None:
            writer.add_base_model_author(0, stated.author)
    if stated is None:
        return
    writer.add_license(stated.id or OTHER)
    if stated.name is not None:
        writer.add_license_name(stated.name)
    if stated.link is not None:
        writer.add_license_link(stated.link)


def _stored_dtype(tensor: TensorSpec, dtype: str) -> np.dtype[Any]:
    return DTYPES["f32"] if len(tensor.shape) == 1 else DTYPES[dtype]


def _read(tensor: TensorSpec, weights: Any, dtype: str) -> NDArray[Any]:
    import torch

    loaded = weights.get_tensor(tensor.source)
    target = torch.float16 if _stored_dtype(tensor, dtype) == np.float16 else torch.float32
    values = loaded.to(target)
    if not bool(torch.isfinite(values).all()):
        # The backbone's own weights were checked before merging.
        rate = "train again with a lower learning rate"
        if bool(torch.isfinite(loaded).all()):
            raise EdgebError(f"the tensor '{tensor.source}' does not fit f16", f"{KEEP_F32}, or {rate}")
        raise EdgebError(f"the tensor '{tensor.source}' holds values that are not finite", rate)
    array: NDArray[Any] = (values + tensor.offset).numpy() if tensor.offset else values.numpy()
    if tensor.heads:
        half = tensor.shape[0] // tensor.heads // 2
        array = array.reshape(tensor.heads, 2, half, -1).swapaxes(1, 2).reshape(tensor.shape)
    return np.ascontiguousarray(array)
