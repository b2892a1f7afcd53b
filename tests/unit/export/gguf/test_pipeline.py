"""The whole export, and what it leaves behind when it fails: nothing."""

from __future__ import annotations

import errno
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from edge_behavior.bench.native import stock_llama
from edge_behavior.bundle.bundle import read_manifest, verify_bundle
from edge_behavior.bundle.manifest import BaseModelInfo
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.license import License
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.export import checks
from edge_behavior.export.checks import check_tokens, prompt_segments
from edge_behavior.export.gguf import format_search, pipeline
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.prune import check as prune_check
from edge_behavior.export.prune.vocabulary import plan_pruning, write_pruned
from edge_behavior.export.prune.words import domain_texts
from edge_behavior.export.source import ExportSource
from edge_behavior.hf.architectures import load_tokenizer
from edge_behavior.hf.folder import weight_files
from edge_behavior.hf.tokenizers import special_ids
from edge_behavior.hf.tree_scoring import TorchScorer
from edge_behavior.runtime.llama.context import logits
from edge_behavior.runtime.llama.model import LlamaModel
from edge_behavior.runtime.predictor import Predictor
from edge_behavior.util.checksums import files_sha256
from tests import helpers
from tests.unit.export.conftest import CANDIDATES, LLAMA3_ROPE, SMALL_TOKENIZERS, llama, save, some_ids, torch_logits


@pytest.mark.parametrize("quant", ["q4", "f16"])
def test_export(source: ExportSource, tmp_path: Path, quant: str, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "bundle.gguf"
    report = export_gguf(source, out, helpers.profile(quant)).to_dict()
    assert list(out.parent.iterdir()) == [out]
    assert json.loads(json.dumps(report)) == report
    assert report["bytes"] == out.stat().st_size
    assert report["segments_checked"] > 300
    manifest = verify_bundle(out)
    assert manifest == read_manifest(out)
    assert manifest.candidates == CANDIDATES
    assert (manifest.layout, manifest.bos_id, manifest.eos_id) == (source.layout, None, 0)
    assert (manifest.architecture, manifest.context_length) == ("qwen2", 512)
    assert manifest.quantization == {"q4": "Q4_K_M", "f16": "F16"}[quant]
    base = Path(source.base)
    digest = files_sha256(weight_files(base))
    assert manifest.base_model == BaseModelInfo(
        "tiny", License.stated("apache-2.0", texts={"LICENSE": "Apache License"}), digest
    )
    assert (manifest.training, manifest.evaluation) == (source.training, source.evaluation)
    assert str(tmp_path) not in manifest.to_json()
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(source.adapter))
    ids = some_ids(300, 40)
    with LlamaModel(out) as model:
        difference = np.abs(logits(model, ids) - torch_logits(adapted.eval(), ids)).max()
    assert difference < {"q4": 0.5, "f16": 1e-2}[quant]
    assert capfd.readouterr().out == ""


def test_stock_llama_cpp_generates(source: ExportSource, tmp_path: Path) -> None:
    export_gguf(source, tmp_path / "b.gguf", helpers.profile("q8"))
    llama = stock_llama(tmp_path / "b.gguf", n_ctx=256, n_threads=1, verbose=False)
    try:
        text = "(Mon 9, home,"
        tokenizer = AutoTokenizer.from_pretrained(source.base)
        assert llama.tokenize(text.encode(), add_bos=False, special=False) == tokenizer(text).input_ids
        answer = llama(text, max_tokens=4, temperature=0.0)
        assert answer["usage"]["prompt_tokens"] == len(tokenizer(text).input_ids)
        assert llama.metadata["general.architecture"] == "qwen2"
        assert llama.metadata["general.license"] == "apache-2.0"
        assert llama.metadata["general.license.link"] == "https://www.apache.org/licenses/LICENSE-2.0"
        assert llama.metadata["general.base_model.0.name"] == "tiny"
        assert json.loads(llama.metadata["edgeb.manifest"])["candidates"]["labels"] == list(CANDIDATES.labels)
    finally:
        llama.close()


