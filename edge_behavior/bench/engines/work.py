"""How much a model has to read and to multiply, taken off its file: the weights of its matrix products.

Attention's own products, norms and softmax are left out.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from edge_behavior.bench.engines.machine import MachineLimits
from edge_behavior.bundle.bundle import bundle_form
from edge_behavior.bundle.gguf_header import GgufFile
from edge_behavior.bundle.litert_file import read_litert
from edge_behavior.bundle.litert_graph import LiteRtGraph, step_name
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.backends.onnx import CONFIG_FILE

_HEAD, _EMBEDDING = "output.weight", "token_embd.weight"
# Bytes of a weight by GGUF's number of its type: F32 and F16.
_FLOAT_BYTES = {0: 4, 1: 2}
# The quantizations that are none.
_FLOATS = frozenset({"F32", "F16", "BF16", "FP32", "FP16"})


@dataclass(frozen=True)
class Work:
    """What a model's matrix products take.

    Attributes:
        weight_bytes: Bytes of their weights, read once per call at least.
        per_token: Multiply-adds per token.
        per_row: Multiply-adds per row of logits: the output matrix.
    """

    weight_bytes: int
    per_token: int
    per_row: int

    def to_dict(self) -> dict[str, int]:
        """JSON-ready."""
        return asdict(self)

    def least_ms(self, tokens: int, rows: int, limits: MachineLimits, floats: bool) -> tuple[float, float]:
        """Milliseconds at best: the weights read once, and the multiply-adds of some tokens and logit rows."""
        multiply_adds = tokens * self.per_token + rows * self.per_row
        return 1000 * self.weight_bytes / limits.read_bytes, 1000 * multiply_adds / limits.peak(floats)


def is_float(quantization: str) -> bool:
    """Whether a manifest's quantization is none."""
    return quantization.upper() in _FLOATS


def read_work(bundle: Path) -> Work:
    """The work of a bundle's model.

    Raises:
        EdgebError: a file that cannot be read, or without the matrices of a language model; the package that reads the
            format is missing.
    """
    form = bundle_form(bundle)
    try:
        matrices = list(
            {"gguf": _of_gguf, "sequence": _of_sequence, "litert": _of_litert, "folder": _of_onnx}[form](bundle)
        )
    except ImportError as error:
        raise EdgebError(f"{bundle} cannot be looked into: {error}", "install the package") from None
    # What the readers of flatbuffers and of ONNX raise.
    except (TypeError, ValueError, IndexError, KeyError, struct.error, OSError) as error:
        raise EdgebError(f"{bundle} cannot be looked into: {error}", "export it again") from None
    layers = sum(m.size for m in matrices if not m.is_head)
    heads = sum(m.size for m in matrices if m.is_head)
    if not layers or not heads:
        raise EdgebError(f"{bundle} has no matrices of a language model", "export it again")
    return Work(sum(m.bytes for m in matrices), layers, heads)


@dataclass(frozen=True)
class _Matrix:
    """A constant matrix that activations are multiplied with: its weights, bytes, and whether it gives the logits."""

    size: int
    bytes: int
    is_head: bool


def _of_gguf(path: Path) -> Iterator[_Matrix]:
    with GgufFile(path) as file:
        table = file.tensor_table()
        ordered = sorted(table.tensors, key=lambda tensor: tensor.offset)
        ends = [tensor.offset for tensor in ordered[1:]] + [file.size - table.data_start]
        own_head = any(tensor.name == _HEAD for tensor in ordered)
        for tensor, end in zip(ordered, ends, strict=True):
            is_head = tensor.name == (_HEAD if own_head else _EMBEDDING)
            if is_head or (len(tensor.shape) == 2 and tensor.name != _EMBEDDING):
                yield _Matrix(tensor.elements, end - tensor.offset, is_head)


def _of_sequence(path: Path) -> Iterator[_Matrix]:
    """Tokens of such a model are events; its behaviors' vectors are the output matrix, too."""
    with GgufFile(path) as file:
        for tensor in file.tensor_table().tensors:
            is_head = tensor.name == _EMBEDDING
            if is_head or (len(tensor.shape) == 2 and tensor.name.startswith(("blk.", "output_map."))):
                yield _Matrix(tensor.elements, tensor.elements * _FLOAT_BYTES[tensor.kind], is_head)


def _of_litert(path: Path) -> Iterator[_Matrix]:
    from ai_edge_litert import schema_py_generated as schema

    bundle = read_litert(path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        model = schema.Model.GetRootAs(content, 0)
        graph = model.Subgraphs(_subgraph(model, bundle.graph))
        fully_connected = {
            i
            for i in range(model.OperatorCodesLength())
            if model.OperatorCodes(i).BuiltinCode() == schema.BuiltinOperator.FULLY_CONNECTED
        }
        found = []
        for i in range(graph.OperatorsLength()):
            operator = graph.Operators(i)
            if operator.OpcodeIndex() not in fully_connected:
                continue
            tensor = graph.Tensors(operator.Inputs(1))
            buffer = model.Buffers(tensor.Buffer())
            shape = [int(tensor.Shape(k)) for k in range(tensor.ShapeLength())]
            # A buffer of a large file lies behind the table.
            found.append(
                _Matrix(prod(shape), buffer.Size() or buffer.DataLength(), shape[0] == bundle.graph.vocabulary)
            )
        # Everything that points into the file must be gone before it is closed.
        del model, graph, operator, tensor, buffer
    yield from found


def _subgraph(model: Any, graph: LiteRtGraph) -> int:
    """The subgraph of the smallest step, which has every matrix once."""
    name = step_name(graph.sizes[0]).encode()
    for i in range(model.SignatureDefsLength()):
        signature = model.SignatureDefs(i)
        if signature.SignatureKey() == name:
            return int(signature.SubgraphIndex())
    raise EdgebError(f"the model has no signature '{name.decode()}'", "export it again")


def _of_onnx(folder: Path) -> Iterator[_Matrix]:
    import json

    import onnx

    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["model"]
    model: Any = onnx.load(str(folder / config["decoder"]["filename"]), load_external_data=False)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        constants = [weights[name] for name in node.input[1:] if name in weights]
        if node.op_type == "MatMulNBits":
            shape = {each.name: each.i for each in node.attribute if each.name in ("K", "N")}
            rows, columns = shape["K"], shape["N"]
        elif node.op_type in ("MatMul", "Gemm") and constants:
            rows, columns = constants[0].dims[:2]
        else:
            continue
        is_head = config["vocab_size"] in (rows, columns) and rows != columns
        yield _Matrix(rows * columns, sum(map(_stored_bytes, constants)), is_head)


def _stored_bytes(tensor: Any) -> int:
    outside = {entry.key: entry.value for entry in tensor.external_data}
    return int(outside["length"]) if "length" in outside else len(tensor.raw_data)
