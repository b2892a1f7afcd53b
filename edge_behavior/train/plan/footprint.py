"""Bytes that a pass through a model keeps and needs at its worst moment, measured without doing the arithmetic.

The real model class with its first one and two layers runs forward and backward at the full shape on fake tensors:
every operation allocates what it would allocate, and nothing is computed. Memory is linear in layers, so two depths
give any depth. No length is extrapolated. Attention is PyTorch's fused kernel, which keeps no matrix of scores.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache
from trl.trainer import utils as trl_utils

from edge_behavior.hf.tree_scoring import TILE_ROWS, shared_cache
from edge_behavior.train.geometry import Geometry, empty_model, with_adapter
from edge_behavior.train.recipe import LoraSettings

# TRL's fused LM head, and the positions and vocabulary of its tile of logits.
FUSED_HEAD: Any = trl_utils._ChunkedLogProbFunction
TILE_VOCABULARY: int = trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE
_TILE_TOKENS = 4096


@dataclass(frozen=True)
class Batch:
    """The shape of one micro-batch.

    Attributes:
        sequences: Rows of the batch; of a preference pair both.
        length: Tokens of the longest row.
        labels: Positions with a label, in all rows.
        padded: Whether rows differ in length, so that attention needs a mask.
    """

    sequences: int
    length: int
    labels: int
    padded: bool = True

    @property
    def tokens(self) -> int:
        """Positions, padding included."""
        return self.sequences * self.length


@dataclass(frozen=True)
class Precision:
    """How a pass computes.

    Attributes:
        weights: dtype of the frozen weights, or of their unpacked form under `quantize: 4bit`.
        autocast: Whether matrix products run in bfloat16 whatever the weights are (a Trainer with `bf16`).
    """

    weights: torch.dtype
    autocast: bool


@dataclass(frozen=True)
class Windows:
    """A scoring batch: `TorchScorer`'s shapes for the longest prompts.

    Attributes:
        count: Prompts in one forward pass.
        static: Tokens of the shared prefix.
        own: Tokens of one prompt after it, label trie included.
        outputs: Positions per prompt whose logits are made, a tile of them at a time.
    """

    count: int
    static: int
    own: int
    outputs: int


@dataclass(frozen=True)
class Footprint:
    """Bytes beside parameters, gradients and optimizer state.

    Attributes:
        kept: What the forward pass keeps for the backward pass.
        peak: The most that is alive at one moment, `kept` included.
    """

    kept: int
    peak: int


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of storages that operations allocate and that are still alive.

    What exists before is not counted: parameters, inputs.
    """

    def __init__(self, *before: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._alive = {tensor.untyped_storage()._cdata: 0 for tensor in before}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and take note of what it returns."""
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._alive:
            self._alive[key] = size
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._alive.pop(key, 0)


def training_footprint(
    geometry: Geometry, lora: LoraSettings, batch: Batch, precision: Precision, checkpointing: bool
) -> Footprint:
    """Forward and backward of the layers on one micro-batch; the output head is `head_bytes`."""

    def measured(layers: int) -> Footprint:
        with _fake(with_adapter(empty_model(geometry.config, layers, precision.weights), lora)) as model:
            return train_once(model, batch, precision, checkpointing)

    return _extrapolated(measured, geometry.layers)


def train_once(model: Any, batch: Batch, precision: Precision, checkpointing: bool) -> Footprint:
    """One forward and backward pass of a PEFT model's layers, fake or real."""
    if checkpointing:
        model.enable_input_require_grads()
        # Fake tensors have no random state to restore.
        arguments = {"use_reentrant": False, "preserve_rng_state": False}
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=arguments)
    ids = torch.zeros((batch.sequences, batch.length), dtype=torch.long)
    causal = torch.ones((batch.sequences, 1, batch.length, batch.length), dtype=torch.bool).tril()
    with LiveBytes(*model.parameters()) as live:
        # The mask is made in every pass.
        mask = causal.clone() if batch.padded else None
        with torch.autocast("cpu", torch.bfloat16, enabled=precision.autocast):
            body = model.get_base_model().base_model
            hidden = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        kept = live.now
        hidden.sum().backward()
        return Footprint(kept, live.peak)


def scoring_footprint(geometry: Geometry, lora: LoraSettings, windows: Windows, precision: Precision) -> int:
    """Peak bytes of `TorchScorer` on one batch, under the adapter."""

    def measured(layers: int) -> Footprint:
        with _fake(with_adapter(empty_model(geometry.config, layers, precision.weights), lora)) as model:
            return Footprint(0, score_once(model.eval(), windows))

    return _extrapolated(measured, geometry.layers).peak


