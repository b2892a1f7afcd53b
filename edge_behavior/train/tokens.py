"""Hugging Face tokenizers as edgeb's `Tokenize` functions."""

from __future__ import annotations

from typing import Any

from edge_behavior.candidates import CandidateSet
from edge_behavior.encoding import PromptEncoder, Tokenize
from edge_behavior.errors import EdgebError
from edge_behavior.prompts import PromptLayout


def tokenize_with(tokenizer: Any) -> Tokenize:
    """Ids of plain text: nothing added, and text that looks like a special token stays text."""

    def tokenize(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    return tokenize


def encoder_for(tokenizer: Any, layout: PromptLayout, candidates: CandidateSet) -> PromptEncoder:
    """A `PromptEncoder` over a Hugging Face tokenizer; prompts start with BOS where the tokenizer adds one.

    Raises:
        EdgebError: the tokenizer has no end-of-sequence token.
    """
    if tokenizer.eos_token_id is None:
        raise EdgebError("the backbone's tokenizer has no end-of-sequence token", "set eos_token in its config")
    return PromptEncoder(
        tokenize_with(tokenizer), layout, candidates, bos_id=leading_bos(tokenizer), eos_id=int(tokenizer.eos_token_id)
    )


def leading_bos(tokenizer: Any) -> int | None:
    """The id a tokenizer puts before plain text (Llama 3 does, Qwen2 does not), or None."""
    bos = tokenizer.bos_token_id
    ids = tokenizer("a")["input_ids"]
    return int(bos) if bos is not None and len(ids) > 0 and ids[0] == bos else None
