"""The LiteRT graph is the model: call by call with host-made masks, rotary tables and cache, PyTorch alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edge_behavior.bundle.litert_graph import MASKED, LiteRtGraph
from edge_behavior.export.litert.graph import Decoder, Embed, First, Step, describe, load_decoder
from edge_behavior.hf.architectures import load_config
from tests.unit.export.conftest import LLAMA3_ROPE, gemma3, llama, qwen2, qwen3, some_ids, torch_logits

LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
MODELS: dict[str, Callable[[], Any]] = {
    "qwen2": lambda: qwen2(97),
    "qwen2 tied": lambda: qwen2(97, tie_word_embeddings=True),
    "qwen2 linear": lambda: qwen2(97, rope_parameters=LINEAR_ROPE),
    "qwen3": lambda: qwen3(97),
    "llama": lambda: llama(97),
    "llama 3.1": lambda: llama(97, rope_parameters=LLAMA3_ROPE),
    "llama with biases": lambda: llama(97, attention_bias=True, mlp_bias=True, num_attention_heads=2),
    "gemma3": lambda: gemma3(97),
    "gemma3 tied": lambda: gemma3(97, tie_word_embeddings=True),
}
CACHE = 80


class Host:
    """What a runtime does: fills the cache with what calls give out, at slots of its choice.

    Args:
        slots: The order in which slots are taken.
    """

    def __init__(self, decoder: Decoder, graph: LiteRtGraph, slots: list[int]) -> None:
        self.decoder, self.graph, self.slots = decoder, graph, slots
        self.positions = torch.full((graph.cache,), -1)
        shape = (1, graph.kv_heads, graph.cache, graph.head_dim)
        self.k, self.v = ([torch.full(shape, 7.0) for _ in range(graph.layers)] for _ in range(2))

    def rope(self, frequencies: tuple[float, ...], positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions.float()[:, None] * torch.tensor(frequencies)
        return torch.cat((angles.cos(), angles.cos()), -1)[None], torch.cat((angles.sin(), angles.sin()), -1)[None]

    def mask(self, positions: Tensor, window: int | None) -> Tensor:
        seen = torch.cat((self.positions, positions))[None, :]
        visible = (seen >= 0) & (seen <= positions[:, None])
        if window is not None:
            visible &= seen > positions[:, None] - window
        return torch.where(visible, 0.0, MASKED)[None, None]

    def evaluate(self, ids: list[int], padded: int, first: bool = False) -> Tensor | None:
        """Logits [len(ids), V] of a call with `padded` new tokens, of which those behind `ids` are nobody's.

        With `first`, a call that gives none.
        """
        start = int(self.positions.max()) + 1
        tokens = torch.tensor([ids + [0] * (padded - len(ids))], dtype=torch.int32)
        positions = torch.arange(start, start + padded)
        inputs: dict[str, Any] = {"embeddings": Embed(self.decoder)(tokens)["embeddings"]}
        cached = 0 if not first else self.graph.cache
        inputs["mask"] = self.mask(positions, None)[..., cached:]
        inputs["cos"], inputs["sin"] = self.rope(self.graph.rope, positions)
        if self.graph.sliding is not None:
            inputs["cos_local"], inputs["sin_local"] = self.rope(self.graph.sliding.rope, positions)
            inputs["mask_local"] = self.mask(positions, self.graph.sliding.window)[..., cached:]
        found = First(self.decoder)(**inputs) if first else Step(self.decoder)(**inputs, k=self.k, v=self.v)
        chosen = self.slots[start : start + len(ids)]
        for cache, new in ((self.k, found["new_k"]), (self.v, found["new_v"])):
            for layer, rows in zip(cache, new, strict=True):
                layer[:, :, chosen] = rows[:, :, : len(ids)]
        self.positions[chosen] = positions[: len(ids)]
        return None if first else found["logits"][0, : len(ids)]


def opened(model: Any, folder: Path) -> tuple[Decoder, LiteRtGraph]:
    model.save_pretrained(folder)
    return load_decoder(folder), describe(load_config(folder), (1, 4, 16), (16,), CACHE)


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_hugging_face(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    decoder, graph = opened(model, tmp_path)
    # Longer than Gemma's sliding window.
    ids = some_ids(97, 60)
    assert graph.sliding is None or graph.sliding.window < len(ids) // 2
    slots = np.random.default_rng(0).permutation(CACHE).tolist()
    host = Host(decoder, graph, slots)
    rows = []
    for start, stop, size in ((0, 16, 16), (16, 32, 16), (32, 45, 16), (45, 46, 1), (46, 49, 4), (49, 60, 16)):
        found = host.evaluate(ids[start:stop], size)
        assert found is not None
        rows.append(found)
    found, expected = torch.cat(rows).numpy(), torch_logits(model, ids)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["qwen2", "gemma3"])
@pytest.mark.parametrize("count", [16, 100, 130])
def test_a_prompts_beginning_leaves_the_same_cache(name: str, count: int, tmp_path: Path) -> None:
    """Rows attend in parts, of which the last one is not whole; the padding behind the prompt is nobody's."""
    torch.manual_seed(0)
    model = MODELS[name]()
    model.save_pretrained(tmp_path)
    decoder, graph = load_decoder(tmp_path), describe(load_config(tmp_path), (1, 4, 16), (16,), 160)
    ids, caches = some_ids(97, count), []
    for first in (False, True):
        host = Host(decoder, graph, list(range(160)))
        host.evaluate(ids, count + 7, first)
        caches.append((host.k, host.v))
    torch.testing.assert_close(caches[1], caches[0], rtol=0, atol=1e-5)


def test_tied_weights_are_one_parameter(tmp_path: Path) -> None:
    decoder, _ = opened(MODELS["qwen2 tied"](), tmp_path)
    assert decoder.lm_head.weight is decoder.model.embed_tokens.weight
    assert not any(parameter.requires_grad for parameter in decoder.parameters())


def test_description(tmp_path: Path) -> None:
    _, graph = opened(MODELS["gemma3"](), tmp_path)
    assert graph == LiteRtGraph.from_dict(json.loads(json.dumps(graph.to_dict())))
    assert (graph.layers, graph.hidden, graph.kv_heads, graph.head_dim, graph.vocabulary) == (7, 64, 2, 16, 97)
    assert graph.sliding is not None
    assert (graph.sliding.window, len(graph.sliding.rope), len(graph.rope)) == (24, 8, 8)
    assert graph.sliding.rope != graph.rope
