"""From a Hugging Face fast tokenizer to GGUF's tokenizer metadata.

Reads the tokenizer's own JSON and refuses whatever llama.cpp would tokenize differently. Two families are supported:
byte-level BPE as in Qwen, Llama 3 and SmolLM2, and SentencePiece-style BPE as in Llama 2 and Gemma. Knows nothing of
models.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_behavior.errors import EdgebError
from edge_behavior.hf.folder import first_line, read_model_json
from edge_behavior.hf.tokenizers import special_ids

# GGUF token types.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class PreTokenizer:
    """How byte-level BPE splits text before it merges.

    Attributes:
        name: llama.cpp's.
        regex: Text is split by it; None splits digits off and the rest by GPT-2's regex.
        ignore_merges: Whole words are looked up before merging.
        nfc: The published tokenizer normalizes to NFC.
    """

    name: str
    regex: str | None
    ignore_merges: bool = False
    nfc: bool = False


PRE_TOKENIZERS = (
    PreTokenizer("qwen2", rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}", nfc=True),
    PreTokenizer("llama-bpe", rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}", ignore_merges=True),
    PreTokenizer("smollm", None),
)
_UNSUPPORTED_HINT = "use a backbone with the tokenizer of Qwen2, Llama 3, SmolLM2, Llama 2 or Gemma"
TOKENIZER_FILE = "tokenizer.json"
SPACE = "\u2581"
_SPLIT_AT_SPACES = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


class UnsupportedBackboneError(EdgebError):
    """The engines would compute this backbone differently; training and evaluation in PyTorch work."""


@dataclass(frozen=True)
class GgufVocab:
    """What GGUF stores about a tokenizer.

    Attributes:
        model: "gpt2" (byte-level BPE) or "llama" (SentencePiece).
        pre: llama.cpp's pre-tokenizer name.
        tokens: Token text per id, padded to the model's embedding rows.
        types: GGUF token type per id.
        merges: BPE merges, best first ("gpt2" only).
        scores: Score per id ("llama" only).
        add_space_prefix: Text gets a leading space before tokenizing ("llama" only).
        bos_id: Beginning-of-sequence token.
        eos_id: End-of-sequence token.
        pad_id: Padding token, or None.
        unk_id: Unknown token, or None.
        adds_bos: Whether the tokenizer starts every sequence with `bos_id`.
        chat_template: How a conversation becomes text, a Jinja template; None without one.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    add_space_prefix: bool
    bos_id: int
    eos_id: int
    pad_id: int | None
    unk_id: int | None
    adds_bos: bool
    chat_template: str | None


def read_vocab(tokenizer: Any, rows: int) -> GgufVocab:
    """Translate a fast tokenizer.

    Args:
        tokenizer: A Transformers fast tokenizer.
        rows: Embedding rows of the model; ids above the tokenizer's become unused [PAD…] tokens.

    Raises:
        EdgebError: a part that llama.cpp has no counterpart for (named in the message), no merge table, or more
            tokens than embedding rows.
    """
    fields = json.loads(tokenizer.backend_tokenizer.to_str())
    model = fields["model"]
    if model["type"] == "BPE" and not model["merges"]:
        raise EdgebError("the tokenizer has no merge table", "restore merges.txt or tokenizer.json")
    kind, pre, prefix = _known_kind(fields)
    texts = {int(id_): text for text, id_ in model["vocab"].items()}
    added = {int(token["id"]): str(token["content"]) for token in fields["added_tokens"]}
    texts.update(added)
    if max(texts) >= rows:
        raise EdgebError(f"the tokenizer has {max(texts) + 1} tokens, the model {rows} embeddings", "resize the model")
    tokens = [texts.get(i, f"[PAD{i}]") for i in range(rows)]
    if len(set(tokens)) != rows:
        raise EdgebError("two token ids have the same text", "check the tokenizer's added tokens")
    types = [CONTROL if i in added else NORMAL if i in texts else UNUSED for i in range(rows)]
    bos_id, eos_id = special_ids(tokenizer)
    unk_id = model["vocab"].get(model["unk_token"]) if model.get("unk_token") else None
    merges, scores = [], []
    if kind == "llama":
        scores = _scores(model, tokens)
        types = [BYTE if types[i] == NORMAL and _is_byte(text) else types[i] for i, text in enumerate(tokens)]
        if unk_id is not None:
            types[unk_id] = UNKNOWN
    else:
        merges = [" ".join(pair) for pair in _pairs(model)]
    return GgufVocab(
        model=kind,
        pre=pre,
        tokens=tokens,
        types=types,
        merges=merges,
        scores=scores,
        add_space_prefix=prefix,
        # llama.cpp's default for a missing id is an ordinary letter.
        bos_id=eos_id if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id),
        eos_id=eos_id,
        pad_id=tokenizer.pad_token_id,
        unk_id=unk_id,
        adds_bos=bos_id is not None,
        chat_template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
    )


def check_tokenizer(model_dir: Path) -> None:
    """Check what tokenizer.json says of how text is split; without that file, nothing. Imports no Transformers.

    Raises:
        EdgebError: an unreadable file, or a part that llama.cpp has no counterpart for (named in the message).
    """
    from tokenizers import Tokenizer

    file = model_dir / TOKENIZER_FILE
    if not file.is_file():
        return
    fields = read_model_json(file)
    try:
        # Written anew: with all fields, which older files leave out, and without the vocabulary, which takes seconds.
        empty = {**fields, "added_tokens": [], "model": {**fields["model"], "vocab": {}, "merges": []}}
        fields = json.loads(Tokenizer.from_str(json.dumps(empty)).to_str())
    except Exception as error:  # the package raises this very class
        raise EdgebError(f"cannot load the tokenizer of {model_dir}: {first_line(error)}", "check its files") from None
    _known_kind(fields)


