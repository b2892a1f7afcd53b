"""The stand-in's text: seeded, about the labels only, and full of habits."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from edge_behavior.hf_tokens import plain_encoder
from edge_behavior.train.auxiliary import generated_conversations
from edge_behavior.train.everyday import EverydayText
from edge_behavior.train.lexicon import SENSES, senses_of
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
