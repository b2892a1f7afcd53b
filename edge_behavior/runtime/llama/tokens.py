"""Text to ids with a GGUF file's own tokenizer."""

from __future__ import annotations

from typing import Any

import llama_cpp

from edge_behavior.errors import EdgebError


def tokenize(vocab: Any, text: str) -> list[int]:
    """Ids of plain text under a `llama_vocab`; adds no special tokens and parses none."""
    raw = text.encode("utf-8")
    # A token is at least one byte, and a space may be put before the first.
    buffer = (llama_cpp.llama_token * (len(raw) + 2))()
    count = llama_cpp.llama_tokenize(vocab, raw, len(raw), buffer, len(buffer), False, False)
    if count < 0:
        raise EdgebError(f"llama.cpp cannot tokenize {text[:40]!r}", "report this as a bug")
    return list(buffer[:count])
