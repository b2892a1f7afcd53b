"""Convert a model folder to an unquantized `.tflite`, by litert-torch.

One signature per size over one set of weights. Runs in the child process that `worker` starts. Knows nothing of
quantization and bundles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edge_behavior.bundle.litert_graph import LiteRtGraph, embed_name, fill_name, step_name
from edge_behavior.export.litert.graph import Decoder, Embed, Norm, Step, load_decoder


def convert(model_dir: Path, graph: LiteRtGraph, out: Path, norm: str) -> None:
    """Write the float32 file of a model folder.

    Args:
        model_dir: config.json and safetensors weights.
        graph: Sizes and cache length; the rest is the folder's.
        out: File to write.
        norm: See `LiteRtOptions`.

    Raises:
        EdgebError: see `load_decoder`.
        ImportError: litert-torch is not installed.
    """
    import litert_torch

    decoder = load_decoder(model_dir)
    if norm == "composite":
        mark_norms(decoder)
    converter: Any = litert_torch
    for size in graph.sizes:
        tokens = torch.zeros((1, size), dtype=torch.int32)
        converter = converter.signature(embed_name(size), Embed(decoder), sample_kwargs={"tokens": tokens})
        inputs = step_inputs(graph, size)
        converter = converter.signature(step_name(size), Step(decoder, logits=True), sample_kwargs=inputs)
        if size in graph.fill_sizes:
            converter = converter.signature(fill_name(size), Step(decoder, logits=False), sample_kwargs=inputs)
    converter.convert().export(str(out))


def mark_norms(decoder: Decoder) -> None:
    """Have every RMSNorm converted to one operator."""
    from litert_torch.hlfb import StableHLOCompositeBuilder

    for module in decoder.modules():
        if isinstance(module, Norm):
            module.composite = lambda eps: StableHLOCompositeBuilder("odml.rms_norm", {"epsilon": eps})


def step_inputs(graph: LiteRtGraph, size: int) -> dict[str, Any]:
    """Inputs of a `step_N` of the right shapes."""
    rope = (1, size, graph.head_dim)
    mask = (1, 1, size, graph.cache + size)
    cache = (1, graph.kv_heads, graph.cache, graph.head_dim)
    inputs: dict[str, Any] = {
        "embeddings": torch.zeros((1, size, graph.hidden)),
        "cos": torch.ones(rope),
        "sin": torch.zeros(rope),
        "mask": torch.zeros(mask),
        "k": [torch.zeros(cache) for _ in range(graph.layers)],
        "v": [torch.zeros(cache) for _ in range(graph.layers)],
    }
    if graph.sliding is not None:
        inputs |= {"cos_local": torch.ones(rope), "sin_local": torch.zeros(rope), "mask_local": torch.zeros(mask)}
    return inputs
