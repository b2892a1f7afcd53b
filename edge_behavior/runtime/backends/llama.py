"""The llama.cpp backend, over the C API that every platform's llama.cpp has.

Sequence 0 holds the prompt. Every trie path to evaluate gets a sequence id that shares the cells of the prompt and of
its evaluated ancestors; a new node belongs to the sequences of all paths through it, so that one decode computes what
tree attention would. (`llama.context` is the plain context of one sequence, for checks and comparisons.) Knows tokens
and logits, not labels or prompts.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import llama_cpp
import numpy as np

from edge_behavior.core.trie import LabelTrie
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.backends.base import Row, reusable
from edge_behavior.runtime.backends.guarded import Guarded
from edge_behavior.runtime.lifetime import Lifetime
from edge_behavior.runtime.llama.log import captured_log, quietly
from edge_behavior.runtime.llama.model import LlamaModel
from edge_behavior.runtime.llama.plan import Plan
from edge_behavior.util.cpus import physical_cores as _physical_cores
from edge_behavior.util.cpus import usable_threads

# Logit rows of one decode, and sequences: llama.cpp reserves memory for this many rows of the whole vocabulary, and
# requires at least one per sequence. One sequence is the prompt.
_MAX_ROWS = 64
# Quantized matrices are multiplied with this many tokens at once, and with the remaining ones one by one: 15 tokens
# take longer than 16 (docs/operate.md).
_TOKENS_AT_ONCE = 4
_UNQUANTIZED = (llama_cpp.LLAMA_FTYPE_ALL_F32, llama_cpp.LLAMA_FTYPE_MOSTLY_F16)


@dataclass(frozen=True)
class LlamaOptions:
    """How llama.cpp evaluates.

    Attributes:
        n_ctx: Positions of the cache, for the prompt and the trie nodes evaluated beyond it.
        threads: CPU threads; by default the physical cores that this process may use.
        exact: F32 cache: slower, equal to PyTorch to rounding.
    """

    n_ctx: int
    threads: int | None = None
    exact: bool = False


class LlamaBackend(Guarded):
    """A GGUF file opened by llama.cpp on the CPU; see `Backend` for its methods.

    Raises:
        EdgebError: llama.cpp cannot load the file, with its own message.
    """

    def __init__(self, path: Path, options: LlamaOptions) -> None:
        self._held: list[int] = []
        # Evaluated trie nodes: a sequence that holds each, and the rows of the last decode.
        self._branches: dict[int, int] = {}
        self._rows: dict[int, int] = {}
        self._trie: LabelTrie | None = None
        self._sequences = self._cells = 0
        self._seconds = 0.0
        self._options = options
        self._max_rows = min(_MAX_ROWS, options.n_ctx)
        self._lifetime = Lifetime(self)
        chosen = _context_options(options)
        try:
            self._open(path, chosen)
        except BaseException:
            self._lifetime.close()
            raise

    def _open(self, path: Path, options: Any) -> None:
        keep = self._lifetime.keep
        self._model = keep(LlamaModel(path), LlamaModel.close)
        with captured_log() as errors:
            context: Any = llama_cpp.llama_init_from_model(self._model.handle, options)
        if not context:
            reason = errors[0] if errors else "no reason given"
            raise EdgebError(f"llama.cpp cannot load {path}: {reason}", "export it again")
        self._context = keep(context, quietly(llama_cpp.llama_free))
        self._memory = llama_cpp.llama_get_memory(context)
        self._quantized = _file_type(self._model.handle) not in _UNQUANTIZED
        self._batch = keep(llama_cpp.llama_batch_init(options.n_ctx, 0, self._max_rows), llama_cpp.llama_batch_free)

    @property
    def n_vocab(self) -> int:
        """Width of a logit row."""
        self._lifetime.check()
        return self._model.n_vocab

    @property
    def capacity(self) -> int:
        """Positions of the context."""
        self._lifetime.check()
        return self._options.n_ctx

    @property
    def held(self) -> list[int]:
        """Ids of the prompt in the cache."""
        self._lifetime.check()
        return self._held if self._known else []

    @property
    def fingerprint(self) -> str:
        """llama.cpp's version and the cache's format."""
        self._lifetime.check()
        cache = "f32" if self._options.exact else "f16"
        return f"llama-cpp-python {llama_cpp.__version__}, {cache} cache"

    @property
    def decode_seconds(self) -> float:
        """Wall time inside llama_decode."""
        self._lifetime.check()
        return self._seconds

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text; see `Backend`."""
        self._lifetime.check()
        return self._model.tokenize(text)

    def prefill(
        self, ids: Sequence[int], trie: LabelTrie | None = None, nodes: Sequence[int] = (), spare: Sequence[int] = ()
    ) -> tuple[Row, int]:
        """Hold `ids`, evaluating the hinted nodes in the same decode; see `Backend`."""
        common = reusable(self.held, ids, self._options.n_ctx)
        with self._changing():
            self._drop_nodes()
            llama_cpp.llama_memory_seq_rm(self._memory, 0, common, -1)
            self._held = self._held[:common]
            new = list(ids[common:])
            plan = Plan([], {}, set())
            if trie is not None and nodes:
                self._trie = trie
                plan = Plan.of(trie, nodes)
                plan = plan.part(self._fitting(plan.tips, plan, spare=len(new) + 1))
            count = self._evaluate(new, trie, plan)
        return self._row(len(new) - 1), count

    def branch(self, trie: LabelTrie, nodes: Sequence[int]) -> tuple[Sequence[Row], int]:
        """Evaluate trie nodes, in several decodes if need be; see `Backend`."""
        self._lifetime.check()
        self._restore_order()
        if trie is not self._trie:
            self._release()
            self._trie = trie
        rows: dict[int, Row] = {node: self._row(self._rows[node]) for node in nodes if node in self._rows}
        plan = Plan.of(trie, [node for node in nodes if node not in rows])
        if plan.tips and rows:
            # The next decode overwrites them.
            rows = {node: row.copy() for node, row in rows.items()}
        # A node that was evaluated only as an ancestor has no logits.
        if any(node in self._branches for node in plan.wanted):
            self._release()
        tips, tokens = plan.tips, 0
        while tips:
            taken = self._fitting(tips, plan)
            if not taken and self._branches:
                self._release()
                taken = self._fitting(tips, plan)
            if not taken:
                raise EdgebError(
                    f"the prompt has {len(self._held)} tokens and a label {len(plan.paths[tips[0]])}, the context "
                    f"holds {self._options.n_ctx}",
                    "shorten the place names or the history",
                )
            tips = tips[len(taken) :]
            with self._changing():
                tokens += self._evaluate([], trie, plan.part(taken))
            for node in plan.wanted & self._rows.keys():
                rows[node] = self._row(self._rows[node]).copy() if tips else self._row(self._rows[node])
            plan.wanted -= self._rows.keys()
        return [rows[node] for node in nodes], tokens

    def at_hand(self, trie: LabelTrie) -> Collection[int]:
        """Nodes of the last decode; see `Backend`."""
        self._lifetime.check()
        return self._rows.keys() if trie is self._trie and self._known else ()

    def save_state(self) -> bytes:
        """The cache of the held prompt; see `Backend`."""
        self._lifetime.check()
        self._release()
        size = llama_cpp.llama_state_seq_get_size(self._context, 0)
        buffer = (ctypes.c_uint8 * size)()
        written = llama_cpp.llama_state_seq_get_data(self._context, buffer, size, 0)
        return bytes(memoryview(buffer)[:written])

    def load_state(self, ids: Sequence[int], state: bytes) -> bool:
        """Hold `ids` from saved bytes; see `Backend`."""
        self._lifetime.check()
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        with self._changing():
            self._clear()
            with captured_log():
                read = llama_cpp.llama_state_seq_set_data(self._context, buffer, len(state), 0)
            if read == len(state) and llama_cpp.llama_memory_seq_pos_max(self._memory, 0) == len(ids) - 1:
                self._held = list(ids)
            else:
                self._clear()
        return bool(self._held)

    def close(self) -> None:
        """Free context and model."""
        self._lifetime.close()

    def _clear(self) -> None:
        llama_cpp.llama_memory_clear(self._memory, True)
        self._held, self._branches, self._rows, self._trie = [], {}, {}, None
        self._sequences = self._cells = 0

    def _release(self) -> None:
        """Forget every evaluated trie node."""
        with self._changing():
            self._drop_nodes()

    def _drop_nodes(self) -> None:
        for sequence in range(1, self._sequences + 1):
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        self._branches, self._rows = {}, {}
        self._sequences = self._cells = 0

    def _fitting(self, tips: list[int], plan: Plan, spare: int = 0) -> list[int]:
        """The first tips, as many as one decode takes beside `spare` other tokens."""
        taken: list[int] = []
        steps: set[int] = set()
        for tip in tips:
            grown = steps.union(step for step in plan.paths[tip] if step not in self._branches)
            fits = (
                len(taken) < self._max_rows - 1 - self._sequences
                and len(self._held) + spare + self._cells + len(grown) <= self._options.n_ctx
                and len(grown & plan.wanted) + (spare > 0) <= self._max_rows
            )
            if not fits:
                break
            taken.append(tip)
            steps = grown
        return taken

    def _evaluate(self, new: list[int], trie: LabelTrie | None, plan: Plan) -> int:
        """Decode new prompt ids and the missing nodes of the plan at once; returns the number of tokens."""
        start = len(self._held)
        end = start + len(new)
        below: dict[int, list[int]] = {}
        first = self._sequences + 1
        for tip in plan.tips:
            path = plan.paths[tip]
            known = [step for step in path if step in self._branches]
            self._sequences += 1
            source, stop = (self._branches[known[-1]], end + len(known)) if known else (0, start)
            if stop:
                llama_cpp.llama_memory_seq_cp(self._memory, source, self._sequences, -1, stop)
            for step in path[len(known) :]:
                below.setdefault(step, []).append(self._sequences)
        everywhere = (0, *range(first, self._sequences + 1))
        for i, token in enumerate(new):
            self._put(i, token, start + i, everywhere, i == len(new) - 1)
        order = sorted(below)
        if order:
            assert trie is not None
            for i, node in enumerate(order, len(new)):
                self._put(i, int(trie.tokens[node]), end + int(trie.depths[node]) - 1, below[node], node in plan.wanted)
        self._cells += len(order)
        self._rows = {}
        count = len(new) + len(order)
        padding = self._padding(count)
        for i in range(count, count + padding):
            self._put(i, 0, end + i - count, (self._sequences + 1,), False)
        self._decode(count + padding)
        if padding:
            llama_cpp.llama_memory_seq_rm(self._memory, self._sequences + 1, -1, -1)
        self._held = self._held + new
        self._branches.update((node, sequences[0]) for node, sequences in below.items())
        self._rows = {node: i for i, node in enumerate(order, len(new)) if node in plan.wanted}
        return len(new) + len(order)

    def _padding(self, count: int) -> int:
        """Padding tokens with which the batch is faster; 0 if there is no room for them."""
        padding = -count % _TOKENS_AT_ONCE
        if not self._quantized or count <= _TOKENS_AT_ONCE // 2 or padding > _TOKENS_AT_ONCE // 2:
            return 0
        fits = len(self._held) + self._cells + count + padding <= self._options.n_ctx
        return padding if fits and self._sequences + 1 < self._max_rows else 0

    def _put(self, i: int, token: int, position: int, sequences: Sequence[int], wants_logits: bool) -> None:
        batch = self._batch
        batch.token[i], batch.pos[i], batch.logits[i] = token, position, wants_logits
        batch.n_seq_id[i] = len(sequences)
        for k, sequence in enumerate(sequences):
            batch.seq_id[i][k] = sequence

    def _decode(self, count: int) -> None:
        self._batch.n_tokens = count
        started = perf_counter()
        status = llama_cpp.llama_decode(self._context, self._batch)
        llama_cpp.llama_synchronize(self._context)
        self._seconds += perf_counter() - started
        if status != 0:
            raise EdgebError(f"llama.cpp could not evaluate the prompt (status {status})", "load the bundle again")

    def _row(self, i: int) -> Row:
        pointer = llama_cpp.llama_get_logits_ith(self._context, i)
        return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), shape=(self._model.n_vocab,))


def _context_options(options: LlamaOptions) -> Any:
    chosen = llama_cpp.llama_context_default_params()
    chosen.n_ctx = chosen.n_batch = options.n_ctx
    chosen.n_ubatch = min(options.n_ctx, 512)
    chosen.n_outputs_max = chosen.n_seq_max = min(_MAX_ROWS, options.n_ctx)
    # Tokens of several sequences need one shared buffer.
    chosen.kv_unified = True
    chosen.n_threads = chosen.n_threads_batch = usable_threads(options.threads, _physical_cores())
    chosen.no_perf = True
    # On the CPU flash attention is slower below 64 tokens, as most predictions are (docs/operate.md).
    chosen.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if options.exact:
        chosen.type_k = chosen.type_v = llama_cpp.GGML_TYPE_F32
    return chosen


def _file_type(model: Any) -> int:
    """llama.cpp's number of the file's weight format; -1 if the file does not say."""
    buffer = ctypes.create_string_buffer(16)
    found = llama_cpp.llama_model_meta_val_str(model, b"general.file_type", buffer, len(buffer))
    return int(buffer.value) if found > 0 else -1
