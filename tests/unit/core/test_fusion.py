"""Fusion: the affine form is the formula, and what comes from a file is checked."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_behavior.core.candidates import GROUPS
from edge_behavior.core.fusion import Fusion, GroupWeights, read_weights
from edge_behavior.errors import EdgebError

NAMES = ("head", "tail", "medium", "tail", "head")
WEIGHTS = {"head": GroupWeights(0.5, 0.25, -1.0), "medium": GroupWeights(1.0, 0.0, 0.0), "tail": GroupWeights(0, 2, 3)}
weights = st.fixed_dictionaries(
    {name: st.builds(GroupWeights, st.floats(0, 9), st.floats(0, 9), st.floats(-9, 9)) for name in GROUPS}
)


class TestScores:
    @given(weights, st.integers(0, 1000))
    def test_affine_is_the_formula(self, table, seed):
        rng = np.random.default_rng(seed)
        model, habits = -rng.exponential(5, (3, 5)), -rng.exponential(5, (3, 5))
        fusion = Fusion(table, NAMES)
        a, c = fusion.affine(habits)
        for i in range(3):
            for b, name in enumerate(NAMES):
                w = table[name]
                expected = w.model * model[i, b] + w.habits * habits[i, b] + w.bias
                assert a[b] * model[i, b] + c[i, b] == pytest.approx(expected)
                assert fusion.scores(model, habits)[i, b] == pytest.approx(expected)
        assert (a >= 0).all()
        np.testing.assert_array_equal(fusion.affine(habits[0])[1], c[0])

    def test_a_zero_weight_leaves_a_candidate_to_the_other_source(self):
        scores = Fusion(WEIGHTS, NAMES).scores(np.full(5, -7.0), np.arange(-5.0, 0.0))
        assert scores[1] == 2 * -4 + 3
        assert scores[2] == -7

    def test_the_default_weights_are_the_model(self):
        model = np.log([0.1, 0.2, 0.3, 0.3, 0.1])
        fusion = Fusion(dict.fromkeys(GROUPS, GroupWeights()), NAMES)
        np.testing.assert_array_equal(fusion.scores(model, np.zeros(5)), model)


class TestFiles:
    @given(weights)
    def test_round_trip(self, table):
        fusion = Fusion(table, NAMES)
        assert Fusion(read_weights(json.loads(json.dumps(fusion.to_dict()))), NAMES) == fusion

    @pytest.mark.parametrize(
        ("group", "name", "value", "message"),
        [
            ("tail", "model", -0.1, "m.gguf.tail: fusion weight 'model' is -0.1"),
            ("head", "habits", -1, "m.gguf.head: fusion weight 'habits' is -1"),
            ("head", "bias", "2", "m.gguf.head: fusion weight 'bias' is 2, not a usable number"),
            ("head", "bias", None, "not a usable number"),
            ("head", "model", True, "not a usable number"),
            ("medium", "bias", math.inf, "not a usable number"),
            ("medium", "model", 10**400, "not a usable number"),
            ("medium", "more", 1, "m.gguf.medium: unknown field 'more'"),
        ],
    )
    def test_bad_values(self, group, name, value, message):
        held = Fusion(WEIGHTS, NAMES).to_dict()
        held[group] = {**held[group], name: value}
        with pytest.raises(EdgebError, match=message):
            read_weights(held, "m.gguf")

    @pytest.mark.parametrize("held", [None, [], {"head": {}}, dict.fromkeys((*GROUPS, "neck"))])
    def test_not_the_three_groups(self, held):
        with pytest.raises(EdgebError, match=r"m\.gguf"):
            read_weights(held, "m.gguf")

    def test_an_unknown_group_of_a_candidate(self):
        with pytest.raises(EdgebError, match="unknown group 'neck'"):
            Fusion(WEIGHTS, ("head", "neck"))
