"""Pruned vocabularies: domain text keeps its pieces, any text survives, rows are copies, files say the same."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.simulator.behaviors import LABELS, PLACES
from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.export.prune import vocabulary as prune
from edge_behavior.export.prune.merges import CannotPrune, Merges
from edge_behavior.export.prune.vocabulary import PrunePlan, plan_pruning, write_pruned
from edge_behavior.export.prune.words import domain_texts
from edge_behavior.hf.architectures import load_tokenizer
from edge_behavior.hf.tokenizers import plain_encoder, special_ids
from edge_behavior.runtime.llama.model import LlamaModel
from tests import helpers
from tests.unit.export.conftest import LLAMA3_ROPE, SMALL_TOKENIZERS, llama, qwen2, save, some_ids, torch_logits

SENTENCEPIECE = ("sentencepiece", "gemma")
SMALL = {name: make for name, make in SMALL_TOKENIZERS.items() if name not in SENTENCEPIECE} | {
    "helpers": helpers.tokenizer
}
TOWN = (
    *PLACES,
    "Café Zürich",
    "東京駅",
    "40.75/-73.98",
    "a-b_c.d&e/f+g",
    "7th Ave",
    "Bar.",
    "-x-",
    "Queen's",
    "o 'til",
)
START = datetime(2024, 1, 1)
LAYOUTS = [
    PromptLayout("stream"),
    PromptLayout("stream", list_candidates=False),
    *map(PromptLayout, ("prefix", "instruct")),
]


def planned(tokenizer: Any, texts: list[str], extra: int = 0, rows: int | None = None) -> PrunePlan:
    return plan_pruning(tokenizer, rows or len(tokenizer), texts, 0, extra, special_ids(tokenizer))


def pruned_tokenizer(plan: PrunePlan) -> Tokenizer:
    """The planned tokenizer.json in the hands of its own library, added tokens off."""
    return Tokenizer.from_str(json.dumps({**plan.tokenizer, "added_tokens": [], "post_processor": None}))


def same_pieces(tokenizer: Any, plan: PrunePlan, texts: list[str]) -> None:
    old = Tokenizer(tokenizer.backend_tokenizer.model)
    old.normalizer, old.pre_tokenizer = (
        tokenizer.backend_tokenizer.normalizer,
        tokenizer.backend_tokenizer.pre_tokenizer,
    )
    new = pruned_tokenizer(plan)
    for text in texts:
        before, after = old.encode(text), new.encode(text)
        assert after.tokens == before.tokens, text
        assert [int(plan.kept[i]) for i in after.ids] == before.ids, text


def prompts(layout: PromptLayout, labels: list[str], places: tuple[str, ...], count: int) -> Iterator[str]:
    """Segments of prompts with random histories: times, places and labels in combinations the plan did not see."""
    rng = np.random.default_rng(7)
    for i in range(count):
        hours = np.sort(rng.integers(0, 500 * 24, 6))
        *history, last = [
            BehaviorEvent(
                places[rng.integers(len(places))], START + timedelta(hours=int(h)), labels[rng.integers(len(labels))]
            )
            for h in hours
        ]
        prompt = layout.prompt(history, last.time, last.place, labels, i % layout.formats)
        yield from (*prompt.static, *prompt.body, layout.answer(last.behavior))


def domain_strings(layout: PromptLayout, labels: list[str], places: tuple[str, ...]) -> list[str]:
    """About two thousand: every hour at every place, every label, and prompts of all wordings."""
    found = [layout.context(START + timedelta(hours=hour), place) for hour in range(168) for place in places]
    return list(dict.fromkeys([*found, *prompts(layout, labels, places, 200)]))


@pytest.fixture(scope="module")
def real_plans(real_tokenizers: dict[str, Any]) -> dict[str, PrunePlan]:
    texts = [text for each in LAYOUTS for text in domain_texts(each, CandidateSet.of(LABELS), TOWN)]
    rows = {"qwen2": 151_936, "llama3": 128_256}
    return {name: planned(real_tokenizers[name], texts, 512, rows[name]) for name in rows}


@pytest.mark.parametrize("name", ["qwen2", "llama3"])
def test_real_tokenizers_keep_the_pieces_of_the_domain(
    real_tokenizers: dict[str, Any], real_plans: dict[str, PrunePlan], name: str
) -> None:
    plan = real_plans[name]
    strings = [text for layout in LAYOUTS for text in domain_strings(layout, list(LABELS), TOWN)]
    assert len(set(strings)) > 2_400
    same_pieces(real_tokenizers[name], plan, strings)
    assert len(plan.kept) < 2_000
    assert len(plan.kept) % 64 == 0
    assert plan.summary() == {
        "kept": len(plan.kept),
        "of": plan.rows,
        "places": 0,
        "domain_tokens": plan.domain_tokens,
        "extra_tokens": plan.extra_tokens,
    }
    assert 512 <= plan.extra_tokens < 512 + 64


@pytest.mark.parametrize("name", ["qwen2", "llama3"])
def test_real_tokenizers_encode_anything(
    real_tokenizers: dict[str, Any], real_plans: dict[str, PrunePlan], name: str, shared: Path
) -> None:
    plan = real_plans[name]
    new = pruned_tokenizer(plan)
    vectors = (
        shared
        / "models"
        / {"qwen2": "qwen2.5-tokenizer/ggml-vocab-qwen2", "llama3": "llama3-tokenizer/ggml-vocab-llama-bpe"}[name]
    )
    texts = Path(f"{vectors}.gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    assert len(texts) > 40

    @settings(max_examples=2_000, deadline=None)
    @given(st.one_of(st.text(max_size=40), st.text("abcXYZ éß東京 \n\t'.-0123456789", max_size=60)))
    def lossless(text: str) -> None:
        expected = unicodedata.normalize("NFC", text) if name == "qwen2" else text
        assert new.decode(new.encode(text).ids, skip_special_tokens=False) == expected

    for text in texts:
        lossless.hypothesis.inner_test(text)
    lossless()


@pytest.mark.parametrize("name", ["qwen2", "llama3"])
def test_the_pruned_folder_and_llama_cpp_agree_with_the_whole_tokenizer(
    real_tokenizers: dict[str, Any], real_plans: dict[str, PrunePlan], name: str, tmp_path: Path
) -> None:
    tokenizer, plan = real_tokenizers[name], real_plans[name]
    make = {"qwen2": qwen2, "llama3": llama}[name]
    model = make(plan.rows, hidden_size=32, intermediate_size=32, num_hidden_layers=1, tie_word_embeddings=True)
    model.config.eos_token_id = tokenizer.eos_token_id
    save(model, tokenizer, tmp_path / "whole")
    write_pruned(tmp_path / "whole", plan, tmp_path / "pruned")
    write_gguf(tmp_path / "pruned", tmp_path / "pruned.gguf")
    loaded = load_tokenizer(tmp_path / "pruned")
    whole, pruned = plain_encoder(tokenizer), plain_encoder(loaded)
    strings = [text for layout in LAYOUTS for text in domain_strings(layout, list(LABELS), TOWN)]
    outside = [
        "Überraschung im Großmarkt",
        "дом 7",
        "\u200b\u0000x",
        "<|im_end|> <|eot_id|>",
        "naïve\r\n\r\n  ok",
        "👩‍👧",
    ]
    with LlamaModel(tmp_path / "pruned.gguf", vocab_only=True) as file:
        assert file.n_vocab == len(plan.kept)
        for text in strings:
            assert plan.kept[file.tokenize(text)].tolist() == whole(text), text
        for text in [*strings[::20], *outside]:
            assert file.tokenize(text) == pruned(text), text
    assert max(loaded.get_vocab().values()) < len(plan.kept)
    assert (loaded.eos_token, loaded.bos_token) == (tokenizer.eos_token, tokenizer.bos_token)
    assert plan.kept[loaded.eos_token_id] == tokenizer.eos_token_id
    assert json.loads((tmp_path / "pruned" / "config.json").read_text())["eos_token_id"] == loaded.eos_token_id
    special = f"{tokenizer.eos_token}(Mon 9,"
    assert plan.kept[loaded(special).input_ids].tolist() == tokenizer(special).input_ids


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_domain_keeps_its_pieces(name: str, data: st.DataObject) -> None:
    """Random words of a small tokenizer's own letters: merges overlap and compete."""
    tokenizer = _small(name)
    texts = data.draw(st.lists(st.text("theiosnarbv ListoPCk.é'(9\n", max_size=30), max_size=6))
    plan = planned(tokenizer, texts, rows=len(tokenizer) + 5)
    same_pieces(tokenizer, plan, texts)
    anything = data.draw(st.text(max_size=30))
    new = pruned_tokenizer(plan)
    # Qwen's tokenizer composes characters, the others leave them as they are.
    normalizer = tokenizer.backend_tokenizer.normalizer
    assert (normalizer is None) == (name in ("llama3", "smollm"))
    expected = anything if normalizer is None else unicodedata.normalize("NFC", anything)
    assert new.decode(new.encode(anything).ids, skip_special_tokens=False) == expected


