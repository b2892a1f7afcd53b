"""PyTorch in the converter's, the quantizer's and LiteRT's place, for whole exports on every machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from edge_behavior.bundle.litert_graph import LiteRtGraph
from edge_behavior.export.litert import pipeline
from tests.litert_files import run_stand_ins, stand_in_model, stood_in


@pytest.fixture
def in_torch(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Any]]:
    """See `export_in_torch`."""
    return export_in_torch(monkeypatch, tmp_path_factory.mktemp("models"))


def export_in_torch(patch: pytest.MonkeyPatch, kept: Path) -> list[tuple[str, Any]]:
    """PyTorch converts and runs; "q8" rounds the rows of matrices to 8 bits, "q4" loses them. What was asked for.

    Args:
        kept: Folder for the models.
    """
    asked: list[tuple[str, Any]] = []

    def convert(model_dir: Path, graph: LiteRtGraph, out: Path, norm: str, embeddings: bool = True) -> None:
        asked.append(("convert", graph))
        stand_in_model(Path(shutil.copytree(model_dir, kept / str(len(asked)))), out)

    def quantize(source: Path, out: Path, quant: str) -> dict[str, int]:
        asked.append(("quantize", quant))
        if quant == "f32":
            return {"FLOAT32": 1}
        folder = Path(shutil.copytree(stood_in(source), kept / str(len(asked))))
        weights = load_file(folder / "model.safetensors")
        for name, values in weights.items():
            if values.ndim == 2:
                steps = values.abs().amax(1, keepdim=True).clamp_min(1e-9) / (127 if quant == "q8" else 0.1)
                weights[name] = (values / steps).round() * steps
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        stand_in_model(folder, out)
        return {"INT8" if quant == "q8" else "INT4": 1}

    run_stand_ins(patch)
    patch.setattr(pipeline, "check_packages", lambda: None)
    patch.setattr(pipeline, "convert_apart", convert)
    patch.setattr(pipeline, "quantize_apart", quantize)
    return asked
