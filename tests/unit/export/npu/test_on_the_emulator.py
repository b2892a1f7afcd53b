"""Contexts for real: converted, compiled by Qualcomm's compiler, run by its emulator. A model of two layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_behavior.bundle.litert_file import read_litert
from edge_behavior.bundle.npu_chips import chip_named
from edge_behavior.bundle.npu_folder import NPU_FILE, npu_folder, read_npu, verify_context
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.export.litert.options import LiteRtOptions
from edge_behavior.export.litert.pipeline import export_litert
from edge_behavior.export.npu.compiler import compile_model
from edge_behavior.export.npu.options import NpuOptions
from edge_behavior.export.report import ExportReport
from edge_behavior.export.source import ExportSource
from edge_behavior.runtime.npu.package import find_package
from edge_behavior.runtime.predictor import Predictor
from tests import helpers
from tests.npu_files import require_npu
from tests.unit.export.conftest import CANDIDATES

CHIP, OTHER = chip_named("sm8650"), chip_named("sm8750")
OPTIONS = LiteRtOptions("q8", sizes=(1, 8), first_sizes=(8,))


@pytest.fixture(scope="module")
def exported(
    tiny_base: Path, tiny_adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ExportReport, Path]:
    require_npu()
    source = ExportSource(tiny_base, tiny_adapter, CANDIDATES, PromptLayout("stream", history_length=3))
    out = tmp_path_factory.mktemp("npu") / "mine.tflite"
    return export_litert(source, out, OPTIONS, helpers.profile(), npu=NpuOptions((CHIP, OTHER), 2)), out


@pytest.mark.slow
class TestExported:
    def test_two_chips(self, exported: tuple[ExportReport, Path]) -> None:
        report, out = exported
        folder = npu_folder(out)
        assert sorted(file.name for file in folder.iterdir()) == [NPU_FILE, "v75.tflite", "v79.tflite"]
        found = read_npu(out, read_litert(out).manifest.tensors_sha256)
        assert report.npu == found
        assert [context.chip for context in found.contexts] == [CHIP.name, OTHER.name]
        for context in found.contexts:
            verify_context(folder, context)
            assert context.operators > 50
            assert set(context.outputs) == {"logits", *(f"new_{k}_{i}" for k in "kv" for i in range(2))}
            assert context.parity is not None
            # Activations are finer than the CPU's, and no other model's.
            assert context.parity["reference"]["mean_kl"] < max(0.001, 2 * context.parity["cpu_reference"]["mean_kl"])
            assert context.parity["cpu"]["mean_kl"] < 0.01

    def test_a_predictor(self, exported: tuple[ExportReport, Path]) -> None:
        """The whole path: prompt, tree, append, session."""
        _, out = exported
        diary = helpers.diary(6, labels=list(CANDIDATES.labels))
        with (
            Predictor.load(out, threads=1, prefix_cache=False) as cpu,
            Predictor.load(out, threads=1, prefix_cache=False, accelerator="npu-emulated") as emulated,
        ):
            sessions = emulated.session(), cpu.session()
            for i, event in enumerate(diary):
                if i >= 4:
                    found, expected = (p.log_probs(diary[:i], event.time, event.place) for p in (emulated, cpu))
                    np.testing.assert_allclose(found, expected, atol=0.5)
                    again = emulated.log_probs(diary[:i], event.time, event.place)
                    # The prompt is held: other calls, and roundings to 16 bits in other places.
                    np.testing.assert_allclose(again, found, atol=0.02)
                    for session in sessions:
                        assert len(session.predict(event.time, event.place, None).ranked) == len(CANDIDATES.labels)
                for session in sessions:
                    session.observe(event)

    def test_a_lookup_stays_on_the_cpu_and_is_named(self, exported: tuple[ExportReport, Path], tmp_path: Path) -> None:
        _, out = exported
        # The bundle's own model begins with the embeddings' signature.
        model = tmp_path / "model.tflite"
        model.write_bytes(out.read_bytes()[: read_litert(out).model_bytes])
        with pytest.raises(EdgebError, match="left to the CPU are EMBEDDING_LOOKUP"):
            compile_model(model, CHIP, tmp_path / "out.tflite", find_package())
