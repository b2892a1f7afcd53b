"""PyTorch in the place of converter, quantizer, LiteRT and NPU, for whole exports on every machine."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from edge_behavior.bundle.litert_graph import LiteRtGraph
from edge_behavior.bundle.npu_chips import chosen_chips
from edge_behavior.bundle.npu_folder import npu_folder
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.export.litert import pipeline
from edge_behavior.export.litert.options import LiteRtOptions
from edge_behavior.export.litert.pipeline import export_litert
from edge_behavior.export.npu.options import NpuOptions
from edge_behavior.export.report import ExportReport
from edge_behavior.export.source import ExportSource
from tests import helpers
from tests.litert_files import run_stand_ins, stand_in_model, stood_in
from tests.npu_files import StandInNpu, stand_in_npu
from tests.unit.export.conftest import CANDIDATES

OPTIONS = LiteRtOptions("q8", sizes=(1, 4, 16, 64), first_sizes=(16,))
TWO = NpuOptions(chosen_chips("sm8750,sm8650"), 2)


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


@dataclass(frozen=True)
class Exported:
    """A finished export, and what it asked the converter for."""

    report: ExportReport
    out: Path
    asked: list[tuple[str, Any]]


@pytest.fixture(scope="session")
def exported(tiny_base: Path, tiny_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    source = ExportSource(tiny_base, tiny_adapter, CANDIDATES, PromptLayout("stream"))
    with pytest.MonkeyPatch.context() as patch:
        asked = export_in_torch(patch, tmp_path_factory.mktemp("models"))
        stand_in_npu(patch)
        out = tmp_path_factory.mktemp("exported") / "mine.tflite"
        return Exported(export_litert(source, out, OPTIONS, helpers.profile(), npu=TWO), out, asked)


@pytest.fixture
def npu(in_torch: Any, monkeypatch: pytest.MonkeyPatch) -> StandInNpu:
    return stand_in_npu(monkeypatch)


@pytest.fixture
def bundle(exported: Exported, tmp_path: Path, npu: StandInNpu) -> Path:
    """A copy of the bundle, with its contexts."""
    shutil.copy(exported.out, tmp_path)
    shutil.copytree(npu_folder(exported.out), tmp_path / "mine-npu")
    return tmp_path / "mine.tflite"
