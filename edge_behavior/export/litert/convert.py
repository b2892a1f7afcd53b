"""Convert a model folder to an unquantized `.tflite`, by litert-torch.

One signature per size over one set of weights. Runs in the child process that `worker` starts. Knows nothing of
quantization and bundles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edge_behavior.bundle.litert_graph import LiteRtGraph, embed_name, first_name, step_name
from edge_behavior.export.litert.graph import Decoder, Embed, First, Norm, Step, load_decoder


def convert(model_dir: Path, graph: LiteRtGraph, out: Path, norm: str, embeddings: bool = True) -> None:
    """Write the float32 file of a model folder.

    Args:
        model_dir: config.json and safetensors weights.
        graph: Sizes and cache length; the rest is the folder's.
        out: File to write.
        norm: See `LiteRtOptions`.
        embeddings: Whether with the signatures `embed_N`: NPUs leave the lookup to the CPU.

    Raises:
        EdgebError: see `load_decoder`.
        ImportError: litert-torch is not installed.
    """
    import litert_torch

    decoder = load_decoder(model_dir)
    if norm == "composite":
        mark_norms(decoder)
    converter: Any = litert_torch
    for size in graph.embed_sizes if embeddings else ():
        tokens = torch.zeros((1, size), dtype=torch.int32)
        converter = converter.signature(embed_name(size), Embed(decoder), sample_kwargs={"tokens": tokens})
    for size in graph.first_sizes:
        converter = converter.signature(first_name(size), First(decoder), sample_kwargs=first_inputs(graph, size))
    for size in graph.sizes:
        converter = converter.signature(step_name(size), Step(decoder), sample_kwargs=step_inputs(graph, size))
    converter.convert().export(str(out))


def mark_norms(decoder: Decoder) -> None:
    """Have every RMSNorm converted to one operator."""
    from litert_torch.hlfb import StableHLOCompositeBuilder

    for module in decoder.modules():
        if isinstance(module, Norm):
            module.composite = lambda eps: StableHLOCompositeBuilder("odml.rms_norm", {"epsilon": eps})


def first_inputs(graph: LiteRtGraph, size: int) -> dict[str, Any]:
    """Inputs of a `first_N` of the right shapes."""
    return _inputs(graph, size, size)


def step_inputs(graph: LiteRtGraph, size: int) -> dict[str, Any]:
    """Inputs of a `step_N` of the right shapes."""
    cache = (1, graph.kv_heads, graph.cache, graph.head_dim)
    return {
        **_inputs(graph, size, graph.cache + size),
        "k": [torch.zeros(cache) for _ in range(graph.layers)],
        "v": [torch.zeros(cache) for _ in range(graph.layers)],
    }


def _inputs(graph: LiteRtGraph, size: int, seen: int) -> dict[str, Any]:
    rope, mask = (1, size, graph.head_dim), (1, 1, size, seen)
    inputs: dict[str, Any] = {"embeddings": torch.zeros((1, size, graph.hidden))}
    for suffix in ("",) if graph.sliding is None else ("", "_local"):
        inputs |= {f"cos{suffix}": torch.ones(rope), f"sin{suffix}": torch.zeros(rope)}
        inputs[f"mask{suffix}"] = torch.zeros(mask)
    return inputs
