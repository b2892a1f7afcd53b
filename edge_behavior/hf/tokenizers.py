"""Hugging Face tokenizers as plain text-to-ids functions, the same for training, export and checks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError


def plain_encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    """Text to ids; no special or added tokens are added or recognized.

    So does the exported file's tokenizer with user text: `<|im_end|>` in a label stays text.
    """
    return _plain(tokenizer.backend_tokenizer)


def file_encoder(path: Path) -> Callable[[str], list[int]]:
    """`plain_encoder` for a tokenizer.json, without Transformers.

    Raises:
        EdgebError: the file is missing or not a tokenizer.
    """
    from tokenizers import Tokenizer

    try:
        source = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises this very class
        raise EdgebError(f"cannot read the tokenizer {path}: {error}", "export the bundle again") from None
    return _plain(source)


def _plain(source: Any) -> Callable[[str], list[int]]:
    from tokenizers import Tokenizer

    # The bare model, without added tokens; shared, not copied.
    plain = Tokenizer(source.model)
    if source.normalizer is not None:
        plain.normalizer = source.normalizer
    if source.pre_tokenizer is not None:
        plain.pre_tokenizer = source.pre_tokenizer

    def encode(text: str) -> list[int]:
        return list(plain.encode(text, add_special_tokens=False).ids)

    return encode


def special_ids(tokenizer: Any) -> tuple[int | None, int]:
    """Beginning-of-sequence id (None where the tokenizer adds none) and end-of-sequence id.

    Raises:
        EdgebError: the tokenizer names no end-of-sequence token.
    """
    if tokenizer.eos_token_id is None:
        raise EdgebError("the tokenizer names no end-of-sequence token", "set eos_token in tokenizer_config.json")
    bos = tokenizer.bos_token_id
    first = tokenizer("a").input_ids[:1]
    return (int(bos) if bos is not None and first == [bos] else None), int(tokenizer.eos_token_id)


def encoder_for(tokenizer: Any, layout: PromptLayout, candidates: CandidateSet) -> PromptEncoder:
    """A `PromptEncoder` over a Hugging Face tokenizer.

    Raises:
        EdgebError: the tokenizer names no end-of-sequence token, or cannot tell two labels apart.
    """
    bos_id, eos_id = special_ids(tokenizer)
    return PromptEncoder(plain_encoder(tokenizer), layout, candidates, bos_id, eos_id)