@torch.no_grad()
def score_once(model: Any, windows: Windows) -> int:
    """Peak bytes of the forward passes that `TorchScorer` makes for one batch, fake or real."""
    count, static, own = windows.count, windows.static, windows.own
    live = LiveBytes(*model.parameters())
    with live:
        prefix: Any = DynamicCache(config=model.config)
        prefix = model(
            input_ids=torch.zeros((1, static), dtype=torch.long),
            attention_mask=torch.ones((1, 1, static, static), dtype=torch.bool).tril(),
            past_key_values=prefix,
            use_cache=True,
            logits_to_keep=1,
        ).past_key_values
        body = model.get_base_model().base_model
        states = body(
            input_ids=torch.zeros((count, own), dtype=torch.long),
            attention_mask=torch.ones((count, 1, own, static + own), dtype=torch.bool),
            position_ids=torch.zeros((count, own), dtype=torch.long),
            past_key_values=shared_cache(prefix),
            use_cache=True,
        ).last_hidden_state[:, : windows.outputs]
        # One tile, the largest: the others take its place.
        logits = model.get_output_embeddings()(states.reshape(-1, states.shape[-1])[:TILE_ROWS]).float()
        # As torch.logsumexp works inside.
        shifted = logits - logits.amax(-1, keepdim=True)
        shifted.exp().sum(-1).log()
    return live.peak


def head_bytes(geometry: Geometry, batch: Batch, precision: Precision, device: str) -> int:
    """Peak bytes of TRL's fused LM head, which never holds more than one tile of logits.

    On a GPU it scores label positions only and its kernel works inside the tile. Elsewhere it scores all positions and
    the tile's arithmetic takes copies, which are measured on fake tensors like the layers.
    """
    hidden, vocabulary = geometry.hidden, geometry.vocabulary
    if device == "cuda":
        compute = torch.bfloat16 if precision.autocast else precision.weights
        tile = min(batch.labels, _TILE_TOKENS) * TILE_VOCABULARY * compute.itemsize
        cast = 0 if compute == precision.weights else min(vocabulary, TILE_VOCABULARY) * hidden * compute.itemsize
        # The chosen positions, their gradient as it is summed and as it is returned; nine numbers per position.
        rows = batch.labels * (hidden * (2 * precision.weights.itemsize + 4) + 9 * 4)
        return tile + cast + rows
    with FakeTensorMode():
        weight = torch.empty((vocabulary, hidden), dtype=precision.weights)
        states = torch.empty((batch.tokens, hidden), dtype=precision.weights, requires_grad=True)
        targets = torch.zeros(batch.tokens, dtype=torch.long)
        live = LiveBytes(weight, states, targets)
        with live:
            log_probs = FUSED_HEAD.apply(
                states, weight, None, targets, 1.0, TILE_VOCABULARY, None, 1.0, ("log_probs", "entropy", "is_top1")
            )[0]
            log_probs.sum().backward()
    return live.peak


def pretraining_footprint(geometry: Geometry, sequences: int, block: int) -> Footprint:
    """Forward and backward of a whole stand-in, with the logits of all positions and all weights trained."""

    def measured(layers: int) -> Footprint:
        with _fake(empty_model(geometry.config, layers, torch.float32)) as model:
            ids = torch.zeros((sequences, block), dtype=torch.long)
            with LiveBytes(*model.parameters(), ids) as live:
                loss = model(input_ids=ids, labels=ids, use_cache=False).loss
                kept = live.now
                loss.backward()
                # Gradients are counted with the optimizer.
                return Footprint(kept, live.peak)

    return _extrapolated(measured, geometry.layers)


def _extrapolated(measured: Callable[[int], Footprint], layers: int) -> Footprint:
    one = measured(1)
    if layers == 1:
        return one
    two, more = measured(2), layers - 1
    return Footprint(one.kept + more * (two.kept - one.kept), one.peak + more * (two.peak - one.peak))


@contextmanager
def _fake(model: Any) -> Iterator[Any]:
    """A model from the meta device with fake CPU tensors in place of its own, inside the mode that runs them."""
    with FakeTensorMode():
        made: dict[int, torch.nn.Parameter] = {}
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    if id(parameter) not in made:
                        empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                        made[id(parameter)] = torch.nn.Parameter(empty, requires_grad=parameter.requires_grad)
                    module._parameters[name] = made[id(parameter)]
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
        yield model
