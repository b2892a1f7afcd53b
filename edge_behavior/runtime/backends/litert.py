"""The LiteRT backend: a `.tflite` bundle evaluated by signatures of a fixed number of new tokens.

The prompt fills the cache's first slots, in order; evaluated trie nodes lie behind it in any order, and a mask shows
each only the prompt and its own ancestors. So one call evaluates many paths of the label trie, and the rest of a prompt
with them. Knows tokens and logits, not labels or prompts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path

import numpy as np

from edge_behavior.bundle.litert_file import LiteRtBundle, read_litert, read_litert_probe
from edge_behavior.bundle.litert_probe import LiteRtProbe
from edge_behavior.core.trie import LabelTrie
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.accelerator import CPU, NPU_EMULATED, NPUS, Accelerator
from edge_behavior.runtime.backends.base import Row, reusable
from edge_behavior.runtime.backends.guarded import Guarded
from edge_behavior.runtime.lifetime import Lifetime
from edge_behavior.runtime.litert.compiled import CompiledGraph
from edge_behavior.runtime.litert.evaluator import Evaluator, signature_names
from edge_behavior.runtime.litert.inputs import Tokens
from edge_behavior.runtime.litert.probe import check_rows, known_rows, row_differences
from edge_behavior.runtime.litert.tokenizer import open_tokenizer
from edge_behavior.runtime.llama.model import LlamaModel
from edge_behavior.runtime.npu.signatures import DEFAULT_NPU, NpuRunOptions, NpuSignatures, npu_graph, open_npu


@dataclass(frozen=True)
class LiteRtRunOptions:
    """How LiteRT evaluates.

    Attributes:
        n_ctx: Slots to use, for the prompt and the trie nodes evaluated beyond it; at most those of the file's cache.
        threads: CPU threads.
        accelerator: What evaluates; never a part of the work elsewhere. On an NPU the embeddings are the CPU's.
        npu: Which context, where it is an NPU.
        size: On the CPU: only calls of this many tokens, as an NPU has, so that its calls can be counted; None for all.
    """

    n_ctx: int
    threads: int
    accelerator: Accelerator = CPU
    npu: NpuRunOptions = DEFAULT_NPU
    size: int | None = None


class LiteRtBackend(Guarded):
    """A LiteRT bundle on the CPU or an accelerator; see `Backend` for its methods.

    Raises:
        EdgebError: not a bundle, ai-edge-litert is missing, LiteRT cannot load the file, or not for the accelerator, or
            the accelerator computes something else than the bundle's model.
    """

    def __init__(self, path: Path, options: LiteRtRunOptions) -> None:
        self._lifetime = Lifetime(self)
        self._held: list[int] = []
        # Evaluated trie nodes: the slot of each, and the logits at hand.
        self._trie: LabelTrie | None = None
        self._slots: dict[int, int] = {}
        self._rows: dict[int, Row] = {}
        self._spare: Sequence[int] = ()
        bundle = read_litert(path)
        self._graph, self._accelerator = bundle.graph, options.accelerator
        self._capacity = min(options.n_ctx, self._graph.cache)
        try:
            self._tokenizer = self._lifetime.keep(open_tokenizer(path), LlamaModel.close)
            if self._tokenizer.n_vocab > self._graph.vocabulary:
                raise EdgebError(
                    f"{path}: the tokenizer has {self._tokenizer.n_vocab} tokens, the model {self._graph.vocabulary}",
                    "export it again",
                )
            probe, tolerance = self._open(path, bundle, options)
            self._evaluator = self._lifetime.keep(Evaluator(self._graph, self._compiled), Evaluator.close)
            if probe is not None:
                check_rows(path, probe, self._graph, self._evaluator, options.accelerator, tolerance)
        except BaseException:
            self._lifetime.close()
            raise

    def _open(
        self, path: Path, bundle: LiteRtBundle, options: LiteRtRunOptions
    ) -> tuple[LiteRtProbe | None, float | None]:
        """Open what evaluates; known rows to check it by, and a tolerance of its own."""
        if options.accelerator in NPUS:
            opened = open_npu(path, bundle, options.threads, options.npu, options.accelerator == NPU_EMULATED)
            self._compiled: CompiledGraph | NpuSignatures = self._lifetime.keep(
                opened.signatures, methodcaller("close")
            )
            self._graph = opened.graph
            return (read_litert_probe(path) if options.npu.checked else None), opened.known_rows_tolerance
        if options.size is not None:
            self._graph = npu_graph(self._graph, options.size)
        probe = None if options.accelerator == CPU else known_rows(path, self._graph, options.accelerator)
        compiled = CompiledGraph(path, options.threads, signature_names(self._graph), options.accelerator)
        self._compiled = self._lifetime.keep(compiled, methodcaller("close"))
        return probe, None

    @property
    def n_vocab(self) -> int:
        """Width of a logit row."""
        self._lifetime.check()
        return self._graph.vocabulary

    @property
    def capacity(self) -> int:
        """Slots of the cache that are used."""
        self._lifetime.check()
        return self._capacity

    @property
    def held(self) -> list[int]:
        """Ids of the prompt in the cache."""
        self._lifetime.check()
        return self._held if self._known else []

    @property
    def fingerprint(self) -> str:
        """LiteRT's version, what evaluates, and the cache's format."""
        self._lifetime.check()
        return f"{self._compiled.engine}, {self._accelerator}, f32 cache"

    @property
    def calls(self) -> int:
        """Runs of the model's graph so far."""
        self._lifetime.check()
        return self._evaluator.calls

    @property
    def tokens(self) -> int:
        """Tokens that they evaluated."""
        self._lifetime.check()
        return self._evaluator.tokens

    def known_rows_difference(self, probe: LiteRtProbe) -> float:
        """How far the bundle's known rows are from what is evaluated here at most, nats; overwrites the cache."""
        self._lifetime.check()
        self._empty()
        return max(off for _, off in row_differences(probe, self._graph, self._evaluator))

    @property
    def decode_seconds(self) -> float:
        """Wall time inside LiteRT."""
        self._lifetime.check()
        return self._evaluator.seconds

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text; see `Backend`."""
        self._lifetime.check()
        return self._tokenizer.tokenize(text)

    def prefill(
        self, ids: Sequence[int], trie: LabelTrie | None = None, nodes: Sequence[int] = (), spare: Sequence[int] = ()
    ) -> tuple[Row, int]:
        """Hold `ids`, evaluating the hinted nodes, as far as they fit, in the same calls; see `Backend`.

        A call takes the time of its size: what it has room for beside is filled with spare nodes.
        """
        common = reusable(self.held, ids, self._capacity)
        new = list(ids[common:])
        wrong = next((token for token in new if not 0 <= token < self._graph.vocabulary), None)
        if wrong is not None:
            raise EdgebError(f"the prompt has token {wrong}, the model {self.n_vocab} tokens", "check the ids")
        with self._changing():
            self._drop_nodes()
            self._held = self._held[:common]
            hinted: list[int] = []
            if trie is not None and nodes:
                self._trie = trie
                # Parents come first, so that the first ones are complete paths.
                hinted = _with_ancestors(trie, nodes)[: self._capacity - len(ids)]
                self._spare = spare
                hinted = self._filled_up(trie, hinted, len(new), self._capacity - len(ids))
            rows = self._evaluate(new, trie, hinted)
            self._held = list(ids)
            self._rows = dict(zip(hinted, rows[1:], strict=True))
        return rows[0], len(new) + len(hinted)

    def branch(self, trie: LabelTrie, nodes: Sequence[int]) -> tuple[Sequence[Row], int]:
        """Evaluate trie nodes, in several passes if the cache is small; see `Backend`."""
        self._lifetime.check()
        self._restore_order()
        if trie is not self._trie:
            self._release()
            self._trie = trie
        end, deepest = len(self._held), max((int(trie.depths[node]) for node in nodes), default=0)
        if end + deepest > self._capacity:
            raise EdgebError(
                f"the prompt has {end} tokens and a label {deepest}, the context holds {self._capacity}",
                "shorten the place names or the history",
            )
        rows = {node: self._rows[node] for node in nodes if node in self._rows}
        missing = sorted(set(nodes) - rows.keys())
        tokens = 0
        if missing:
            # The next pass overwrites them.
            rows = {node: row.copy() for node, row in rows.items()}
        while missing:
            taken, steps = self._fitting(trie, missing)
            if not taken:
                self._release()
                continue
            if taken == len(missing):
                unused = self._capacity - end - len(self._slots.keys() | set(steps))
                steps = self._filled_up(trie, steps, 0, unused + len(steps))
            with self._changing():
                self._rows = {}
                found = dict(zip(steps, self._evaluate([], trie, steps), strict=True))
                self._rows = found | rows
            done, missing = missing[:taken], missing[taken:]
            rows |= {node: found[node].copy() if missing else found[node] for node in done}
            tokens += len(steps)
        return [rows[node] for node in nodes], tokens

    def at_hand(self, trie: LabelTrie) -> Collection[int]:
        """Nodes of the last pass, and those last asked for; see `Backend`."""
        self._lifetime.check()
        return self._rows.keys() if trie is self._trie and self._known else ()

    def save_state(self) -> bytes:
        """The cache of the held prompt; see `Backend`."""
        self._lifetime.check()
        return self._evaluator.cache.to_bytes(len(self.held))

    def load_state(self, ids: Sequence[int], state: bytes) -> bool:
        """Hold `ids` from saved bytes; see `Backend`."""
        self._lifetime.check()
        self._empty()
        with self._changing():
            if len(ids) <= self._capacity and self._evaluator.cache.from_bytes(state, len(ids)):
                self._evaluator.positions[: len(ids)] = np.arange(len(ids))
                self._held = list(ids)
        return bool(self._held)

    def close(self) -> None:
        """Free model, tokenizer, cache and logits."""
        self._lifetime.close()
        self._rows = {}

    def _clear(self) -> None:
        self._held, self._trie = [], None
        self._drop_nodes()

    def _release(self) -> None:
        """Forget every evaluated trie node."""
        with self._changing():
            self._drop_nodes()

    def _drop_nodes(self) -> None:
        self._slots, self._rows, self._spare = {}, {}, ()

    def _fitting(self, trie: LabelTrie, missing: list[int]) -> tuple[int, list[int]]:
        """How many of the missing nodes, the first ones, fit into the cache, and what is evaluated for them."""
        room = self._capacity - len(self._held) - len(self._slots)
        steps: set[int] = set()
        for taken, node in enumerate(missing):
            # One whose logits are gone is evaluated again, into its slot.
            more = {step for step in trie.ancestors(node) if step == node or step not in self._slots}
            if len((steps | more) - self._slots.keys()) > room:
                return taken, sorted(steps)
            steps |= more
        return len(missing), sorted(steps)

    def _filled_up(self, trie: LabelTrie, nodes: list[int], new: int, most: int) -> list[int]:
        """Nodes to evaluate behind `new` tokens of the prompt, and spare ones that the same calls have room for.

        Args:
            nodes: Parents first, as the result.
            most: How many nodes the cache takes.
        """
        count, silent = new + len(nodes), max(0, new - 1)
        room = min(self._evaluator.room(count, silent, len(self._held)), most - len(nodes))
        filled = set(nodes)
        for node in self._spare:
            way = [step for step in trie.ancestors(node) if step not in self._slots and step not in filled]
            if len(way) <= room:
                filled.update(way)
                room -= len(way)
        return sorted(filled)

    def _evaluate(self, new: list[int], trie: LabelTrie | None, nodes: list[int]) -> list[Row]:
        """Evaluate new prompt ids and trie nodes, parents first; logits of the last id, if any, and of the nodes."""
        start, end = len(self._held), len(self._held) + len(new)
        slots, positions, ids = list(range(start, end)), list(range(start, end)), list(new)
        for node in nodes:
            assert trie is not None
            ids.append(int(trie.tokens[node]))
            positions.append(end + int(trie.depths[node]) - 1)
            slots.append(self._slots.setdefault(node, end + len(self._slots)))
        visible = np.zeros((len(ids), self._graph.cache), dtype=np.bool_)
        visible[: len(new)] = np.arange(self._graph.cache) <= np.arange(start, end)[:, None]
        visible[len(new) :, :end] = True
        for row, node in enumerate(nodes, len(new)):
            assert trie is not None
            visible[row, [self._slots[step] for step in trie.ancestors(node)]] = True
        int32 = np.int32
        tokens = Tokens(np.array(ids, int32), np.array(positions, int32), np.array(slots, int32), visible)
        return list(self._evaluator.evaluate(tokens, max(0, len(new) - 1)))


def _with_ancestors(trie: LabelTrie, nodes: Sequence[int]) -> list[int]:
    """The nodes and all on the way to them; a trie's nodes are numbered breadth-first, so parents come first."""
    return sorted({step for node in nodes for step in trie.ancestors(node)})
