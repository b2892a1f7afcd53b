"""A GGUF file as a backbone: its weights, configuration and tokenizer as a Hugging Face folder.

Quantized weights become float16, which rounds them once more, by less than a thousandth of what quantizing did. Knows
the architectures of `architectures`, and refuses all others by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.errors import EdgebError
from edge_behavior.hf.architectures import ARCHITECTURES, Architecture, backbone_tensors
from edge_behavior.hf.folder import WEIGHTS, first_line
from edge_behavior.hf.gguf_tokenizer import write_tokenizer
from edge_behavior.hf.gguf_vocab import UnsupportedBackboneError
from edge_behavior.hf.license import gguf_license, write_license
from edge_behavior.hf.tensors import TensorSpec

# What a file that says nothing means, by llama.cpp.
_ROPE_BASE, _LOCAL_ROPE_BASE = 10_000.0, 10_000.0
# Llama 3.1 and 3.2 as published: the file holds the divisors of the rotary embedding, not the rule that gave them.
_LLAMA3_FACTORS = (8.0, 32.0)
_LLAMA3_RULE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_AGAIN = "download it again"


def write_backbone(file: Path, folder: Path) -> str:
    """Write a GGUF file's model as config.json, model.safetensors, the files of its tokenizer, and a card.

    Args:
        file: One whole GGUF file, of any quantization that gguf-py reads.
        folder: An empty folder.

    Returns:
        The quantization that the file names, like `Q4_1`; "" where it names none.

    Raises:
        EdgebError: no GGUF file, a damaged one, one part of several, an adapter, an architecture, tokenizer or
            quantization that is not known, or tensors that are not those of the architecture.
    """
    with _open(file) as reader:
        metadata = _Metadata(file, {name: field.contents() for name, field in reader.fields.items()})
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        kind = known_architecture(file, metadata.values)
        config = _config(file, metadata, kind, tensors)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_tokenizer(metadata.values, folder)
        _write_weights(file, config, tensors, folder / WEIGHTS)
        quantization = _quantization_name(str(metadata.get("general.file_type", "")))
        about = f"Unpacked by edgeb from {file.name}{quantization and f', quantized as {quantization}'}."
        write_license(folder, str(metadata.get("general.name", file.stem)), gguf_license(metadata.values), about)
    return quantization


class _Metadata:
    """A file's metadata, with one-line errors for what it lacks."""

    def __init__(self, file: Path, values: dict[str, Any]) -> None:
        self._file, self.values = file, values

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def need(self, key: str) -> Any:
        if key not in self.values:
            raise EdgebError(f"{self._file} has no {key}", _AGAIN)
        return self.values[key]


@contextmanager
def _open(file: Path) -> Iterator[Any]:
    from gguf import GGUFReader

    try:
        with file.open("rb") as opened:
            magic = opened.read(4)
    except OSError as error:
        raise EdgebError(f"cannot read {file}: {error.strerror}", "check backbone.path") from None
    if magic != b"GGUF":
        raise EdgebError(f"{file} is no GGUF file", "give backbone.path a GGUF file or a Hugging Face folder")
    try:
        reader = GGUFReader(file)
    except Exception as error:  # of any type: gguf-py trusts what it reads
        raise EdgebError(f"{file} is damaged: {first_line(error)}", _AGAIN) from None
    yield reader


def known_architecture(file: Path, values: dict[str, Any]) -> tuple[str, Architecture]:
    """The class and the row of `ARCHITECTURES` of a GGUF file.

    Args:
        file: Named in messages.
        values: Its metadata; arrays are not needed.

    Raises:
        EdgebError: an adapter, one part of several, or an architecture that is not known (named, with the list).
    """
    metadata = _Metadata(file, values)
    if metadata.get("general.type", "model") != "model":
        raise EdgebError(
            f"{file} is of type {metadata.get('general.type')}, not a model", "give the model's own GGUF file"
        )
    if int(metadata.get("split.count", 1)) > 1:
        part, count = int(metadata.get("split.no", 0)) + 1, int(metadata.get("split.count"))
        raise EdgebError(f"{file} is part {part} of {count}", "join them with llama-gguf-split --merge")
    name = metadata.need("general.architecture")
    for class_name, known in ARCHITECTURES.items():
        if known.gguf == name:
            return class_name, known
    supported = ", ".join(known.gguf for known in ARCHITECTURES.values())
    raise UnsupportedBackboneError(f"{file}: unsupported architecture {name}", f"supported: {supported}")


