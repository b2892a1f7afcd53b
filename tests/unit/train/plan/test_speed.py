"""Times: FLOPs against hand counts, and one real measured step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from edge_behavior.train.geometry import Geometry, geometry
from edge_behavior.train.plan import speed
from edge_behavior.train.plan.counts import Batch, Counts, Samples, Window
from edge_behavior.train.plan.memory import Precision
from edge_behavior.train.plan.speed import flops_per_second, forward_flops, times
from edge_behavior.train.recipe import ATuning, BackboneConfig, BTuning, Recipe
from tests.unit.train.plan.configs import LORA, small

FLOAT = Precision(torch.float32, autocast=False)
SHOWN = {
    "a_tuning_steps_at_most": 10, "a_tuning_steps_per_epoch": 10, "a_tuning_sequences_per_epoch": 80,
    "a_tuning_targets_per_epoch": 800, "b_tuning_steps_at_most": 5, "trie_tokens_per_window": 20,
}  # fmt: skip
COUNTS = Counts(
    SHOWN,
    {"a_tuning": Samples(40, 30.0, 9), "b_tuning": Samples(40, 20.0, 3, sequences=2)},
    {"pool": 1000, "validation": 100, "evaluation": 300},
    Window(10, 60, 8),
    Window(10, 40, 8),
)


def recipe(**a_tuning: Any) -> Recipe:
    return Recipe(
        backbone=BackboneConfig(path="a/b"), a_tuning=ATuning(batch_size=8, **a_tuning), b_tuning=BTuning(batch_size=4)
    )


@pytest.fixture
def unit_speed(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """A machine with one FLOP per second; the batches that it was measured with."""
    seen: list[Batch] = []

    def measured(sizes: Geometry, recipe: Recipe, batch: Batch, how: Precision, device: str) -> tuple[float, str]:
        seen.append(batch)
        return 1.0, "this test"

    monkeypatch.setattr(speed, "flops_per_second", measured)
    return seen


def test_a_window_is_scored_with_all_trie_nodes(unit_speed: list[Batch]) -> None:
    sizes = geometry(small(1), LORA)
    # Of the mean window's 40 tokens seven are of the trie: one of the eight outputs is the prompt's last token.
    found = times(recipe(), COUNTS, sizes, FLOAT, "cpu")
    assert found.window == forward_flops(sizes, 40 - 7 + 20, 10 + 40 - 7 + 20, 21)


def test_flops_of_a_layer_by_hand() -> None:
    sizes = geometry(small(1), LORA)
    layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 160
    assert forward_flops(sizes, 5, 0, 0) == 5 * 2 * layer
    assert forward_flops(sizes, 5, 7, 2) == 5 * (2 * layer + 4 * 64 * 7) + 2 * 2 * 64 * 600
    assert forward_flops(geometry(small(3), LORA), 5, 7, 0) == 3 * forward_flops(sizes, 5, 7, 0)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_stage_takes_its_steps_and_its_validations(device: str, unit_speed: list[Batch]) -> None:
    sizes = geometry(small(2), LORA)
    found = times(recipe(evals_per_epoch=2), COUNTS, sizes, FLOAT, device)
    once = forward_flops(sizes, 30, 30, 9)
    # Two validations of as many targets, at ten per sequence.
    held_out = 2 * recipe().evaluation.validation_targets / 10
    assert found.stages["a_tuning"] == pytest.approx(10 * 8 * 2 * once + held_out * once)
    window = forward_flops(sizes, 40, 50, 8)
    assert found.stages["scoring"] == pytest.approx(1000 * window)
    assert found.stages["evaluation"] == pytest.approx(300 * window)
    pair = forward_flops(sizes, 40, 20, 6)
    assert found.stages["b_tuning"] == pytest.approx(5 * 4 * 2 * pair + 100 * window)
    assert found.total == pytest.approx(sum(found.stages.values()))
    assert unit_speed == [Batch(8, 30, 72)]


def test_checkpointing_repeats_the_forward_pass(unit_speed: list[Batch]) -> None:
    sizes = geometry(small(2), LORA)
    plain, again = (
        times(recipe(gradient_checkpointing=on, evals_per_epoch=1), COUNTS, sizes, FLOAT, "cpu").stages["a_tuning"]
        for on in (False, True)
    )
    assert again - plain == pytest.approx(80 * forward_flops(sizes, 30, 30, 9))


def test_processes_share_batches_and_shards(unit_speed: list[Batch]) -> None:
    sizes = geometry(small(2), LORA)
    one, four = (times(recipe(), COUNTS, sizes, FLOAT, "cpu", n).stages for n in (1, 4))
    assert four["a_tuning"] == pytest.approx(one["a_tuning"] / 4)
    # Eight shards of 128: two for each.
    assert four["scoring"] == pytest.approx(256 / 1000 * one["scoring"])


def test_a_stand_in_is_trained_on_its_tokens(unit_speed: list[Batch]) -> None:
    sizes = geometry(small(2), LORA)
    backbone = BackboneConfig(pretrain_tokens=1000, pretrain_batch_size=4, pretrain_block=64)
    found = times(recipe().model_copy(update={"backbone": backbone}), COUNTS, sizes, FLOAT, "cpu").stages["backbone"]
    assert found == pytest.approx(3 * forward_flops(sizes, 3 * 256, 64, 3 * 256))


def test_without_a_stage_that_trains_a_window_is_measured(unit_speed: list[Batch]) -> None:
    found = times(recipe(), replace(COUNTS, samples={}), geometry(small(2), LORA), FLOAT, "cpu")
    assert set(found.stages) == {"scoring", "evaluation"}
    assert unit_speed == [Batch(1, 40, 0)]


@pytest.mark.parametrize(("layers", "said"), [(1, "1 layer"), (3, "2 of 3 layers")])
def test_a_real_step_has_a_speed(layers: int, said: str) -> None:
    before = torch.get_num_threads()
    one = recipe().model_copy(update={"threads": 1})
    found, measured_on = flops_per_second(geometry(small(layers), LORA), one, Batch(2, 16, 4), FLOAT, "cpu")
    assert found > 0
    assert measured_on == f"CPU, 1 thread, {said}"
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("work", "shape"), [(1e12, (4, 50)), (1e9, (2, 50)), (3.5e8, (1, 40)), (1.0, (1, 32))], ids=str
)
def test_what_is_too_long_for_a_cpu_is_cut(
    work: float, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    make = speed.with_adapter

    def watched(model: Any, lora: Any) -> Any:
        made = make(model, lora)
        made.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True)
        return made

    monkeypatch.setattr(speed, "with_adapter", watched)
    monkeypatch.setattr(speed, "_WORK", work)
    sizes = geometry(small(4, hidden_size=256, intermediate_size=1024), LORA)
    flops_per_second(sizes, recipe().model_copy(update={"threads": 1}), Batch(4, 50, 4), FLOAT, "cpu")
    assert {tuple(one) for one in seen} == {shape}
