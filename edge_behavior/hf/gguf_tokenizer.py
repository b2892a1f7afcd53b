"""The tokenizer in a GGUF file as the files of a Hugging Face tokenizer.

The other direction of `gguf_vocab`, for the same families. Knows nothing of models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_behavior.hf.gguf_vocab import (
    BYTE,
    CONTROL,
    PRE_TOKENIZERS,
    SPACE,
    TOKENIZER_FILE,
    USER_DEFINED,
    PreTokenizer,
    UnsupportedBackboneError,
)

_SPECIALS = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}
# llama.cpp starts a text with BOS where the file does not say otherwise.
_ADDS_BOS = {"llama-bpe": True, "default": True}


def write_tokenizer(metadata: Mapping[str, Any], folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat template.

    Args:
        metadata: The GGUF file's.
        folder: An existing folder.

    Raises:
        EdgebError: a kind of tokenizer that is not known here (named), or a field that is missing.
    """
    tokens = list(metadata["tokenizer.ggml.tokens"])
    types = list(metadata.get("tokenizer.ggml.token_type", [1] * len(tokens)))
    known = known_pre_tokenizer(metadata)
    tokenizer = _sentencepiece(metadata, tokens, types) if known is None else _byte_level(metadata, known, tokens)
    specials = {name: tokens[metadata[key]] for name, key in _SPECIALS.items() if metadata.get(key) is not None}
    _add_tokens(tokenizer, tokens, types, set(specials.values()))
    pre = metadata.get("tokenizer.ggml.pre", "default")
    if metadata.get("tokenizer.ggml.add_bos_token", _ADDS_BOS.get(pre, False)):
        _start_with(tokenizer, specials["bos_token"])
    tokenizer.save(str(folder / TOKENIZER_FILE))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **specials,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    if template := metadata.get("tokenizer.chat_template"):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def known_pre_tokenizer(metadata: Mapping[str, Any]) -> PreTokenizer | None:
    """How the file's byte-level tokenizer splits text; None for a SentencePiece one.

    Args:
        metadata: The GGUF file's; arrays are not needed.

    Raises:
        EdgebError: another kind of tokenizer, or an unknown pre-tokenizer (named, with the list).
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "llama":
        return None
    if kind != "gpt2":
        raise UnsupportedBackboneError(
            f"unsupported tokenizer model '{kind}' in the GGUF file", "supported: gpt2 (byte-level BPE), llama"
        )
    pre = str(metadata.get("tokenizer.ggml.pre", "default"))
    by_name = {known.name: known for known in PRE_TOKENIZERS}
    if pre not in by_name:
        raise UnsupportedBackboneError(
            f"unsupported pre-tokenizer '{pre}' in the GGUF file", f"supported: {', '.join(by_name)}"
        )
    return by_name[pre]


def _byte_level(metadata: Mapping[str, Any], known: PreTokenizer, tokens: list[str]) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocab = _vocab(tokens)
    merges = [tuple(pair.split(" ", 1)) for pair in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=known.ignore_merges))
    if known.regex is None:
        steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        split = pre_tokenizers.Split(Regex(known.regex), "isolated")
        steps = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if known.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    # The file has what is looked up in plain text with plain spaces.
    tokens[:] = [t.replace(" ", SPACE) if types[i] == USER_DEFINED else t for i, t in enumerate(tokens)]
    vocab = _vocab(tokens)
    merges = _merges(tokens, types, list(metadata["tokenizer.ggml.scores"]), vocab)
    has_bytes = BYTE in types
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token=tokens[unknown], fuse_unk=True, byte_fallback=has_bytes))
    steps: list[Any] = [normalizers.Replace(" ", SPACE)]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, normalizers.Prepend(SPACE))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _merges(tokens: list[str], types: list[int], scores: list[float], vocab: dict[str, int]) -> list[tuple[str, str]]:
    """BPE merges that join as SentencePiece does: two pieces whose joined text is a token, the best score first.

    Control tokens are never joined from text.
    """
    texts = {text: i for text, i in vocab.items() if types[i] not in (CONTROL, BYTE)}
    found: list[tuple[float, int, int, str, str]] = []
    for text, i in texts.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in texts and right in texts:
                found.append((-scores[i], texts[left], texts[right], left, right))
    found.sort(key=lambda entry: entry[:3])
    return [(left, right) for *_, left, right in found]


def _vocab(tokens: list[str]) -> dict[str, int]:
    vocab: dict[str, int] = {}
    for i, text in enumerate(tokens):
        vocab.setdefault(text, i)
    if len(vocab) != len(tokens):
        raise UnsupportedBackboneError("two tokens of the GGUF file have the same text", "use another backbone")
    return vocab


def _add_tokens(tokenizer: Any, tokens: list[str], types: list[int], specials: set[str]) -> None:
    from tokenizers import AddedToken

    added = [
        AddedToken(text, special=types[i] == CONTROL or text in specials, normalized=False)
        for i, text in enumerate(tokens)
        if types[i] in (CONTROL, USER_DEFINED) or text in specials
    ]
    tokenizer.add_tokens(added)


def _start_with(tokenizer: Any, text: str) -> None:
    from tokenizers import processors

    special = [(text, tokenizer.token_to_id(text))]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{text} $A", pair=f"{text} $A {text} $B", special_tokens=special
    )
