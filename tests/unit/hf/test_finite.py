"""Weights that are no numbers, or too large for f16, are named as the backbone's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.source import ExportSource
from edge_behavior.hf.finite import F16_MAX, beyond_f16, check_weights
from tests import helpers

NAME = "model.layers.0.mlp.up_proj.weight"


def model(value: float) -> Any:
    made = helpers.model(helpers.tokenizer())
    with torch.no_grad():
        made.model.layers[0].mlp.up_proj.weight[3, 4] = value
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_named(value: float, dtype: torch.dtype) -> None:
    with pytest.raises(EdgebError, match=f"the backbone org/x has values .* in its own weight '{NAME}'") as caught:
        check_weights(model(value).to(dtype), "org/x")
    assert "learning rate" not in caught.value.hint


@pytest.mark.parametrize("value", [70000.0, -70000.0])
def test_what_f16_cannot_hold_is_found(value: float) -> None:
    found = check_weights(model(value), "org/x")
    assert found == {NAME: 70000.0}
    assert beyond_f16("org/x", found) == (
        f"the backbone org/x has values up to 7e+04 in its own weight '{NAME}': does not fit f16"
    )
    with pytest.raises(EdgebError, match="float16 cannot hold"):
        check_weights(model(value).to(torch.float16), "org/x")


def test_what_fits_passes() -> None:
    assert check_weights(model(F16_MAX), "x") == {}
    huge = model(0.0)
    # Vectors are stored as f32 whatever the format.
    huge.model.norm.weight.data[0] = 1e6
    assert check_weights(huge, "x") == {}


def test_export_says_whose_weight_it_is_and_f32_holds_it(tmp_path: Path) -> None:
    base = helpers.save(model(70000.0), helpers.tokenizer(), tmp_path / "base")
    source = ExportSource(base, None, CandidateSet.of(helpers.LABELS), PromptLayout())
    for quant in ("f16", "q8"):
        with pytest.raises(EdgebError, match=f"own weight '{NAME}': does not fit f16") as caught:
            export_gguf(source, tmp_path / "x.gguf", helpers.profile(quant))
        assert caught.value.hint == "export with --quant f32"
    assert export_gguf(source, tmp_path / "x.gguf", helpers.profile("f32")).quantization == "F32"