@pytest.mark.parametrize(("name", "bos_id"), [("llama3", 1), ("sentencepiece", 1)])
def test_llama_tokenizers(name: str, bos_id: int, tmp_path: Path) -> None:
    tokenizer = SMALL_TOKENIZERS[name]()
    save(llama(len(tokenizer) + 3, rope_parameters=LLAMA3_ROPE), tokenizer, tmp_path / "base")
    source = ExportSource(str(tmp_path / "base"), None, CANDIDATES, PromptLayout("prefix"))
    report = export_gguf(source, tmp_path / "b.gguf", helpers.profile("q4_0")).to_dict()
    manifest = verify_bundle(tmp_path / "b.gguf")
    assert (manifest.bos_id, manifest.eos_id) == (bos_id, tokenizer.eos_token_id)
    assert manifest.architecture == report["architecture"] == "llama"
    assert report["logit_difference"]["merge"] == 0.0
    chosen = replace(source, special_ids=(None, 2))
    export_gguf(chosen, tmp_path / "c.gguf", helpers.profile("q4_0"))
    assert (read_manifest(tmp_path / "c.gguf").bos_id, read_manifest(tmp_path / "c.gguf").eos_id) == (None, 2)


# The test tokenizers are hardly larger than their bytes, so nothing everyday is kept.
PLACES = ("home", "work")


@pytest.fixture(scope="module")
def pruned_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[ExportSource, Path, dict[str, Any], Path]:
    """A stand-in exported pruned and whole, in f32."""
    folder = tmp_path_factory.mktemp("pair")
    tokens = helpers.tokenizer()
    helpers.save(helpers.model(tokens), tokens, folder / "base")
    source = ExportSource(
        folder / "base", None, CandidateSet.of(helpers.LABELS), PromptLayout("stream"), places=("DK", "AB")
    )
    report = export_gguf(source, folder / "pruned.gguf", helpers.profile("f32", prune="on", extra_tokens=0)).to_dict()
    export_gguf(source, folder / "whole.gguf", helpers.profile("f32", prune="off"))
    return source, folder / "pruned.gguf", report, folder / "whole.gguf"


def test_a_pruned_bundle(pruned_pair: tuple[ExportSource, Path, dict[str, Any], Path]) -> None:
    source, bundle, report, whole = pruned_pair
    manifest, tokens = verify_bundle(bundle), AutoTokenizer.from_pretrained(source.base)
    facts = report["pruning"]["vocabulary"]
    assert manifest.vocabulary == facts
    assert (facts["of"], facts["places"]) == (len(tokens), 2)
    assert facts["kept"] < 0.8 * len(tokens)
    assert verify_bundle(whole).vocabulary is None
    assert bundle.stat().st_size < whole.stat().st_size
    assert json.loads(json.dumps(report)) == report
    assert report["logit_difference"]["prune"] < 1e-3
    assert report["logit_difference"]["quantize"] == report["logit_difference"]["prune"]
    with LlamaModel(bundle, vocab_only=True) as small, LlamaModel(whole, vocab_only=True) as large:
        assert small.n_vocab == facts["kept"]
        for text in domain_texts(source.layout, source.candidates, source.places or ()):
            assert len(small.tokenize(text)) == len(large.tokenize(text)), text
        words = tokens.batch_decode([[i] for i in range(len(tokens))])
        assert any(len(small.tokenize(word)) > len(large.tokenize(word)) for word in words)


@pytest.mark.parametrize("place", ["DK", "AB", "unknown", "Zürich 東京"])
def test_a_pruned_bundle_predicts_as_the_whole_one(
    place: str, pruned_pair: tuple[ExportSource, Path, dict[str, Any], Path], tmp_path: Path
) -> None:
    """Masked scoring never looks at the dropped tokens: equal inside the domain; exact differs by their mass only."""
    _, bundle, _, whole = pruned_pair
    history = helpers.diary(7, 3)
    asked = (history, history[-1].time, place)
    with Predictor.load(bundle, prefix_cache=False) as small, Predictor.load(whole, prefix_cache=False) as large:
        pairs = [(p.log_probs(*asked, scoring="masked"), p.log_probs(*asked)) for p in (small, large)]
    (masked, exact), (whole_masked, whole_exact) = pairs
    assert np.isfinite(masked).all()
    if place.isascii():
        np.testing.assert_allclose(masked, whole_masked, atol=1e-4)
        assert (exact >= whole_exact - 1e-4).all()


