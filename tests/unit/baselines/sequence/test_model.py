"""SASRec and BERT4Rec against their papers' equations in NumPy, and what a position may see."""

from __future__ import annotations

from math import erf

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.baselines.sequence.model import Bert4Rec, EventTransformer, SasRec
from edge_behavior.errors import EdgebError

B, T, D, HEADS = 7, 6, 8, 2
SIZES = (5, 8, 4)
Array = NDArray[np.float64]


def made(kind: type[EventTransformer], context: bool = True) -> EventTransformer:
    torch.manual_seed(1)
    config = SequenceConfig(hidden=D, heads=HEADS, layers=2, context=context, dropout=0.3)
    model = kind(B, T, SIZES, config).double().eval()
    # Far from the symmetric start, biases and norms included.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.4)
    return model


def batch(n: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    contexts = [np.stack([rng.integers(size, size=(n, T)) for size in SIZES], 2) for _ in range(2)]
    return {
        "behavior": torch.from_numpy(rng.integers(B + 1, size=(n, T))),
        "event": torch.from_numpy(contexts[0]),
        "target": torch.from_numpy(contexts[1]),
        "present": torch.ones(n, T, dtype=torch.bool),
    }


def weights(model: nn.Module) -> dict[str, Array]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def norm(x: Array, w: dict[str, Array], name: str) -> Array:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x: Array, w: dict[str, Array], name: str) -> Array:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def attention(query: Array, key: Array, w: dict[str, Array], name: str, allowed: NDArray[np.bool_]) -> Array:
    """softmax(QKᵀ/√d_h)V per head, for one sequence."""
    parts = np.split(w[f"{name}.in_proj_weight"], 3), np.split(w[f"{name}.in_proj_bias"], 3)
    q, k, v = (x @ m.T + b for x, m, b in zip((query, key, key), *parts, strict=True))
    heads = []
    for h in range(HEADS):
        at = slice(h * D // HEADS, (h + 1) * D // HEADS)
        scores = np.where(allowed, q[:, at] @ k[:, at].T / np.sqrt(D // HEADS), -np.inf)
        p = np.exp(scores - scores.max(1, keepdims=True))
        heads.append(p / p.sum(1, keepdims=True) @ v[:, at])
    return linear(np.concatenate(heads, 1), w, f"{name}.out_proj")


def contexts(row: Array, w: dict[str, Array], name: str) -> Array:
    return sum(w[f"{name}.kinds.{i}.weight"][row[:, i]] for i in range(3))


def gelu(x: Array) -> Array:
    return x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2


def sasrec(w: dict[str, Array], row: dict[str, Array], context: bool) -> Array:
    x = w["items.weight"][row["behavior"]] + w["positions.weight"][: len(row["behavior"])]
    if context:
        x = x + contexts(row["event"], w, "event_context") + contexts(row["target"], w, "target_context")
    causal = np.tril(np.ones((len(x), len(x)), dtype=bool))
    for i in range(2):
        block = f"blocks.{i}"
        query = norm(x, w, f"{block}.query_norm")
        x = norm(query + attention(query, x, w, f"{block}.attention", causal), w, f"{block}.feed_norm")
        x = x + linear(np.maximum(linear(x, w, f"{block}.inner"), 0), w, f"{block}.outer")
    return norm(x, w, "norm") @ w["items.weight"][:B].T


def bert4rec(w: dict[str, Array], row: dict[str, Array], context: bool) -> Array:
    x = w["items.weight"][row["behavior"]] + w["positions.weight"][: len(row["behavior"])]
    if context:
        x = x + contexts(row["event"], w, "event_context")
    x = norm(x, w, "norm")
    everywhere = np.ones((len(x), len(x)), dtype=bool)
    for i in range(2):
        block = f"blocks.{i}"
        x = norm(x + attention(x, x, w, f"{block}.self_attn", everywhere), w, f"{block}.norm1")
        fed = linear(gelu(linear(x, w, f"{block}.linear1")), w, f"{block}.linear2")
        x = norm(x + fed, w, f"{block}.norm2")
    return gelu(linear(x, w, "projection")) @ w["items.weight"][:B].T + w["bias"]


@pytest.mark.parametrize("context", [True, False])
@pytest.mark.parametrize(("kind", "oracle"), [(SasRec, sasrec), (Bert4Rec, bert4rec)])
def test_logits_are_those_of_the_equations(kind, oracle, context: bool) -> None:
    model, given = made(kind, context), batch()
    with torch.no_grad():
        found = model(**given)["logits"].numpy()
    for i, logits in enumerate(found):
        row = {name: values[i].numpy() for name, values in given.items()}
        assert np.allclose(logits, oracle(weights(model), row, context), atol=1e-9)


@pytest.mark.parametrize("kind", [SasRec, Bert4Rec])
def test_padding_changes_nothing(kind: type[EventTransformer]) -> None:
    model, given = made(kind), batch()
    given["present"][:, 4:] = False
    short = {name: values[:, :4] for name, values in given.items()}
    with torch.no_grad():
        assert torch.allclose(model(**given)["logits"][:, :4], model(**short)["logits"])


@pytest.mark.parametrize("at", range(T))
def test_sasrec_sees_nothing_that_comes_later(at: int) -> None:
    """At position i: events up to i, and of event i+1 its context only."""
    model, given, other = made(SasRec), batch(seed=0), batch(seed=5)
    changed = {name: values.clone() for name, values in given.items()}
    for name in ("behavior", "event", "target"):
        changed[name][:, at:] = other[name][:, at:]
    with torch.no_grad():
        before, after = model(**given)["logits"], model(**changed)["logits"]
    assert torch.equal(before[:, :at], after[:, :at])
    assert not torch.allclose(before[:, at:], after[:, at:])


def test_the_published_models_see_behaviors_only() -> None:
    for kind in (SasRec, Bert4Rec):
        model, given, other = made(kind, context=False), batch(seed=0), batch(seed=5)
        changed = {**given, "event": other["event"], "target": other["target"]}
        with torch.no_grad():
            assert torch.equal(model(**given)["logits"], model(**changed)["logits"])
        assert not any("context" in name for name in model.state_dict())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden": 10, "heads": 3}, "a width of 10 cannot be split among 3 heads"),
        ({"layers": 0}, "'layers' is 0"),
        ({"hour_bucket": 5}, "'hour_bucket' is 5"),
        ({"dropout": 1.0}, "'dropout' is 1.0"),
        ({"mask_share": -0.1}, "'mask_share' is -0.1"),
    ],
)
def test_bad_settings_are_named(fields: dict[str, float], message: str) -> None:
    with pytest.raises(EdgebError, match=message):
        SequenceConfig(**fields)
