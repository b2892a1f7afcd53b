"""The model as a plain PyTorch graph: fixed sizes, and everything that is not weights comes in from outside.

The cache is read, never written: a call gives out only the keys and values of its new tokens, so that CPU, GPU and NPU
take the same graph whole. Attention to the cache and to the new tokens is computed apart and normalized together, which
spares a copy of the cache. Module names are those of Hugging Face, so that checkpoints load as they are. Inputs,
outputs and shapes: see `bundle.litert_graph`. Knows no converter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from edge_behavior.bundle.litert_graph import LiteRtGraph, SlidingWindow
from edge_behavior.hf.architectures import load_config, local_rope, rope_parameters, tensor_plan
from edge_behavior.hf.folder import open_weights, weight_files
from edge_behavior.hf.rope import llama3_divisors
from edge_behavior.hf.tensors import head_dim

# Of attention: rotary cosines and sines [1, N, H], and the mask [1, 1, N, C + N].
Positions = tuple[Tensor, Tensor, Tensor]
# Keys and values of the cache, [1, G, C, H].
_Cached = tuple[Tensor, Tensor]
# `Positions` with the mask in parts, [1, 1, groups · n, …] for n rows each.
_Parts = tuple[Tensor, Tensor, list[Tensor]]
# Without a cache, so many rows at a time attend to what lies before them: a whole triangle would be half in vain.
_ROWS = 64


class Decoder(nn.Module):
    """Llama, Qwen2, Qwen3 or Gemma 3, without cache and positions of its own.

    Args:
        config: A configuration that `hf.architectures.load_config` accepted.
        tensors: Names of the checkpoint's tensors, which decide on biases and on norms beside Llama's.

    Attributes:
        sliding: For every layer, whether it attends to a sliding window only.
    """

    def __init__(self, config: Any, tensors: Collection[str]) -> None:
        super().__init__()
        kinds = getattr(config, "layer_types", None) or ()
        self.sliding = tuple(kind == "sliding_attention" for kind in kinds) or (False,) * config.num_hidden_layers
        # Gemma 3 scales embeddings, and takes another activation than SiLU.
        gemma = config.model_type == "gemma3_text"
        self.embedding_scale = math.sqrt(config.hidden_size) if gemma else None
        self.groups = config.num_attention_heads // config.num_key_value_heads
        self.model = _Body(config, tensors, gemma)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings [1, N, D] of ids [1, N]."""
        found: Tensor = self.model.embed_tokens(tokens)
        return found if self.embedding_scale is None else found * self.embedding_scale

    def run(
        self, x: Tensor, full: Positions, local: Positions | None, cached: Sequence[_Cached] | None
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Hidden states [1, N, D] after the last norm, and the new keys and values of every layer.

        Args:
            x: Embeddings [1, N, D].
            full: For layers that attend to the whole context.
            local: For the others; None where there are none.
            cached: The cache, layer by layer; None for an empty one, and masks in which no token sees one behind it.
        """
        new_keys, new_values = [], []
        size = x.shape[1] if cached is not None else _ROWS
        wide, near = self._parts(full, size), None if local is None else self._parts(local, size)
        for i, (layer, sliding) in enumerate(zip(self.model.layers, self.sliding, strict=True)):
            x, new_key, new_value = layer(x, near if sliding else wide, None if cached is None else cached[i])
            new_keys.append(new_key)
            new_values.append(new_value)
        return self.model.norm(x), new_keys, new_values

    def _parts(self, positions: Positions, size: int) -> _Parts:
        """The mask cut into parts of so many rows, each once per query of a key."""
        cos, sin, mask = positions
        count = mask.shape[2]
        masks = []
        for start in range(0, count, size):
            stop = min(start + size, count)
            # All columns, or of an empty cache those that are not behind.
            part = mask[:, :, start:stop, : mask.shape[3] - count + stop]
            # Not repeated, which would become an operation over more dimensions than GPUs take.
            masks.append(torch.cat([part] * self.groups, 2))
        return cos, sin, masks


class Embed(nn.Module):
    """The signature `embed_N`."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """Ids int32 [1, N] to embeddings [1, N, D]."""
        return {"embeddings": self.decoder.embed(tokens)}


class Step(nn.Module):
    """The signatures `step_N`."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self,
        embeddings: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor,
        k: list[Tensor],
        v: list[Tensor],
        cos_local: Tensor | None = None,
        sin_local: Tensor | None = None,
        mask_local: Tensor | None = None,
    ) -> dict[str, Any]:
        """See `bundle.litert_graph`: the lists become `k_0`, `k_1`…"""
        local = _local(cos_local, sin_local, mask_local)
        x, new_k, new_v = self.decoder.run(embeddings, (cos, sin, mask), local, list(zip(k, v, strict=True)))
        return {"logits": self.decoder.lm_head(x), "new_k": new_k, "new_v": new_v}


