"""A candidate set as a grammar: the same labels, the same walk as masked scoring, in llama.cpp's own sampler."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from edge_behavior.bench.native import stock_llama
from edge_behavior.bundle.gguf_file import write_bundle
from edge_behavior.bundle.grammar import answer_texts, character_grammar, quoted, token_grammar
from edge_behavior.bundle.manifest import BaseModelInfo, Manifest
from edge_behavior.cli import app
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.core.trie import LabelTrie
from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.grammar import bundle_grammar
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.runtime.llama.model import LlamaModel
from tests import helpers
from tests.label_sets import label_sets
from tests.trie_scoring import greedy_candidate, masked_log_probs

WHEN = datetime(2024, 3, 18, 20)
SLOW_FIXTURES = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


def language(grammar: str) -> set[tuple[int | str, ...]]:
    """Every sentence of a grammar without repetition: token ids, and characters where it spells. Reads GBNF anew."""
    rules: dict[str, list[list[int | str]]] = {}
    words = re.compile(
        r'\s*(?:#[^\n]*\n|(?P<name>[a-z][a-z0-9-]*)(?P<rule>\s*::=)?|<\[(?P<id>\d+)\]>|"(?P<text>(?:\\.|[^"\\])*)"|(?P<bar>\|))'
    )
    at, current = 0, ""
    while grammar[at:].strip():
        match = words.match(grammar, at)
        assert match, grammar[at : at + 40]
        at = match.end()
        if match["rule"]:
            current = match["name"]
            rules[current] = [[]]
        elif match["name"]:
            rules[current][-1].append("@" + match["name"])
        elif match["id"]:
            rules[current][-1].append(int(match["id"]))
        elif match["text"] is not None:
            # JSON's escapes, except for the long form.
            plain = re.sub(r"\\U(\w{8})", lambda m: chr(int(m[1], 16)), match["text"])
            rules[current][-1] += list(json.loads(f'"{plain}"'))
        elif match["bar"]:
            rules[current].append([])

    def sentences(symbols: list[int | str]) -> set[tuple[int | str, ...]]:
        if not symbols:
            return {()}
        head, rest = symbols[0], sentences(symbols[1:])
        if isinstance(head, str) and head.startswith("@") and len(head) > 1:
            found = {s for alternative in rules[head[1:]] for s in sentences(alternative)}
        else:
            found = {(head,)}
        return {a + b for a in found for b in rest}

    return {s for alternative in rules["root"] for s in sentences(alternative)}


@pytest.fixture(scope="module")
def tokens() -> Any:
    return helpers.tokenizer()


@pytest.fixture(scope="module")
def model(tokens: Any) -> Any:
    return helpers.model(tokens)


@pytest.fixture(scope="module")
def gguf(tokens: Any, model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gbnf")
    write_gguf(helpers.save(model, tokens, folder / "m"), folder / "m.gguf", "f32")
    return folder / "m.gguf"


@pytest.fixture(scope="module")
def vocabulary(gguf: Path) -> Iterator[LlamaModel]:
    with LlamaModel(gguf, vocab_only=True) as found:
        yield found


@pytest.fixture(scope="module")
def llama(gguf: Path) -> Any:
    """What a user of llama-cpp-python has."""
    return stock_llama(gguf, n_ctx=1024, n_threads=1, flash_attn=False, type_k=0, type_v=0, verbose=False)


def complete(llama: Any, prompt: list[int], grammar: str) -> str:
    """Greedy completion under a grammar, up to the end that the grammar allows."""
    chosen = llama_cpp.LlamaGrammar.from_string(grammar, verbose=False)
    answer = llama.create_completion(prompt, grammar=chosen, temperature=0, max_tokens=400)["choices"][0]
    assert answer["finish_reason"] == "stop"
    return str(answer["text"])


def token_logits(model: Any, prompt: list[int], trie: LabelTrie) -> np.ndarray:
    """Each node's logit, every inner node being a prompt of its own."""
    ways = [[int(trie.tokens[n]) for n in trie.ancestors(int(inner))] for inner in trie.inner]
    width = max(len(way) for way in ways)
    # What is padded on the right is seen by nothing on its left.
    ids = torch.tensor([prompt + way + [0] * (width - len(way)) for way in ways])
    with torch.no_grad():
        rows = model(input_ids=ids).logits.double().numpy()
    found = np.zeros(len(trie))
    for i, (inner, way) in enumerate(zip(trie.inner, ways, strict=True)):
        children = np.flatnonzero(trie.parents == inner)
        found[children] = rows[i, len(prompt) - 1 + len(way), trie.tokens[children]]
    return found


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW_FIXTURES)
@given(labels=label_sets(), name=st.sampled_from(["stream", "prefix", "instruct"]))
@example(labels=["🎮", "🎮 x", "🎲", "東京", "東", "a#b", 'a"b', "a\\n"], name="stream")
def test_the_sentences_are_the_labels(tokens: Any, vocabulary: LlamaModel, labels: list[str], name: str) -> None:
    encoder = helpers.encoder(tokens, PromptLayout(name=name), labels)
    trie, layout = encoder.trie, encoder.layout
    expected = [layout.answer(label) + (layout.terminator or "") for label in labels]
    assert answer_texts(trie, vocabulary.piece, vocabulary.ends) == expected
    assert {"".join(map(str, s)) for s in language(character_grammar(expected).text)} == set(expected)
    grammar = token_grammar(trie, labels, vocabulary.piece, vocabulary.ends)
    found = language(grammar.text)
    spelled = [
        b"".join(vocabulary.piece(s) if isinstance(s, int) else s.encode() for s in sentence) for sentence in found
    ]
    assert sorted(x.decode() for x in spelled) == sorted(expected)
    ids = {tuple(i for i in trie.path(c) if not vocabulary.ends(i)) for c in range(len(labels))}
    # Nothing but characters that their tokens split is written as text.
    assert {s for s in found if all(isinstance(x, int) for x in s)} <= ids
    assert len(grammar.spelled) == sum(any(isinstance(x, str) for x in s) for s in found)


