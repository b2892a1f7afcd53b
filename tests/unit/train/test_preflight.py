"""A run that must fail is refused at the start, in one line that names the field; one that works is not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_behavior.data.dataset import EventTable
from edge_behavior.data.windows import balanced_windows
from edge_behavior.errors import EdgebError
from edge_behavior.train.preflight import check_data, check_inputs, check_model, preference_pairs
from edge_behavior.train.recipe import Recipe, parse_recipe
from edge_behavior.train.stages.select import Pool, build_pairs, select
from edge_behavior.util import cpus
from tests import helpers

LABELS = ["Bar", "Video", "Café"]
USER = ["Bar", "Video", "Bar", "Café", "Video", "Bar", "Bar", "Video"]


def data(**users: list[list[str]]) -> Any:
    """A dataset of three parts, each with one user of eight events unless given."""
    tables = {
        split: helpers.event_table(users.get(split, [USER]), LABELS, [4, 3, 1])
        for split in ("train", "validation", "test")
    }
    return SimpleNamespace(events=tables.__getitem__, has_places=True)


def recipe(**values: Any) -> Recipe:
    fields: dict[str, Any] = {"layout": {"history_length": 3}, "b_tuning": {"batch_size": 2}}
    for name, value in values.items():
        section, _, field = name.partition("__")
        fields.setdefault(section, {})[field] = value
    return parse_recipe(fields, "test")


def refused(message: str, action: Any, *arguments: Any) -> EdgebError:
    with pytest.raises(EdgebError, match=message) as caught:
        action(*arguments)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return caught.value


def test_what_works_passes() -> None:
    check_inputs(recipe(), data())
    check_inputs(recipe(layout__name="prefix"), data())


def test_more_threads_than_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "allowed_cpus", lambda root=None: 4)
    many = parse_recipe({"threads": 5, "layout": {"history_length": 3}}, "test")
    refused("threads is 5, but this process may use 4 CPUs", check_inputs, many, data())


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_history_no_user_has_is_refused(split: str) -> None:
    short = data(**{split: [USER[:3], USER[:2]]})
    refused(
        rf"layout\.history_length is 3, but the longest log of a {split} user has 3 events", check_data, recipe(), short
    )
    check_data(recipe(layout__history_length=2, b_tuning__batch_size=1), short)


def test_only_stages_that_are_left_are_looked_at() -> None:
    short = data(train=[USER[:3]], validation=[USER[:3]])
    check_data(recipe(b_tuning__method="none"), short)
    check_data(recipe(), short, done=("a_tuning", "b_tuning"))
    with pytest.raises(EdgebError, match="train user"):
        check_data(recipe(b_tuning__method="none", layout__name="prefix"), short)


def test_a_validation_user_with_no_target_is_refused() -> None:
    only_tail = data(validation=[["Café"] * 8])
    refused(
        "a_tuning.targets is anchors, and no validation user",
        check_data,
        recipe(a_tuning__anchor_threshold=0.2),
        only_tail,
    )
    refused(
        "no validation user",
        check_data,
        recipe(a_tuning__anchor_threshold=0.2, layout__name="prefix"),
        only_tail,
    )
    check_data(recipe(a_tuning__anchor_threshold=0.2, a_tuning__method="none"), only_tail)


def test_a_stretch_of_one_event_has_no_target() -> None:
    alone = data(validation=[["Bar"], ["Café", "Café", "Café", "Café"]])
    refused("no validation user", check_data, recipe(a_tuning__anchor_threshold=0.2), alone)


@pytest.mark.parametrize(("most", "cap"), [(1, None), (2, None), (3, 2), (9, 4), (9, None)])
def test_the_pairs_are_as_many_as_stage_2_builds(most: int, cap: int | None) -> None:
    table: EventTable = helpers.event_table([USER, [*USER, *USER[::-1]]], LABELS, [8, 7, 3])
    chosen = recipe(b_tuning__samples_per_behavior=most, b_tuning__pool_per_behavior=cap)
    targets = balanced_windows(table, cap or len(table), 3)
    rng = np.random.default_rng(0)
    pool = Pool(
        targets, table.behavior[targets].astype(np.int64), np.zeros(len(targets), np.int64),
        np.log(rng.dirichlet(np.ones(3), len(targets))), rng.random((len(targets), 4), np.float32),
    )  # fmt: skip
    hardness = rng.random(len(targets))
    built = build_pairs(pool, select(pool, hardness, chosen.b_tuning, 0), hardness)
    assert preference_pairs(chosen, table) == len(built) > 0


def test_fewer_pairs_than_a_batch_are_refused() -> None:
    found = refused(
        "only 3 preference pairs for b_tuning.batch_size 4",
        check_data,
        recipe(b_tuning__batch_size=4, b_tuning__samples_per_behavior=1),
        data(),
    )
    assert "samples_per_behavior" in found.hint
    check_data(recipe(b_tuning__batch_size=3, b_tuning__samples_per_behavior=1), data())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"backbone__heads": 4, "backbone__kv_heads": 3}, "backbone.heads 4 is not a multiple of backbone.kv_heads 3"),
        ({"backbone__heads": 4, "backbone__kv_heads": 8}, "not a multiple"),
        ({"backbone__heads": 12, "backbone__kv_heads": 12, "backbone__hidden_size": 256}, "a width of 21"),
        ({"backbone__heads": 64, "backbone__kv_heads": 64, "backbone__hidden_size": 32}, "a width of 0"),
    ],
)
def test_shapes_that_cannot_be_are_refused(shape: dict[str, int], message: str) -> None:
    refused(message, check_model, recipe(**shape))


@pytest.mark.parametrize("wanted", ["nope", "q_proj", "("])
def test_modules_that_are_not_there_are_refused(wanted: str, tmp_path: Path) -> None:
    refused(r"lora\.target_modules = ", check_model, recipe(lora__target_modules=wanted))
    tokens = helpers.tokenizer()
    base = helpers.save(helpers.model(tokens), tokens, tmp_path / "base")
    refused(r"lora\.target_modules = ", check_model, recipe(lora__target_modules=wanted, backbone__path=str(base)))
    check_model(recipe(lora__target_modules=".*(q_proj|v_proj)", backbone__path=str(base)))


def test_modules_that_are_there_pass() -> None:
    check_model(recipe(lora__target_modules=r".*layers\.3\.self_attn\.q_proj"))
    refused(
        "target_modules",
        check_model,
        recipe(lora__target_modules=r".*layers\.3\.self_attn\.q_proj", backbone__layers=3),
    )


def test_conversations_are_looked_at_until_they_are_used(tmp_path: Path) -> None:
    gone = recipe(a_tuning__aux_path=str(tmp_path / "gone.jsonl"))
    refused("aux_path", check_inputs, gone, data())
    check_inputs(gone, data(), done=("backbone", "a_tuning"))
