"""The ONNX backend: a folder bundle opened by onnxruntime-genai.

The engine holds one sequence, which can be rewound, and has no tree attention. So the label trie is walked depth first
after the prompt: the nodes down to the next tip (a node wanted that has none below it) are appended in one pass, which
gives the logits after each, and the sequence is rewound to where the next path branches off. Knows tokens and logits,
not labels or prompts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from edge_behavior.core.trie import LabelTrie
from edge_behavior.errors import EdgebError
from edge_behavior.hf.tokenizers import file_encoder
from edge_behavior.runtime.backends.base import Row, reusable
from edge_behavior.runtime.backends.genai import load_genai
from edge_behavior.runtime.lifetime import Lifetime, never_freed_in_children
from edge_behavior.util.cpus import chosen_threads, physical_cores

CONFIG_FILE, TOKENIZER_FILE = "genai_config.json", "tokenizer.json"
# Bound on the logits (tokens times vocabulary) of one pass: the engine computes them for every token appended.
_MAX_LOGITS = 1 << 26


@dataclass(frozen=True)
class OnnxRunOptions:
    """How onnxruntime evaluates.

    Attributes:
        n_ctx: Positions of the cache; a prompt and the longest label must fit.
        threads: CPU threads; None leaves onnxruntime its choice, the physical cores, or fewer where the process may not
            use them all.
        cpu: Run on the CPU, whatever execution provider the folder was built for.
    """

    n_ctx: int
    threads: int | None = None
    cpu: bool = False


class OnnxBackend:
    """A folder bundle opened by onnxruntime-genai; see `Backend` for its methods.

    Raises:
        EdgebError: onnxruntime-genai is missing or cannot load the model, with its own message.
    """

    def __init__(self, folder: Path, options: OnnxRunOptions) -> None:
        self._lifetime = Lifetime(self)
        self._genai = load_genai()
        self._options = options
        threads = _threads(options)
        self._n_vocab = _vocabulary_size(folder)
        self._encode = file_encoder(folder / TOKENIZER_FILE)
        self._held: list[int] = []
        # Trie nodes in the cache after the prompt, one path, and the logits after every node evaluated so far.
        self._trie: LabelTrie | None = None
        self._path: list[int] = []
        self._rows: dict[int, Row] = {}
        self._seconds = 0.0
        self._model: Any = None
        self._generator: Any = None
        never_freed_in_children(self, lambda owner: (owner._generator, owner._model))
        try:
            config = self._genai.Config(str(folder))
            if options.cpu:
                config.clear_providers()
            if threads is not None:
                session = {"session_options": {"intra_op_num_threads": threads}}
                config.overlay(json.dumps({"model": {"decoder": session}}))
            self._model = self._genai.Model(config)
            self._generator = self._new_generator()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise EdgebError(
                f"onnxruntime-genai cannot load {folder}: {reason}",
                "export the bundle again, for an execution provider that this machine has",
            ) from None

    @property
    def n_vocab(self) -> int:
        """Size of the vocabulary."""
        self._lifetime.check()
        return self._n_vocab

    @property
    def capacity(self) -> int:
        """Positions of the cache."""
        self._lifetime.check()
        return self._options.n_ctx

    @property
    def held(self) -> list[int]:
        """Ids of the prompt in the cache."""
        self._lifetime.check()
        return self._held

    @property
    def fingerprint(self) -> str:
        """onnxruntime-genai's version."""
        self._lifetime.check()
        return f"onnxruntime-genai {self._genai.__version__}"

    @property
    def decode_seconds(self) -> float:
        """Wall time inside the engine's evaluation."""
        self._lifetime.check()
        return self._seconds

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text; see `Backend`. The engine's own tokenizer would parse special tokens."""
        self._lifetime.check()
        return self._encode(text)

    def prefill(
        self, ids: Sequence[int], trie: LabelTrie | None = None, nodes: Sequence[int] = (), spare: Sequence[int] = ()
    ) -> tuple[Row, int]:
        """Hold `ids`; see `Backend`. The path to the first hinted node is evaluated in the same pass."""
        self._lifetime.check()
        size = self._options.n_ctx
        common = reusable(self._held, ids, size)
        new = list(ids[common:])
        self._rows, self._path, self._trie = {}, [], trie
        self._held = self._held[:common]
        tips = [] if trie is None else _tips(trie, nodes)
        if trie is not None and len(ids) + max((int(trie.depths[tip]) for tip in tips), default=0) > size:
            # A hint may be ignored.
            tips = []
        first = trie.ancestors(tips[0]) if trie is not None and tips else []
        rows = self._append(common, [*new, *_tokens(trie, first)], 1 + len(first))
        self._held = list(ids)
        self._keep(first, rows[1:])
        count = len(new) + len(first)
        if trie is not None:
            count += sum(self._walk(trie, tip) for tip in tips[1:])
        return rows[0], count

    def branch(self, trie: LabelTrie, nodes: Sequence[int]) -> tuple[Sequence[Row], int]:
        """Evaluate trie nodes; see `Backend`.

        Nodes on the path to new ones are evaluated again where the cache has moved on to another path; the number of
        tokens counts these.
        """
        self._lifetime.check()
        if trie is not self._trie:
            self._rows, self._path, self._trie = {}, [], trie
        tips = _tips(trie, [node for node in nodes if node not in self._rows])
        end, deepest = len(self._held), max((int(trie.depths[tip]) for tip in tips), default=0)
        if end + deepest > self._options.n_ctx:
            raise EdgebError(
                f"the prompt has {end} tokens and a label {deepest}, the context holds {self._options.n_ctx}",
                "shorten the place names or the history",
            )
        count = sum(self._walk(trie, tip) for tip in tips)
        return [self._rows[node] for node in nodes], count

    def at_hand(self, trie: LabelTrie) -> Collection[int]:
        """Nodes evaluated since the prompt changed; see `Backend`. None is lost when others are evaluated."""
        self._lifetime.check()
        return self._rows.keys() if trie is self._trie else ()

    def logits(self, ids: Sequence[int]) -> Row:
        """Logits [T, V] after every id, for checks of a model; holds `ids` afterwards."""
        self._lifetime.check()
        self._rows, self._path, self._held = {}, [], []
        rows = self._append(0, list(ids), len(ids))
        self._held = list(ids)
        return rows

    def save_state(self) -> bytes:
        """b"": onnxruntime-genai cannot save its cache."""
        self._lifetime.check()
        return b""

    def load_state(self, ids: Sequence[int], state: bytes) -> bool:
        """False, and an empty cache: there is no saved state."""
        self._lifetime.check()
        self._rows, self._path, self._held = {}, [], []
        return False

    def close(self) -> None:
        """Free generator and model."""
        self._lifetime.close()
        self._generator = self._model = None
        self._rows, self._path, self._held = {}, [], []

    def _walk(self, trie: LabelTrie, tip: int) -> int:
        """Evaluate the path to a tip after the prompt; returns the number of tokens."""
        way = trie.ancestors(tip)
        common = 0
        while common < min(len(way), len(self._path)) and way[common] == self._path[common]:
            common += 1
        new = way[common:]
        # First: an interrupt may come between the pass and the bookkeeping after it.
        self._path = way[:common]
        rows = self._append(len(self._held) + common, _tokens(trie, new), len(new))
        self._keep(new, rows)
        return len(new)

    def _keep(self, nodes: Sequence[int], rows: Row) -> None:
        self._rows.update(zip(nodes, rows, strict=True))
        self._path = [*self._path, *nodes]

    def _append(self, start: int, ids: list[int], rows: int) -> Row:
        """Rewind the sequence to `start` tokens and append ids; logits [rows, V] after the last of them."""
        at, most = 0, max(rows, _MAX_LOGITS // self._n_vocab)
        begun = perf_counter()
        try:
            if self._generator is None:
                self._generator = self._new_generator()
            if self._generator.token_count() != start:
                self._generator.rewind_to(start)
            while len(ids) - at > most:
                stop = min(at + most, len(ids) - rows)
                self._generator.append_tokens(np.asarray(ids[at:stop], dtype=np.int32))
                at = stop
            self._generator.append_tokens(np.asarray(ids[at:], dtype=np.int32))
            found = self._generator.get_logits()[0] if rows == 1 else self._generator.get_output("logits")[0, -rows:]
            result: Row = np.array(found, dtype=np.float32)
        except BaseException as error:
            # The cache's content is unknown now: the next prompt starts over.
            self._generator = None
            self._held, self._path, self._rows = [], [], {}
            if isinstance(error, RuntimeError):
                reason = str(error).strip().splitlines()[0]
                raise EdgebError(
                    f"onnxruntime could not evaluate the prompt: {reason}", "load the bundle again"
                ) from None
            raise
        self._seconds += perf_counter() - begun
        return result

    def _new_generator(self) -> Any:
        params = self._genai.GeneratorParams(self._model)
        params.set_search_options(max_length=self._options.n_ctx, batch_size=1, num_beams=1)
        return self._genai.Generator(self._model, params)


def _threads(options: OnnxRunOptions) -> int | None:
    """None where onnxruntime's own choice is right; it ignores affinity and quota."""
    import psutil

    own = physical_cores()
    if options.threads is None and own == psutil.cpu_count(logical=False):
        return None
    return chosen_threads(options.threads, own)


def _tips(trie: LabelTrie, nodes: Sequence[int]) -> list[int]:
    """Nodes without another of the nodes below them, in depth-first order."""
    ways = {node: trie.ancestors(node) for node in nodes}
    passed = {step for way in ways.values() for step in way[:-1]}
    return sorted((node for node in ways if node not in passed), key=ways.__getitem__)


def _tokens(trie: LabelTrie | None, nodes: Sequence[int]) -> list[int]:
    return [] if trie is None else [int(trie.tokens[node]) for node in nodes]


def _vocabulary_size(folder: Path) -> int:
    """Size of the vocabulary; refuses a configuration that refers to files outside the folder."""
    where = folder / CONFIG_FILE
    hint = "export the bundle again"
    try:
        model = json.loads(where.read_text(encoding="utf-8"))["model"]
        decoder, size = model["decoder"], int(model["vocab_size"])
        name, options = str(decoder["filename"]), dict(decoder["session_options"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EdgebError(f"{where} cannot be used: {type(error).__name__} {error}", hint) from None
    if os.path.basename(name) != name or not (folder / name).is_file():
        raise EdgebError(f"{where}: the model '{name}' is not in the folder", hint)
    if "custom_ops_library" in options:
        raise EdgebError(f"{where} loads a library of its own, '{options['custom_ops_library']}'", hint)
    return size
