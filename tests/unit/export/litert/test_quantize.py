"""What edgeb does to a quantized file beyond the quantizer: scales of several graphs are in it once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_behavior.export.litert.quantize import share_scales, weight_types

schema: Any = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="no ai-edge-litert")
ROWS, COLUMNS = 40, 64


def quantization(scales: np.ndarray, axis: int = 0) -> Any:
    made = schema.QuantizationParametersT()
    made.scale, made.zeroPoint, made.quantizedDimension = scales, np.zeros(len(scales), np.int64), axis
    return made


def graph(name: str, parts: list[tuple[int, Any]]) -> Any:
    """A graph of constants alone: buffer and quantization of each."""
    made = schema.SubGraphT()
    made.name, made.inputs, made.outputs, made.operators, made.tensors = name, [], [], [], []
    for buffer, values in parts:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = f"{name}_{buffer}", [ROWS, COLUMNS], schema.TensorType.INT8
        tensor.buffer, tensor.quantization = buffer, values
        made.tensors.append(tensor)
    return made


def test_equal_scales_are_written_once(tmp_path: Path) -> None:
    from ai_edge_litert.tools import flatbuffer_utils

    rng, model = np.random.default_rng(0), schema.ModelT()
    scales = [rng.random(ROWS).astype(np.float32) for _ in range(2)]
    weights = [rng.integers(-127, 128, ROWS * COLUMNS).astype(np.int8) for _ in range(2)]
    blocks = quantization(scales[0])
    blocks.detailsType, blocks.details = (
        schema.QuantizationDetails.BlockwiseQuantization,
        schema.BlockwiseQuantizationT(),
    )
    model.version, model.operatorCodes, model.metadata, model.signatureDefs = 3, [], [], []
    model.buffers = [schema.BufferT() for _ in range(4)]
    for buffer, content in zip(model.buffers[1:], [*weights, np.arange(5, dtype=np.int8)], strict=True):
        buffer.data = content.view(np.uint8)
    model.subgraphs = [
        graph("a", [(1, quantization(scales[0])), (2, quantization(scales[1])), (3, None)]),
        graph("b", [(1, quantization(scales[0].copy())), (2, quantization(scales[0], 1)), (2, blocks)]),
        graph("c", [(2, quantization(scales[1].copy())), (1, quantization(scales[0].copy()))]),
    ]
    file = tmp_path / "m.tflite"
    file.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    before = file.stat().st_size
    share_scales(file)
    written = file.read_bytes()
    found = schema.Model.GetRootAs(written, 0)
    places = [
        [found.Subgraphs(g).Tensors(t).Quantization()._tab.Pos for t in range(found.Subgraphs(g).TensorsLength())]
        for g in (1, 2)
    ]
    first = [found.Subgraphs(0).Tensors(t).Quantization()._tab.Pos for t in range(2)]
    assert places[0][0] == places[1][1] == first[0]
    assert places[1][0] == first[1]
    assert len({*first, *places[0], *places[1]}) == 4, "another axis and scales of blocks are others"
    assert before - len(written) > 2 * ROWS * 12
    # All else is as it was; large constants lie aligned behind the tables.
    again = flatbuffer_utils.read_model_from_bytearray(written)
    for g, graph_before in zip(again.subgraphs, model.subgraphs, strict=True):
        for tensor, old in zip(g.tensors, graph_before.tensors, strict=True):
            assert (tensor.name.decode(), list(tensor.shape), tensor.buffer) == (old.name, old.shape, old.buffer)
            if old.quantization is not None and old.quantization.details is None:
                np.testing.assert_array_equal(tensor.quantization.scale, old.quantization.scale)
                assert tensor.quantization.quantizedDimension == old.quantization.quantizedDimension
    for i, values in enumerate(weights, 1):
        assert found.Buffers(i).Offset() % 16 == 0
        np.testing.assert_array_equal(np.frombuffer(bytes(again.buffers[i].data), np.int8), values)
    assert bytes(again.buffers[3].data) == bytes(range(5))
    assert found.Buffers(3).Offset() == 0
    assert weight_types(file) == {"INT8": 3}