def _config(file: Path, metadata: _Metadata, kind: tuple[str, Architecture], tensors: dict[str, Any]) -> dict[str, Any]:
    class_name, known = kind
    at = known.gguf

    def need(key: str) -> int:
        return int(metadata.need(f"{at}.{key}"))

    hidden, heads = need("embedding_length"), need("attention.head_count")
    width = int(metadata.get(f"{at}.attention.key_length", hidden // heads))
    tokens = metadata.need("tokenizer.ggml.tokens")
    config: dict[str, Any] = {
        "architectures": [class_name],
        "model_type": known.model_type,
        "vocab_size": len(tokens),
        "hidden_size": hidden,
        "intermediate_size": need("feed_forward_length"),
        "num_hidden_layers": need("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": int(metadata.get(f"{at}.attention.head_count_kv", heads)),
        "head_dim": width,
        "max_position_embeddings": need("context_length"),
        "rms_norm_eps": _shortest(float(metadata.need(f"{at}.attention.layer_norm_rms_epsilon"))),
        "tie_word_embeddings": "output.weight" not in tensors,
        "torch_dtype": "float16",
    }
    for name in ("bos", "eos", "pad"):
        key = f"tokenizer.ggml.{'padding' if name == 'pad' else name}_token_id"
        config[f"{name}_token_id"] = metadata.get(key)
    rope = _rope(file, metadata, at, width, tensors)
    if known.gguf == "gemma3":
        local = float(metadata.get(f"{at}.rope.freq_base_swa", _LOCAL_ROPE_BASE))
        config |= {
            "hidden_activation": "gelu_pytorch_tanh",
            "sliding_window": need("attention.sliding_window"),
            "query_pre_attn_scalar": width,
            "rope_parameters": {
                "full_attention": rope,
                "sliding_attention": {"rope_type": "default", "rope_theta": local},
            },
        }
        for cap in ("final_logit_softcapping", "attn_logit_softcapping"):
            config[cap] = metadata.get(f"{at}.{cap}")
    else:
        config |= {"hidden_act": "silu", "rope_parameters": rope}
        if known.gguf == "llama":
            config |= {
                "attention_bias": "blk.0.attn_q.bias" in tensors,
                "mlp_bias": "blk.0.ffn_up.bias" in tensors,
            }
        else:
            config["use_sliding_window"] = False
    return config


def _rope(file: Path, metadata: _Metadata, at: str, width: int, tensors: dict[str, Any]) -> dict[str, Any]:
    from edge_behavior.hf.rope import llama3_divisors

    if int(metadata.get(f"{at}.rope.dimension_count", width)) != width:
        raise UnsupportedBackboneError(f"{file}: a partial rotary embedding is not supported", "use another backbone")
    base = float(metadata.get(f"{at}.rope.freq_base", _ROPE_BASE))
    kind = str(metadata.get(f"{at}.rope.scaling.type", "none"))
    if "rope_freqs.weight" in tensors:
        found = np.asarray(tensors["rope_freqs.weight"].data, dtype=np.float32).reshape(-1)
        for factor in _LLAMA3_FACTORS:
            rule = {"rope_type": "llama3", "rope_theta": base, "factor": factor, **_LLAMA3_RULE}
            if np.allclose(found, llama3_divisors(rule, width), rtol=1e-4):
                return rule
        raise UnsupportedBackboneError(
            f"{file}: its rotary scaling is neither Llama 3.1's nor Llama 3.2's", "use the Hugging Face folder"
        )
    if kind == "linear":
        factor = float(metadata.need(f"{at}.rope.scaling.factor"))
        return {"rope_type": "linear", "rope_theta": base, "factor": factor}
    if kind != "none":
        raise UnsupportedBackboneError(f"{file}: unsupported rope scaling '{kind}'", "use another backbone")
    return {"rope_type": "default", "rope_theta": base}


def _shortest(value: float) -> float:
    """The shortest decimal number that is this one in float32: 1e-5, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _write_weights(file: Path, config: dict[str, Any], tensors: dict[str, Any], out: Path) -> None:
    from safetensors.numpy import save_file
    from transformers import AutoConfig

    arguments = {name: value for name, value in config.items() if name != "model_type"}
    known = AutoConfig.for_model(config["model_type"], **arguments)
    found: dict[str, NDArray[Any]] = {}
    unused = set(tensors) - {"rope_freqs.weight"}
    for spec in backbone_tensors(known):
        if spec.gguf not in tensors:
            if spec.gguf.endswith(".bias"):
                continue
            raise EdgebError(f"{file}: the tensor '{spec.gguf}' is missing", _AGAIN)
        unused.discard(spec.gguf)
        found[spec.source] = _values(file, spec, tensors[spec.gguf])
    if unused:
        raise EdgebError(f"{file}: unknown tensor '{min(unused)}'", "the file is not of its architecture")
    save_file(found, out, metadata={"format": "pt"})


def _values(file: Path, spec: TensorSpec, tensor: Any) -> NDArray[Any]:
    from gguf.quants import dequantize

    kind = tensor.tensor_type.name
    try:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
    except NotImplementedError:
        raise UnsupportedBackboneError(
            f"{file}: '{spec.gguf}' is quantized as {kind}, which cannot be read", "take another quantization"
        ) from None
    if values.shape != spec.shape:
        raise EdgebError(f"{file}: '{spec.gguf}' has shape {values.shape}, its metadata say {spec.shape}", _AGAIN)
    values = values - spec.offset if spec.offset else values
    if spec.heads:
        half = spec.shape[0] // spec.heads // 2
        values = values.reshape(spec.heads, half, 2, -1).swapaxes(1, 2).reshape(spec.shape)
    with np.errstate(over="ignore"):
        rounded = values if kind == "F32" and values.ndim == 1 else values.astype(np.float16)
    if not np.isfinite(rounded).all():
        raise EdgebError(f"{file}: '{spec.gguf}' holds values that are not finite or beyond float16", _AGAIN)
    return np.ascontiguousarray(rounded)


def _quantization_name(file_type: str) -> str:
    from gguf import LlamaFileType

    try:
        return LlamaFileType(int(file_type)).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return ""
