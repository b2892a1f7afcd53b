"""llama.cpp's own ways to an answer as rivals: grammar completion, and labels scored one by one (`bench.peers`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_behavior.bench.engines.contender import Contender
from edge_behavior.bench.engines.options import TableOptions
from edge_behavior.bench.engines.rivals import Rival, RivalMaker
from edge_behavior.bench.engines.windows import Window
from edge_behavior.bench.peers import CompletionPeer, LabelPeer, PeerOptions
from edge_behavior.bench.scenarios import Turns
from edge_behavior.runtime.llama.model import LlamaModel


@dataclass(frozen=True)
class _Always(Turns):
    """Every round: a table's rivals have turns of their own."""

    def include(self, i: int) -> bool:
        return True


class _Peer:
    """A peer of `bench.peers` as a rival."""

    def __init__(
        self,
        title: str,
        on: str,
        scenario: str,
        every: int,
        peer: CompletionPeer | LabelPeer,
        model: LlamaModel | None,
    ) -> None:
        self.name, self.on, self.scenario, self.every = title, on, scenario, every
        # A peer's answers are not looked at here.
        self.firsts: dict[int, int] = {}
        self._peer, self._model = peer, model

    def time(self, i: int) -> float:
        """See `Rival`."""
        return self._peer.turn(i)[self._peer.name].ms

    def close(self) -> None:
        """See `Rival`."""
        self._peer.close()
        if self._model is not None:
            self._model.close()


def llama_rivals(name: str, file: Path, options: TableOptions) -> list[RivalMaker]:
    """What makes the rivals on a GGUF file, the table's bundle of that name: prompts are in its tokens."""
    slow = max(1, options.windows // options.slow_windows)
    fast = PeerOptions(options.threads, _Always(0))
    held = PeerOptions(options.threads, _Always(0), cached=True)

    def completion(title: str, scenario: str, how: PeerOptions) -> RivalMaker:
        def make(contenders: Mapping[str, Contender], windows: Sequence[Window]) -> Rival:
            contender = contenders[name]
            peer = CompletionPeer(file, "completion", _prompts(contender, windows), contender.encoder, how)
            return _Peer(title, name, scenario, 1, peer, None)

        return make

    def labels(title: str, every: int, how: PeerOptions) -> RivalMaker:
        def make(contenders: Mapping[str, Contender], windows: Sequence[Window]) -> Rival:
            contender = contenders[name]
            model = LlamaModel(file)
            peer = LabelPeer(model, "labels", _prompts(contender, windows), contender.encoder, how)
            return _Peer(title, name, "all", every, peer, model)

        return make

    return [
        completion("grammar completion, full prompt", "empty", fast),
        completion("grammar completion, static prefix cached", "static", held),
        labels("every label on its own", slow, fast),
        labels("every label on its own, prompt cached", 1, held),
    ]


def _prompts(contender: Contender, windows: Sequence[Window]) -> list[list[int]]:
    return [contender.encoder.prompt_ids(w.history, w.when, w.place) for w in windows]
