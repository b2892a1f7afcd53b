"""What a vocabulary must cover: every word of the prompts, and the names of places to come."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import pytest
from tokenizers import pre_tokenizers

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.export.prune.vocabulary import EXTRA_TOKENS, plan_pruning
from edge_behavior.export.prune.words import PLACE_WORDS, byte_alphabet, domain_texts, everyday_pieces
from edge_behavior.hf.tokenizers import plain_encoder
from tests.helpers import LABELS

CANDIDATES = CandidateSet.of(LABELS)


def test_byte_alphabet() -> None:
    table = byte_alphabet()
    assert sorted(table.values()) == list(range(256))
    assert set(table) == set(pre_tokenizers.ByteLevel.alphabet())
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for code in (*range(0x20, 0x800), 0x1F469, 0x6771):
        [(spelled, _)] = split.pre_tokenize_str(f"x{chr(code)}")
        assert bytes(table[char] for char in spelled).decode() == f"x{chr(code)}"


@pytest.mark.parametrize("name", ["stream", "prefix", "instruct"])
def test_domain_texts_hold_every_word(name: str) -> None:
    """Oracle: Qwen2's way of cutting text into words, on every hour at every place in every wording."""
    from tests.unit.export.conftest import SMALL_TOKENIZERS

    split = SMALL_TOKENIZERS["qwen2"]().backend_tokenizer.pre_tokenizer
    places = ["home", "Bar.", "-x-", "40.75/-73.98", "東京"]
    layout = PromptLayout(name)
    words = {w for text in domain_texts(layout, CANDIDATES, places) for w, _ in split.pre_tokenize_str(text)}
    start = datetime(2024, 1, 1)
    for hour in range(168):
        for i, place in enumerate([*places, ""]):
            event = BehaviorEvent(place, start + timedelta(hours=hour), LABELS[(hour + i) % len(LABELS)])
            prompt = layout.prompt([event], event.time, place, LABELS, hour % layout.formats)
            for text in (*prompt.static, *prompt.body):
                missing = {word for word, _ in split.pre_tokenize_str(text)} - words
                assert not missing, text


def test_domain_texts_grow_with_the_places_not_with_their_square() -> None:
    layout = PromptLayout("instruct")
    few, many = (domain_texts(layout, CANDIDATES, [f"p{i}" for i in range(n)]) for n in (10, 1_010))
    assert len(many) - len(few) == 1_000 * (1 + layout.formats)
    assert sum(map(len, many)) < 600 * 4_000
    assert len(set(many)) == len(many)


def read(token: str) -> str | None:
    """As byte-level vocabularies spell."""
    table = byte_alphabet()
    try:
        return bytes(table[char] for char in token).decode()
    except (KeyError, UnicodeDecodeError):
        return None


def everyday(tokens: list[str], domain: list[str]) -> list[str]:
    """The pieces beyond the fixed words and numbers, as text."""
    fixed = 2 * len(PLACE_WORDS.split()) + 100
    pieces = everyday_pieces(tokens, lambda text: [text], domain, read)
    return list(islice(pieces, fixed, None))


def test_word_beginnings_follow_the_merges_and_the_domains_scripts() -> None:
    spell = {byte: char for char, byte in byte_alphabet().items()}

    def token(text: str) -> str:
        return "".join(spell[byte] for byte in text.encode())

    texts = [" the", " The", "The", " ID", " iPad", " Café", " New", "東京", " дом", " Дом", " 12", "();", " M", "क"]
    tokens = [token(text) for text in texts] + ["é"[:1], "\u0120\u00c3"]
    assert everyday(tokens, ["(Mon 9, home,"]) == [token(t) for t in (" The", " New", " M")]
    assert everyday(tokens, ["Café"]) == [token(t) for t in (" The", " Café", " New", " M")]
    assert everyday(tokens, ["東"]) == [token(t) for t in (" The", " New", "東京", " M")]
    assert everyday(tokens, ["Москва", "कख"]) == [token(t) for t in (" The", " New", " Дом", " M", "क")]


def test_kinds_of_places_come_first() -> None:
    found = list(islice(everyday_pieces([], lambda text: [text], [], str), 2 * len(PLACE_WORDS.split())))
    assert {" home", " Home", " station", " Station", " of", " 3rd"} <= set(found)
    assert len(set(PLACE_WORDS.split())) == len(PLACE_WORDS.split())


@pytest.mark.parametrize("name", ["qwen2", "llama3"])
def test_new_places_mostly_keep_their_pieces(real_tokenizers: dict[str, Any], name: str) -> None:
    """Places after the export: kinds of places and common names keep their pieces; none is lost."""
    tokenizer = real_tokenizers[name]
    layout = PromptLayout("stream", list_candidates=False)
    start = datetime(2024, 1, 1)
    texts = domain_texts(layout, CANDIDATES, ["home", "work"])
    names = [
        "Central Park",
        "gym",
        "Coffee shop",
        "Grand Hotel",
        "Main Street 12",
        "train station",
        "Gate 7",
        "River North",
    ]
    kept = {}
    for extra in (0, EXTRA_TOKENS):
        plan = plan_pruning(tokenizer, 151_936, texts, 2, extra)
        whole, held = plain_encoder(tokenizer), set(plan.kept.tolist())
        kept[extra] = sum(set(whole(layout.context(start, place))) <= held for place in names)
        assert len(plan.kept) <= 640 + extra + 64
        assert json.dumps(plan.summary())
    assert kept == {0: 0, EXTRA_TOKENS: len(names)}
