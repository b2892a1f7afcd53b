"""Prompts to ids with a byte tokenizer, so that every expected id is the text itself."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.events import BehaviorEvent, clean_label
from edge_behavior.core.prompts import LAYOUTS, ChatTurns, PromptLayout
from edge_behavior.errors import EdgebError

BOS, EOS = 256, 257
# The third is a text prefix of the first; the fourth ends as the stream's terminator begins.
LABELS = ("Read books", "Video", "Read", "Read)", "買い物", "Read (")
CANDIDATES = CandidateSet.of(LABELS)
START = datetime(2024, 5, 1, 8)


def byte_ids(text: str) -> list[int]:
    return list(text.encode())


def text_of(ids: list[int]) -> str:
    return bytes(i for i in ids if i < 256).decode()


def encoder(name: str = "stream", bos: int | None = BOS, **layout: object) -> PromptEncoder:
    return PromptEncoder(byte_ids, PromptLayout(name, **layout), CANDIDATES, bos, EOS)


def events(codes: list[int]) -> list[BehaviorEvent]:
    return [
        BehaviorEvent(("home", "work (x)", "")[i % 3], START + timedelta(hours=5 * i), LABELS[code])
        for i, code in enumerate(codes)
    ]


CODES = st.lists(st.integers(0, len(LABELS) - 1), max_size=30)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(LAYOUTS), CODES, st.sampled_from([None, BOS]), st.integers(0, 2))
def test_prompt_ids_are_the_static_part_and_the_body(name, codes, bos, index):
    made, history = encoder(name, bos), events(codes)
    index %= made.layout.formats
    ids = made.prompt_ids(history, START, "ho)me", index)
    prompt = made.layout.prompt(history, START, "ho)me", CANDIDATES.labels, index)
    first = [] if bos is None else [bos]
    assert made.static_ids == first + byte_ids("".join(prompt.static))
    assert ids == first + byte_ids(prompt.text)
    assert ids[: len(made.static_ids)] == made.static_ids


def test_every_segment_is_tokenized_by_itself():
    """An event's ids do not depend on what stands beside it, even with a tokenizer that merges over boundaries."""
    known: dict[str, int] = {}

    def whole_text_tokenizer(text: str) -> list[int]:
        return [known.setdefault(text, len(known))]

    made = PromptEncoder(whole_text_tokenizer, PromptLayout(list_candidates=False), CANDIDATES, None, EOS)
    history = events([0, 1])
    ids = made.prompt_ids(history, START, "x")
    prompt = made.layout.prompt(history, START, "x", CANDIDATES.labels)
    assert len(ids) == len(prompt.static + prompt.body)
    assert set(known) >= set(prompt.static + prompt.body)
    assert ids[1 : 1 + 3] == made.stretch(history).ids[1:4]


@settings(max_examples=40, deadline=None)
@given(CODES)
def test_target_spans_decode_to_label_and_terminator(codes):
    made, history = encoder(), events(codes)
    stretch = made.stretch(history)
    assert len(stretch.targets) == len(history)
    for (start, stop), event in zip(stretch.targets, history, strict=True):
        assert text_of(stretch.ids[start:stop]) == f" {event.behavior})\n"
        assert stretch.ids[start:stop] == made.label_ids(event.behavior)
    assert stretch.ids[: len(made.static_ids)] == made.static_ids
    assert stretch.ids[len(made.static_ids) :] == byte_ids("".join("".join(made.layout.line(e)) for e in history))
    assert all(a[1] < b[0] for a, b in zip(stretch.targets, stretch.targets[1:], strict=False))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, len(LABELS) - 1), min_size=1, max_size=20))
def test_training_and_prediction_see_the_same_ids(codes):
    """What stands before a target in training is exactly the prompt that asks for it."""
    made, history = encoder(), events(codes)
    stretch = made.stretch(history)
    for i, (start, _) in enumerate(stretch.targets):
        assert stretch.ids[:start] == made.prompt_ids(history[:i], history[i].time, history[i].place)


@pytest.mark.parametrize("name", LAYOUTS)
def test_labels_that_begin_alike_stay_apart(name):
    made = encoder(name)
    end = byte_ids(")\n") if name == "stream" else [EOS]
    assert made.terminator_ids == end
    assert made.trie.n_candidates == len(LABELS)
    for i, label in enumerate(LABELS):
        assert made.trie.path(i) == made.label_ids(label) == byte_ids(f" {label}") + end
    assert len(np.unique(made.trie.leaves)) == len(LABELS)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(" abRead().,\n買", min_size=1, max_size=8), min_size=2, max_size=8), st.sampled_from(LAYOUTS))
