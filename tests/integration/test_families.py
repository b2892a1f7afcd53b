"""Every family of backbones goes from training to predictions, from a Hugging Face folder and from a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.simulator.behaviors import LABELS, PLACES
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.export.onnx.options import OnnxOptions
from edge_behavior.export.onnx.pipeline import export_onnx
from edge_behavior.export.prune.words import domain_texts
from edge_behavior.export.run_source import run_source
from edge_behavior.train.run.folder import RunFolder
from tests import helpers
from tests.command import edgeb_here
from tests.unit.export.conftest import SMALL_TOKENIZERS, gemma3, llama, qwen2, qwen3, save, trained_sentencepiece

FAMILIES: dict[str, tuple[Callable[..., Any], str]] = {
    "qwen2": (qwen2, "qwen2"),
    "qwen3": (qwen3, "qwen2"),
    "llama": (llama, "llama3"),
    "smollm2": (llama, "smollm"),
    "gemma3": (gemma3, "trained gemma"),
}
LABELLED = PromptLayout("stream", list_candidates=False)
TOKENIZERS: dict[str, Callable[[], Any]] = SMALL_TOKENIZERS | {
    "trained gemma": lambda: trained_sentencepiece(domain_texts(LABELLED, CandidateSet.of(LABELS), PLACES), False),
}
ROOM = {"max_position_embeddings": 4096, "tie_word_embeddings": True}
SHORT = (
    "method=two-stage",
    *("a_tuning.max_targets=40", "a_tuning.epochs=1", "a_tuning.aux_ratio=0", "b_tuning.pool_per_behavior=1"),
    *("b_tuning.samples_per_behavior=1", "b_tuning.epochs=1", "b_tuning.batch_size=2", "evaluation.per_user=1"),
    *("evaluation.per_behavior=1", "evaluation.validation_targets=10", "layout.history_length=4"),
    *("layout.list_candidates=false", "backbone.dtype=float32"),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families") / "data"
    edgeb_here("data", "synth", "--users", 20, "--days", 5, "--seed", 1, "--out", folder)
    return folder


def backbone(folder: Path, family: str, kind: str) -> Path:
    torch.manual_seed(0)
    make, tokens = FAMILIES[family]
    tokenizer = TOKENIZERS[tokens]()
    save(make(len(tokenizer), **ROOM), tokenizer, folder / "model")
    if kind == "folder":
        return folder / "model"
    write_gguf(folder / "model", folder / "model.gguf")
    return folder / "model.gguf"


def flags(base: Path) -> list[str]:
    values = (f"backbone.path={base}", *SHORT)
    return ["--recipe", "tiny", *(word for value in values for word in ("--set", value))]


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        pytest.param(
            family, "gguf" if family == "smollm2" else "folder", marks=[] if family == "qwen3" else [pytest.mark.long]
        )
        for family in FAMILIES
    ],
)
def test_from_training_to_predictions(family: str, kind: str, data: Path, tmp_path: Path) -> None:
    home, run, out, folder = (tmp_path / name for name in ("home", "run", "b.gguf", "b-onnx"))
    base = backbone(tmp_path, family, kind)
    trained = edgeb_here("train", "--data", data, "--out", run, *flags(base), home=home)
    assert ("unpacked to float16" in trained.stderr) == (kind == "gguf")
    opened = RunFolder.open(run)
    assert opened.backbone == str(base)
    how = ("--profile", helpers.few_windows(tmp_path), "--quant", "q8", "--no-habits", "--no-calibrate")
    edgeb_here("export", run, *how, "--out", out, home=home)
    # The command line sets no number of windows for ONNX.
    unpruned = helpers.profile(prune="off", habits="off", calibrate="off", population="off")
    export_onnx(run_source(run), folder, OnnxOptions("f32"), unpruned)
    asked = ("--history", history(tmp_path), "--at", "2024-03-18T20:05", "--place", "home", "--top", 37, "--json")
    documents = (json.loads(edgeb_here("predict", x, *asked, home=home).stdout) for x in (out, folder, run))
    gguf, onnx, expected = ({p["behavior"]: p["probability"] for p in x["predictions"]} for x in documents)
    assert sum(expected.values()) == pytest.approx(1.0, abs=1e-3)
    assert gguf == pytest.approx(expected, abs=0.02)
    assert onnx == pytest.approx(expected, abs=1e-4)
    # Stock PEFT loads the adapter onto the base that it names.
    config = json.loads((opened.final_adapter / "adapter_config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"], dtype=torch.float32)
    tuned = PeftModel.from_pretrained(model, opened.final_adapter)
    assert sum(p.numel() for n, p in tuned.named_parameters() if "lora_" in n) > 0


def history(folder: Path) -> Path:
    path = folder / "h.csv"
    path.write_text("timestamp,place,behavior\n2024-03-18T19:40,home,Short Video\n2024-03-18T19:55,home,Music\n")
    return path
