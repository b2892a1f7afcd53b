"""Answers of endpoints by hand: echoed tokens, alternatives along an answer, text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.baselines.endpoint.answers import (
    TEXT_SHARE,
    Echoed,
    Position,
    echoed,
    even,
    from_alternatives,
    from_text,
    positions_of,
    trustworthy,
)
from edge_behavior.core.prompts import STREAM_TERMINATOR
from edge_behavior.errors import EdgebError
from tests import helpers

LABELS = ["Video", "Video Call", "Bar"]


def reply(tokens: list[str], scores: list[float | None]) -> dict[str, Any]:
    offsets = np.cumsum([0, *(len(t) for t in tokens[:-1])]).tolist()
    held = {"tokens": tokens, "token_logprobs": scores, "text_offset": offsets}
    held["top_logprobs"] = [
        None if score is None else {token: score} for token, score in zip(tokens, scores, strict=True)
    ]
    return {"text": "".join(tokens), "logprobs": held}


@pytest.mark.parametrize(
    ("tokens", "scores", "expected"),
    [
        (["Q", ":", " Bar", ")\n", "next"], [None, -5, -1.5, -0.25, -9], -1.75),
        # One token holds the prompt's end and the label's start.
        (["Q", ": Bar", ")\n", "next"], [None, -1, -0.5, -9], -1.5),
        (["Q:", " B", "ar)", "\n", "next"], [None, -1, -2, -4, -9], -7),
    ],
)
def test_the_tokens_of_label_and_terminator_count(tokens: list[str], scores: list[Any], expected: float) -> None:
    found = echoed(reply(tokens, scores), "Q:", " Bar)\n")
    assert found is not None
    assert found.score == pytest.approx(expected)


def test_servers_without_echo_are_noticed() -> None:
    assert echoed({"text": "x"}, "Q:", " Bar)\n") is None
    assert echoed({"text": "x", "logprobs": None}, "Q:", " Bar)\n") is None
    assert echoed(reply(["next"], [-1]), "Q:", " Bar)\n") is None


def test_the_likeliest_token_before_the_label_is_read() -> None:
    found = reply(["Q:", " Bar", ")\n", "n"], [None, -3, -1, -2])
    found["logprobs"]["top_logprobs"][1] = {" Bar": -3, " Vid": -0.5}
    assert echoed(found, "Q:", " Bar)\n") == Echoed(-4, 2, -0.5)
    del found["logprobs"]["top_logprobs"]
    with pytest.raises(EdgebError, match="echoed log-probabilities cannot be read"):
        echoed(found, "Q:", " Bar)\n")


def test_labels_behind_one_prompt_share_the_likeliest_token() -> None:
    assert trustworthy([Echoed(-4, 2, -0.5), Echoed(-9, 2, -0.52)])
    assert not trustworthy([Echoed(-4, 2, -0.5), Echoed(-9, 2, -0.6)])
    # One whose first token holds the prompt's end, too, is another place.
    assert trustworthy([Echoed(-4, 2, -0.5), Echoed(-9, 1, -2.0), Echoed(-5, 2, -0.5)])


@pytest.mark.parametrize("bad", [None, "x", True, math.nan])
def test_a_score_that_is_no_number_is_refused(bad: Any) -> None:
    with pytest.raises(EdgebError, match="echoed log-probabilities cannot be read"):
        echoed(reply(["Q:", " Bar", ")\n", "n"], [None, bad, -1, -1]), "Q:", " Bar)\n")


def p(**tokens: float) -> dict[str, float]:
    return {token.replace("_", " "): math.log(value) for token, value in tokens.items()}


def test_branches_off_the_answer_by_hand() -> None:
    answer = [
        Position("Video", p(Video=0.6, Bar=0.3, Foo=0.1)),
        Position(" Call", {" Call": math.log(0.7), "\n": math.log(0.2), "s": math.log(0.1)}),
    ]
    row, named = from_alternatives(answer, LABELS, "\n")
    found = np.array([0.6 * 0.2, 0.6 * 0.7, 0.3])
    spread = 1 - found.sum()
    assert named
    assert np.allclose(np.exp(row), found + spread / 3)


def test_a_branch_that_several_labels_share_is_divided() -> None:
    row, named = from_alternatives([Position("Bar", p(Bar=0.5, Vi=0.4))], LABELS, "\n")
    assert named
    assert np.allclose(np.exp(row), np.array([0.2, 0.2, 0.5]) + 0.1 / 3)


def test_an_answer_that_ends_names_the_shorter_of_two_labels() -> None:
    row, named = from_alternatives([Position("Video", p(Video=0.9))], LABELS, "\n")
    assert named
    assert row.argmax() == 0
    assert np.exp(row[1]) == pytest.approx(0.1 / 3)


def test_an_answer_outside_the_list_counts_what_else_was_likely() -> None:
    row, named = from_alternatives([Position("Sleep", p(Sleep=0.5, Bar=0.3))], LABELS, "\n")
    assert not named
    assert np.allclose(np.exp(row), np.array([0, 0, 0.3]) + 0.7 / 3)
    row, named = from_alternatives([], LABELS, "\n")
    assert not named
    assert np.allclose(row, even(3))


def test_rows_sum_to_one_however_tokens_overlap() -> None:
    """Endpoints list a token twice with and without a space."""
    answer = [Position(" Bar", {" Bar": math.log(0.8), "Bar": math.log(0.3)})]
    row, named = from_alternatives(answer, LABELS, "\n")
    assert named
    assert np.exp(row).sum() == pytest.approx(1)


def test_both_forms_of_alternatives_are_read() -> None:
    chat = {
        "token": "Bar",
        "logprob": -1.0,
        "top_logprobs": [{"token": "Vi", "logprob": -2}, {"token": "Bar", "logprob": -1}],
    }
    completion = {"tokens": ["Bar"], "token_logprobs": [-1.0], "top_logprobs": [{"Vi": -2.0, "Bar": -1.0}]}
    wanted = [Position("Bar", {"Vi": -2.0, "Bar": -1.0})]
    assert positions_of({"logprobs": {"content": [chat]}}) == wanted
    assert positions_of({"logprobs": completion}) == wanted
    assert positions_of({"logprobs": None}) is None
    assert positions_of({"logprobs": {"content": []}}) is None


@pytest.mark.parametrize(
    "bad", [[{"token": "x"}], [{"token": "x", "logprob": "y"}], ["x"], [{"token": "x", "logprob": math.nan}]]
)
def test_malformed_alternatives_are_refused(bad: list[Any]) -> None:
    with pytest.raises(EdgebError, match="alternatives cannot be read"):
        positions_of({"logprobs": {"content": bad}})


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Bar", 2),
        (" Bar\n", 2),
        ("Video Call", 1),
        ("Video  Call\nand so on", 1),
        ("bar", None),
        ("Bar.", None),
        ("", None),
    ],
)
def test_text_is_matched_strictly(text: str, code: int | None) -> None:
    row, named = from_text(text, LABELS, "\n")
    assert named == (code is not None)
    assert np.exp(row).sum() == pytest.approx(1)
    if code is None:
        assert np.allclose(row, even(3))
    else:
        assert row.argmax() == code
        assert np.exp(row[code]) == pytest.approx(TEXT_SHARE)


@pytest.mark.parametrize("label", helpers.LABELS)
@pytest.mark.parametrize("form", ["{}", "{})", " {})\n(Mon 3, DK, Bar)\n"])
def test_a_completion_is_read_up_to_what_ends_a_label(label: str, form: str) -> None:
    """Also labels with the same bracket, and where the server cuts the end of the text off."""
    row, named = from_text(form.format(label), helpers.LABELS, STREAM_TERMINATOR)
    assert named
    assert helpers.LABELS[int(row.argmax())] == label


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*helpers.LABELS, " Video", " Call", "V", " ", "", ")\n", "zzz"]),
            st.dictionaries(st.sampled_from([*helpers.LABELS, "B", " V", "é", ")\n"]), st.floats(-20, 0), max_size=4),
            st.floats(-20, 0),
        ),
        max_size=6,
    ),
    st.sampled_from(["\n", STREAM_TERMINATOR]),
)
@settings(max_examples=100, deadline=None)
def test_whatever_is_generated_gives_a_distribution(answer: list[Any], ends: str) -> None:
    positions = [Position(token, {**others, token: score}) for token, others, score in answer]
    row, _ = from_alternatives(positions, helpers.LABELS, ends)
    assert np.isfinite(row).all()
    assert np.exp(row).sum() == pytest.approx(1)
