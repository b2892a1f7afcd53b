"""The lower bound of any prediction: llama.cpp evaluating as many tokens in one plain decode. And llama.cpp's speed.

Of a prediction only the evaluation: no search, no probabilities, a single sequence.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from edge_behavior.bench.native import FLASH_PAYS, Decode
from edge_behavior.bench.options import CYCLE, BenchOptions
from edge_behavior.bench.scenarios import Turns, depth_of
from edge_behavior.bench.timing import Sample
from edge_behavior.runtime.llama.context import ContextOptions, LlamaContext
from edge_behavior.runtime.llama.model import LlamaModel


class LowerBoundScenario:
    """For every round of a session: as many new tokens on a cache of the same length, decoded natively.

    - `floor`: all in one decode, with as many logit rows as the session asked for.
    - `floor_one_row`: the same with the last token's logits only.
    - `floor_same_calls`: in as many decodes as the session took, each with its own rows. Its distance to `floor` is
      the price of looking at one decode's result before choosing the next.

    Names end in the session scenario's own suffix. Flash attention is on where it helps. The tokens are a chain in one
    sequence; a session's trie nodes are siblings, which costs the same.

    Args:
        rounds: The session's decodes, per round.
        ids: Any token ids of the bundle, repeated as needed; which token it is does not change the cost.
    """

    def __init__(self, model: LlamaModel, threads: int, rounds: Sequence[Sequence[Decode]], ids: Sequence[int]) -> None:
        needed = max(shape[0].position + sum(d.tokens for d in shape) for shape in rounds)
        self._ids = (list(ids) * (needed // len(ids) + 1))[:needed]
        self._rounds = rounds
        rows = max(sum(d.rows for d in shape) for shape in rounds)
        self._contexts = {
            flash: LlamaContext(model, ContextOptions(needed, threads, rows, flash)) for flash in (False, True)
        }
        for context in self._contexts.values():
            self._hold(context, rounds[0][0].position)

    def turn(self, i: int) -> Mapping[str, Sample]:
        """See `Scenario`."""
        shape, suffix = self._rounds[i], depth_of(i).removeprefix("session")
        count, rows = sum(d.tokens for d in shape), sum(d.rows for d in shape)
        calls = [(d.tokens, d.rows) for d in shape]
        forms = {"floor": [(count, rows)], "floor_one_row": [(count, 1)], "floor_same_calls": calls}
        names = list(forms)
        # No form always comes first.
        order = names[i // CYCLE % len(names) :] + names[: i // CYCLE % len(names)]
        return {f"{name}{suffix}": self._time(shape[0].position, forms[name]) for name in order}

    def close(self) -> None:
        """See `Scenario`."""
        for context in self._contexts.values():
            context.close()

    def _time(self, position: int, calls: Sequence[tuple[int, int]]) -> Sample:
        context = self._contexts[max(count for count, _ in calls) >= FLASH_PAYS]
        self._hold(context, position)
        seconds = 0.0
        for count, rows in calls:
            start = context.held
            seconds += context.decode(self._ids[start : start + count], range(count - rows, count))
        return Sample(seconds * 1000, sum(count for count, _ in calls), seconds * 1000)

    def _hold(self, context: LlamaContext, count: int) -> None:
        context.keep(count)
        if context.held < count:
            context.decode(self._ids[context.held : count])


class SpeedScenario:
    """Tokens per second as llama-bench defines them, on random tokens and an empty cache.

    `pp<n>`: one prompt of n tokens. `tg<n>`: n tokens generated one by one. A sample's `tokens` over its `ms` is the
    speed. Flash attention is left to llama.cpp.

    Args:
        options: n of pp and of tg, and how often both are timed.

    Attributes:
        seconds: Estimate of what a turn takes, from the warm-up.
    """

    def __init__(self, model: LlamaModel, options: BenchOptions) -> None:
        rng = random.Random(0)
        self._prompt = [rng.randrange(model.n_vocab) for _ in range(options.pp)]
        self._generate = [rng.randrange(model.n_vocab) for _ in range(options.tg)]
        self._turns = Turns(0, options.every(options.speed_repeats))
        self._context = LlamaContext(model, ContextOptions(max(options.pp, options.tg), options.threads))
        # llama-bench warms up with one run of each, too.
        at_once = self._context.decode(self._prompt)
        self.seconds = at_once + options.tg * self._run(self._generate[:1]) / 1000

    def turn(self, i: int) -> Mapping[str, Sample]:
        """See `Scenario`."""
        if not self._turns.include(i):
            return {}
        self._context.keep(0)
        at_once = self._context.decode(self._prompt) * 1000
        return {
            f"pp{len(self._prompt)}": Sample(at_once, len(self._prompt), at_once),
            f"tg{len(self._generate)}": Sample(self._run(self._generate), len(self._generate)),
        }

    def close(self) -> None:
        """See `Scenario`."""
        self._context.close()

    def _run(self, tokens: Sequence[int]) -> float:
        self._context.keep(0)
        return sum(self._context.decode([token]) for token in tokens) * 1000
