"""The CPU's label head computes what plain logits give, and its gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from edge_behavior.train.trainer import label_head
from edge_behavior.train.trainer.label_head import LabelLogProbs

label_log_probs: Any = LabelLogProbs.apply


def plain(hidden: Any, weight: Any, bias: Any, targets: Any, softcap: float | None, scale: float) -> Any:
    logits = torch.nn.functional.linear(hidden, weight, bias) * scale
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


@pytest.mark.parametrize(("softcap", "scale"), [(None, 1.0), (None, 0.25), (3.0, 1.0), (2.0, 1.5)])
@pytest.mark.parametrize("biased", [False, True])
def test_values_and_gradient_are_those_of_plain_logits(
    softcap: float | None, scale: float, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_head, "TILE", 3 * 50)  # tiles of three rows
    torch.manual_seed(0)
    hidden, weight = torch.randn(11, 8, dtype=torch.float64), torch.randn(50, 8, dtype=torch.float64)
    bias = torch.randn(50, dtype=torch.float64) if biased else None
    targets, weights = torch.randint(0, 50, (11,)), torch.randn(11, dtype=torch.float64)
    ours, theirs = (hidden.clone().requires_grad_() for _ in range(2))
    found = label_log_probs(ours, weight, bias, targets, 1.0, 32768, softcap, scale)
    logits = plain(theirs, weight, bias, targets, softcap, scale)
    log_probs = torch.log_softmax(logits, 1)
    expected = log_probs.gather(1, targets[:, None])[:, 0]
    assert torch.allclose(found[0], expected.float(), atol=1e-5)
    assert torch.allclose(found[1], -(log_probs.exp() * log_probs).sum(1).float(), atol=1e-5)
    assert torch.allclose(found[3], logits.mean(1).float(), atol=1e-5)
    assert torch.equal(found[4], logits.argmax(1) == targets)
    (found[0] * weights).sum().backward()
    (expected * weights).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)


def test_no_label_gives_no_gradient_and_no_error() -> None:
    hidden = torch.randn(0, 8, requires_grad=True)
    found = label_log_probs(hidden, torch.randn(50, 8), None, torch.empty(0, dtype=torch.int64), 1.0, 32768)
    found[0].sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.shape == (0, 8)


def test_a_trained_output_layer_is_refused() -> None:
    weight = torch.randn(50, 8, requires_grad=True)
    with pytest.raises(RuntimeError, match="output layer"):
        label_log_probs(torch.randn(2, 8), weight, None, torch.tensor([1, 2]), 1.0, 32768)
