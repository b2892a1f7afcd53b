"""How long passes take on this machine: one and two real layers are timed, the rest is linear in layers.

On a GPU the shapes are those of training. On a CPU, where that would take minutes, a pass that is too long is timed
on fewer tokens and scaled by tokens. Data loading, the optimizer's step and logging are not timed, nor is the unpacking
of 4-bit weights: the layers are timed unpacked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from time import perf_counter
from typing import Any

import torch

from edge_behavior.train.geometry import Geometry, build_model, shortened, with_adapter
from edge_behavior.train.plan.footprint import FUSED_HEAD, TILE_VOCABULARY, Batch, Precision, Windows
from edge_behavior.train.recipe import LoraSettings
from edge_behavior.util.cpus import chosen_threads

_REPEATS = 3
# Seconds that one pass of two layers may take on a CPU; longer ones are timed on fewer tokens.
_LONGEST = 1.0
_FEWEST_TOKENS = 32
# Neither the embedding nor the head takes part in the layers' time.
_VOCABULARY = 512


class Rates:
    """Seconds of forward and backward passes of a backbone on one device.

    Args:
        geometry: The backbone.
        lora: Its adapter.
        precision: How it is held and computed.
        device: `cpu` or `cuda`.
        threads: CPU threads; None for PyTorch's own choice.
    """

    def __init__(
        self, geometry: Geometry, lora: LoraSettings, precision: Precision, device: str, threads: int | None = None
    ) -> None:
        self._geometry, self._lora, self._how, self._device = geometry, lora, precision, device
        self._threads = chosen_threads(threads, torch.get_num_threads())
        self._models: dict[int, Any] = {}

    @property
    def measured_on(self) -> str:
        """What the seconds stand on, in words."""
        threads = "1 thread" if self._threads == 1 else f"{self._threads} threads"
        where = f"CPU, {threads}" if self._device == "cpu" else torch.cuda.get_device_name()
        layers = self._geometry.layers
        return f"{where}, {'1 layer' if layers == 1 else f'1 and 2 of {layers} layers'}"

    def training(self, batch: Batch, checkpointing: bool) -> float:
        """Seconds of one micro-batch, forward and backward, with the output head."""
        positions = batch.labels if self._device == "cuda" else batch.tokens
        return self._layers(batch, checkpointing, backward=True) + self._head(positions, backward=True)

    def validation(self, batch: Batch) -> float:
        """Seconds of one micro-batch, forward only."""
        positions = batch.labels if self._device == "cuda" else batch.tokens
        return self._layers(batch, False, backward=False) + self._head(positions, backward=False)

    def scoring(self, windows: Windows) -> float:
        """Seconds of one window, as a share of its batch."""
        batch = Batch(windows.count, windows.own, 0)
        head = self._head(windows.count * windows.outputs, backward=False)
        return (self._layers(batch, False, backward=False) + head) / windows.count

    def pretraining(self, batch: Batch) -> float:
        """Seconds of one step of a stand-in's own training: all weights, logits of all positions."""

        def timed(layers: int) -> float:
            with torch.device(self._device):
                model = build_model(self._geometry.config, layers, torch.float32).train()
                ids = torch.zeros((batch.sequences, batch.length), dtype=torch.long)
            return self._median(lambda: model(input_ids=ids, labels=ids, use_cache=False).loss.backward())

        with self._settings():
            one = timed(1)
            return one if self._geometry.layers == 1 else self._deep(one, timed(2))

    def _layers(self, batch: Batch, checkpointing: bool, backward: bool) -> float:
        with self._settings():
            shape = self._affordable(batch, checkpointing, backward)
            seconds = self._timed(1, shape, checkpointing, backward)
            if self._geometry.layers > 1:
                seconds = self._deep(seconds, self._timed(2, shape, checkpointing, backward))
        return seconds * batch.tokens / shape.tokens

    def _deep(self, one: float, two: float) -> float:
        """Seconds of all layers, from those of one and of two."""
        # Noise must not make a layer free of cost.
        return one + (self._geometry.layers - 1) * max(two - one, one / 4)

    def _affordable(self, batch: Batch, checkpointing: bool, backward: bool) -> Batch:
        """The batch itself, or on a CPU as many tokens of one row as two layers can do in the time."""
        if self._device == "cuda" or batch.tokens <= _FEWEST_TOKENS:
            return batch
        few = replace(batch, sequences=1, length=min(batch.length, _FEWEST_TOKENS))
        per_token = self._timed(2 if self._geometry.layers > 1 else 1, few, checkpointing, backward) / few.tokens
        tokens = int(_LONGEST / per_token)
        if tokens >= batch.tokens:
            return batch
        if tokens >= batch.length:
            return replace(batch, sequences=tokens // batch.length)
        return replace(few, length=min(batch.length, max(_FEWEST_TOKENS, tokens)))

    def _timed(self, layers: int, batch: Batch, checkpointing: bool, backward: bool) -> float:
        model = self._model(layers)
        if checkpointing and backward:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        else:
            model.gradient_checkpointing_disable()
        ids = torch.zeros((batch.sequences, batch.length), dtype=torch.long, device=self._device)
        body = model.get_base_model().base_model

        def once() -> None:
            with (
                torch.set_grad_enabled(backward),
                torch.autocast(self._device, torch.bfloat16, enabled=self._how.autocast),
            ):
                hidden = body(input_ids=ids, use_cache=False).last_hidden_state
            if backward:
                hidden.sum().backward()

        return self._median(once)

    def _head(self, positions: int, backward: bool) -> float:
        """The fused head's time, on one tile's width of the vocabulary and, on a CPU, fewer positions."""
        rows = min(self._geometry.vocabulary, TILE_VOCABULARY)
        count = positions if self._device == "cuda" else min(positions, _FEWEST_TOKENS)
        with torch.device(self._device), self._settings():
            weight = torch.randn((rows, self._geometry.hidden), dtype=self._how.weights)
            states = torch.randn((count, self._geometry.hidden), dtype=self._how.weights, requires_grad=backward)
            targets = torch.zeros(count, dtype=torch.long)

            def once() -> None:
                with torch.autocast(self._device, torch.bfloat16, enabled=self._how.autocast):
                    found = FUSED_HEAD.apply(
                        states, weight, None, targets, 1.0, TILE_VOCABULARY, None, 1.0, ("log_probs",)
                    )[0]
                if backward:
                    found.sum().backward()

            seconds = self._median(once)
        return seconds * (positions / count) * (self._geometry.vocabulary / rows)

    def _median(self, once: Callable[[], None]) -> float:
        seconds = []
        for _ in range(1 + _REPEATS):
            started = perf_counter()
            once()
            if self._device == "cuda":
                torch.cuda.synchronize()
            seconds.append(perf_counter() - started)
        return median(seconds[1:])

    def _model(self, layers: int) -> Any:
        if layers not in self._models:
            config = shortened(self._geometry.config, layers)
            config.vocab_size, config.pad_token_id = _VOCABULARY, None
            with torch.device(self._device):
                self._models[layers] = with_adapter(build_model(config, layers, self._how.weights), self._lora)
        return self._models[layers]

    @contextmanager
    def _settings(self) -> Iterator[None]:
        """The run's number of CPU threads, while something is timed."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
