"""What a model has to read and multiply, and what the machine can do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edge_behavior.bench.engines.machine import FLOAT_TYPES, MachineLimits, measure_limits
from edge_behavior.bench.engines.work import Work, is_float, read_work
from tests.unit.runtime.engines import LITERT, engine_of

LIMITS = MachineLimits(1e9, {"float32": 1e9, "bfloat16": 2e9, "int8": 4e9}, 1, "x")


@pytest.mark.parametrize(
    ("engine", "file"), [("llama.cpp", "bundle.gguf"), ("onnx", "onnx"), (LITERT, "bundle.tflite")]
)
def test_every_format_has_the_models_own_matrices(engine: str, file: str, tmp_path: Path) -> None:
    model = engine_of(engine, tmp_path).model
    linear = {name: m.weight for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    found = read_work(tmp_path / file)
    assert found.per_row == linear.pop("lm_head").numel()
    assert found.per_token == sum(weight.numel() for weight in linear.values())
    # In float32, but for the alignment of a GGUF's tensors.
    assert found.weight_bytes == pytest.approx(4 * (found.per_row + found.per_token), rel=0.01)


def test_the_least_time() -> None:
    work = Work(weight_bytes=2_000_000, per_token=3_000_000, per_row=1_000_000)
    assert work.least_ms(4, 1, LIMITS, floats=False) == pytest.approx((2.0, 13 / 4))
    assert work.least_ms(4, 1, LIMITS, floats=True) == pytest.approx((2.0, 13 / 2))


def test_only_unquantized_formats_are_floats() -> None:
    assert [name for name in ("F32", "f16", "Q8_0", "int8", "INT4 block 32") if is_float(name)] == ["F32", "f16"]


def test_peaks_are_measured_and_torch_is_left_as_it_was() -> None:
    before = torch.get_num_threads()
    found = measure_limits(1, array=1 << 16, widths=(32,))
    assert found.read_bytes > 0
    assert set(found.multiply_adds) == {*FLOAT_TYPES, "int8"}
    assert min(found.multiply_adds.values()) > 0
    assert torch.get_num_threads() == before
    assert found.to_dict()["threads"] == 1
