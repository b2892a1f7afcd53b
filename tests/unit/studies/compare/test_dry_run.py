"""The dry run's time, with plans of known seconds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edge_behavior.errors import EdgebError
from edge_behavior.studies.compare import dry_run as module
from edge_behavior.studies.compare.contenders import Contender, Tuned
from edge_behavior.studies.compare.dry_run import dry_run
from edge_behavior.train.recipe import Recipe
from tests.unit.studies.compare.conftest import Asking, Noisy, contenders

PLAIN = {"a_tuning.targets": "all", "a_tuning.aux_ratio": 0.0}
SECONDS = {"backbone": 1000.0, "a_tuning": 100.0, "b_tuning": 10.0, "scoring": 5.0, "evaluation": 1e6}


class Known:
    """Plans in place of measured ones; refuses a backbone with a width of 64."""

    asked: list[Recipe]

    def __init__(self, _: object) -> None:
        Known.asked = []

    def plan(self, recipe: Recipe) -> Any:
        Known.asked.append(recipe)
        if recipe.backbone.hidden_size == 64:
            raise EdgebError("too wide", "make it narrower")
        stages = {k: v for k, v in SECONDS.items() if k != "b_tuning" or recipe.b_tuning.method != "none"}
        stages["scoring"] *= recipe.b_tuning.method != "none"
        return SimpleNamespace(times=SimpleNamespace(stages=stages, window=0.5, measured_on="this test"), refusal=None)


def test_seconds_are_summed_by_system_and_a_common_stage_counts_once(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Planner", Known)
    systems: dict[str, Contender] = {
        **contenders(Noisy("small", 1.0)),
        "untuned": Tuned("untuned", "untuned", {"a_tuning.method": "none", "b_tuning.method": "none"}),
        "plain": Tuned("plain", "plain", {**PLAIN, "b_tuning.method": "none"}),
        "both": Tuned("both", "two stages", {**PLAIN, "b_tuning.method": "dpo"}),
        "wide": Tuned("wide", "wide", {"backbone.hidden_size": 64, "b_tuning.method": "none"}),
    }
    bench, _ = asking(systems, cold=(0,))
    time = dry_run(bench, systems)["time"]
    test, validation = len(bench.drawn.test), len(bench.drawn.validation)
    natural = int(bench.drawn.member["natural"].sum())
    one = (test + validation + natural) / 2
    # Two seeds; a backbone each. The search tries three rates, and the second is the recipe's own: of another size.
    assert time["systems"]["untuned"] == {"training": 2000.0, "pool": 0.0, "scoring": 2 * one, "total": 2000 + 2 * one}
    search = 3 * validation / 2
    assert time["systems"]["plain"]["training"] == 500.0
    assert time["systems"]["plain"]["scoring"] == 2 * one + search
    # Its first stage is plain's, its search too.
    assert time["systems"]["both"] == {
        "training": 20.0, "pool": 10.0, "scoring": 2 * one + search, "total": 30 + 2 * one + search,
    }  # fmt: skip
    assert time["refused"] == {"wide": "too wide (make it narrower)"}
    assert time["total"] == sum(spent["total"] for spent in time["systems"].values())
    assert (time["not_estimated"], time["measured_on"]) == (["habits", "small"], ["this test"])
    # Rates, seeds and names make no new plan; those that train are measured first.
    methods = [recipe.a_tuning.method == "none" for recipe in Known.asked]
    assert methods == sorted(methods)
    assert len(methods) == 6
