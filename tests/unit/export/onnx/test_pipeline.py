"""The whole ONNX export, and what it leaves behind when it fails: nothing."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from edge_behavior.bundle.bundle import read_manifest, verify_bundle
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.export import checks
from edge_behavior.export.onnx import pipeline as onnx_pipeline
from edge_behavior.export.onnx.options import OnnxOptions, onnx_options
from edge_behavior.export.onnx.pipeline import export_onnx
from edge_behavior.export.parity.gate import ParityError
from edge_behavior.export.prune.vocabulary import plan_pruning, write_pruned
from edge_behavior.export.prune.words import domain_texts
from edge_behavior.export.source import ExportSource
from edge_behavior.fit import mixture as heldout
from edge_behavior.hf.tokenizers import special_ids
from edge_behavior.hf.tree_scoring import TorchScorer
from edge_behavior.runtime.backends.onnx import OnnxBackend, OnnxRunOptions
from edge_behavior.runtime.predictor import Predictor
from tests import helpers
from tests.command import invoked, live_in
from tests.unit.export.conftest import CANDIDATES, SMALL_TOKENIZERS, llama, save, some_ids, torch_logits

F32, Q4 = OnnxOptions("f32"), OnnxOptions("q4")


def logits(folder: Path, ids: list[int]) -> Any:
    backend = OnnxBackend(folder, OnnxRunOptions(n_ctx=len(ids), threads=1, cpu=True))
    try:
        return backend.logits(ids)
    finally:
        backend.close()


@pytest.mark.parametrize("options", [Q4, F32], ids=["q4", "f32"])
def test_export(source: ExportSource, tmp_path: Path, options: OnnxOptions, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "bundle"
    report = export_onnx(source, out, options, helpers.profile()).to_dict()
    assert list(out.parent.iterdir()) == [out]
    assert json.loads(json.dumps(report)) == report
    assert report["bytes"] == sum(file.stat().st_size for file in out.iterdir())
    assert report["segments_checked"] > 300
    manifest = verify_bundle(out)
    assert manifest == read_manifest(out)
    assert manifest.candidates == CANDIDATES
    assert (manifest.layout, manifest.bos_id, manifest.eos_id) == (source.layout, None, 0)
    assert (manifest.architecture, manifest.context_length) == ("qwen2", 512)
    assert manifest.quantization == report["quantization"] == options.name
    assert (manifest.training, manifest.evaluation) == (source.training, source.evaluation)
    for file in out.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file.name
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(source.base), str(source.adapter))
    ids = some_ids(300, 40)
    found, expected = logits(out, ids), torch_logits(adapted.eval(), ids)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9
    if options == F32:
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert report["logit_difference"].get("graph", 0.0) < 1e-4
    assert report["logit_difference"].keys() == {"merge", "build", "graph"} - ({"graph"} if options == F32 else set())
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(("name", "bos_id"), [("llama3", 1), ("sentencepiece", 1)])
def test_llama_tokenizers(name: str, bos_id: int, tmp_path: Path) -> None:
    tokenizer = SMALL_TOKENIZERS[name]()
    save(llama(len(tokenizer) + 3, max_position_embeddings=8192), tokenizer, tmp_path / "base")
    source = ExportSource(str(tmp_path / "base"), None, CANDIDATES, PromptLayout("prefix"))
    export_onnx(source, tmp_path / "b", F32, helpers.profile())
    manifest = verify_bundle(tmp_path / "b")
    assert (manifest.bos_id, manifest.eos_id) == (bos_id, tokenizer.eos_token_id)
    assert 2048 <= manifest.context_length < 8192, "as many positions as the prompts need"
    assert json.loads((tmp_path / "b/genai_config.json").read_text())["model"]["context_length"] == (
        manifest.context_length
    )
    longer = export_onnx(source, tmp_path / "c", OnnxOptions("f32", context_length=8192), helpers.profile()).to_dict()
    assert read_manifest(tmp_path / "c").context_length == 8192
    assert longer["bytes"] > sum(file.stat().st_size for file in (tmp_path / "b").iterdir())
    with pytest.raises(EdgebError, match="the backbone has 8192 positions, --context-length asks for 8193"):
        export_onnx(source, tmp_path / "d", OnnxOptions("f32", context_length=8193), helpers.profile())


def test_a_pruned_folder_agrees_with_pytorch(tmp_path: Path) -> None:
    tokens = helpers.tokenizer()
    helpers.save(helpers.model(tokens), tokens, tmp_path / "base")
    source = ExportSource(tmp_path / "base", None, CandidateSet.of(helpers.LABELS), PromptLayout(), places=("DK", "AB"))
    report = export_onnx(source, tmp_path / "b", F32, helpers.profile(prune="on", extra_tokens=0)).to_dict()
    manifest = verify_bundle(tmp_path / "b")
    assert manifest.vocabulary == report["pruning"]["vocabulary"]
    assert manifest.vocabulary["kept"] < 0.8 * len(tokens)
    texts = domain_texts(source.layout, source.candidates, source.places or ())
    plan = plan_pruning(tokens, len(tokens), texts, 2, 0, special_ids(tokens))
    write_pruned(tmp_path / "base", plan, tmp_path / "pruned")
    pruned = AutoTokenizer.from_pretrained(tmp_path / "pruned")
    encoder = helpers.encoder(pruned)
    scorer = TorchScorer(AutoModelForCausalLM.from_pretrained(tmp_path / "pruned"), encoder)
    history = helpers.diary(9, 4)
    with Predictor.load(tmp_path / "b", prefix_cache=False) as predictor:
        for length in (0, 4, 8):
            asked = (history[:length], history[length].time, history[length].place)
            expected = scorer.score([encoder.prompt_ids(*asked)]).log_probs[0]
            np.testing.assert_allclose(predictor.log_probs(*asked), expected, atol=1e-4)
    auto = export_onnx(source, tmp_path / "auto", Q4, helpers.profile()).to_dict()
    assert auto["pruning"]["mode"] == "auto"
    assert (auto["pruning"]["vocabulary"] is None) == (read_manifest(tmp_path / "auto").vocabulary is None)
    unknown = export_onnx(replace(source, places=None), tmp_path / "unknown", Q4, helpers.profile()).to_dict()
    assert unknown["pruning"]["reason"] == "no dataset was given, so the places are not known"


@pytest.mark.parametrize(
    ("options", "provider"),
    [
        (OnnxOptions("f16", execution_provider="cuda"), {"cuda": {"enable_cuda_graph": "0"}}),
        (onnx_options("npu-qnn", {}), {"qnn": dict(onnx_options("npu-qnn", {}).provider_options)}),
    ],
    ids=["cuda", "npu-qnn"],
)
def test_for_hardware_that_is_not_here(
    source: ExportSource, tmp_path: Path, options: OnnxOptions, provider: dict[str, Any]
) -> None:
    out = tmp_path / "b"
    export_onnx(source, out, options, helpers.profile())
    manifest = verify_bundle(out)
    config = json.loads((out / "genai_config.json").read_text())["model"]["decoder"]
    assert config["session_options"]["provider_options"] == [provider]
    assert manifest.quantization.endswith(options.execution_provider)
    with pytest.raises(EdgebError, match=r"onnxruntime-genai cannot load .*(provider|Cuda)"):
        Predictor.load(out)


def test_habits_and_calibration_are_fitted_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = helpers.event_table([["Video", "Bar"] * 16, ["Bar", "Café"] * 15, ["Cafe Noir", "Video", "Bar"] * 11] * 4)
    made: Any = type("MadeUp", (Dataset,), {"events": lambda self, split: {"train": table, "validation": table}[split]})
    monkeypatch.setattr(heldout.Dataset, "open", lambda path: made(path, {}, table.candidates))
    tokens = helpers.tokenizer()
    base = helpers.save(helpers.model(tokens), tokens, tmp_path / "base")
    source = ExportSource(base, None, table.candidates, PromptLayout(), data=Path("d"))
    report = export_onnx(
        source, tmp_path / "b", OnnxOptions("q4", execution_provider="cuda"), helpers.profile(prune="off")
    ).to_dict()
    manifest = verify_bundle(tmp_path / "b")
    assert report["habits"]["fitted"]
    assert report["calibration"]["fitted"]
    assert manifest.habits is not None
    assert manifest.calibration is not None
    assert manifest.habits.measured == report["habits"]["measured"]
    config = json.loads((tmp_path / "b/genai_config.json").read_text())["model"]["decoder"]
    assert "cuda" in config["session_options"]["provider_options"][0], "named after fitting on the CPU"


def test_output_rules(source: ExportSource, tmp_path: Path) -> None:
    out = tmp_path / "b"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(EdgebError, match="is not empty and no bundle"):
            export_onnx(source, out, Q4, helpers.profile(), force=force)
    assert (out / "mine.txt").read_text() == "mine"
    (out / "mine.txt").unlink()
    export_onnx(source, out, Q4, helpers.profile())
    with pytest.raises(EdgebError, match=r"exists .choose another --out or pass --force"):
        export_onnx(source, out, Q4, helpers.profile())
    export_onnx(source, out, F32, helpers.profile(), force=True)
    assert verify_bundle(out).quantization == "FP32, cpu"
    assert list(tmp_path.iterdir()) == [out]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(EdgebError, match="is not a folder"):
        export_onnx(source, tmp_path / "file", Q4, helpers.profile(), force=True)
    (tmp_path / "link").symlink_to(out)
    export_onnx(source, tmp_path / "link", Q4, helpers.profile(), force=True)
    assert (tmp_path / "link").is_symlink()
    assert verify_bundle(out).quantization != "FP32, cpu"
    with pytest.raises(EdgebError, match="cannot write"):
        export_onnx(source, tmp_path / "file" / "below", Q4, helpers.profile())


class _Usage:
    free = 1000


def test_failures_leave_nothing(source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    out = folder / "b"
    export_onnx(source, out, Q4, helpers.profile())
    kept = read_manifest(out)

    def fails(
        match: str,
        options: OnnxOptions = Q4,
        changed: ExportSource = source,
        module: Any = onnx_pipeline,
        **attributes: Any,
    ) -> None:
        with monkeypatch.context() as patch:
            for name, value in attributes.items():
                patch.setattr(module, name, value)
            with pytest.raises(EdgebError, match=match):
                export_onnx(changed, out, options, helpers.profile(), force=True)
        assert list(folder.iterdir()) == [out]
        assert verify_bundle(out) == kept

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(onnx_pipeline.shutil, "disk_usage", lambda _: _Usage)
        with pytest.raises(EdgebError, match=r"export needs \d+\.\d MB in .*out, 1\.0 kB are free"):
            export_onnx(source, out, Q4, helpers.profile(), force=True)
    fails("cannot write .*b: the disk is full", build_onnx=full)
    fails("cannot write .*b: the disk is full", write_folder_manifest=full)
    for options in (F32, Q4):
        fails("the ONNX model's logits differ by", options, module=checks, CONVERSION_TOLERANCE=1e-9)
    fails("the ONNX model's logits hardly follow PyTorch's", MIN_CORRELATION=1.01)
    fails("cannot be written as JSON", changed=replace(source, training={"path": object()}))
    with monkeypatch.context() as patch:
        patch.setattr(onnx_pipeline, "build_onnx", stop)
        with pytest.raises(KeyboardInterrupt):
            export_onnx(source, out, Q4, helpers.profile(), force=True)
    assert list(folder.iterdir()) == [out]
    moved = os.rename

    def once(a: Path, b: Path) -> None:
        if Path(a).name == "bundle":
            raise OSError(errno.EACCES, "Permission denied")
        moved(a, b)

    monkeypatch.setattr(os, "rename", once)
    with pytest.raises(EdgebError, match=r"cannot write .*b: permission denied"):
        export_onnx(source, out, F32, helpers.profile(), force=True)
    assert list(folder.iterdir()) == [out]
    assert verify_bundle(out) == kept


def test_bad_modes(source: ExportSource, tmp_path: Path) -> None:
    for wrong, message in (
        ({"prune": "yes"}, "unknown pruning mode 'yes'"),
        ({"habits": "yes"}, "unknown habits mode 'yes'"),
        ({"calibrate": "on"}, "calibration cannot be fitted: no dataset was given"),
    ):
        with pytest.raises(EdgebError, match=message):
            export_onnx(source, tmp_path / "b", Q4, helpers.profile(**wrong))
    assert list(tmp_path.iterdir()) == []


def test_the_gate(source: ExportSource, tmp_path: Path) -> None:
    report = export_onnx(source, tmp_path / "f32", F32, helpers.profile(parity={"windows": 6})).to_dict()
    parity = verify_bundle(tmp_path / "f32").parity
    assert parity == report["parity"]
    assert parity is not None
    assert list(parity["stages"]) == ["merge", "build"]
    assert parity["stages"]["build"]["mean_kl"] < 1e-5
    strict = helpers.profile(parity={"windows": 6, "max_kl": 0.0})
    with pytest.raises(ParityError, match=r"INT4 .* changes the predictions: .*KL") as caught:
        export_onnx(source, tmp_path / "q4", Q4, strict)
    assert caught.value.report.stages["build"].total.mean_kl > 0
    assert [path.name for path in tmp_path.iterdir()] == ["f32"]


class TestCommand:
    """From the command line, with the real builder."""

    @pytest.fixture(autouse=True)
    def exported(self, source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        live_in(tmp_path, monkeypatch)
        monkeypatch.setattr("edge_behavior.export.run_source.run_source", lambda *_: source)

    def test_export_inspect_predict(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        words = ("export", "runs/x", "--format", "onnx", "--quant", "q4", "--block-size", "64", "--accuracy-level", "1")
        # A random model is no oracle of what 4 bits cost.
        words += ("--allow-loss",)
        (tmp_path / "runs").mkdir()
        shown = invoked(*words).stdout
        assert "runs/x-q4-onnx: " in shown
        assert "INT4 block 64 accuracy 1, cpu" in shown
        assert "MatMulNBits" in shown
        assert "habits are not fitted: no dataset was given" in invoked(*words, "--force").stderr
        bundle = str(tmp_path / "runs" / "x-q4-onnx")
        inspected = invoked("inspect", bundle).stdout
        assert "hashes verified" in inspected
        assert "Listen to music" in inspected
        assert json.loads(invoked("inspect", bundle, "--json").stdout)["architecture"] == "qwen2"
        (tmp_path / "h.csv").write_text("timestamp,place,behavior\n2024-03-18T19:00,home,Check email\n")
        question = ("--history", "h.csv", "--at", "2024-03-18T20:00", "--place", "home", "--json")
        found = json.loads(invoked("predict", bundle, *question).stdout)
        assert len(found["predictions"]) == 5
        evaluated: list[Path] = []
        dataset = SimpleNamespace(own=True)
        measured = SimpleNamespace(dataset=dataset, recorded=False, to_dict=lambda: {"measured": 1})
        monkeypatch.setattr(
            "edge_behavior.evaluation.bundles.evaluate_bundle", lambda path, *_: evaluated.append(path) or measured
        )
        assert json.loads(invoked("evaluate", bundle, "--data", "d", "--json").stdout) == {"measured": 1}
        assert evaluated == [Path(bundle)]
        for words, message in (
            (("inspect", bundle, "--gbnf"), "grammars are llama.cpp's"),
            (("bench", bundle), "bench measures single files"),
            (("relabel", bundle, "--add", "Swim", "--out", "n.gguf"), "relabel rewrites GGUF files"),
        ):
            with pytest.raises(EdgebError, match=message):
                invoked(*words)
        (Path(bundle) / "model.onnx.data").write_bytes(b"")
        with pytest.raises(EdgebError, match=r"model.onnx.data does not match its hash"):
            invoked("predict", bundle, *question)

    def test_profile_and_flags(self, tmp_path: Path) -> None:
        words = ("export", "runs/x", "--format", "onnx", "--profile", "onnx-cpu", "--quant", "q8", "--out", "b")
        words += ("--allow-loss",)
        report = json.loads(invoked(*words, "--json").stdout)
        assert report["quantization"] == "INT8 block 32 accuracy 4, cpu"

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--block-size", "32"], r"--block-size is an ONNX option .add --format onnx"),
            (["--profile", "onnx-cpu"], r"onnx-cpu.yaml is a profile for onnx, not gguf .add --format onnx"),
            (["--format", "onnx", "--quant", "q5"], "ONNX export has no weight format 'q5'"),
            (["--format", "onnx", "--execution-provider", "npu"], "unknown execution provider 'npu'"),
            (["--format", "onnx", "--profile", "phone"], "no export profile named 'phone'"),
            (["--format", "onx"], r"unknown format 'onx' .did you mean 'onnx'"),
        ],
    )
    def test_refused(self, words: list[str], message: str) -> None:
        with pytest.raises(EdgebError, match=message):
            invoked("export", "runs/x", *words)
