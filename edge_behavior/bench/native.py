"""llama.cpp as others use it: llama-cpp-python's own class, and a record of everything that is evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp

from edge_behavior.runtime.llama.model import extra_buffers

# From this many tokens on, a decode is faster with flash attention on a CPU.
FLASH_PAYS = 64


@dataclass(frozen=True)
class Decode:
    """One call of llama_decode.

    Attributes:
        position: First position of the batch, the number of tokens before it.
        tokens: Tokens in the batch.
        rows: Logit rows asked for.
    """

    position: int
    tokens: int
    rows: int


@contextmanager
def watched_decodes() -> Iterator[list[Decode]]:
    """Note every llama_decode of this process while the block runs, whoever calls it. Not thread-safe."""
    seen: list[Decode] = []
    original = llama_cpp.llama_decode

    def decode(context: Any, batch: Any) -> int:
        count = int(batch.n_tokens)
        rows = sum(1 for i in range(count) if batch.logits[i]) if batch.logits else 1
        seen.append(Decode(int(batch.pos[0]) if batch.pos else 0, count, rows))
        status: int = original(context, batch)
        return status

    # The package re-exports the function of its module; callers use either.
    holders: tuple[Any, ...] = (llama_cpp, llama_cpp.llama_cpp)
    for holder in holders:
        holder.llama_decode = decode
    try:
        yield seen
    finally:
        for holder in holders:
            holder.llama_decode = original


def stock_llama(path: Path, **options: Any) -> Any:
    """llama-cpp-python's own `Llama` of a file, with its own options. Not thread-safe.

    It has no option for extra buffers, so its defaults are patched where these crash.

    Raises:
        EdgebError: see `extra_buffers`.
    """
    extra, module = extra_buffers(), llama_cpp.llama_cpp
    original = module.llama_model_default_params

    def defaults() -> Any:
        chosen = original()
        chosen.use_extra_bufts = extra
        return chosen

    module.llama_model_default_params = defaults
    try:
        return llama_cpp.Llama(model_path=str(path), **options)
    finally:
        module.llama_model_default_params = original
