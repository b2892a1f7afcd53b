"""A plain llama.cpp context of one sequence, as every simple program uses it: decode tokens, read logits.

It checks exported files and is what predictions are measured against. Predictions run on `backends.llama`, whose
contexts hold many sequences to look along a label trie. Knows nothing of prompts or labels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from edge_behavior.errors import EdgebError
from edge_behavior.runtime.lifetime import Lifetime
from edge_behavior.runtime.llama.log import captured_log, quietly
from edge_behavior.runtime.llama.model import LlamaModel
from edge_behavior.util.cpus import usable_threads

_FLASH = {
    True: llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    False: llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
_CHECK_THREADS = 2


@dataclass(frozen=True)
class ContextOptions:
    """How a context evaluates.

    Attributes:
        n_ctx: Positions of the cache, and most tokens of one decode.
        threads: CPU threads.
        rows: Most logit rows of one decode.
        flash: Flash attention; None leaves it to llama.cpp.
        f32_cache: Keep the cache in f32 instead of f16.
    """

    n_ctx: int
    threads: int
    rows: int = 1
    flash: bool | None = None
    f32_cache: bool = False


class LlamaContext:
    """A context of one sequence. Use as a context manager.

    Args:
        model: An open model, not its vocabulary alone.
        options: What differs from llama.cpp's defaults.

    Attributes:
        held: Tokens in the cache.

    Raises:
        EdgebError: not enough memory, or too many threads.
    """

    def __init__(self, model: LlamaModel, options: ContextOptions) -> None:
        model.check_open()
        # The context uses the model to its end.
        self._model = model
        self._lifetime = Lifetime(self, "the context")
        with captured_log() as errors:
            self._handle: Any = llama_cpp.llama_init_from_model(model.handle, _params(options))
        if not self._handle:
            reason = errors[0] if errors else "no reason given"
            raise EdgebError(f"llama.cpp opens no context of {options.n_ctx} tokens: {reason}", "free some memory")
        self._lifetime.keep(self._handle, quietly(llama_cpp.llama_free))
        self._memory = llama_cpp.llama_get_memory(self._handle)
        self._batch = self._lifetime.keep(llama_cpp.llama_batch_init(options.n_ctx, 0, 1), llama_cpp.llama_batch_free)
        self.held = 0

    def keep(self, count: int) -> None:
        """Forget all but the first `count` tokens."""
        self._lifetime.check()
        llama_cpp.llama_memory_seq_rm(self._memory, 0, count, -1)
        self.held = min(self.held, count)

    def decode(self, tokens: Sequence[int], rows: Collection[int] | None = None) -> float:
        """Append tokens to the cache in one llama_decode.

        Args:
            tokens: What to append.
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
        width = self._model.n_vocab
        return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), shape=(width,))

    def __enter__(self) -> LlamaContext:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the context."""
        self._lifetime.close()


def logits(model: LlamaModel, ids: Sequence[int]) -> NDArray[np.float32]:
    """Next-token logits after every id, shape [T, V].

    The cache is in f32 and flash attention off, so that nothing is rounded but the weights.
    """
    count = len(ids)
    options = ContextOptions(count, usable_threads(None, _CHECK_THREADS), rows=count, flash=False, f32_cache=True)
    with LlamaContext(model, options) as context:
        context.decode(ids, range(count))
        return np.stack([context.row(i) for i in range(count)])


def _params(options: ContextOptions) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = options.n_ctx
    params.n_ubatch = min(options.n_ctx, 512)
    params.n_outputs_max = params.n_outputs_max_per_seq = max(options.rows, 1)
    params.n_threads = params.n_threads_batch = usable_threads(options.threads, 1)
    if options.flash is not None:
        params.flash_attn_type = _FLASH[options.flash]
    if options.f32_cache:
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    return params
