"""`edgeb train --dry-run` on a simulated log: counts, memory, time and refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edge_behavior.cli import app
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.train.plan import counts, speed
from edge_behavior.train.plan import plan as module
from edge_behavior.train.plan.memory import this_device
from edge_behavior.train.recipe import Recipe, load_recipe
from edge_behavior.train.standin import model as standin
from edge_behavior.util.numbers import GIB

SMALL = [
    "backbone.hidden_size=32", "backbone.layers=3", "backbone.intermediate_size=64", "backbone.vocab_size=400",
    "backbone.pretrain_tokens=4000", "a_tuning.max_targets=200", "a_tuning.epochs=2", "b_tuning.pool_per_behavior=2",
    "b_tuning.epochs=1", "evaluation.per_user=2", "evaluation.per_behavior=2", "evaluation.validation_targets=20",
    "threads=1", "method=two-stage",
]  # fmt: skip
PARTS = {"weights", "adapter", "activations", "logits", "working", "total"}


@pytest.fixture(scope="module", autouse=True)
def _short_text() -> Iterator[None]:
    """Every plan of a stand-in trains its tokenizer; a little text does for counting."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standin, "_TOKENIZER_DOCUMENTS", 200)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("plan") / "data"
    words = ["data", "synth", "--users", "20", "--days", "5", "--seed", "1", "--out", str(folder)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return Dataset.open(folder)


def plan(*asked: Any, **more: Any) -> dict[str, Any]:
    return module.plan(*asked, **more).document()


def recipe(*overrides: str) -> Recipe:
    return load_recipe("tiny", [*SMALL, *overrides])


@pytest.fixture(scope="module")
def planned(data: Dataset) -> dict[str, Any]:
    return plan(recipe(), data)


def test_it_is_one_document_of_counts_memory_and_time(planned: dict[str, Any]) -> None:
    assert json.loads(json.dumps(planned)) == planned
    memory, time = planned["memory"], planned["time"]
    assert set(memory["stages"]) == {"backbone", "a_tuning", "scoring", "b_tuning"}
    assert set(memory["stages"]["a_tuning"]) == set(memory["stages"]["b_tuning"]) == PARTS
    for need in memory["stages"].values():
        assert need["total"] == sum(size for part, size in need.items() if part != "total")
    assert memory["total"] == max(need["total"] for need in memory["stages"].values())
    assert set(time["stages"]) == {"backbone", "a_tuning", "scoring", "b_tuning", "evaluation"}
    assert all(seconds >= 0 for seconds in time["stages"].values())
    assert time["total"] == pytest.approx(sum(time["stages"].values()), abs=0.3)
    assert time["measured_on"].endswith("2 of 3 layers")
    assert planned["refusal"] is None


def test_long_trainings_are_counted_on_their_first_epoch(
    planned: dict[str, Any], data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "_COUNTED_TARGETS", 10)
    first = plan(recipe(), data, "24GiB")
    assert (planned["a_tuning_epochs_counted"], first["a_tuning_epochs_counted"]) == (2, 1)
    for key in ("a_tuning_steps_at_most", "a_tuning_sequences_per_epoch"):
        assert first[key] == planned[key]
    assert first["a_tuning_tokens_per_epoch"] == pytest.approx(planned["a_tuning_tokens_per_epoch"], rel=0.2)


def test_what_cannot_fit_is_refused_with_a_change_that_fits(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "times", lambda *_: pytest.fail("nothing is timed for a run that cannot start"))
    device = this_device()
    full = plan(recipe(), data, "24GiB")["memory"]["stages"]
    monkeypatch.setattr(module, "this_device", lambda: replace(device, available=full["a_tuning"]["total"] // 2))
    found = plan(recipe(), data)
    assert found["time"] is None
    assert found["refusal"]["message"].startswith("training needs about ")
    hint = found["refusal"]["hint"]
    overrides = hint.partition("set ")[2].split(" and ")
    again = plan(recipe(*overrides), data, "24GiB")["memory"]
    assert again["stages"]["a_tuning"]["total"] < full["a_tuning"]["total"]


def test_another_gpu_is_planned_without_a_time(data: Dataset) -> None:
    found = plan(recipe(), data, "24GiB")
    assert (found["memory"]["device"], found["memory"]["available"]) == ("cuda", 24 * GIB)
    assert found["time"] is None
    assert found["refusal"] is None


def test_stages_that_train_nothing_need_nothing(data: Dataset) -> None:
    found = plan(recipe("a_tuning.method=none", "b_tuning.method=none", "backbone.pretrain_tokens=0"), data, "24GiB")
    assert set(found["memory"]["stages"]) == {"scoring"}
    assert "a_tuning_steps_at_most" not in found
    one = plan(recipe("b_tuning.method=sft"), data, "24GiB")["memory"]["stages"]["b_tuning"]
    two = plan(recipe("b_tuning.method=dpo"), data, "24GiB")["memory"]["stages"]["b_tuning"]
    assert two["activations"] == pytest.approx(2 * one["activations"], rel=0.05)


def test_several_processes_share_batches_and_windows(
    planned: dict[str, Any], data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "flops_per_second", lambda *_: (1e6, "this test"))
    monkeypatch.setattr(speed, "SHARD", 8)
    found = [plan(recipe("b_tuning.method=none"), data, processes=n) for n in (1, 4)]
    assert [one["processes"] for one in found] == [1, 4]
    assert planned["processes"] == 1
    one, four = (p["time"]["stages"] for p in found)
    for stage in ("a_tuning", "backbone"):
        assert four[stage] == pytest.approx(one[stage] / 4, abs=0.1)
    windows = 3 * found[0]["evaluation_windows"]
    assert windows > 32
    busiest = -(-windows // 32) * 8
    assert four["evaluation"] == pytest.approx(one["evaluation"] * busiest / windows, abs=0.1)


def test_a_batch_that_the_processes_cannot_share_is_refused(data: Dataset) -> None:
    with pytest.raises(EdgebError, match=r"a_tuning\.batch_size 8 cannot be shared by 3 processes"):
        plan(recipe(), data, "24GiB", processes=3)


def test_four_bits_need_a_gpu(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "this_device", lambda: replace(this_device(), kind="cpu"))
    with pytest.raises(EdgebError, match="4bit needs a CUDA GPU"):
        plan(recipe("backbone.quantize=4bit"), data)


def test_a_backbone_without_weights_can_be_planned(data: Dataset, tmp_path: Path) -> None:
    from tests import helpers

    tokens = helpers.tokenizer()
    config = helpers.model(tokens).config
    config.architectures = ["Qwen2ForCausalLM"]
    config.save_pretrained(tmp_path)
    tokens.save_pretrained(tmp_path)
    found = plan(recipe(f"backbone.path={tmp_path}"), data, "24GiB")
    assert set(found["memory"]["stages"]) == {"a_tuning", "scoring", "b_tuning"}
    (tmp_path / "config.json").unlink()
    with pytest.raises(EdgebError, match=r"cannot read .*config\.json"):
        plan(recipe(f"backbone.path={tmp_path}"), data, "24GiB")