_made: dict[str, Any] = {}


def _small(name: str) -> Any:
    if name not in _made:
        _made[name] = SMALL[name]()
    return _made[name]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.name}-{layout.list_candidates}")
@pytest.mark.parametrize("name", SMALL)
def test_small_tokenizers_keep_the_pieces_of_the_domain(name: str, layout: PromptLayout) -> None:
    tokenizer = _small(name)
    plan = planned(tokenizer, domain_texts(layout, CandidateSet.of(helpers.LABELS), TOWN))
    assert 256 < len(plan.kept) < len(tokenizer)
    same_pieces(tokenizer, plan, domain_strings(layout, helpers.LABELS, TOWN))


def test_whole_words_win_only_where_the_tokenizer_says_so() -> None:
    """With ignore_merges a word of the vocabulary is one token even where no merge leads to it."""
    for ignore in (True, False):
        alphabet = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        vocab = alphabet | {token: 256 + i for i, token in enumerate(["ab", "bc", "abcd", "<|endoftext|>"])}
        backend = Tokenizer(models.BPE(vocab, [("a", "b"), ("b", "c")], ignore_merges=ignore))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
        plan = planned(tokenizer, ["abcd"])
        kept = {text for text, i in vocab.items() if i in plan.kept}
        assert kept - set(alphabet) == {"abcd" if ignore else "ab", "<|endoftext|>"} | ({"ab"} if ignore else set())
        same_pieces(tokenizer, plan, ["abcd"])
        # Another text may be cut otherwise, and still comes back.
        new = pruned_tokenizer(plan)
        assert "".join(new.encode("xbcab").tokens) == "xbcab"


