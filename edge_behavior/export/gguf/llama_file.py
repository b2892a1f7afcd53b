"""A GGUF file as llama.cpp sees it: its tokens, and its logits for a few ids.

Made for checking an exported file, not for serving it. Knows nothing of bundles or candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from edge_behavior.errors import EdgebError
from edge_behavior.runtime.backends.lifetime import Lifetime
from edge_behavior.runtime.llama.log import captured_log, quietly
from edge_behavior.runtime.llama.model import load_model
from edge_behavior.runtime.llama.tokens import tokenize
from edge_behavior.util.cpus import usable_threads


class LlamaFile:
    """A GGUF file opened by llama.cpp on the CPU. Use as a context manager.

    Args:
        path: The file.
        n_ctx: Most ids `logits` takes; 0 opens the vocabulary only.
        exact: Keep the KV cache in f32 and switch flash attention off, so that only the weights' format matters.
        threads: CPU threads, or fewer where this process may not use so many.

    Raises:
        EdgebError: llama.cpp cannot load the file; its own message is passed on.
    """

    def __init__(self, path: Path, n_ctx: int = 0, exact: bool = True, threads: int = 2) -> None:
        self._model = self._context = None
        self._lifetime = Lifetime(self, "the file")
        with captured_log() as errors:
            self._model = load_model(path, vocab_only=n_ctx == 0)
            if self._model:
                self._lifetime.keep(self._model, quietly(llama_cpp.llama_model_free))
            if self._model and n_ctx:
                self._context = self._open(n_ctx, exact, threads)
        if self._context:
            self._lifetime.keep(self._context, quietly(llama_cpp.llama_free))
        if not self._model or (n_ctx and not self._context):
            self.close()
            raise EdgebError(
                f"llama.cpp cannot load {path}: {errors[0] if errors else 'no reason given'}", "export it again"
            )
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.n_vocab = int(llama_cpp.llama_vocab_n_tokens(self._vocab))
        self.n_ctx_train = int(llama_cpp.llama_model_n_ctx_train(self._model))

    def _open(self, n_ctx: int, exact: bool, threads: int) -> llama_cpp.llama_context_p | None:
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = n_ctx
        options.n_threads = options.n_threads_batch = usable_threads(None, threads)
        if exact:
            options.type_k = options.type_v = llama_cpp.GGML_TYPE_F32
            options.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context: llama_cpp.llama_context_p | None = llama_cpp.llama_init_from_model(self._model, options)
        return context

    def __enter__(self) -> LlamaFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the model."""
        self._lifetime.close()

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text; adds no special tokens and parses none."""
        self._lifetime.check()
        return tokenize(self._vocab, text)

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Next-token logits after every id, shape [T, V]."""
        self._lifetime.check()
        memory = llama_cpp.llama_get_memory(self._context)
        llama_cpp.llama_memory_clear(memory, True)
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for position, token in enumerate(ids):
                batch.token[position] = token
                batch.pos[position] = position
                batch.n_seq_id[position] = 1
                batch.seq_id[position][0] = 0
                batch.logits[position] = True
            with captured_log() as errors:
                status = llama_cpp.llama_decode(self._context, batch)
            if status != 0:
                reason = errors[0] if errors else f"status {status}"
                raise EdgebError(f"llama.cpp cannot evaluate the model: {reason}", "export it again")
            rows = llama_cpp.llama_get_logits(self._context)
            return np.ctypeslib.as_array(rows, shape=(len(ids), self.n_vocab)).copy()
        finally:
            llama_cpp.llama_batch_free(batch)
