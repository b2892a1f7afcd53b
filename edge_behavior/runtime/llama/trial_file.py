"""The trial's model: one Llama layer of random weights in the quantized formats that edgeb exports.

Rows and columns suit the CPU's kernels for quantized weights (AMX takes 32 rows at a time, and columns in blocks of
256), so that evaluating the model runs these kernels. It has no tokenizer: its tokens are the numbers below
`VOCABULARY`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from edge_behavior.bundle.gguf_header import DEFAULT_ALIGNMENT, MAGIC, VERSIONS, pack_entry, pack_string, padded

VOCABULARY = 64
POSITIONS = 256
_WIDTH, _INNER = 256, 64
_FLOAT32 = 6


@dataclass(frozen=True)
class _Format:
    """How ggml stores weights: its number of the format, weights in a block, the block, and values of its scales.

    All bytes but the scales are random. The scales make weights of about 1/16, which keeps activations near 1.
    """

    number: int
    weights: int
    block: np.dtype[Any]
    scales: Mapping[str, float] = field(default_factory=dict)


_F32 = _Format(0, 1, np.dtype("<f4"))
_Q4_0 = _Format(2, 32, np.dtype([("d", "<f2"), ("q", "u1", 16)]), {"d": 0.014})
_Q8_0 = _Format(8, 32, np.dtype([("d", "<f2"), ("q", "u1", 32)]), {"d": 8e-4})
_Q4_K = _Format(12, 256, np.dtype([("d", "<f2"), ("min", "<f2"), ("q", "u1", 140)]), {"d": 2e-4, "min": 1.5e-3})
_Q5_K = _Format(13, 256, np.dtype([("d", "<f2"), ("min", "<f2"), ("q", "u1", 172)]), {"d": 1e-4, "min": 1.5e-3})
_Q6_K = _Format(14, 256, np.dtype([("q", "u1", 208), ("d", "<f2")]), {"d": 1e-4})

# Shapes as ggml has them: the width of a row first.
_TENSORS: dict[str, tuple[_Format, tuple[int, ...]]] = {
    "token_embd.weight": (_Q8_0, (_WIDTH, VOCABULARY)),
    "blk.0.attn_norm.weight": (_F32, (_WIDTH,)),
    "blk.0.attn_q.weight": (_Q4_K, (_WIDTH, _INNER)),
    "blk.0.attn_k.weight": (_Q5_K, (_WIDTH, _INNER)),
    "blk.0.attn_v.weight": (_Q6_K, (_WIDTH, _INNER)),
    "blk.0.attn_output.weight": (_Q4_0, (_INNER, _WIDTH)),
    "blk.0.ffn_norm.weight": (_F32, (_WIDTH,)),
    "blk.0.ffn_gate.weight": (_Q4_K, (_WIDTH, _INNER)),
    "blk.0.ffn_up.weight": (_Q4_0, (_WIDTH, _INNER)),
    "blk.0.ffn_down.weight": (_Q8_0, (_INNER, _WIDTH)),
    "output_norm.weight": (_F32, (_WIDTH,)),
    "output.weight": (_Q6_K, (_WIDTH, VOCABULARY)),
}


def write_trial_file(out: Path) -> None:
    """Write the model, some 100 KB; the same bytes every time.

    Raises:
        OSError: the file cannot be written.
    """
    noise = np.random.default_rng(0)
    entries = [
        pack_entry("general.architecture", "llama"),
        pack_entry("llama.vocab_size", VOCABULARY),
        pack_entry("llama.context_length", POSITIONS),
        pack_entry("llama.embedding_length", _WIDTH),
        pack_entry("llama.feed_forward_length", _INNER),
        pack_entry("llama.block_count", 1),
        pack_entry("llama.attention.head_count", 1),
        pack_entry("llama.attention.key_length", _INNER),
        pack_entry("llama.attention.value_length", _INNER),
        pack_entry("llama.rope.dimension_count", _INNER),
        pack_string("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", _FLOAT32, 1e-5),
        pack_entry("tokenizer.ggml.model", "none"),
    ]
    table, data = b"", b""
    for name, (form, shape) in _TENSORS.items():
        table += pack_string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, form.number, len(data))
        stored = _random_weights(form, prod(shape), noise)
        data += stored + bytes(padded(len(stored), DEFAULT_ALIGNMENT) - len(stored))
    head = MAGIC + struct.pack("<IQQ", VERSIONS[-1], len(_TENSORS), len(entries)) + b"".join(entries) + table
    out.write_bytes(head + bytes(padded(len(head), DEFAULT_ALIGNMENT) - len(head)) + data)


def _random_weights(form: _Format, count: int, noise: np.random.Generator) -> bytes:
    """`count` weights: random; ones in f32, since those are norms."""
    if form is _F32:
        return np.ones(count, form.block).tobytes()
    blocks = np.frombuffer(noise.bytes(count // form.weights * form.block.itemsize), form.block).copy()
    for name, value in form.scales.items():
        blocks[name] = value
    return blocks.tobytes()
