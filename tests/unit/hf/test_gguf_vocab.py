"""The exported file tokenizes as Hugging Face does."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.hf.architectures import load_tokenizer
from edge_behavior.hf.gguf_tokenizer import write_tokenizer
from edge_behavior.hf.gguf_vocab import read_vocab, write_vocab
from edge_behavior.hf.tokenizers import plain_encoder, special_ids
from edge_behavior.runtime.llama.model import LlamaModel
from tests.unit.export.conftest import SMALL_TOKENIZERS, SPECIALS, byte_level, llama, qwen2, qwen2_tokenizer, save

NARROW = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
TRICKY = [
    *SPECIALS,
    *("<tool_call>", "<|fim_prefix|>", "<|begin_of_text|>", "<|eot_id|>", "<s>", "</s>", "<unk>", "<0x0A>", "[PAD7]"),
    *(
        "'s",
        "'LL",
        "'ſ",
        "\r\n",
        "  ",
        "\n\n",
        "\t",
        "\0",
        "▁",
        " Check email",
        "123",
        "1234567",
        ")\n",
        "東京",
        "é",
        "🙂",
    ),
]


def texts() -> st.SearchStrategy[str]:
    """Arbitrary text mixed with what looks like special tokens. NFC, as everything that comes from a log.

    Of characters as old as Unicode 3.2: both sides carry tables of their own, and llama.cpp's do not know the letters
    that Unicode 16 added.
    """
    old = st.characters(exclude_categories=["Cs"]).filter(lambda c: unicodedata.ucd_3_2_0.category(c) != "Cn")
    part = st.sampled_from(TRICKY) | st.text(old, max_size=6)
    return st.lists(part, max_size=8).map(lambda parts: unicodedata.normalize("NFC", "".join(parts)))


def converted(tokenizer: Any, folder: Path, rows: int | None = None) -> LlamaModel:
    make = qwen2 if "Qwen2" in type(tokenizer).__name__ else llama
    save(make(rows or len(tokenizer), **NARROW, tie_word_embeddings=True), tokenizer, folder)
    write_gguf(folder, folder / "f16.gguf")
    return LlamaModel(folder / "f16.gguf", vocab_only=True)


@pytest.fixture(scope="module", params=SMALL_TOKENIZERS)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, LlamaModel]]:
    tokenizer = SMALL_TOKENIZERS[request.param]()
    with converted(tokenizer, tmp_path_factory.mktemp(request.param), len(tokenizer) + 13) as file:
        yield tokenizer, file


@pytest.fixture(scope="module", params=["qwen2", "llama3"])
def real(
    request: pytest.FixtureRequest, real_tokenizers: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Any, LlamaModel]]:
    tokenizer = real_tokenizers[request.param]
    rows = {"qwen2": 151_936, "llama3": 128_256}[request.param]
    with converted(tokenizer, tmp_path_factory.mktemp(request.param), rows) as file:
        yield request.param, tokenizer, file


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=texts())
def test_any_text_small(small: tuple[Any, LlamaModel], text: str) -> None:
    tokenizer, file = small
    assert file.tokenize(text) == plain_encoder(tokenizer)(text)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=texts())
def test_any_text_real(real: tuple[str, Any, LlamaModel], text: str) -> None:
    _, tokenizer, file = real
    assert file.tokenize(text) == plain_encoder(tokenizer)(text)


def test_upstream_vectors(real: tuple[str, Any, LlamaModel], shared: Path) -> None:
    name, tokenizer, file = real
    stem = {"qwen2": "qwen2.5-tokenizer/ggml-vocab-qwen2", "llama3": "llama3-tokenizer/ggml-vocab-llama-bpe"}[name]
    inputs = (shared / f"models/{stem}.gguf.inp").read_bytes().decode()
    outputs = (shared / f"models/{stem}.gguf.out").read_text()
    encode = plain_encoder(tokenizer)
    vectors = list(zip(inputs.split("\n__ggml_vocab_test__\n"), outputs.splitlines(), strict=False))
    assert len(vectors) == 46
    for text, line in vectors:
        expected = [int(i) for i in line.split()]
        assert file.tokenize(text) == expected
        assert encode(text) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stem", "pre"), [("qwen2", "qwen2"), ("llama-bpe", "llama-bpe"), ("starcoder", "smollm"), ("llama-spm", "default")]
)
def test_upstream_vectors_of_unpacked_files(stem: str, pre: str, llama_cpp_source: Path, tmp_path: Path) -> None:
    """llama.cpp's vocabularies as Hugging Face tokenizers, and back.

    It splits texts for SmolLM2 as for StarCoder, and has vectors of the latter.
    """
    file = llama_cpp_source / f"models/ggml-vocab-{stem}.gguf"
    metadata = {name: field.contents() for name, field in GGUFReader(file).fields.items()}
    write_tokenizer(metadata | {"tokenizer.ggml.pre": pre}, tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    encode = plain_encoder(tokenizer)
    inputs = Path(f"{file}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    vectors = list(zip(inputs, Path(f"{file}.out").read_text().splitlines(), strict=False))
    assert len(vectors) == 46
    for text, line in vectors:
        expected = [int(i) for i in line.split()]
        assert encode(text) == expected, text
    tokens = list(metadata["tokenizer.ggml.tokens"])
    again = read_vocab(tokenizer, len(tokens))
    assert (again.tokens, again.pre) == (tokens, pre)
    if again.scores:
        # Of runs of spaces all scores are equal.
        merged = [i for i, score in enumerate(again.scores) if score and len(set(tokens[i])) > 1]
        scores = np.asarray(metadata["tokenizer.ggml.scores"])
        order = [np.argsort(np.asarray(values)[merged], kind="stable").tolist() for values in (scores, again.scores)]
        assert order[0] == order[1]
    else:
        assert again.merges == list(metadata["tokenizer.ggml.merges"])


@pytest.fixture(scope="module")
def real_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Any, LlamaModel]]]:
    """The tokenizers of published GGUF files, and what is written of each to a file of ours."""
    files = [Path(name) for name in os.environ.get("EDGEB_GGUFS", "").split(os.pathsep) if name]
    if not files:
        pytest.skip("set EDGEB_GGUFS to GGUF files, as of SmolLM2 and Gemma 3, to compare tokens of their tokenizers")
    with ExitStack() as stack:
        found = []
        for file in files:
            folder = tmp_path_factory.mktemp(file.stem)
            metadata = {name: field.contents() for name, field in GGUFReader(file).fields.items()}
            write_tokenizer(metadata, folder)
            tokenizer = load_tokenizer(folder)
            writer = GGUFWriter(str(folder / "vocab.gguf"), "llama")
            write_vocab(writer, read_vocab(tokenizer, len(metadata["tokenizer.ggml.tokens"])))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.close()
            found.append((tokenizer, stack.enter_context(LlamaModel(folder / "vocab.gguf", vocab_only=True))))
        yield found


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=texts())
def test_any_text_of_published_files(real_files: list[tuple[Any, LlamaModel]], text: str) -> None:
    for tokenizer, file in real_files:
        assert file.tokenize(text) == plain_encoder(tokenizer)(text)


def test_sentencepiece_itself_agrees(shared: Path, tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = shared / "models/stories260K"
    processor = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    encode = plain_encoder(AutoTokenizer.from_pretrained(folder))
    write_gguf(folder, tmp_path / "x.gguf")
    with LlamaModel(tmp_path / "x.gguf", vocab_only=True) as file:
        # Not double spaces: SentencePiece itself drops them, this model's tokenizer.json keeps them.
        for text in ("Once upon a time", "Lily and Tom", "(Mon 9, home, Check email)\n", "naïve 東京 <s>", "a"):
            assert file.tokenize(text) == encode(text) == processor.encode(text), text


def test_special_tokens_stay_text(small: tuple[Any, LlamaModel]) -> None:
    tokenizer, file = small
    specials = set(tokenizer.all_special_ids)
    for text in TRICKY:
        assert not specials & set(file.tokenize(f"a{text}b")), text


def test_special_ids() -> None:
    expected = {
        "qwen2": (None, 0), "llama3": (1, 0), "sentencepiece": (1, 2), "smollm": (None, 2), "gemma": (1, 2),
    }  # fmt: skip
    assert {name: special_ids(make()) for name, make in SMALL_TOKENIZERS.items()} == expected
    without = PreTrainedTokenizerFast(tokenizer_object=qwen2_tokenizer().backend_tokenizer)
    with pytest.raises(EdgebError, match="no end-of-sequence token"):
        special_ids(without)


def _edited(change: Any, name: str = "qwen2") -> PreTrainedTokenizerFast:
    fields = json.loads(SMALL_TOKENIZERS[name]().backend_tokenizer.to_str())
    change(fields)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(fields)), eos_token="<|endoftext|>")


def test_what_llama_cpp_lacks_is_refused() -> None:
    lower = json.loads(byte_level("x", normalizers.Lowercase(), False).to_str())["normalizer"]
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}
    cases: list[tuple[str, Any, str]] = [
        (r"unknown pre-tokenizer regex '\\\\w\+'", lambda f: _split(f).update(pattern={"Regex": r"\w+"}), "qwen2"),
        ("ignore_merges is True", lambda f: f["model"].update(ignore_merges=True), "qwen2"),
        ("ignore_merges is False", lambda f: f["model"].update(ignore_merges=False), "llama3"),
        ("normalizer Lowercase", lambda f: f.update(normalizer=lower), "qwen2"),
        ("pre-tokenizer ByteLevel", lambda f: f.update(pre_tokenizer=f["pre_tokenizer"]["pretokenizers"][1]), "qwen2"),
        ("pre-tokenizer none", lambda f: f.update(pre_tokenizer=None), "qwen2"),
        ("no merge table", lambda f: f["model"].update(merges=[]), "qwen2"),
        ("pre-tokenizer Metaspace", lambda f: f.update(pre_tokenizer=metaspace), "sentencepiece"),
        ("SentencePiece normalizer none", lambda f: f.update(normalizer=None), "sentencepiece"),
        ("dropout = 0.5", lambda f: f["model"].update(dropout=0.5), "qwen2"),
    ]
    for message, change, name in cases:
        with pytest.raises(EdgebError, match=message):
            read_vocab(_edited(change, name), 2000)
    tokenizer = qwen2_tokenizer()
    with pytest.raises(EdgebError, match=rf"{len(tokenizer)} tokens, the model {len(tokenizer) - 1} embeddings"):
        read_vocab(tokenizer, len(tokenizer) - 1)
    words = Tokenizer.from_str(json.dumps({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(EdgebError, match="tokenizer model WordLevel"):
        read_vocab(PreTrainedTokenizerFast(tokenizer_object=words), 10)


def _split(fields: dict[str, Any]) -> dict[str, Any]:
    step: dict[str, Any] = fields["pre_tokenizer"]["pretokenizers"][0]
    return step