class First(nn.Module):
    """The signatures `first_N`."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self,
        embeddings: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor,
        cos_local: Tensor | None = None,
        sin_local: Tensor | None = None,
        mask_local: Tensor | None = None,
    ) -> dict[str, Any]:
        """See `bundle.litert_graph`."""
        local = _local(cos_local, sin_local, mask_local)
        _, new_k, new_v = self.decoder.run(embeddings, (cos, sin, mask), local, None)
        return {"new_k": new_k, "new_v": new_v}


def _local(cos: Tensor | None, sin: Tensor | None, mask: Tensor | None) -> Positions | None:
    return None if cos is None or sin is None or mask is None else (cos, sin, mask)


class _Body(nn.Module):
    def __init__(self, config: Any, tensors: Collection[str], gemma: bool) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            _Layer(config, {name.removeprefix(f"model.layers.{i}.") for name in tensors}, gemma)
            for i in range(config.num_hidden_layers)
        )
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)


class Norm(nn.Module):
    """RMSNorm, taken apart: LiteRT's GPU accelerator fails on one operator, as its NPU compilers do on the parts.

    Attributes:
        composite: Makes what marks the parts as one operator for the converter, from the epsilon; None for no mark.
    """

    composite: Callable[[float], Any] | None = None

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x scaled to a mean square of one over its last dimension, times the weights."""
        weight, mark = self.weight, None if self.composite is None else self.composite(self.eps)
        if mark is not None:
            x, weight = mark.mark_inputs(x, weight)
        found = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps) * weight
        return found if mark is None else cast(Tensor, mark.mark_outputs(found))


class _Mlp(nn.Module):
    def __init__(self, config: Any, biased: bool, gemma: bool) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=biased)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=biased)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=biased)
        self.activation = nn.GELU(approximate="tanh") if gemma else nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
        return found


class _Attention(nn.Module):
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear

    def __init__(self, config: Any, tensors: Collection[str]) -> None:
        super().__init__()
        self.width, self.heads = head_dim(config), int(config.num_attention_heads)
        self.kv_heads = int(config.num_key_value_heads)
        for name, size in (("q_proj", self.heads), ("k_proj", self.kv_heads), ("v_proj", self.kv_heads)):
            biased = f"self_attn.{name}.bias" in tensors
            self.add_module(name, nn.Linear(config.hidden_size, size * self.width, bias=biased))
        biased = "self_attn.o_proj.bias" in tensors
        self.o_proj = nn.Linear(self.heads * self.width, config.hidden_size, bias=biased)
        normed = "self_attn.q_norm.weight" in tensors
        self.q_norm: nn.Module = Norm(self.width, config.rms_norm_eps) if normed else nn.Identity()
        self.k_norm: nn.Module = Norm(self.width, config.rms_norm_eps) if normed else nn.Identity()

    def forward(self, x: Tensor, parts: _Parts, cached: _Cached | None) -> tuple[Tensor, Tensor, Tensor]:
        """Its output [1, N, D] and the new keys and values [1, G, N, H]."""
        cos, sin, masks = parts
        count = x.shape[1]
        query = _rotated(self.q_norm(self._heads(self.q_proj(x), self.heads)), cos, sin) * self.width**-0.5
        new_key = _rotated(self.k_norm(self._heads(self.k_proj(x), self.kv_heads)), cos, sin)
        new_value = self._heads(self.v_proj(x), self.kv_heads)
        found, start = [], 0
        for mask in masks:
            stop = start + mask.shape[2] // (self.heads // self.kv_heads)
            if cached is None:
                sources = [(new_key[:, :, :stop], new_value[:, :, :stop])]
            else:
                sources = [cached, (new_key, new_value)]
            found.append(self._attended(query[:, :, start:stop], mask, sources))
            start = stop
        joined = found[0] if len(found) == 1 else torch.cat(found, 2)
        return self.o_proj(joined.transpose(1, 2).reshape(1, count, -1)), new_key, new_value

    def _attended(self, query: Tensor, mask: Tensor, sources: Sequence[_Cached]) -> Tensor:
        """[1, heads, n, H] of queries of this shape, over keys and values that are not copied together."""
        count = query.shape[2]
        # The queries that share a key, as rows of one matrix.
        rows = query.reshape(1, self.kv_heads, -1, self.width)
        scores = [rows @ key.transpose(2, 3) for key, _ in sources]
        shares = torch.softmax((scores[0] if len(scores) == 1 else torch.cat(scores, -1)) + mask, -1)
        found, start = None, 0
        for _, value in sources:
            stop = start + value.shape[2]
            part = shares[..., start:stop] @ value
            found, start = part if found is None else found + part, stop
        assert found is not None
        return found.reshape(1, self.heads, count, self.width)

    def _heads(self, x: Tensor, heads: int) -> Tensor:
        """[1, N, heads · H] to [1, heads, N, H]."""
        return x.reshape(1, x.shape[1], heads, self.width).transpose(1, 2)


