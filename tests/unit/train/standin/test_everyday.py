"""The stand-in's text: seeded, about the labels only, and full of habits."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.errors import EdgebError
from edge_behavior.hf.tokenizers import plain_encoder
from edge_behavior.train.recipe import load_recipe
from edge_behavior.train.rows.conversations import generated_conversations
from edge_behavior.train.standin.everyday import EverydayText
from edge_behavior.train.standin.lexicon import SENSES, senses_of
from edge_behavior.train.standin.model import build_standin
from tests import helpers

LABELS = ["Short Video", "Coffee Shop", "Gym / Fitness Center", "Xyzzy"]


def test_same_seed_same_text() -> None:
    def text(seed: int) -> list[object]:
        return list(itertools.islice(EverydayText(LABELS, ["DK"], seed).documents(), 40))

    assert text(3) == text(3)
    assert text(3) != text(4)


def test_words_place_a_label() -> None:
    assert [s.name for s in senses_of("Coffee Shop")] == ["breakfast", "shopping"]
    assert "fitness" in {s.name for s in senses_of("Gym / Fitness Center")}
    assert senses_of("Xyzzy") == ()
    assert len({s.name for s in SENSES}) == len(SENSES)


def test_diaries_hold_known_labels_places_and_forward_time() -> None:
    text = EverydayText(LABELS, ["DK"], 0)
    for _ in range(50):
        events = text.diary(30)
        assert {e.behavior for e in events} <= set(LABELS)
        assert all(a.time < b.time for a, b in itertools.pairwise(events))


def test_people_repeat_themselves() -> None:
    """The same place predicts the next behavior far better than the most frequent behavior of all does."""
    labels = [f"Thing {i}" for i in range(50)]
    text, right, total = EverydayText(labels, [f"P{i}" for i in range(30)], 1), 0, 0
    for _ in range(300):
        events = text.diary(40)
        before = Counter(e.behavior for e in events[:-1] if e.place == events[-1].place)
        if before:
            right += before.most_common(1)[0][0] == events[-1].behavior
            total += 1
    assert right / total > 0.3


# No name is part of another or of the sentences' own words, so that finding one in a text means it was named.
NAMES = [f"Zq{i}x" for i in range(6)] + [f"Zq{i}x video" for i in range(6, 9)] + [f"Zq{i}x gym" for i in range(9, 12)]
NAME_ONLY = ("Some people like {}.", "{} is one of the things people do.")


@given(bare=st.sets(st.sampled_from(NAMES), max_size=len(NAMES) - 2), seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_bare_labels_are_named_and_nothing_else(bare: set[str], seed: int) -> None:
    text = EverydayText(NAMES, ["DK"], seed, bare)
    allowed = {form.format(label) for label in bare for form in NAME_ONLY}
    for _ in range(60):
        sentence = text.sentence()
        assert sentence in allowed or not any(label in sentence for label in bare)
    for _ in range(5):
        assert not bare & {event.behavior for event in text.diary(25)}
        assert not any(label in said for _, said in text.small_talk() for label in bare)
    for document in itertools.islice(text.documents(), 15):
        if not isinstance(document, str):
            assert not bare & {event.behavior for event in document}


def test_bare_labels_are_named_at_all() -> None:
    text = EverydayText(NAMES, ["DK"], 0, NAMES[:4])
    said = {text.sentence() for _ in range(600)}
    assert {form.format(label) for label in NAMES[:4] for form in NAME_ONLY} <= said


def test_a_text_needs_labels_with_a_context() -> None:
    with pytest.raises(EdgebError, match="two labels"):
        EverydayText(NAMES, ["DK"], 0, NAMES[1:])


@pytest.mark.parametrize("told", [True, False])
def test_a_stand_in_may_read_nothing_of_the_tails_contexts(
    told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = CandidateSet.of(NAMES, [200] * 6 + [1] * 6)
    seen: list[set[str]] = []

    class Spy(EverydayText):
        def __init__(self, labels: list[str], places: list[str], seed: int, bare: tuple[str, ...]) -> None:
            seen.append(set(bare))
            super().__init__(labels, places, seed, bare)

    monkeypatch.setattr("edge_behavior.train.standin.model.EverydayText", Spy)
    recipe = load_recipe(
        "tiny",
        ["backbone.hidden_size=16", "backbone.layers=1", "backbone.heads=1", "backbone.kv_heads=1",
         "backbone.intermediate_size=16", "backbone.vocab_size=400", "backbone.pretrain_tokens=0",
         f"backbone.pretrain_tail_contexts={told}"],
    )  # fmt: skip
    build_standin(recipe, candidates, ["DK"], tmp_path / "model", tmp_path / "log")
    assert seen == [set() if told else set(NAMES[6:])] * 2
    tokens = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokens.decode(plain_encoder(tokens)(NAMES[-1])) == NAMES[-1]


def test_small_talk_ends_with_the_assistant() -> None:
    for turns in generated_conversations(LABELS, 0)[:50]:
        assert [role for role, _ in turns] == ["user", "assistant"] * (len(turns) // 2)


def test_saved_tokenizer_is_the_one_that_was_trained(tmp_path: Path) -> None:
    """Transformers gives a qwen2 model Qwen2's own pre-tokenizer, whatever its files say."""
    tokens = helpers.tokenizer()
    folder = helpers.save(helpers.model(tokens), tokens, tmp_path / "m")
    before, after = plain_encoder(tokens), plain_encoder(AutoTokenizer.from_pretrained(folder))
    for text in ("(Tue 20, home,", " Café", " Video Call", ")\n", "it's 12:30 <|endoftext|> ½ 東京"):
        assert before(text) == after(text)


def test_special_looking_text_stays_text() -> None:
    tokens = helpers.tokenizer()
    ids = plain_encoder(tokens)(" <|endoftext|>")
    assert tokens.eos_token_id not in ids
    assert tokens.decode(ids) == " <|endoftext|>"


@pytest.mark.parametrize("label", ["Café", "Gym / Fitness Center"])
def test_tokenizer_round_trips(label: str) -> None:
    tokens = helpers.tokenizer([label, "Other"])
    assert tokens.decode(plain_encoder(tokens)(label)) == label
