"""The whole LiteRT export: with PyTorch in the converter's and LiteRT's place everywhere, and with both themselves."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edge_behavior.bundle.bundle import read_manifest, verify_bundle
from edge_behavior.bundle.litert_file import TOKENIZER_ENTRY, read_litert, read_litert_entry, read_litert_probe
from edge_behavior.errors import EdgebError
from edge_behavior.export.litert import worker
from edge_behavior.export.litert.options import LiteRtOptions, litert_options
from edge_behavior.export.litert.pipeline import export_litert
from edge_behavior.export.parity.gate import ParityError
from edge_behavior.export.source import ExportSource
from edge_behavior.runtime.backends.litert import LiteRtBackend, LiteRtRunOptions
from edge_behavior.runtime.llama.model import LlamaModel
from tests import helpers
from tests.command import invoked
from tests.unit.export.conftest import CANDIDATES, gemma3, gemma_tokenizer, qwen2_tokenizer, save

OPTIONS = LiteRtOptions("q8", sizes=(1, 4, 16), first_sizes=(16,))
needs_converter = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("litert_torch", "ai_edge_quantizer", "ai_edge_litert")),
    reason="no litert-torch",
)


def test_export(source: ExportSource, tmp_path: Path, in_torch: Any, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "bundle.tflite"
    report = export_litert(source, out, OPTIONS, helpers.profile()).to_dict()
    assert list(out.parent.iterdir()) == [out]
    assert json.loads(json.dumps(report)) == report
    assert report["bytes"] == out.stat().st_size
    assert report["segments_checked"] > 300
    assert report["tensor_types"] == {"INT8": 1}
    manifest = verify_bundle(out)
    assert manifest == read_manifest(out)
    assert (manifest.candidates, manifest.layout, manifest.bos_id, manifest.eos_id) == (
        CANDIDATES,
        source.layout,
        None,
        0,
    )
    assert (manifest.architecture, manifest.quantization) == ("qwen2", "int8")
    assert report["quantization"] == "int8"
    assert (manifest.training, manifest.evaluation) == (source.training, source.evaluation)
    assert list(report["parity"]["stages"]) == ["merge", "convert", "quantize"]
    assert report["logit_difference"]["convert"] < 1e-3 < report["logit_difference"]["quantize"]
    graph = read_litert(out).graph
    assert in_torch == [("convert", graph), ("quantize", "q8")]
    assert (graph.sizes, graph.first_sizes) == ((1, 4, 16), (16,))
    assert graph.cache == manifest.context_length <= 512
    assert capfd.readouterr().out == ""


def test_known_rows(source: ExportSource, tmp_path: Path, in_torch: Any) -> None:
    """By the float32 model; an accelerator may differ by twice what quantization did."""
    probes, rows = {}, {}
    for quant, norm in (("f32", "composite"), ("q8", "apart")):
        out = tmp_path / f"{quant}.tflite"
        export_litert(source, out, replace(OPTIONS, quant=quant, norm=norm), helpers.profile())
        probe = read_litert_probe(out)
        assert probe is not None
        backend = LiteRtBackend(out, LiteRtRunOptions(64, 1))
        rows[quant] = np.stack([backend.prefill(probe.ids[:end])[0].copy() for end in range(1, len(probe.ids) + 1)])
        backend.close()
        probes[quant] = probe
    plain, quantized = probes["f32"], probes["q8"]
    assert (plain.accelerators, quantized.accelerators) == (("npu",), ("gpu",))
    assert (plain.ids, plain.tokens) == (quantized.ids, quantized.tokens)
    assert plain.difference(rows["f32"]) < 1e-3 < quantized.difference(rows["q8"])
    assert quantized.difference(rows["f32"]) < 1e-3
    assert plain.tolerance == pytest.approx(0.01, abs=1e-3)
    assert quantized.tolerance == pytest.approx(0.01 + 2 * quantized.difference(rows["q8"]), abs=1e-3)


def test_the_tokenizer_is_a_gguf_without_tensors(source: ExportSource, tmp_path: Path, in_torch: Any) -> None:
    export_litert(source, tmp_path / "b.tflite", OPTIONS, helpers.profile())
    (tmp_path / "t.gguf").write_bytes(read_litert_entry(tmp_path / "b.tflite", TOKENIZER_ENTRY))
    with LlamaModel(tmp_path / "t.gguf", vocab_only=True) as file:
        text = "(Mon 9, home, Check email)\n"
        assert file.tokenize(text) == qwen2_tokenizer().encode(text)


def test_auto_takes_the_smallest_within_the_limits(source: ExportSource, tmp_path: Path, in_torch: Any) -> None:
    limits = {"windows": 6, "per_behavior": 0, "max_flips": 1.0, "max_kl": 0.005}
    profile = helpers.profile(parity=limits)
    report = export_litert(source, tmp_path / "b.tflite", replace(OPTIONS, quant="auto"), profile)
    assert [quant for kind, quant in in_torch if kind == "quantize"] == ["q4", "q8"]
    assert report.quantization == "int8"
    assert "KL" in report.parity.tried["q4"][0]
    with pytest.raises(ParityError, match="int4 changes the predictions: KL"):
        export_litert(source, tmp_path / "no.tflite", replace(OPTIONS, quant="q4"), profile)
    assert list(tmp_path.iterdir()) == [tmp_path / "b.tflite"]


def test_pruned(source: ExportSource, tmp_path: Path, in_torch: Any) -> None:
    report = export_litert(
        replace(source, places=("home", "work")),
        tmp_path / "b.tflite",
        OPTIONS,
        helpers.profile(prune="on", extra_tokens=0),
    )
    manifest, graph = verify_bundle(tmp_path / "b.tflite"), read_litert(tmp_path / "b.tflite").graph
    assert report.pruning.plan is not None
    assert graph.vocabulary == len(report.pruning.plan.kept) < len(qwen2_tokenizer())
    assert manifest.vocabulary is not None


def test_context_length(source: ExportSource, tmp_path: Path, in_torch: Any) -> None:
    export_litert(source, tmp_path / "b.tflite", replace(OPTIONS, context_length=400), helpers.profile())
    assert read_litert(tmp_path / "b.tflite").graph.cache == read_manifest(tmp_path / "b.tflite").context_length == 400
    with pytest.raises(EdgebError, match="the backbone has 512 positions, --context-length asks for 513"):
        export_litert(source, tmp_path / "c.tflite", replace(OPTIONS, context_length=513), helpers.profile())


def test_rows_that_blocks_do_not_divide(tmp_path: Path, source: ExportSource, in_torch: Any) -> None:
    tokenizer = gemma_tokenizer()
    save(gemma3(len(tokenizer), intermediate_size=100), tokenizer, tmp_path / "base")
    narrow = replace(source, base=tmp_path / "base", adapter=None)
    with pytest.raises(EdgebError, match=r"--quant q4: its rows of 64, 100 weights are not all divisible by 32"):
        export_litert(narrow, tmp_path / "b.tflite", replace(OPTIONS, quant="q4"), helpers.profile())
    report = export_litert(narrow, tmp_path / "b.tflite", replace(OPTIONS, quant="auto"), helpers.profile())
    assert (list(report.parity.tried), report.quantization) == (["q4"], "int8")


def test_an_existing_file_is_kept(source: ExportSource, tmp_path: Path, in_torch: Any) -> None:
    (tmp_path / "b.tflite").write_text("mine")
    with pytest.raises(EdgebError, match="already exists"):
        export_litert(source, tmp_path / "b.tflite", OPTIONS, helpers.profile())
    assert (tmp_path / "b.tflite").read_text() == "mine"
    assert in_torch == []


class TestRefusedAtOnce:
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"quant": "q5"}, "LiteRT export has no weight format 'q5'"),
            ({"sizes": (4, 8)}, "without 1"),
            ({"sizes": (1, 8, 8)}, "use ascending numbers"),
            ({"sizes": (0, 1)}, "use ascending numbers"),
            ({"first_sizes": (64, 8)}, "first_sizes are .64, 8. .use ascending numbers"),
            ({"norm": "whole"}, "there is no norm 'whole'"),
            ({"context_length": 0}, "the context length is 0"),
        ],
    )
    def test_options(self, wrong: dict[str, Any], message: str) -> None:
        with pytest.raises(EdgebError, match=message) as error:
            LiteRtOptions(**wrong)
        assert error.value.hint

    def test_a_missing_package(self, monkeypatch: pytest.MonkeyPatch, source: ExportSource, tmp_path: Path) -> None:
        monkeypatch.setattr(worker, "find_spec", lambda name: None)
        monkeypatch.delenv(worker.PYTHON_VARIABLE, raising=False)
        with pytest.raises(
            EdgebError, match="LiteRT export needs ai-edge-litert, litert-torch, ai-edge-quantizer"
        ) as e:
            export_litert(source, tmp_path / "b.tflite", OPTIONS)
        assert "pip install 'edgeb[export,litert-export]'" in e.value.hint

    def test_another_python(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(worker, "find_spec", lambda name: None if name in worker._CONVERTERS else object())
        monkeypatch.setenv(worker.PYTHON_VARIABLE, str(tmp_path / "python"))
        with pytest.raises(EdgebError, match=r"EDGEB_LITERT_PYTHON is .*python, which does not run"):
            worker.check_packages()

    def test_options_of_other_formats(self, tmp_path: Path) -> None:
        with pytest.raises(EdgebError, match="--block-size is an ONNX option"):
            invoked("export", tmp_path, "--format", "litert", "--block-size", 32)


def test_profiles(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("format: litert\nquant: auto\nsizes: [1, 8]\nfirst_sizes: [8]\n")
    assert litert_options(str(tmp_path / "p.yaml"), {}) == LiteRtOptions("auto", (1, 8), (8,))
    assert litert_options(str(tmp_path / "p.yaml"), {"quant": "q4"}).quant == "q4"
    assert litert_options("litert-cpu", {}) == litert_options(None, {}) == LiteRtOptions()
    (tmp_path / "p.yaml").write_text("format: litert\nsizes: [1, '8']\n")
    with pytest.raises(EdgebError, match=r"sizes.1 = '8': should be a valid integer"):
        litert_options(str(tmp_path / "p.yaml"), {})


def test_a_failing_child(tmp_path: Path) -> None:
    with pytest.raises(EdgebError, match=r"LiteRT's converter failed \(quantize\)") as error:
        worker.quantize_apart(tmp_path / "none.tflite", tmp_path / "out.tflite", "f32")
    assert "\n" not in str(error.value)


@needs_converter
@pytest.mark.slow
@pytest.mark.parametrize("quant", ["q8", "q4"])
def test_with_litert_itself(quant: str, source: ExportSource, tmp_path: Path) -> None:
    """Gemma 3: two ropes, two masks, more norms; prompts longer than its window."""
    torch.manual_seed(0)
    tokenizer = gemma_tokenizer()
    save(gemma3(len(tokenizer), tie_word_embeddings=True), tokenizer, tmp_path / "base")
    made = replace(source, base=tmp_path / "base", adapter=None)
    # Both forms of the norm, one each.
    options = replace(OPTIONS, quant=quant, norm="composite" if quant == "q4" else "apart")
    report = export_litert(made, tmp_path / "b.tflite", options, helpers.profile())
    types = dict(report.tensor_types or {})
    # Seven layers of seven matrices; embedding and head are one, at 8 bits in both.
    assert (types.pop("INT8"), types.pop("INT4", 0)) == ((50, 0) if quant == "q8" else (1, 49))
    assert report.logit_difference["convert"] < 1e-3
    assert np.isfinite(report.logit_difference["quantize"])
    # Weights once, however many signatures.
    weights = sum(values.numel() for values in load_file(tmp_path / "base/model.safetensors").values())
    assert report.bytes < weights * (1.1 if quant == "q8" else 0.9) + 1_500_000