def test_histories_are_kept() -> None:
    """Without the parts of its merges a token could not be reached, though the vocabulary holds it."""
    tokenizer = _small("qwen2")
    plan = planned(tokenizer, [" Listen to music"])
    kept = plan.tokenizer["model"]
    made = {left + right for left, right in kept["merges"]}
    assert "Ġmusic" in made
    letters = set(pre_tokenizers.ByteLevel.alphabet())
    assert set(kept["vocab"]) - letters - made == {token["content"] for token in plan.tokenizer["added_tokens"]}
    order = [tuple(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]
    ranks = [order.index(tuple(pair)) for pair in kept["merges"]]
    assert ranks == sorted(ranks)


def test_special_and_needed_ids_stay(tmp_path: Path) -> None:
    tokenizer = _small("llama3")
    rows = len(tokenizer) + 3
    plan = plan_pruning(tokenizer, rows, ["x"], 0, 0, [None, -1, rows, 370, rows - 1])
    assert {0, 1, 2, 370, rows - 1} <= set(plan.kept.tolist())
    assert plan.new_ids([0, 1, 2]) == [0, 1, 2]
    assert plan.kept[plan.new_ids([370, rows - 1])].tolist() == [370, rows - 1]
    gone = next(i for i in range(rows) if i not in plan.kept)
    for lost in (gone, rows + 7):
        with pytest.raises(EdgebError, match=f"token {lost} was pruned"):
            plan.new_ids([0, lost])
    with pytest.raises(EdgebError, match="extra_tokens is -1"):
        planned(tokenizer, ["x"], -1)


def test_reserved_tokens_go_unless_they_are_named(tmp_path: Path) -> None:
    tokenizer = SMALL_TOKENIZERS["llama3"]()
    reserved = [f"<|reserved_special_token_{i}|>" for i in range(9)] + ["<unused3>", "<unused12>"]
    tokenizer.add_special_tokens({"additional_special_tokens": [*reserved, "<|python_tag|>"]})
    tokenizer.pad_token = reserved[2]
    tokenizer.chat_template = "{{ '<|reserved_special_token_4|>' + messages[0]['content'] + '<unused12>' }}"
    save(llama(len(tokenizer)), tokenizer, tmp_path / "whole")
    whole = load_tokenizer(tmp_path / "whole")
    plan = planned(whole, ["(Mon 9, home,"])
    write_pruned(tmp_path / "whole", plan, tmp_path / "pruned")
    loaded = load_tokenizer(tmp_path / "pruned")
    stay = {reserved[2], reserved[4], "<unused12>", "<|python_tag|>"}
    assert set(loaded.get_vocab()) & {*reserved, "<|python_tag|>"} == stay
    assert len(loaded) == len(plan.kept)
    assert loaded.pad_token == reserved[2]
    for content in stay:
        assert plan.kept[loaded.convert_tokens_to_ids(content)] == whole.convert_tokens_to_ids(content)
        assert plan.kept[loaded(f"a{content}").input_ids].tolist() == whole(f"a{content}").input_ids


ARCHITECTURES = [(qwen2, "qwen2", True), (qwen2, "helpers", False), (llama, "llama3", True), (llama, "llama3", False)]


@pytest.mark.parametrize(("make", "name", "tied"), ARCHITECTURES)
@pytest.mark.parametrize(("dtype", "shard"), [(torch.float32, "5GB"), (torch.bfloat16, "100KB")])
def test_logits_are_the_kept_rows(
    make: Any, name: str, tied: bool, dtype: torch.dtype, shard: str, tmp_path: Path
) -> None:
    tokenizer = _small(name)
    rope = {"rope_parameters": LLAMA3_ROPE} if make is llama else {}
    torch.manual_seed(4)
    model = make(len(tokenizer) + 7, tie_word_embeddings=tied, **rope).to(dtype)
    model.save_pretrained(tmp_path / "whole", max_shard_size=shard)
    tokenizer.save_pretrained(tmp_path / "whole")
    texts = domain_texts(PromptLayout("stream"), CandidateSet.of(helpers.LABELS), PLACES)
    plan = planned(tokenizer, texts, rows=len(tokenizer) + 7)
    write_pruned(tmp_path / "whole", plan, tmp_path / "pruned")
    pruned = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned", dtype=dtype).eval()
    assert pruned.config.vocab_size == len(plan.kept)
    before, after = model.state_dict(), pruned.state_dict()
    assert set(before) == set(after)
    for key, tensor in before.items():
        rows = plan.kept if key in ("model.embed_tokens.weight", "lm_head.weight") else slice(None)
        assert torch.equal(after[key], tensor[rows]), key
    ids = some_ids(len(plan.kept), 40)
    expected = torch_logits(model, plan.kept[ids].tolist())[:, plan.kept]
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    np.testing.assert_allclose(torch_logits(pruned, ids), expected, atol=tolerance)
    if shard != "5GB":
        index = json.loads((tmp_path / "pruned" / "model.safetensors.index.json").read_text())
        assert len(set(index["weight_map"].values())) > 1
        tensors = {tensor.data_ptr(): tensor.nbytes for tensor in after.values()}
        assert index["metadata"]["total_size"] == sum(tensors.values())


def test_configuration_and_tokenizer_files(tmp_path: Path) -> None:
    tokenizer = _small("llama3")
    model = llama(len(tokenizer) + 1)
    model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id = 1, [0, 2], 370
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = [0, 2], 371
    save(model, tokenizer, tmp_path / "whole")
    plan = plan_pruning(tokenizer, len(tokenizer) + 1, ["(Mon 9, home,"], 0, 0, [1, 0, 2, 370])
    assert 371 not in plan.kept
    write_pruned(tmp_path / "whole", plan, tmp_path / "pruned")
    config = json.loads((tmp_path / "pruned" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, [0, 2])
    assert config["pad_token_id"] == plan.new_ids([370])[0] != 370
    generation = json.loads((tmp_path / "pruned" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [0, 2]
    assert generation["pad_token_id"] is None
    loaded = load_tokenizer(tmp_path / "pruned")
    assert len(loaded) == len(plan.kept)
    assert loaded("(Mon 9").input_ids[0] == loaded.bos_token_id == 1
    assert (loaded.eos_token, loaded.bos_token) == (tokenizer.eos_token, tokenizer.bos_token)
    assert plan.kept[loaded("(Mon 9, home,").input_ids].tolist() == tokenizer("(Mon 9, home,").input_ids


def _edited(change: Any) -> PreTrainedTokenizerFast:
    fields = json.loads(_small("qwen2").backend_tokenizer.to_str())
    change(fields)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(fields)), eos_token="<|endoftext|>")


def test_a_byte_without_a_token_is_left_out_as_before(tmp_path: Path) -> None:
    """SmolLM2 has no token for 21 bytes."""

    def without(fields: dict[str, Any]) -> None:
        vocab = fields["model"]["vocab"]
        # Bytes 0 and 0xF1.
        del vocab["Ā"], vocab["ñ"]
        fields["model"]["vocab"] = {token: i for i, token in enumerate(sorted(vocab, key=vocab.__getitem__))}

    tokenizer = _edited(without)
    plan = planned(tokenizer, ["(Mon 9, home,"])
    same_pieces(tokenizer, plan, ["(Mon 9, home,", "\x00(Mon\x00"])
    model = qwen2(len(tokenizer), tie_word_embeddings=True)
    save(model, tokenizer, tmp_path / "whole")
    write_pruned(tmp_path / "whole", plan, tmp_path / "pruned")
    write_gguf(tmp_path / "pruned", tmp_path / "pruned.gguf")
    pruned, whole = plain_encoder(load_tokenizer(tmp_path / "pruned")), plain_encoder(tokenizer)
    with LlamaModel(tmp_path / "pruned.gguf", vocab_only=True) as file:
        for text in ("a\x00b", "x\U00040000y", "ñ", "(Mon 9, \x00"):
            assert file.tokenize(text) == pruned(text), text
            left = tokenizer.decode(whole(text))
            assert load_tokenizer(tmp_path / "pruned").decode(pruned(text)) == left
    assert pruned("\x00") == []


def test_what_cannot_be_pruned_is_named() -> None:
    def fewer(fields: dict[str, Any]) -> None:
        fields["pre_tokenizer"]["pretokenizers"].pop()

    bert = {"type": "BertProcessing", "sep": ["<|im_end|>", 2], "cls": ["<|im_start|>", 1]}
    cases: list[tuple[str, Any]] = [
        ("does not split text into bytes", fewer),
        ("does not split text into bytes", lambda f: f.update(pre_tokenizer=None)),
        ("unk_token = '!'", lambda f: f["model"].update(unk_token="!")),
        ("dropout = 0.5", lambda f: f["model"].update(dropout=0.5)),
        ("post-processor BertProcessing", lambda f: f.update(post_processor=bert)),
    ]
    for message, change in cases:
        with pytest.raises(CannotPrune, match=message):
            planned(_edited(change), ["x"])
    words = Tokenizer(models.WordLevel({"a": 0, "<|endoftext|>": 1}, unk_token="a"))
    with pytest.raises(CannotPrune, match="WordLevel vocabulary is not pruned"):
        planned(PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|endoftext|>"), ["x"])


def test_what_goes_wrong_on_the_way_is_noticed(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without histories, and with files that a loader reads otherwise."""
    tokenizer = load_tokenizer(tiny_base)
    plan = planned(tokenizer, ["(Mon 9, home,"])
    del plan.tokenizer["model"]["merges"][0]
    monkeypatch.setattr(prune, "load_tokenizer", lambda _: tokenizer)
    with pytest.raises(EdgebError, match="does not read back from its files as written"):
        write_pruned(tiny_base, plan, tmp_path / "a")
    monkeypatch.setattr(Merges, "derivation", lambda self, token: [token])
    with pytest.raises(CannotPrune, match=r"would split ' Listen to music' differently"):
        planned(tokenizer, [" Listen to music"])


def test_damaged_and_foreign_folders(tiny_base: Path, tmp_path: Path) -> None:
    plan = planned(load_tokenizer(tiny_base), ["(Mon 9, home,"])
    other = save(qwen2(len(_small("qwen2")) + 9), _small("qwen2"), tmp_path / "other")
    with pytest.raises(EdgebError, match=rf"has {plan.rows + 9} rows, not {plan.rows}"):
        write_pruned(other, plan, tmp_path / "a")
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(EdgebError, match="damaged"):
        write_pruned(other, plan, tmp_path / "b")
