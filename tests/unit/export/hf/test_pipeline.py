"""The whole export to a Hugging Face folder: what stock Transformers makes of it, and what edgeb does."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from edge_behavior.bundle.bundle import verify_bundle
from edge_behavior.bundle.manifest import BaseModelInfo
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.core.license import License
from edge_behavior.core.prompts import ChatTurns, PromptLayout
from edge_behavior.core.scoring import log_softmax
from edge_behavior.errors import EdgebError
from edge_behavior.export import checks
from edge_behavior.export.hf import pipeline as hf_pipeline
from edge_behavior.export.hf.card import render_card
from edge_behavior.export.hf.pipeline import export_hf
from edge_behavior.export.parity.gate import ParityError
from edge_behavior.export.source import ExportSource
from edge_behavior.hf.folder import weight_files
from edge_behavior.hf.license import read_license
from edge_behavior.hf.tokenizers import encoder_for
from edge_behavior.hf.tree_scoring import TorchScorer
from edge_behavior.runtime.predictor import Predictor
from edge_behavior.train.recipe import BackboneConfig
from edge_behavior.train.trainer.backbone import open_backbone
from edge_behavior.util.checksums import files_sha256
from tests import helpers
from tests.command import invoked, live_in
from tests.unit.export.conftest import CANDIDATES, some_ids, torch_logits

WHEN = datetime(2024, 3, 18, 20)
HISTORY = [BehaviorEvent("home", datetime(2024, 3, 18, 19), "Check email")]


def unpruned(**fields: Any) -> Any:
    return helpers.profile(**{"prune": "off"} | fields)


@pytest.mark.parametrize("quant", [None, "f16", "bf16"])
def test_export(source: ExportSource, tmp_path: Path, quant: str | None, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "bundle"
    report = export_hf(source, out, quant, unpruned()).to_dict()
    assert list(out.parent.iterdir()) == [out]
    assert json.loads(json.dumps(report)) == report
    name = (quant or "f32").upper()
    assert report["quantization"] == name
    assert report["tensor_types"].keys() == {name}
    manifest = verify_bundle(out)
    assert (manifest.candidates, manifest.layout, manifest.quantization) == (CANDIDATES, source.layout, name)
    assert (manifest.training, manifest.evaluation) == (source.training, source.evaluation)
    base = Path(source.base)
    stated = License.stated("apache-2.0", texts={"LICENSE": "Apache License"})
    assert manifest.base_model == BaseModelInfo("tiny", stated, files_sha256(weight_files(base)))
    assert list(report["parity"]["stages"]) == ["merge", "write"]
    assert report["parity"]["stages"]["write"]["mean_kl"] < {"F32": 1e-9, "F16": 1e-5, "BF16": 1e-3}[name]
    assert not report["habits"]["fitted"]
    for file in out.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file.name
    # As every other tool loads it.
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[name]
    assert AutoModelForCausalLM.from_pretrained(out, dtype="auto").dtype == dtype
    loaded = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(source.adapter))
    ids = some_ids(300, 40)
    found, expected = torch_logits(loaded.eval(), ids), torch_logits(adapted.eval(), ids)
    limit = {"F32": 1e-5, "F16": 2e-3, "BF16": 2e-2}[name] * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=limit)
    tokenizer, original = (AutoTokenizer.from_pretrained(folder) for folder in (out, base))
    for text in ("Check email, 12:05 it's 買い物", "<|im_end|>\n\n x", ""):
        assert tokenizer(text).input_ids == original(text).input_ids
    assert tokenizer.special_tokens_map == original.special_tokens_map
    assert capfd.readouterr().out == ""


def test_license_and_card(source: ExportSource, tmp_path: Path) -> None:
    out = tmp_path / "M *1*"
    export_hf(source, out, profile=unpruned())
    assert (out / "LICENSE").read_text() == "Apache License\n"
    card = (out / "README.md").read_text()
    fields = yaml.safe_load(card.split("---\n")[1])
    assert (fields["license"], fields["library_name"]) == ("apache-2.0", "transformers")
    assert "base_model" not in fields, "a folder's name is no hub name"
    assert "# M \\*1\\*\n" in card
    assert "is tiny with a LoRA adapter merged into its weights." in card
    assert "&lt;\\|im\\_end\\|&gt; it's" in card
    # What is made of the folder has the same license.
    assert read_license(out) == verify_bundle(out).base_model.license
    # A card may be edited, and what the hub adds does not matter; everything else is the model.
    (out / "README.md").write_text("mine")
    (out / ".gitattributes").write_text("")
    (out / ".cache").mkdir()
    verify_bundle(out)
    (out / "LICENSE").write_text("mine")
    with pytest.raises(EdgebError, match="LICENSE does not match its hash"):
        verify_bundle(out)


def test_the_card_tells_of_a_chat_template(source: ExportSource, tmp_path: Path) -> None:
    export_hf(source, tmp_path / "b", profile=unpruned())
    manifest = verify_bundle(tmp_path / "b")
    turns = replace(manifest, layout=replace(manifest.layout, chat=ChatTurns((1,), (2,), 3)))
    cards = [render_card(held, "b", tuned=True) for held in (manifest, turns)]
    assert ["inside its chat template" in card for card in cards] == [False, True]


def test_the_folder_is_a_backbone(source: ExportSource, tmp_path: Path) -> None:
    export_hf(source, tmp_path / "b", profile=unpruned())
    config, tokenizer = open_backbone(BackboneConfig(path=str(tmp_path / "b")))
    assert config.model_type == "qwen2"
    assert tokenizer("Check email").input_ids == AutoTokenizer.from_pretrained(source.base)("Check email").input_ids
    again = ExportSource(tmp_path / "b", None, CANDIDATES, PromptLayout("stream"))
    export_hf(again, tmp_path / "c", profile=unpruned())
    first, second = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("b", "c"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_pruned_folder(tmp_path: Path) -> None:
    tokens = helpers.tokenizer()
    helpers.save(helpers.model(tokens), tokens, tmp_path / "base")
    source = ExportSource(tmp_path / "base", None, CandidateSet.of(helpers.LABELS), PromptLayout(), places=("DK", "AB"))
    report = export_hf(source, tmp_path / "b", "f32", helpers.profile(prune="on", extra_tokens=0)).to_dict()
    manifest = verify_bundle(tmp_path / "b")
    assert manifest.vocabulary == report["pruning"]["vocabulary"]
    assert manifest.vocabulary["kept"] < 0.8 * len(tokens)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    assert loaded.config.vocab_size == manifest.vocabulary["kept"]
    small = AutoTokenizer.from_pretrained(tmp_path / "b")
    encoder = helpers.encoder(small)
    assert (encoder.bos_id, encoder.eos_id) == (manifest.bos_id, manifest.eos_id)
    rows, whole = (m.get_input_embeddings().weight for m in (loaded, helpers.model(tokens)))
    vocabulary = tokens.get_vocab()
    for token, i in small.get_vocab().items():
        assert torch.equal(rows[i], whole[vocabulary[token]]), token
    assert report["logit_difference"]["write"] < 1e-4
    text = "".join(source.layout.static(source.candidates.labels))
    assert small.tokenize(text) == tokens.tokenize(text)


def test_output_rules_and_refusals(source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "b"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(EdgebError, match="is not empty and no bundle"):
        export_hf(source, out, profile=unpruned(), force=True)
    (out / "mine.txt").unlink()
    export_hf(source, out, profile=unpruned())
    kept = verify_bundle(out)
    with pytest.raises(EdgebError, match=r"exists .choose another --out or pass --force"):
        export_hf(source, out, profile=unpruned())
    with pytest.raises(EdgebError, match=r"holds unquantized weights, --quant is q4 .use f16, bf16 or f32"):
        export_hf(source, tmp_path / "q", "q4", unpruned())
    with pytest.raises(EdgebError, match="habits, calibration and population cannot be fitted"):
        export_hf(replace(source, data=tmp_path), tmp_path / "q", None, unpruned(habits="on"))
    strict = unpruned(parity={"windows": 6, "max_kl": 0.0})
    with pytest.raises(ParityError, match="BF16 changes the predictions"):
        export_hf(source, out, "bf16", strict, force=True)
    with monkeypatch.context() as patch:
        patch.setattr(checks, "CONVERSION_TOLERANCE", 1e-9)
        with pytest.raises(EdgebError, match="the saved model's logits differ by"):
            export_hf(source, out, "bf16", unpruned(), force=True)
    with monkeypatch.context() as patch:
        patch.setattr(hf_pipeline, "render_card", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export_hf(source, out, "bf16", unpruned(), force=True)
    assert list(tmp_path.iterdir()) == [out]
    assert verify_bundle(out) == kept
    export_hf(source, out, "bf16", unpruned(), force=True)
    assert verify_bundle(out).quantization == "BF16"


class TestCommand:
    """From the command line."""

    @pytest.fixture(autouse=True)
    def here(self, source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        live_in(tmp_path, monkeypatch)
        monkeypatch.setattr("edge_behavior.export.run_source.run_source", lambda *_: source)

    def test_export_inspect_predict(self, source: ExportSource, tmp_path: Path) -> None:
        (tmp_path / "runs").mkdir()
        result = invoked("export", "runs/x", "--format", "hf")
        assert "x-hf: " in result.stdout
        assert "tensors: " in result.stdout
        assert "habits are not fitted: a Hugging Face folder carries none" in result.stderr
        folder = str(tmp_path / "runs" / "x-hf")
        inspected = invoked("inspect", folder).stdout
        assert "license: apache-2.0 (Apache License 2.0)" in inspected
        assert "LICENSE: see --license" in inspected
        assert invoked("inspect", folder, "--license").stdout.endswith("LICENSE\n\nApache License\n")
        document = json.loads(invoked("inspect", folder, "--json").stdout)
        assert document["base_model"]["license"]["texts"] == {"LICENSE": "Apache License"}
        assert json.loads(invoked("inspect", folder, "--license", "--json").stdout) == {
            "license": document["base_model"]["license"]
        }
        (tmp_path / "h.csv").write_text("timestamp,place,behavior\n2024-03-18T19:00,home,Check email\n")
        question = ("--history", "h.csv", "--at", "2024-03-18T20:00", "--place", "home", "--scoring", "exact", "--json")
        found = json.loads(invoked("predict", folder, *question).stdout)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        encoder = encoder_for(tokenizer, source.layout, CANDIDATES)
        scorer = TorchScorer(AutoModelForCausalLM.from_pretrained(folder).eval(), encoder)
        scores = scorer.score([encoder.prompt_ids(HISTORY, WHEN, "home")]).log_probs[0]
        expected = dict(zip(CANDIDATES.labels, np.exp(log_softmax(scores)), strict=True))
        assert {p["behavior"]: p["probability"] for p in found["predictions"]} == pytest.approx(expected, abs=1e-4)
        for words, message in (
            (("inspect", folder, "--gbnf"), "grammars are llama.cpp's"),
            (("inspect", folder, "--gbnf", "--license"), "exclude each other"),
            (("bench", folder), "bench measures single files"),
            (("relabel", folder, "--add", "Swim", "--out", "n.gguf"), "relabel rewrites GGUF files"),
        ):
            with pytest.raises(EdgebError, match=message):
                invoked(*words)
        with pytest.raises(EdgebError, match="is a Hugging Face folder, which needs PyTorch"):
            Predictor.load(folder)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--quant", "q4"], "holds unquantized weights"),
            (["--profile", "default"], r"--format hf takes no profile"),
            (["--block-size", "32"], "--block-size is an ONNX option"),
        ],
    )
    def test_flags(self, words: list[str], message: str) -> None:
        with pytest.raises(EdgebError, match=message):
            invoked("export", "runs/x", "--format", "hf", "--out", "b", *words)
