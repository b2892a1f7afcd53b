"""llama.cpp with nothing of ours around it: single decodes, and the calls that others make.

`NativeContext` is a plain context of one sequence, as llama-bench and every simple program use it. `watched_decodes`
sees what any code in this process asks llama.cpp to evaluate. Knows nothing of prompts or labels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from edge_behavior.errors import EdgebError
from edge_behavior.runtime.backends.lifetime import Lifetime
from edge_behavior.runtime.llama.log import captured_log, quietly
from edge_behavior.runtime.llama.model import extra_buffers, load_model
from edge_behavior.runtime.llama.tokens import tokenize
from edge_behavior.util.cpus import usable_threads

# Tokens of a decode from which on flash attention is the faster one on a CPU.
FLASH_PAYS = 64
_FLASH = {
    True: llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    False: llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}


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

    It has no option for extra buffers, so where they crash, its defaults lack them.

    Raises:
        EdgebError: see `load_model`.
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


class NativeModel:
    """A GGUF file opened by llama.cpp with default settings on the CPU. Use as a context manager.

    Args:
        path: The file.
        vocab_only: Open the tokenizer alone.

    Raises:
        EdgebError: llama.cpp cannot load the file.
    """

    def __init__(self, path: Path, vocab_only: bool = False) -> None:
        self._lifetime = Lifetime(self, "the model")
        with captured_log() as errors:
            self.handle: Any = load_model(path, vocab_only)
        if not self.handle:
            raise EdgebError(
                f"llama.cpp cannot load {path}: {errors[-1] if errors else 'no reason'}", "export it again"
            )
        self._lifetime.keep(self.handle, quietly(llama_cpp.llama_model_free))
        self._vocab = llama_cpp.llama_model_get_vocab(self.handle)
        self.n_vocab = int(llama_cpp.llama_vocab_n_tokens(self._vocab))

    def check_open(self) -> None:
        """Refuse a model that is closed, or another process's.

        Raises:
            EdgebError: says which of the two.
        """
        self._lifetime.check()

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text; adds no special tokens and parses none."""
        self.check_open()
        return tokenize(self._vocab, text)

    def __enter__(self) -> NativeModel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the model; its contexts must be closed before."""
        self._lifetime.close()
        self.handle = None


class NativeContext:
    """A context of one sequence, otherwise with llama.cpp's default options. Use as a context manager.

    Args:
        model: An open model; it must outlive the context.
        n_ctx: Positions of the cache, and most tokens of one decode.
        threads: CPU threads.
        rows: Most logit rows of one decode.
        flash: Flash attention, see `FLASH_PAYS`; None leaves it to llama.cpp.

    Raises:
        EdgebError: not enough memory, or too many threads.
    """

    def __init__(self, model: NativeModel, n_ctx: int, threads: int, rows: int = 1, flash: bool | None = None) -> None:
        model.check_open()
        # The context uses the model to its end.
        self._model, self._n_vocab = model, model.n_vocab
        self._lifetime = Lifetime(self, "the context")
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = n_ctx
        options.n_ubatch = min(n_ctx, 512)
        options.n_outputs_max = options.n_outputs_max_per_seq = max(rows, 1)
        options.n_threads = options.n_threads_batch = usable_threads(threads, 1)
        if flash is not None:
            options.flash_attn_type = _FLASH[flash]
        with captured_log() as errors:
            self._handle: Any = llama_cpp.llama_init_from_model(model.handle, options)
        if not self._handle:
            reason = errors[-1] if errors else "no reason given"
            raise EdgebError(f"llama.cpp opens no context of {n_ctx} tokens: {reason}", "free some memory")
        self._lifetime.keep(self._handle, quietly(llama_cpp.llama_free))
        self._memory = llama_cpp.llama_get_memory(self._handle)
        self._batch = self._lifetime.keep(llama_cpp.llama_batch_init(n_ctx, 0, 1), llama_cpp.llama_batch_free)
        self.held = 0

    def keep(self, count: int) -> None:
        """Forget all but the first `count` tokens."""
        self._lifetime.check()
        llama_cpp.llama_memory_seq_rm(self._memory, 0, count, -1)
        self.held = min(self.held, count)

    def decode(self, tokens: Sequence[int], rows: Collection[int] | None = None) -> float:
        """Append tokens to the cache in one llama_decode.

        Args:
            rows: Indices into `tokens` whose logits are wanted; the last one's by default.

        Returns:
            Seconds inside llama_decode and until its result is there.

        Raises:
            EdgebError: llama.cpp failed.
        """
        self._lifetime.check()
        count = len(tokens)
        wanted = {count - 1} if rows is None else set(rows)
        batch = self._batch
        batch.n_tokens = count
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, self.held + i, i in wanted
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
        started = perf_counter()
        status = llama_cpp.llama_decode(self._handle, batch)
        llama_cpp.llama_synchronize(self._handle)
        seconds = perf_counter() - started
        if status != 0:
            raise EdgebError(f"llama.cpp could not evaluate {count} tokens (status {status})", "report this as a bug")
        self.held += count
        return seconds

    def row(self, i: int) -> NDArray[np.float32]:
        """Logits [V] of the i-th token of the last decode, valid until the next."""
        self._lifetime.check()
        pointer = llama_cpp.llama_get_logits_ith(self._handle, i)
        return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), shape=(self._n_vocab,))

    def __enter__(self) -> NativeContext:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the context."""
        self._lifetime.close()
