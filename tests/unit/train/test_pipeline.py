"""The list of stages is whole: each is bound to its work, and its paths are its own."""

from __future__ import annotations

import pytest

from edge_behavior.train.pipeline import WORK
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.recipe_changes import field_values
from edge_behavior.train.stage_list import FREE, MODELS, STAGE_NAMES, STAGES, Stage


def test_every_stage_is_bound_to_its_work() -> None:
    assert tuple(WORK) == STAGE_NAMES


def test_what_a_run_evaluates() -> None:
    assert MODELS == ("untuned", "a_tuning", "b_tuning")


@pytest.mark.parametrize("stage", STAGES, ids=STAGE_NAMES)
def test_a_stage_names_fields_that_the_recipe_has(stage: Stage) -> None:
    """A field that was renamed would otherwise count as read."""
    known = field_values(Recipe())
    for field in (*stage.input_fields, *stage.restarts_on, *FREE):
        assert field in known
    for part in stage.unread:
        assert any(name.startswith(part) if part.endswith(".") else name == part for name in known)
    assert all(stage.reads(field) for field in stage.input_fields)
    assert stage.restarts_on <= FREE


def test_no_two_stages_share_a_folder() -> None:
    places = [place for stage in STAGES for place in (stage.output, *stage.scratch) if place is not None]
    assert len(places) == len(set(places))
