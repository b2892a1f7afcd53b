"""SentencePiece's kind of vocabulary: Hugging Face's table and llama.cpp's scores agree on what pruning leaves."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.export.prune.merges import CannotPrune, read_merges
from edge_behavior.export.prune.vocabulary import PrunePlan, plan_pruning, write_pruned
from edge_behavior.export.prune.words import PLACE_WORDS, domain_texts
from edge_behavior.hf.architectures import load_tokenizer
from edge_behavior.hf.tokenizers import plain_encoder, special_ids
from edge_behavior.runtime.llama.model import LlamaModel
from edge_behavior.train.standin.everyday import EverydayText
from edge_behavior.train.standin.model import document_text
from tests import helpers
from tests.unit.export.conftest import gemma3, llama, save, some_ids, torch_logits, trained_sentencepiece

LAYOUT = PromptLayout("stream")
PLACES = ("DK", "AB", "Café Zürich", "東京駅", "40.75/-73.98", "7th  Ave")
DOMAIN = domain_texts(LAYOUT, CandidateSet.of(helpers.LABELS), PLACES)
UNSEEN = [
    "Überraschung im Großmarkt",
    "дом 7",
    "\u200bx",
    "<s> </s><unk><0x0A>",
    "naïve\r\n\r\n  ok",
    "👩‍👧",
    "▁▁a",
    "",
]


@dataclass
class Pruned:
    """A small model before and after."""

    prefix: bool
    tokenizer: Any
    plan: PrunePlan
    whole: Path
    pruned: Path
    files: tuple[LlamaModel, LlamaModel]


def corpus() -> list[str]:
    documents = islice(EverydayText(helpers.LABELS, list(PLACES), 0).documents(), 200)
    words = PLACE_WORDS.split()
    return [
        *(document_text(document, LAYOUT) for document in documents),
        *(" " + " ".join(w.capitalize() if i % 2 else w for w in words[i:]) for i in range(4)),
        *DOMAIN,
        "東京の駅で音楽を聴く。\n\n\n\n  東京駅  Überraschung Größe Straße naïve Čeština",
    ]


KINDS: dict[str, tuple[bool, Callable[..., Any]]] = {"llama2": (True, llama), "gemma": (False, gemma3)}


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pruned]:
    prefix, make = KINDS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = trained_sentencepiece(corpus(), prefix)
    torch.manual_seed(0)
    save(make(len(tokenizer) + 5, tie_word_embeddings=True), tokenizer, folder / "whole")
    plan = plan_pruning(tokenizer, len(tokenizer) + 5, DOMAIN, len(PLACES), 100, special_ids(tokenizer))
    write_pruned(folder / "whole", plan, folder / "pruned")
    for name in ("whole", "pruned"):
        write_gguf(folder / name, folder / f"{name}.gguf", "f32")
    with (
        LlamaModel(folder / "whole.gguf", vocab_only=True) as whole,
        LlamaModel(folder / "pruned.gguf", vocab_only=True) as pruned,
    ):
        yield Pruned(prefix, tokenizer, plan, folder / "whole", folder / "pruned", (whole, pruned))


def test_the_domain_keeps_its_pieces(made: Pruned) -> None:
    whole, pruned = plain_encoder(made.tokenizer), plain_encoder(load_tokenizer(made.pruned))
    assert len(made.plan.kept) < 0.7 * len(made.tokenizer)
    assert len(made.plan.kept) % 64 == 0
    for text in DOMAIN:
        expected = whole(text)
        assert made.plan.kept[pruned(text)].tolist() == expected, text
        assert made.files[0].tokenize(text) == expected, text
        assert made.plan.kept[made.files[1].tokenize(text)].tolist() == expected, text


def text_parts() -> st.SearchStrategy[str]:
    """What a log may hold, of characters that both libraries know."""
    old = st.characters(exclude_categories=["Cs"]).filter(lambda c: unicodedata.ucd_3_2_0.category(c) != "Cn")
    words = st.sampled_from([*PLACES, *helpers.LABELS, *UNSEEN, " ", "  ", "\n", "\n\n", "(Mon 9, home,", "🙂", "駅"])
    letters = st.text("abcdehimnorstuABST 0129,()\n'é東", max_size=12)
    return st.lists(words | letters | st.text(old, max_size=6), max_size=6).map("".join)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=text_parts())
def test_table_and_scores_agree_on_any_text(made: Pruned, text: str) -> None:
    pruned = load(made)
    ids = plain_encoder(pruned)(text)
    assert made.files[1].tokenize(text) == ids
    expected = f" {text}" if made.prefix and text else text
    assert pruned.backend_tokenizer.decode(ids, skip_special_tokens=False) == expected.replace("▁", " ")


_loaded: dict[Path, Any] = {}


def load(made: Pruned) -> Any:
    if made.pruned not in _loaded:
        _loaded[made.pruned] = load_tokenizer(made.pruned)
    return _loaded[made.pruned]


def test_every_printable_character_and_byte_stays(made: Pruned) -> None:
    vocab, whole = load(made).get_vocab(), made.tokenizer.get_vocab()
    needed = {f"<0x{i:02X}>" for i in range(256)} | {"<unk>", "<s>", "</s>"}
    needed |= {chr(i) for i in range(0x21, 0x7F)} & whole.keys()
    assert needed <= vocab.keys()
    # Every character of a piece is a piece: else llama.cpp would join what the table does not.
    pieces = [token for token in vocab if token not in needed]
    assert {char for piece in pieces for char in piece} <= vocab.keys()
    assert (special_ids(load(made))) == tuple(made.plan.new_ids(special_ids(made.tokenizer)))


def test_logits_are_the_kept_rows(made: Pruned) -> None:
    whole, pruned = (AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (made.whole, made.pruned))
    kept = made.plan.kept
    ids = some_ids(len(kept), 60)
    expected = torch_logits(whole, kept[ids].tolist())[:, kept]
    np.testing.assert_allclose(torch_logits(pruned, ids), expected, atol=1e-5)


def test_a_new_place_keeps_its_letters(made: Pruned) -> None:
    """No byte stands for a letter that the model knows."""
    tokens = load(made).backend_tokenizer.encode("Wxyz Kqj", add_special_tokens=False).tokens
    assert not [token for token in tokens if token.startswith("<0x")]


BYTES = [f"<0x{i:02X}>" for i in range(256)]
CUTS = [("a", "b"), ("b", "c"), ("a", "bc"), ("ab", "c"), ("x", "y")]


def by_hand(merges: list[tuple[str, str]], pieces: list[str], **settings: Any) -> PreTrainedTokenizerFast:
    vocab = {token: i for i, token in enumerate(["<unk>", "</s>", *BYTES, *pieces])}
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, **settings))
    backend.normalizer = normalizers.Replace(" ", "▁")
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")


def plan(tokenizer: Any, needed: str = "</s>") -> PrunePlan:
    return plan_pruning(tokenizer, 400, ["abc", "bc", "xy"], 0, 0, [tokenizer.get_vocab()[needed]])


def test_what_llama_cpp_would_merge_otherwise_is_refused() -> None:
    pieces = ["▁", *"abcxy", "ab", "bc", "abc", "xy"]
    assert [tuple(pair) for pair in plan(by_hand(CUTS, pieces)).tokenizer["model"]["merges"]] == CUTS
    with pytest.raises(CannotPrune, match="has no merge of 'a' and 'bc'"):
        plan(by_hand([pair for pair in CUTS if pair != ("a", "bc")], pieces))
    with pytest.raises(CannotPrune, match="not in the order of scores"):
        plan(by_hand([("a", "b"), ("b", "c"), ("ab", "c"), ("x", "y"), ("a", "bc")], pieces))
    # To llama.cpp a letter without a token is still a neighbor; to Hugging Face it is bytes.
    letterless = by_hand([("a", "b")], ["▁", "a", "b", "c", "x", "ab", "cz"])
    plan(letterless)
    with pytest.raises(CannotPrune, match="has no merge of 'c' and 'z'"):
        plan(letterless, needed="cz")


def test_other_vocabularies_are_refused() -> None:
    pieces = ["▁", *"abcxy", "ab", "bc", "abc", "xy"]
    with pytest.raises(CannotPrune, match=r"dropout = 0\.5"):
        plan(by_hand(CUTS, pieces, dropout=0.5))
    fields = json.loads(by_hand(CUTS, pieces).backend_tokenizer.to_str())
    del fields["model"]["vocab"]["<0xE6>"]
    with pytest.raises(CannotPrune, match="lacks 1 of the 256 byte tokens, '<0xE6>' for one"):
        read_merges(fields)
