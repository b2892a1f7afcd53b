"""The candidate set: bad label lists are refused, and groups follow from counts and a threshold."""

from __future__ import annotations

from datetime import datetime
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.core.candidates import CandidateSet, check_labels, same_looking
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.errors import EdgebError

COUNTS = st.lists(st.integers(0, 10_000), min_size=2, max_size=12)


def labels_for(counts: list[int]) -> tuple[str, ...]:
    return tuple(f"behavior {i}" for i in range(len(counts)))


def test_labels_are_cleaned_and_keep_their_order():
    found = CandidateSet.of([" Video ", "Cafe\u0301", "Go   home"], [3, 2, 1])
    assert found.labels == ("Video", "Café", "Go home")
    assert found.counts == (3, 2, 1)
    assert [found.code(label) for label in found.labels] == [0, 1, 2]
    assert len(found) == 3


def test_counts_are_zero_when_unknown():
    found = CandidateSet.of(["a", "b"])
    assert found.counts == (0, 0)
    assert not found.shares.any()
    assert found.groups() == ("tail", "tail")
    assert not found.anchors().any()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "only 0 distinct"),
        (["Video"], "only 1 distinct"),
        (["Video", ""], "empty"),
        (["Video", " \t "], "empty"),
        (["Video", "Video"], "'Video' is listed twice"),
        (["Video", " Video "], "listed twice"),
        (["Café", "Cafe\u0301"], "listed twice"),
        (["Video", "Mail", "video"], "'video' differs from 'Video' only by case or space"),
        (["Go home", "GoHome"], "only by case or space"),
        (["Go home", "Go\u00a0home"], "listed twice"),
        (["Go home", "Go ho\u200dme"], "only by case or space"),
        (["Straße", "STRASSE"], "only by case or space"),
        (["Video", "Ma\nil"], r"control character U\+000A"),
        (["Mail", "Ma\u200bil"], "listed twice"),
        (["Video", "Ma\U000e0061il"], r"control character U\+E0061"),
        (["Video", "x" * 201], "has 201 characters"),
    ],
)
def test_lists_that_cannot_be_a_candidate_set(labels, message):
    with pytest.raises(EdgebError, match=message) as caught:
        CandidateSet.of(labels)
    assert caught.value.hint


@pytest.mark.parametrize("label", [" Video", "Go  home", "Cafe\u0301", "Go\u00a0home", "\u200eMail"])
def test_uncleaned_labels_are_refused_where_nothing_cleans_them(label):
    with pytest.raises(EdgebError, match="stray space or marks, or is not NFC"):
        check_labels([label, "Mail"])


def test_one_count_per_label():
    with pytest.raises(EdgebError, match="1 counts for 2 labels"):
        CandidateSet(("a", "b"), (1,))


def test_an_unknown_label_names_the_nearest():
    found = CandidateSet.of(["Watch video", "Mail"])
    with pytest.raises(EdgebError, match=r"h\.csv:4: 'Watch vidoe' is not in the candidate set") as caught:
        found.code("Watch vidoe", "h.csv:4")
    assert caught.value.hint == "did you mean 'Watch video'?"
    with pytest.raises(EdgebError, match=r"^'watch video' is not in"):
        found.code("watch video")


@pytest.mark.parametrize(
    "asked", ["Cafe\u0301 24", "Café\u00a024", " Café  24", "\u200eCaf\u200bé\u202f24\ufeff", "Café 24"]
)
def test_a_label_is_asked_for_however_it_is_written(asked):
    found = CandidateSet.of(["Mail", "Café 24"])
    assert found.code(asked) == 1
    assert asked in found
    event = BehaviorEvent("home", datetime(2024, 3, 1), asked)
    assert found.named(event).behavior == "Café 24"
    assert "Cafe 24" not in found
    assert "" not in found
    assert "Ca\nfé" not in found


def test_an_unknown_label_shows_the_mark_that_nobody_sees():
    found = CandidateSet.of(["Mail", "Café 24"])
    with pytest.raises(EdgebError, match=r"^'Ma\\u200cil' is not in"):
        found.code("Ma\u200cil")
    with pytest.raises(EdgebError, match=r"^'Mail\\n' is not in|^'Ma\\nil' is not in"):
        found.code("Ma\nil")


def test_equality_is_of_labels_and_counts():
    assert CandidateSet.of(["a", "b"], [1, 2]) == CandidateSet.of([" a", "b "], [1, 2])
    assert CandidateSet.of(["a", "b"], [1, 2]) != CandidateSet.of(["a", "b"], [2, 1])


def test_a_share_of_exactly_the_threshold_is_below_it():
    found = CandidateSet(("a", "b", "c", "d", "e"), (930, 50, 10, 9, 1))
    assert found.groups() == ("head", "medium", "tail", "tail", "tail")
    assert found.anchors().tolist() == [True, True, False, False, False]
    assert CandidateSet(("a", "b"), (949, 51)).groups() == ("head", "head")


@settings(max_examples=100, deadline=None)
@given(COUNTS, st.sampled_from([0.005, 0.01, 0.02]), st.sampled_from([0.05, 0.1]))
def test_groups_are_those_of_exact_arithmetic(counts, anchor, head):
    found = CandidateSet(labels_for(counts), tuple(counts))
    total = max(sum(counts), 1)
    expected = []
    for count in counts:
        share = Fraction(count, total)
        above = [share > Fraction(str(bound)) for bound in (head, anchor)]
        expected.append("head" if above[0] else "medium" if above[1] else "tail")
    assert found.groups(anchor, head) == tuple(expected)
    assert found.anchors(anchor).tolist() == [group != "tail" for group in expected]


@settings(max_examples=50, deadline=None)
@given(COUNTS)
def test_shares_sum_to_one(counts):
    shares = CandidateSet(labels_for(counts), tuple(counts)).shares
    assert shares.shape == (len(counts),)
    assert np.isclose(shares.sum(), 1.0 if sum(counts) else 0.0)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text(max_size=6), min_size=2, max_size=6))
def test_an_accepted_list_is_unambiguous(raw):
    try:
        found = CandidateSet.of(raw)
    except EdgebError:
        return
    assert len({same_looking(label) for label in found.labels}) == len(raw)
    assert [found.code(label) for label in found.labels] == list(range(len(raw)))
    check_labels(found.labels)
