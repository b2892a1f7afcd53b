"""The tensors of a backbone: names in Hugging Face and GGUF, shapes, and whether a checkpoint holds exactly these.

The names are those of Llama; `TensorLayout` says what others have beyond them. Reads headers only.
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
# Gemma's post_attention_layernorm is applied to the output of attention; others apply it to the input of the MLP.
_SANDWICH_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


@dataclass(frozen=True)
class TensorLayout:
    """What the tensors of an architecture have beyond Llama's.

    Attributes:
        qkv_biases: Query, key and value projections always have biases.
        adjacent_pairs: llama.cpp rotates adjacent pairs; Hugging Face rotates halves.
        head_norms: Queries and keys are normalized per head.
        sandwich_norms: The output of attention and of the MLP is normalized, too.
        norm_offset: What GGUF's norm weights are larger by: Hugging Face's Gemma scales by one plus the weight.
    """

    qkv_biases: bool = False
    adjacent_pairs: bool = False
    head_norms: bool = False
    sandwich_norms: bool = False
    norm_offset: float = 0.0

    @property
    def block(self) -> dict[str, str]:
        """GGUF name of every module of a layer, by its Hugging Face name."""
        return _BLOCK | (_HEAD_NORMS if self.head_norms else {}) | (_SANDWICH_NORMS if self.sandwich_norms else {})


@dataclass(frozen=True)
class TensorSpec:
    """One tensor.

    Attributes:
        gguf: Its GGUF name.
        source: Its Hugging Face name.
        shape: Its shape in both.
        heads: Heads whose rows are regrouped (0: none).
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


def check_tensors(
    config: Any, shapes: Mapping[str, tuple[int, ...]], model_dir: Path, layout: TensorLayout
) -> list[TensorSpec]:
    """Every tensor in file order, after checking that a checkpoint holds exactly these, in these shapes.

    Args:
        config: A configuration that `architectures.load_config` accepted.
        shapes: What the checkpoint holds.
        model_dir: Its folder, for messages.
        layout: Its architecture's. Biases that it does not require are the configuration's choice.

    Raises:
        EdgebError: a tensor that is missing, misshapen or unknown.
    """
    plan = []
    expected = set()
    for tensor in tensor_specs(config, layout):
        expected.add(tensor.source)
        if tensor.source not in shapes:
            required = layout.qkv_biases and tensor.source.split(".")[-2] in ("q_proj", "k_proj", "v_proj")
            if tensor.source.endswith(".bias") and not required:
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
    # A tied output is the embedding; rotary buffers are computed.
    ignorable = {"lm_head.weight"} if config.tie_word_embeddings else set()
    for name in sorted(set(shapes) - expected - ignorable):
        if not name.endswith("rotary_emb.inv_freq"):
            raise EdgebError(
                f"{model_dir}: unknown tensor '{name}'", "the checkpoint is not of its config's architecture"
            )
    return plan


def tensor_specs(config: Any, layout: TensorLayout) -> Iterator[TensorSpec]:
    """Every tensor that a backbone may have, in GGUF's order; biases also where this one has none.

    Args:
        config: A configuration that `architectures.load_config` accepts.
        layout: Its architecture's.
    """
    hidden, inner, width = int(config.hidden_size), int(config.intermediate_size), head_dim(config)
    queries, keys = int(config.num_attention_heads) * width, int(config.num_key_value_heads) * width
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
        for module, name in layout.block.items():
            source, target = f"model.layers.{layer}.{module}", f"blk.{layer}.{name}"
            if module in matrices:
                shape, count = matrices[module], heads.get(name, 0) if layout.adjacent_pairs else 0
                yield TensorSpec(f"{target}.weight", f"{source}.weight", shape, count)
                yield TensorSpec(f"{target}.bias", f"{source}.bias", shape[:1], count)
            else:
                shape = (width,) if module in _HEAD_NORMS else (hidden,)
                yield TensorSpec(f"{target}.weight", f"{source}.weight", shape, offset=layout.norm_offset)
    yield TensorSpec("output_norm.weight", "model.norm.weight", (hidden,), offset=layout.norm_offset)
    if not config.tie_word_embeddings:
        yield TensorSpec("output.weight", "lm_head.weight", (int(config.vocab_size), hidden))
