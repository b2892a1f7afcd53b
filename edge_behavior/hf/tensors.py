"""The tensors of a backbone: their names on both sides, their shapes, and whether a checkpoint holds exactly these.

Knows the tensor names of Qwen2, Qwen3, Llama and Gemma 3. Reads headers only; knows nothing of GGUF's files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_behavior.errors import EdgebError
from edge_behavior.hf.folder import open_weights

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
_HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
# Gemma normalizes what comes out of a part, too, under a name that others use for what goes into the next.
_SANDWICH_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_BLOCKS = {
    "qwen2": _BLOCK,
    "llama": _BLOCK,
    "qwen3": _BLOCK | _HEAD_NORMS,
    "gemma3_text": _BLOCK | _HEAD_NORMS | _SANDWICH_NORMS,
}
# Hugging Face's Gemma scales by one plus the weight; GGUF holds the sum.
_NORM_OFFSETS = {"gemma3_text": 1.0}


@dataclass(frozen=True)
class TensorSpec:
    """One tensor.

    Attributes:
        gguf: Its name in GGUF.
        source: Its name in Hugging Face.
        shape: Of both.
        heads: Heads whose rows GGUF has in another order; 0 leaves them as they are.
        offset: What GGUF's values are larger by.
    """

    gguf: str
    source: str
    shape: tuple[int, ...]
    heads: int = 0
    offset: float = 0.0


def head_dim(config: Any) -> int:
    """Width of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def stored_shapes(files: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor in some safetensors files, from their headers.

    Raises:
        EdgebError: a damaged or truncated file.
    """
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        with open_weights(file) as weights:
            found.update({name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()})  # noqa: SIM118
    return found


def check_tensors(config: Any, shapes: Mapping[str, tuple[int, ...]], model_dir: Path) -> list[TensorSpec]:
    """Every tensor in file order, after checking that a checkpoint holds exactly these, in these shapes.

    Args:
        config: A configuration that `architectures.load_config` accepts.
        shapes: What the checkpoint holds.
        model_dir: Its folder, for messages.

    Raises:
        EdgebError: a tensor that is missing, misshapen or unknown.
    """
    plan = []
    expected = set()
    for tensor in tensor_specs(config):
        expected.add(tensor.source)
        if tensor.source not in shapes:
            # Qwen2 always has q/k/v biases; elsewhere a bias is the config's choice.
            if tensor.source.endswith(".bias") and not _bias_required(config, tensor.source):
                continue
            raise EdgebError(
                f"{model_dir}: the tensor '{tensor.source}' is missing", "download or train the model again"
            )
        found = shapes[tensor.source]
        if found != tensor.shape:
            raise EdgebError(
                f"{model_dir}: '{tensor.source}' has shape {found}, the config says {tensor.shape}", "check config.json"
            )
        plan.append(tensor)
    # A tied output is the embedding again; rotary buffers are computed.
    ignorable = {"lm_head.weight"} if config.tie_word_embeddings else set()
    for name in sorted(set(shapes) - expected - ignorable):
        if not name.endswith("rotary_emb.inv_freq"):
            raise EdgebError(
                f"{model_dir}: unknown tensor '{name}'", "the checkpoint is not of its config's architecture"
            )
    return plan


def tensor_names(config: Any) -> dict[str, str]:
    """GGUF name of every matrix and vector by its Hugging Face name."""
    return {tensor.source: tensor.gguf for tensor in tensor_specs(config)}


def tensor_specs(config: Any) -> Iterator[TensorSpec]:
    """Every tensor that a backbone may have, in GGUF's order; biases also where this one has none.

    Args:
        config: A configuration that `architectures.load_config` accepts.
    """
    hidden, inner, width = int(config.hidden_size), int(config.intermediate_size), head_dim(config)
    queries, keys = int(config.num_attention_heads) * width, int(config.num_key_value_heads) * width
    kind = str(config.model_type)
    # llama.cpp rotates adjacent pairs for Llama, halves for the others (as Hugging Face does for all).
    regroup, offset = kind == "llama", _NORM_OFFSETS.get(kind, 0.0)
    matrices: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    heads = {"attn_q": int(config.num_attention_heads), "attn_k": int(config.num_key_value_heads)}
    yield TensorSpec("token_embd.weight", "model.embed_tokens.weight", (int(config.vocab_size), hidden))
    for layer in range(int(config.num_hidden_layers)):
        for module, name in _BLOCKS[kind].items():
            source, target = f"model.layers.{layer}.{module}", f"blk.{layer}.{name}"
            if module in matrices:
                shape, count = matrices[module], heads.get(name, 0) if regroup else 0
                yield TensorSpec(f"{target}.weight", f"{source}.weight", shape, count)
                yield TensorSpec(f"{target}.bias", f"{source}.bias", shape[:1], count)
            else:
                shape = (width,) if module in _HEAD_NORMS else (hidden,)
                yield TensorSpec(f"{target}.weight", f"{source}.weight", shape, offset=offset)
    yield TensorSpec("output_norm.weight", "model.norm.weight", (hidden,), offset=offset)
    if not config.tie_word_embeddings:
        yield TensorSpec("output.weight", "lm_head.weight", (int(config.vocab_size), hidden))


def _bias_required(config: Any, source: str) -> bool:
    return str(config.model_type) == "qwen2" and source.split(".")[-2] in ("q_proj", "k_proj", "v_proj")