def one_width(labels: list[str]) -> bool:
    """Whether all characters beyond ASCII have as many bytes: beside a longer one, llama.cpp's grammar takes a shorter
    one's overlong encoding for it."""
    return len({len(c.encode()) for label in labels for c in label if not c.isascii()}) < 2


@settings(max_examples=12, deadline=None, suppress_health_check=SLOW_FIXTURES)
@given(labels=label_sets(8).filter(one_width), name=st.sampled_from(["stream", "prefix"]), seed=st.integers(0, 99))
@example(labels=helpers.LABELS, name="stream", seed=0)
@example(labels=helpers.LABELS, name="prefix", seed=0)
def test_greedy_under_the_grammar_is_masked_greedy(
    tokens: Any, model: Any, vocabulary: LlamaModel, llama: Any, labels: list[str], name: str, seed: int
) -> None:
    encoder = helpers.encoder(tokens, PromptLayout(name=name), labels)
    history = helpers.diary(seed % 6, seed, labels)
    prompt = encoder.prompt_ids(history, WHEN.replace(year=2030), "DK")
    # Of a spelled character the sampler may take other tokens; here there are none but its single bytes.
    pieces = [vocabulary.piece(i) for i in range(vocabulary.n_vocab)]
    assert {p.decode() for p in pieces if len(p) > 1 and not p.isascii()} <= {"é", "fé", "afé", "Café", " Café"}
    grammar = token_grammar(encoder.trie, labels, vocabulary.piece, vocabulary.ends)
    best = labels[greedy_candidate(encoder.trie, token_logits(model, prompt, encoder.trie))]
    expected = encoder.layout.answer(best) + (encoder.layout.terminator or "")
    assert complete(llama, prompt, grammar.text) == expected


@settings(max_examples=10, deadline=None, suppress_health_check=SLOW_FIXTURES)
@given(labels=label_sets(6).filter(one_width), seed=st.integers(0, 99))
def test_the_character_grammar_answers_with_a_label(
    tokens: Any, vocabulary: LlamaModel, llama: Any, labels: list[str], seed: int
) -> None:
    encoder = helpers.encoder(tokens, PromptLayout(), labels)
    prompt = encoder.prompt_ids(helpers.diary(seed % 4, seed, labels), WHEN.replace(year=2030), "AB")
    answers = answer_texts(encoder.trie, vocabulary.piece, vocabulary.ends)
    assert complete(llama, prompt, character_grammar(answers).text) in answers


def test_by_hand() -> None:
    pieces = {
        1: b" Read",
        2: b" mail",
        3: b" \xc3",
        4: b"\xa9",
        5: b"\xf0\x9f",
        6: b"\x8e\xae",
        7: b"\x8e\xb2!",
        9: b")\n",
    }
    paths = [[1, 9], [1, 2, 9], [3, 4, 9], [1, 5, 6, 9], [1, 5, 7, 9]]
    labels = ["Read", "Read mail", "é", "Read🎮", "Read🎲!"]
    grammar = token_grammar(LabelTrie.from_paths(paths), labels, pieces.__getitem__, lambda token: False)
    rules = [line for line in grammar.text.splitlines() if not line.startswith("#")]
    assert rules == [
        "root ::=",
        "  <[1]> n1 |",
        "  <[3]> <[4]> <[9]>  # é",
        "n1 ::=",
        "  <[2]> <[9]> |  # Read mail",
        '  "🎮" <[9]> |  # Read🎮',
        '  "🎲!" <[9]> |  # Read🎲!',
        "  <[9]>  # Read",
    ]
    assert grammar.spelled == (3, 4)
    assert "# written as text where their tokens split a character: Read🎮, Read🎲!" in grammar.text


