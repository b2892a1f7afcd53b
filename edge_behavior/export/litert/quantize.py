"""Quantize a float32 `.tflite` by ai-edge-quantizer, and count what its weights became.

Weights become integers, activations stay float32 between operators and are quantized inside them, row by row. Runs in
the child process that `worker` starts.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

from edge_behavior.errors import EdgebError

BLOCK = 32
# Constants of fewer elements are shapes, axes and scalars.
_LEAST_WEIGHTS = 32


def quantize(source: Path, out: Path, quant: str, head: str) -> None:
    """Write the quantized file.

    Args:
        source: A float32 file.
        out: File to write.
        quant: "q8" or "q4".
        head: Pattern of the name of the head's output; with q4 it stays at 8 bits, as the embedding does, which may be
            the same matrix.

    Raises:
        EdgebError: matrices were left as they were.
        ImportError: ai-edge-quantizer is not installed.
    """
    from ai_edge_quantizer import quantizer, recipe

    found: Any = recipe.dynamic_wi8c_afp32()
    if quant == "q4":
        found = recipe.dynamic_wi4b32_afp32(operation_name="FULLY_CONNECTED") + [
            *recipe.dynamic_wi8c_afp32(operation_name="FULLY_CONNECTED", regex=head),
            *recipe.dynamic_wi8c_afp32(operation_name="EMBEDDING_LOOKUP"),
        ]
    quantizer.Quantizer(str(source), found).quantize(serialize_to_path=str(out), enable_progress_report=False)


def weight_types(file: Path) -> dict[str, int]:
    """How many weights of the file have each type, like {"INT8": 211, "FLOAT32": 61}: each counted once.

    Raises:
        ImportError: ai-edge-litert is not installed.
    """
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    model = schema.Model.GetRootAsModel(file.read_bytes(), 0)
    kinds: dict[int, str] = {}
    for i in range(model.SubgraphsLength()):
        graph = model.Subgraphs(i)
        for k in range(graph.TensorsLength()):
            tensor = graph.Tensors(k)
            buffer = model.Buffers(tensor.Buffer())
            shape = [tensor.Shape(d) for d in range(tensor.ShapeLength())]
            if (buffer.DataLength() or buffer.Size()) and prod(shape) >= _LEAST_WEIGHTS:
                kinds[tensor.Buffer()] = names[tensor.Type()]
    return dict(Counter(kinds.values()))
