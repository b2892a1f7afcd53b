"""`layout.chat_template` from the recipe to predictions, and the lines that refuse it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from edge_behavior.hf.chat_template import chat_turns
from edge_behavior.train.run.folder import RunFolder
from tests import chat_templates, helpers
from tests.command import edgeb_here
from tests.integration.small import set_flags
from tests.unit.export.conftest import llama, save

SHORT = (
    "method=two-stage",
    *("a_tuning.max_targets=40", "a_tuning.epochs=1", "a_tuning.aux_ratio=0", "b_tuning.pool_per_behavior=1"),
    *("b_tuning.samples_per_behavior=1", "b_tuning.epochs=1", "b_tuning.batch_size=2", "evaluation.per_user=1"),
    *("evaluation.per_behavior=1", "evaluation.validation_targets=10", "layout.history_length=4"),
    *("layout.list_candidates=false", "layout.chat_template=true"),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "data"
    edgeb_here("data", "synth", "--users", 20, "--days", 5, "--seed", 1, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tokenizer = chat_templates.small("smollm")
    model = llama(len(tokenizer), max_position_embeddings=4096, tie_word_embeddings=True)
    return save(model, tokenizer, tmp_path_factory.mktemp("base") / "model")


def flags(*settings: str) -> list[str]:
    return ["--recipe", "tiny", *set_flags((*SHORT, *settings))]


@pytest.mark.parametrize("name", ["stream", "prefix"])
def test_from_training_to_predictions(name: str, base: Path, data: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "b.gguf"
    edgeb_here("train", "--data", data, "--out", run, *flags(f"backbone.path={base}", f"layout.name={name}"))
    opened = RunFolder.open(run)
    assert opened.layout.chat == chat_turns(chat_templates.small("smollm"))
    assert "tokenizer.apply_chat_template(turns" in (run / "README.md").read_text(encoding="utf-8")
    how = ("--profile", helpers.few_windows(tmp_path), "--quant", "q8", "--no-habits", "--no-calibrate")
    edgeb_here("export", run, *how, "--out", out)
    log = tmp_path / "h.csv"
    log.write_text("timestamp,place,behavior\n2024-03-18T19:40,home,Short Video\n2024-03-18T19:55,home,Music\n")
    asked = ("--history", log, "--at", "2024-03-18T20:05", "--place", "home", "--top", 37, "--json")
    documents = (json.loads(edgeb_here("predict", x, *asked).stdout) for x in (out, run))
    found, expected = ({p["behavior"]: p["probability"] for p in x["predictions"]} for x in documents)
    assert found == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_backbone_without_a_template_is_refused_at_once(more: tuple[str, ...], data: Path, tmp_path: Path) -> None:
    tokenizer, out = chat_templates.small("smollm"), tmp_path / "run"
    bare = save(llama(len(tokenizer)), tokenizer, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    done = edgeb_here("train", "--data", data, "--out", out, *flags(f"backbone.path={bare}"), *more, code=2)
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("edgeb: layout.chat_template is true, but the backbone's tokenizer has no chat template")
    assert not out.exists()


def test_the_stand_in_has_none(data: Path, tmp_path: Path) -> None:
    done = edgeb_here("train", "--data", data, "--out", tmp_path / "run", *flags(), code=2)
    assert "the stand-in has no chat template" in done.stderr
