"""Quantize a float32 `.tflite` by ai-edge-quantizer, and count what its weights became.

Weights become integers, activations stay float32 between operators and are quantized inside them, row by row. Runs in
the child process that `worker` starts.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from edge_behavior.errors import EdgebError

# Weights that share a scale with q4.
BLOCK = 32
# Names of the tensors that take the logits: with q4 the head stays at 8 bits, and with it the embedding, which may be
# the same matrix.
_HEAD = "logits_output"
# Constants of fewer elements are shapes, axes and scalars.
_LEAST_WEIGHTS = 32
# Bytes of a constant from which on it lies behind the tables, and of what a constant's place there is a multiple.
_APART, _ALIGNED = 1024, 16


def quantize(source: Path, out: Path, quant: str) -> None:
    """Write the quantized file.

    Args:
        source: A float32 file.
        out: File to write.
        quant: "q8" (8 bits, a scale per row) or "q4" (4 bits, a scale per `BLOCK` weights).

    Raises:
        EdgebError: matrices were left as they were.
        ImportError: ai-edge-quantizer is not installed.
    """
    from ai_edge_quantizer import quantizer, recipe

    found: Any = recipe.dynamic_wi8c_afp32()
    if quant == "q4":
        found = [
            *recipe.dynamic_wi4b32_afp32(operation_name="FULLY_CONNECTED"),
            *recipe.dynamic_wi8c_afp32(operation_name="FULLY_CONNECTED", regex=_HEAD),
            *recipe.dynamic_wi8c_afp32(operation_name="EMBEDDING_LOOKUP"),
        ]
    quantizer.Quantizer(str(source), found).quantize(serialize_to_path=str(out), enable_progress_report=False)
    share_scales(out)
    # Some combinations of bits and blocks are passed over without a word.
    left = [shape for kind, shape in _weights(out) if kind == "FLOAT32" and len(shape) == 2 and min(shape) > 1]
    if left:
        raise EdgebError(
            f"ai-edge-quantizer left {len(left)} matrices unquantized, like {left[0]}", "try --quant q8 or f32"
        )


def share_scales(file: Path) -> None:
    """Rewrite a file so that equal scales are in it once: the quantizer repeats a matrix's for every signature.

    A flatbuffer's tables may refer to the same one, so that any reader of the format takes it.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model: Any = flatbuffer_utils.read_model_from_bytearray(file.read_bytes())
    written: dict[object, _WrittenOnce] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            found = tensor.quantization
            # Scales of blocks are tensors of their graph.
            if found is not None and found.details is None:
                tensor.quantization = written.setdefault(_content(found), _WrittenOnce(found))
    # Weights lie behind the tables, as the quantizer puts them: tables may take 2 GB.
    apart = {i: bytes(b.data) for i, b in enumerate(model.buffers) if b.data is not None and len(b.data) >= _APART}
    for i in apart:
        model.buffers[i].data, model.buffers[i].offset, model.buffers[i].size = None, 1, 1
    tables = flatbuffer_utils.convert_object_to_bytearray(model)
    packed, end, places = schema.Model.GetRootAs(tables, 0), len(tables), []
    for i, content in apart.items():
        end += -end % _ALIGNED
        flatbuffer_utils.update_packed_buffer(packed.Buffers(i), offset=end, size=len(content))
        places.append((end, content))
        end += len(content)
    with file.open("wb") as out:
        out.write(tables)
        for place, content in places:
            out.write(bytes(place - out.tell()))
            out.write(content)


class _WrittenOnce:
    """Scales and zero points whose later places refer to the first."""

    def __init__(self, values: Any) -> None:
        self._values, self._at = values, None

    def Pack(self, builder: Any) -> Any:
        if self._at is None:
            self._at = self._values.Pack(builder)
        return self._at


def _content(found: Any) -> tuple[object, ...]:
    values = (found.scale, found.zeroPoint, found.min, found.max)
    return found.quantizedDimension, *(None if value is None else np.asarray(value).tobytes() for value in values)


def weight_types(file: Path) -> dict[str, int]:
    """How many weights of the file have each type, like {"INT8": 211, "FLOAT32": 61}: each counted once.

    Raises:
        ImportError: ai-edge-litert is not installed.
    """
    return dict(Counter(kind for kind, _ in _weights(file)))


def _weights(file: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Type and shape of every constant that is no shape, axis or scalar; those of several signatures once."""
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    model = schema.Model.GetRootAsModel(file.read_bytes(), 0)
    found: dict[int, tuple[str, tuple[int, ...]]] = {}
    for i in range(model.SubgraphsLength()):
        graph = model.Subgraphs(i)
        for k in range(graph.TensorsLength()):
            tensor = graph.Tensors(k)
            buffer = model.Buffers(tensor.Buffer())
            shape = tuple(int(tensor.Shape(d)) for d in range(tensor.ShapeLength()))
            if (buffer.DataLength() or buffer.Size()) and prod(shape) >= _LEAST_WEIGHTS:
                found[tensor.Buffer()] = names[tensor.Type()], shape
    return list(found.values())