def _known_kind(fields: dict[str, Any]) -> tuple[str, str, bool]:
    """llama.cpp's names for the model and the pre-tokenizer, and whether text gets a leading space."""
    model = fields["model"]
    if model["type"] != "BPE":
        raise UnsupportedBackboneError(f"unsupported tokenizer model {model['type']}", _UNSUPPORTED_HINT)
    if model.get("byte_fallback"):
        return "llama", "default", _sentencepiece_prefix(fields)
    return "gpt2", _pre_tokenizer(fields), False


def write_vocab(writer: Any, vocab: GgufVocab) -> None:
    """Add a vocabulary to a gguf.GGUFWriter's metadata."""
    writer.add_tokenizer_model(vocab.model)
    writer.add_tokenizer_pre(vocab.pre)
    writer.add_token_list(vocab.tokens)
    writer.add_token_types(vocab.types)
    if vocab.model == "llama":
        writer.add_token_scores(vocab.scores)
        writer.add_add_space_prefix(vocab.add_space_prefix)
    else:
        writer.add_token_merges(vocab.merges)
    writer.add_bos_token_id(vocab.bos_id)
    writer.add_eos_token_id(vocab.eos_id)
    if vocab.pad_id is not None:
        writer.add_pad_token_id(vocab.pad_id)
    if vocab.unk_id is not None:
        writer.add_unk_token_id(vocab.unk_id)
    writer.add_add_bos_token(vocab.adds_bos)
    if vocab.chat_template is not None:
        writer.add_chat_template(vocab.chat_template)


def _pairs(model: dict[str, Any]) -> list[list[str]]:
    # Older files join the two halves with a space.
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]


def _pre_tokenizer(fields: dict[str, Any]) -> str:
    """llama.cpp's name for the byte-level pre-tokenizer, after checking that nothing else differs."""
    normalizer = (fields["normalizer"] or {"type": None})["type"]
    # Logs are NFC already (core/events), so NFC normalization changes nothing.
    if normalizer not in (None, "NFC"):
        raise UnsupportedBackboneError(f"unsupported tokenizer normalizer {normalizer}", _UNSUPPORTED_HINT)
    model = fields["model"]
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "unk_token"):
        if model.get(name):
            raise UnsupportedBackboneError(f"unsupported tokenizer setting {name} = {model[name]!r}", _UNSUPPORTED_HINT)
    steps = _steps(fields["pre_tokenizer"], "pretokenizers")
    known = _known(steps)
    if bool(model.get("ignore_merges")) != known.ignore_merges:
        raise UnsupportedBackboneError(
            f"the pre-tokenizer is {known.name}'s, but ignore_merges is {bool(model.get('ignore_merges'))}",
            _UNSUPPORTED_HINT,
        )
    return known.name


def _known(steps: list[dict[str, Any]]) -> PreTokenizer:
    shape = [step["type"] for step in steps]
    if shape == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and steps[1]["use_regex"]:
        regex = None
    elif shape == ["Split", "ByteLevel"] and not steps[1]["use_regex"]:
        regex = steps[0]["pattern"].get("Regex")
        if regex is None or steps[0]["behavior"] != "Isolated" or steps[0]["invert"]:
            raise UnsupportedBackboneError(f"unknown pre-tokenizer regex {regex!r}", _UNSUPPORTED_HINT)
    else:
        raise UnsupportedBackboneError(f"unsupported pre-tokenizer {' + '.join(shape) or 'none'}", _UNSUPPORTED_HINT)
    if steps[1]["add_prefix_space"]:
        raise UnsupportedBackboneError(f"unsupported pre-tokenizer {' + '.join(shape)}", _UNSUPPORTED_HINT)
    for known in PRE_TOKENIZERS:
        if known.regex == regex:
            return known
    raise UnsupportedBackboneError(f"unknown pre-tokenizer regex {regex!r}", _UNSUPPORTED_HINT)


def _sentencepiece_prefix(fields: dict[str, Any]) -> bool:
    """Whether a SentencePiece-style tokenizer adds a leading space, after checking that nothing else differs."""
    steps = _steps(fields["normalizer"], "normalizers")
    prefix = bool(steps) and steps[0] == {"type": "Prepend", "prepend": SPACE}
    if steps[int(prefix) :] != [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]:
        shape = " + ".join(step["type"] for step in steps)
        raise UnsupportedBackboneError(f"unsupported SentencePiece normalizer {shape or 'none'}", _UNSUPPORTED_HINT)
    # Gemma splits at spaces, of which the normalizer has left none.
    if fields["pre_tokenizer"] not in (None, _SPLIT_AT_SPACES):
        raise UnsupportedBackboneError(
            f"unsupported pre-tokenizer {fields['pre_tokenizer']['type']}", _UNSUPPORTED_HINT
        )
    return prefix


def _steps(part: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return list(part[key]) if part["type"] == "Sequence" else [part]


def _scores(model: dict[str, Any], tokens: list[str]) -> list[float]:
    """SentencePiece merges the pair whose joined token scores highest; negated merge ranks give the same order."""
    best: dict[str, int] = {}
    for rank, (left, right) in enumerate(_pairs(model)):
        best.setdefault(left + right, rank)
    return [-float(best[text]) if text in best else 0.0 for text in tokens]


def _is_byte(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")