class _Layer(nn.Module):
    input_layernorm: Norm
    post_attention_layernorm: Norm
    pre_feedforward_layernorm: Norm
    post_feedforward_layernorm: Norm

    def __init__(self, config: Any, tensors: Collection[str], gemma: bool) -> None:
        super().__init__()
        norms = ["input_layernorm", "post_attention_layernorm"]
        self.sandwich = "pre_feedforward_layernorm.weight" in tensors
        if self.sandwich:
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        for name in norms:
            self.add_module(name, Norm(config.hidden_size, config.rms_norm_eps))
        self.self_attn = _Attention(config, tensors)
        self.mlp = _Mlp(config, "mlp.up_proj.bias" in tensors, gemma)

    def forward(self, x: Tensor, parts: _Parts, cached: _Cached | None) -> tuple[Tensor, Tensor, Tensor]:
        found, new_key, new_value = self.self_attn(self.input_layernorm(x), parts, cached)
        if self.sandwich:
            x = x + self.post_attention_layernorm(found)
            x = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        else:
            x = x + found
            x = x + self.mlp(self.post_attention_layernorm(x))
        return x, new_key, new_value


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the halves of every head, x [1, heads, N, H], cos and sin [1, N, H]."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return x * cos.unsqueeze(1) + turned * sin.unsqueeze(1)


def load_decoder(model_dir: Path) -> Decoder:
    """The graph of a model folder, in float32.

    Raises:
        EdgebError: see `load_config` and `tensor_plan`.
    """
    config, files = load_config(model_dir), weight_files(model_dir)
    plan = {tensor.source: tensor for tensor in tensor_plan(config, files, model_dir)}
    with torch.device("meta"):
        decoder = Decoder(config, plan)
    weights = {}
    for file in files:
        with open_weights(file) as opened:
            for name in plan.keys() & set(opened.keys()):
                # Gemma's norms scale by one plus the weight.
                weights[name] = opened.get_tensor(name).float() + plan[name].offset
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    decoder.load_state_dict(weights, assign=True)
    if config.tie_word_embeddings:
        # Else they are two parameters, and the file would hold both.
        decoder.lm_head.weight = decoder.model.embed_tokens.weight
    return decoder.requires_grad_(False).eval()


def describe(config: Any, sizes: Sequence[int], first_sizes: Sequence[int], cache: int) -> LiteRtGraph:
    """What a host must know of the graph of a configuration that `load_config` accepted.

    Args:
        config: The configuration.
        sizes: New tokens per call.
        first_sizes: Those of calls for the beginning of a prompt.
        cache: Slots of the cache.
    """
    local = local_rope(config)
    return LiteRtGraph(
        sizes=tuple(sizes),
        first_sizes=tuple(first_sizes),
        cache=cache,
        layers=int(config.num_hidden_layers),
        hidden=int(config.hidden_size),
        kv_heads=int(config.num_key_value_heads),
        head_dim=head_dim(config),
        vocabulary=int(config.vocab_size),
        rope=_frequencies(rope_parameters(config), head_dim(config)),
        sliding=None
        if local is None
        else SlidingWindow(int(config.sliding_window), _frequencies(local, head_dim(config))),
    )


def _frequencies(rope: dict[str, Any], width: int) -> tuple[float, ...]:
    """Radians per position, as Transformers computes them: in float32."""
    found = 1.0 / float(rope["rope_theta"]) ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    if rope["rope_type"] == "linear":
        found = found / float(rope["factor"])
    elif rope["rope_type"] == "llama3":
        found = found / torch.from_numpy(llama3_divisors(rope, width))
    return tuple(found.tolist())