def test_a_pruned_bundle_agrees_with_pytorch(
    pruned_pair: tuple[ExportSource, Path, dict[str, Any], Path], tmp_path: Path
) -> None:
    source, bundle, _, _ = pruned_pair
    tokens = AutoTokenizer.from_pretrained(source.base)
    texts = domain_texts(source.layout, source.candidates, source.places or ())
    plan = plan_pruning(tokens, len(tokens), texts, 2, 0, special_ids(tokens))
    write_pruned(Path(source.base), plan, tmp_path / "pruned")
    encoder = helpers.encoder(load_tokenizer(tmp_path / "pruned"))
    scorer = TorchScorer(AutoModelForCausalLM.from_pretrained(tmp_path / "pruned"), encoder)
    history = helpers.diary(9, 4)
    with Predictor.load(bundle, exact_math=True, prefix_cache=False) as predictor:
        for length in range(9):
            asked = (history[:length], history[length].time, history[length].place)
            expected = scorer.score([encoder.prompt_ids(*asked)]).log_probs[0]
            np.testing.assert_allclose(predictor.log_probs(*asked), expected, atol=1e-3)


def test_auto_falls_back_and_says_so(source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = replace(source, places=PLACES)
    monkeypatch.setattr(prune_check, "MIN_DROPPED", 0.0)
    monkeypatch.setattr(prune_check, "MAX_KL", -1.0)
    report = export_gguf(known, tmp_path / "a.gguf", helpers.profile("q8", extra_tokens=0)).to_dict()
    assert report["pruning"]["pruned"] is False
    assert report["pruning"]["reason"].startswith("predictions change: ")
    assert report["pruning"]["parity"]["prompts"] == prune_check.PROMPTS
    assert "prune" not in report["logit_difference"]
    assert read_manifest(tmp_path / "a.gguf").vocabulary is None
    plain = export_gguf(source, tmp_path / "b.gguf", helpers.profile("q8", prune="off")).to_dict()
    assert plain["pruning"]["reason"] == "switched off"
    assert verify_bundle(tmp_path / "a.gguf").tensors_sha256 == verify_bundle(tmp_path / "b.gguf").tensors_sha256
    monkeypatch.setattr(prune_check, "MAX_KL", 1e9)
    monkeypatch.setattr(prune_check, "MAX_FLIPS", 1.0)
    report = export_gguf(known, tmp_path / "c.gguf", helpers.profile("q8", extra_tokens=0)).to_dict()
    assert (report["pruning"]["pruned"], report["pruning"]["reason"]) == (True, "")
    assert read_manifest(tmp_path / "c.gguf").vocabulary == report["pruning"]["vocabulary"]
    assert {path.name for path in tmp_path.iterdir()} == {"a.gguf", "b.gguf", "c.gguf"}


def test_without_places_pruning_is_asked_for_or_left(source: ExportSource, tmp_path: Path) -> None:
    report = export_gguf(source, tmp_path / "a.gguf", helpers.profile("q8")).to_dict()
    assert report["pruning"]["reason"] == "no dataset was given, so the places are not known"
    report = export_gguf(source, tmp_path / "b.gguf", helpers.profile("q8", prune="on", extra_tokens=0)).to_dict()
    assert report["pruning"]["vocabulary"]["places"] == 0
    assert "no place is covered" in report["pruning"]["reason"]
    with pytest.raises(EdgebError, match="unknown pruning mode 'yes'"):
        export_gguf(source, tmp_path / "c.gguf", helpers.profile(prune="yes"))


def test_llama_3s_start_token_is_renumbered(tmp_path: Path) -> None:
    tokenizer = SMALL_TOKENIZERS["llama3"]()
    save(llama(len(tokenizer) + 3, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True), tokenizer, tmp_path / "base")
    high = len(tokenizer) - 1
    source = ExportSource(
        tmp_path / "base", None, CANDIDATES, PromptLayout("prefix"), special_ids=(high, 0), places=PLACES
    )
    report = export_gguf(source, tmp_path / "b.gguf", helpers.profile("q4_0", prune="on", extra_tokens=0)).to_dict()
    manifest = verify_bundle(tmp_path / "b.gguf")
    assert manifest.bos_id is not None
    assert manifest.bos_id < high
    assert manifest.eos_id == 0
    with LlamaModel(tmp_path / "b.gguf", vocab_only=True) as file:
        assert manifest.bos_id < file.n_vocab == report["pruning"]["vocabulary"]["kept"]


def test_output_rules(source: ExportSource, tmp_path: Path) -> None:
    out = tmp_path / "b.gguf"
    out.write_text("mine")
    with pytest.raises(EdgebError, match=r"already exists .choose another name, or pass --force"):
        export_gguf(source, out, helpers.profile())
    assert out.read_text() == "mine"
    export_gguf(source, out, helpers.profile("q4_0"), force=True)
    verify_bundle(out)
    with pytest.raises(EdgebError, match="is a folder"):
        export_gguf(source, tmp_path, helpers.profile(), force=True)
    for force in (True, False):
        with pytest.raises(EdgebError, match="/dev/null is a device"):
            export_gguf(source, Path("/dev/null"), helpers.profile(), force=force)
    with pytest.raises(EdgebError, match="cannot write"):
        export_gguf(source, out / "below-a-file.gguf", helpers.profile())
    with pytest.raises(EdgebError, match="unknown quantization"):
        export_gguf(source, tmp_path / "c.gguf", helpers.profile("q3"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system nobody can write")
def test_read_only_target(source: ExportSource) -> None:
    with pytest.raises(EdgebError, match=r"/proc/b.gguf leads to /proc/b.gguf, which is no place for files"):
        export_gguf(source, Path("/proc/b.gguf"), helpers.profile())


class _Usage:
    free = 1000


def _full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def test_failures_leave_nothing(source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "b.gguf"
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.shutil, "disk_usage", lambda _: _Usage)
        with pytest.raises(EdgebError, match=r"export needs \d+\.\d MB in .*out, 1\.0 kB are free"):
            export_gguf(source, out, helpers.profile())
    for step in ("write_gguf", "write_bundle"):
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, step, _full)
            with pytest.raises(EdgebError, match=r"cannot write .*b.gguf: the disk is full"):
                export_gguf(source, out, helpers.profile())
    with monkeypatch.context() as patch:
        patch.setattr(format_search, "quantize", _stop)
        with pytest.raises(KeyboardInterrupt):
            export_gguf(source, out, helpers.profile())
    with monkeypatch.context() as patch:
        patch.setattr(checks, "CONVERSION_TOLERANCE", 1e-9)
        with pytest.raises(EdgebError, match="converted model's logits differ"):
            export_gguf(source, out, helpers.profile())
    with pytest.raises(EdgebError, match="cannot be written as JSON"):
        export_gguf(replace(source, training={"path": object()}), out, helpers.profile())
    assert list(folder.iterdir()) == []


def test_what_another_export_wrote_meanwhile_is_kept(
    source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "b.gguf"
    written = pipeline.write_bundle

    def overtaken(*arguments: Any) -> Any:
        out.write_text("theirs")
        return written(*arguments)

    monkeypatch.setattr(pipeline, "write_bundle", overtaken)
    with pytest.raises(EdgebError, match=r"b.gguf (already exists|was made by another process meanwhile)"):
        export_gguf(source, out, helpers.profile("f16"))
    assert out.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [out]


def test_tokens_that_differ_are_refused(source: ExportSource, tmp_path: Path) -> None:
    export_gguf(source, tmp_path / "b.gguf", helpers.profile("f16"))
    with LlamaModel(tmp_path / "b.gguf", vocab_only=True) as file:
        check_tokens(file.tokenize, file.tokenize, [" Check email"])
        with pytest.raises(EdgebError, match=r"tokenizes ' Check email' as \[.*\], training as \[1\]"):
            check_tokens(file.tokenize, lambda _: [1], [" Check email"])


@pytest.mark.parametrize("name", ["stream", "prefix", "instruct"])
def test_segments_hold_every_label_and_hour(name: str) -> None:
    layout = PromptLayout(name)
    segments = prompt_segments(layout, CANDIDATES)
    assert {f" {label}" for label in CANDIDATES.labels} <= set(segments)
    assert set(layout.static(CANDIDATES.labels)) <= set(segments)
    assert ")\n" in segments
    assert sum(s.startswith("(Sun 23,") for s in segments) >= 8
    if name == "instruct":
        assert sum("Check email, Listen to music" in s for s in segments) >= 3