def test_any_candidate_set_has_a_trie(raw, name):
    try:
        candidates = CandidateSet.of([clean_label(label) for label in raw])
    except EdgebError:
        return
    made = PromptEncoder(byte_ids, PromptLayout(name), candidates, None, EOS)
    assert [text_of(made.trie.path(i)).removesuffix(made.layout.terminator or "") for i in range(len(candidates))] == [
        f" {label}" for label in candidates.labels
    ]


def test_a_tokenizer_that_cannot_tell_labels_apart_is_refused():
    with pytest.raises(EdgebError, match="same tokens"):
        PromptEncoder(lambda text: [1], PromptLayout("prefix"), CandidateSet.of(["a", "b"]), None, EOS)


class TestCache:
    def test_a_small_cache_gives_the_same_ids(self):
        small = PromptEncoder(byte_ids, PromptLayout(), CANDIDATES, BOS, EOS, cache_size=2)
        history = events([0, 3, 5, 1, 2, 4] * 3)
        for _ in range(2):
            assert small.prompt_ids(history, START, "x") == encoder().prompt_ids(history, START, "x")
            assert small.stretch(history) == encoder().stretch(history)

    def test_a_segment_is_tokenized_once(self):
        calls: list[str] = []

        def counting(text: str) -> list[int]:
            calls.append(text)
            return byte_ids(text)

        made = PromptEncoder(counting, PromptLayout(), CANDIDATES, BOS, EOS)
        for _ in range(3):
            made.prompt_ids(events([0, 1, 2]), START, "x")
        assert len(calls) == len(set(calls))

    def test_what_a_caller_does_to_a_result_stays_with_the_caller(self):
        made, history = encoder(), events([0, 1])
        before = made.prompt_ids(history, START, "x")
        for ids in (made.prompt_ids(history, START, "x"), made.stretch(history).ids, made.label_ids("Video")):
            ids[:] = [0] * len(ids)
        assert made.prompt_ids(history, START, "x") == before
        assert made.label_ids("Video") == byte_ids(" Video)\n")


def test_an_empty_stretch_is_the_static_part():
    stretch = encoder().stretch([])
    assert stretch.ids == encoder().static_ids
    assert stretch.targets == []


@pytest.mark.parametrize("name", LAYOUTS)
def test_chat_turns_stand_around_the_texts(name):
    chat = ChatTurns((BOS, 300, 301), (302, 303), 304)
    made, history = encoder(name, bos=999, chat=chat), events([0, 1])
    prompt = made.layout.prompt(history, START, "x", CANDIDATES.labels)
    static, body = (byte_ids("".join(part)) for part in (prompt.static, prompt.body))
    ids = made.prompt_ids(history, START, "x")
    if name == "stream":
        assert ids == [BOS, 300, 301, *static, 302, 303, *body]
        assert made.static_ids == [BOS, 300, 301, *static, 302, 303]
        assert made.label_ids("Video") == byte_ids(" Video)\n")
        stretch = made.stretch(history)
        start, _ = stretch.targets[-1]
        assert stretch.ids[:start] == made.prompt_ids(history[:-1], history[-1].time, history[-1].place)
    else:
        assert ids == [BOS, 300, 301, *static, *body, 302, 303]
        assert made.static_ids == [BOS, 300, 301, *static]
        assert made.label_ids("Video") == [*byte_ids("Video"), 304]
    before, after = made.frame_ids(START, "x")
    assert ids == made.static_ids + before + [i for e in history for i in made.line_ids(e)] + after


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(LAYOUTS), CODES, st.permutations(LABELS), st.sampled_from(["frequency", "alphabetical"]))
def test_candidates_listed_in_another_order_change_nothing_else(name, codes, listed, order):
    made, history = encoder(name, candidate_order=order), events(codes)
    other = PromptEncoder(byte_ids, PromptLayout(name), CandidateSet.of(listed), BOS, EOS)
    for index in range(made.layout.formats):
        assert made.prompt_ids(history, START, "x", index, listed) == other.prompt_ids(history, START, "x", index)
        assert made.frame_ids(START, "x", index, listed) == other.frame_ids(START, "x", index)
    assert made.static_for(listed) == other.static_ids
    assert made.stretch(history, listed) == other.stretch(history)
    assert made.static_for(None) == made.static_ids