def test_an_end_of_generation_token_is_left_to_llama() -> None:
    grammar = token_grammar(LabelTrie.from_paths([[1, 0], [1, 2, 0]]), ["a", "a b"], lambda t: b"x", lambda t: t == 0)
    assert [line.strip() for line in grammar.text.splitlines()[1:]] == [
        "root ::=", "<[1]> n1", "n1 ::=", '"" |  # a', "<[2]>  # a b",
    ]  # fmt: skip


def test_quoting() -> None:
    assert quoted('say "hi" \\n\n\t\r') == '"say \\"hi\\" \\\\n\\n\\t\\r"'
    assert quoted("Café 東京 🎮 #|[]") == '"Café 東京 🎮 #|[]"'
    assert quoted("a\u00a0b\u3000\U000e0001") == '"a\\u00A0b\\u3000\\U000E0001"'


def test_tokens_that_are_no_text() -> None:
    with pytest.raises(EdgebError, match="token 7 of a label is not valid UTF-8"):
        token_grammar(LabelTrie.from_paths([[7, 9], [8, 9]]), ["a", "b"], lambda t: b"\xff", lambda t: False)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4).map(lambda p: (*p, 9)), min_size=2, unique=True),
    st.integers(0, 2**32 - 1),
)
def test_the_greedy_walk_takes_the_best_child_everywhere(paths: list[tuple[int, ...]], seed: int) -> None:
    trie = LabelTrie.from_paths(paths)
    logits = np.random.default_rng(seed).normal(size=len(trie))
    left, at = list(range(len(paths))), 0
    while len(left) > 1:
        score = {p: logits[trie.ancestors(int(trie.leaves[c]))[at]] for c in left for p in [paths[c][at]]}
        best = max(score, key=lambda token: score[token])
        left, at = [c for c in left if paths[c][at] == best], at + 1
    assert greedy_candidate(trie, logits) == left[0]
    # Where every label is one choice, greedy is the most probable.
    flat = LabelTrie.from_paths([(i, 9) for i in range(5)])
    logits = np.random.default_rng(seed).normal(size=len(flat))
    assert greedy_candidate(flat, logits) == int(np.argmax(masked_log_probs(flat, logits)))


class TestInspect:
    @pytest.fixture
    def bundle(self, gguf: Path, tokens: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("EDGEB_HOME", str(tmp_path / "home"))
        manifest = Manifest(
            created_with="edgeb test", candidates=CandidateSet.of([*helpers.LABELS, "🎮"]), layout=PromptLayout(),
            bos_id=None, eos_id=int(tokens.eos_token_id), architecture="qwen2", quantization="F32",
            context_length=4096, base_model=BaseModelInfo("x", None, "00"),
        )  # fmt: skip
        write_bundle(gguf, manifest, tmp_path / "b.gguf")
        return tmp_path / "b.gguf"

    def test_the_grammar_alone_is_on_stdout(self, bundle: Path, llama: Any, tokens: Any) -> None:
        result = CliRunner().invoke(app, ["inspect", str(bundle), "--gbnf"])
        assert result.exit_code == 0, result.output
        prompt = helpers.encoder(tokens, labels=[*helpers.LABELS, "🎮"]).prompt_ids([], WHEN, "DK")
        answer = complete(llama, prompt, result.stdout)
        assert answer.removeprefix(" ").removesuffix(")\n") in [*helpers.LABELS, "🎮"]
        text = CliRunner().invoke(app, ["inspect", str(bundle), "--gbnf-text"]).stdout
        assert text.splitlines()[1] == '  " Video)\\n" |'
        assert complete(llama, prompt, text).removeprefix(" ").removesuffix(")\n") in [*helpers.LABELS, "🎮"]

    def test_json_says_which_labels_are_spelled(self, bundle: Path) -> None:
        document = json.loads(CliRunner().invoke(app, ["inspect", str(bundle), "--gbnf", "--json"]).stdout)
        assert document["spelled"] == ["🎮"]
        assert document["gbnf"].endswith("\n")

    def test_one_grammar_at_a_time(self, bundle: Path) -> None:
        result = CliRunner().invoke(app, ["inspect", str(bundle), "--gbnf", "--gbnf-text"])
        assert isinstance(result.exception, EdgebError)

    def test_labels_that_the_tokenizer_cannot_tell_apart(self, bundle: Path, gguf: Path) -> None:
        from edge_behavior.bundle.bundle import read_manifest

        manifest = read_manifest(bundle)
        same = replace(manifest, layout=PromptLayout(), candidates=CandidateSet.of(["Video", "Bar"]))
        assert bundle_grammar(gguf, same).spelled == ()
