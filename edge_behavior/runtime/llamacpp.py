"""The llama.cpp backend, over the C API that every platform's llama.cpp has.

Sequence 0 holds the prompt. A trie is evaluated as one batch: each of its evaluated leaves gets a sequence id that
shares the prompt's cells, and a node belongs to the sequences of the leaves below it, so that one decode computes
what tree attention would. Knows tokens and logits, not labels or prompts.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from edge_behavior.errors import EdgebError
from edge_behavior.runtime.llama_log import captured_log
from edge_behavior.runtime.llama_tokens import tokenize
from edge_behavior.trie import LabelTrie

# llama.cpp's LLAMA_MAX_SEQ; one of them is the prompt.
_MAX_BRANCHES = 255


@dataclass(frozen=True)
class LlamaOptions:
    """How llama.cpp evaluates.

    Attributes:
        n_ctx: Positions of the cache; prompt and one trie must fit.
        threads: CPU threads; None takes the physical cores.
        exact: F32 cache and no flash attention: slower, agrees with PyTorch to rounding.
    """

    n_ctx: int
    threads: int | None = None
    exact: bool = False


class LlamaBackend:
    """A GGUF file opened by llama.cpp on the CPU.

    Raises:
        EdgebError: llama.cpp cannot load the file; its own message is passed on.
    """

    def __init__(self, path: Path, options: LlamaOptions) -> None:
        self._model: Any = None
        self._context: Any = None
        self._batch: Any = None
        self._held: list[int] = []
        self._n_ctx = options.n_ctx
        with captured_log() as errors:
            llama_cpp.llama_backend_init()
            model_options = llama_cpp.llama_model_default_params()
            model_options.n_gpu_layers = 0
            self._model = llama_cpp.llama_model_load_from_file(os.fsencode(path), model_options)
            if self._model:
                self._context = llama_cpp.llama_init_from_model(self._model, _context_options(options))
        if not self._model or not self._context:
            self.close()
            reason = errors[-1] if errors else "no reason given"
            raise EdgebError(f"llama.cpp cannot load {path}: {reason}", "export the bundle again")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._n_vocab = int(llama_cpp.llama_vocab_n_tokens(self._vocab))
        self._batch = llama_cpp.llama_batch_init(options.n_ctx, 0, _MAX_BRANCHES)

    @property
    def n_vocab(self) -> int:
        """Width of a logit row."""
        return self._n_vocab

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text; see `Backend`."""
        return tokenize(self._vocab, text)

    def prefill(self, ids: Sequence[int]) -> tuple[NDArray[np.float32], int]:
        """See `Backend`.

        Raises:
            EdgebError: the prompt does not fit into the context; the cache is unchanged.
        """
        if not ids or len(ids) > self._n_ctx:
            raise EdgebError(
                f"the prompt has {len(ids)} tokens, the context holds 1 to {self._n_ctx}",
                "shorten the place names or the history",
            )
        common = 0
        # The last id is always evaluated: its logits are what is asked for.
        for held, wanted in zip(self._held, ids[:-1], strict=False):
            if held != wanted:
                break
            common += 1
        llama_cpp.llama_memory_seq_rm(self._memory, 0, common, -1)
        self._held = self._held[:common]
        batch = self._batch
        batch.n_tokens = len(ids) - common
        for i in range(batch.n_tokens):
            self._put(i, ids[common + i], common + i, (0,), i == batch.n_tokens - 1)
        self._decode()
        self._held = list(ids)
        return self._row(batch.n_tokens - 1).copy(), batch.n_tokens

    def branch(self, trie: LabelTrie, nodes: NDArray[np.int32]) -> NDArray[np.float32]:
        """See `Backend`; tries with more than 255 evaluated leaves take several decodes."""
        rows = np.empty((len(nodes), self._n_vocab), dtype=np.float32)
        slot = {int(node): i for i, node in enumerate(nodes)}
        parents = {int(trie.parents[node]) for node in nodes}
        leaves = [int(node) for node in nodes if int(node) not in parents]
        for start in range(0, len(leaves), _MAX_BRANCHES):
            self._branch_some(trie, leaves[start : start + _MAX_BRANCHES], slot, rows)
        return rows

    def close(self) -> None:
        """Free context and model."""
        with captured_log():
            if self._batch is not None:
                llama_cpp.llama_batch_free(self._batch)
            if self._context:
                llama_cpp.llama_free(self._context)
            if self._model:
                llama_cpp.llama_model_free(self._model)
        self._model = self._context = self._batch = None

    def _branch_some(self, trie: LabelTrie, leaves: list[int], slot: dict[int, int], rows: NDArray[np.float32]) -> None:
        below: dict[int, list[int]] = {}
        for sequence, leaf in enumerate(leaves, 1):
            for node in trie.ancestors(leaf):
                below.setdefault(node, []).append(sequence)
        end = len(self._held)
        if end + len(below) > self._n_ctx:
            raise EdgebError(
                f"the prompt has {end} tokens and the label trie {len(below)}, the context holds {self._n_ctx}",
                "shorten the place names or the history",
            )
        order = sorted(below)
        for i, node in enumerate(order):
            self._put(i, int(trie.tokens[node]), end + int(trie.depths[node]) - 1, below[node], True)
        self._batch.n_tokens = len(order)
        for sequence in range(1, len(leaves) + 1):
            llama_cpp.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
        try:
            self._decode()
            for i, node in enumerate(order):
                rows[slot[node]] = self._row(i)
        finally:
            for sequence in range(1, len(leaves) + 1):
                llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def _put(self, i: int, token: int, position: int, sequences: Sequence[int], wants_logits: bool) -> None:
        batch = self._batch
        batch.token[i], batch.pos[i], batch.logits[i] = token, position, wants_logits
        batch.n_seq_id[i] = len(sequences)
        for k, sequence in enumerate(sequences):
            batch.seq_id[i][k] = sequence

    def _decode(self) -> None:
        status = llama_cpp.llama_decode(self._context, self._batch)
        if status != 0:
            # What the cache holds now is unknown: start over with the next prompt.
            llama_cpp.llama_memory_clear(self._memory, True)
            self._held = []
            raise EdgebError(f"llama.cpp could not evaluate the prompt (status {status})", "load the bundle again")

    def _row(self, i: int) -> NDArray[np.float32]:
        pointer = llama_cpp.llama_get_logits_ith(self._context, i)
        return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), shape=(self._n_vocab,))


def _context_options(options: LlamaOptions) -> Any:
    chosen = llama_cpp.llama_context_default_params()
    chosen.n_ctx = chosen.n_batch = options.n_ctx
    chosen.n_ubatch = min(options.n_ctx, 512)
    chosen.n_seq_max = _MAX_BRANCHES + 1
    # Tokens that belong to several sequences need one shared buffer.
    chosen.kv_unified = True
    chosen.n_threads = chosen.n_threads_batch = options.threads or _physical_cores()
    chosen.no_perf = True
    if options.exact:
        chosen.type_k = chosen.type_v = llama_cpp.GGML_TYPE_F32
        chosen.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return chosen


def _physical_cores() -> int:
    import psutil

    return psutil.cpu_count(logical=False) or os.cpu_count() or 1
