"""Log-probabilities of labels from hidden states, for a frozen output layer on a CPU.

TRL's own kernel is made for GPUs: elsewhere it scores positions without a label, too, computes every logit a second
time for the gradient, and holds gigabytes of them. Here logits exist for a few rows at a time, and while they do, the
gradient of each label's log-probability is taken from them.
"""

from __future__ import annotations

from typing import Any

import torch

# Logits in memory at once, in float32: 64 MiB. Fewer rows would read the output layer's weights too often.
TILE = 2**24

_PerToken = tuple[torch.Tensor, torch.Tensor, None, torch.Tensor, torch.Tensor]


class LabelLogProbs(torch.autograd.Function):
    """The function that TRL's fused head calls, with its arguments and results; differentiable in `hidden` only."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
        chunk_size: int,
        softcap: float | None = None,
        scale: float = 1.0,
        outputs: tuple[str, ...] = (),
    ) -> _PerToken:
        """Score labels.

        Args:
            ctx: Keeps the gradient.
            hidden: [N, H] inputs of the output layer.
            weight: [V, H].
            bias: [V].
            targets: int64 [N].
            temperature: Logits are divided by it, after `scale` and `softcap`.
            chunk_size: TRL's tile width; here a tile is as wide as the vocabulary.
            softcap: Logits become softcap · tanh(logits / softcap).
            scale: Logits are multiplied by it, before that.
            outputs: What TRL wants; everything it logs is computed.

        Returns:
            float32 [N] each: log-probability, entropy, None, mean logit; bool [N] whether the label ranks first.

        Raises:
            RuntimeError: the output layer is trained.
        """
        if any(ctx.needs_input_grad[1:3]):
            raise RuntimeError("LabelLogProbs has no gradient for the output layer")
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        states, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        count, rows = len(hidden), max(1, TILE // len(weight))
        log_probs, entropy, mean_logits = (torch.empty(count, device=hidden.device) for _ in range(3))
        is_top1 = torch.empty(count, dtype=torch.bool, device=hidden.device)
        gradient = torch.empty(hidden.shape, device=hidden.device) if ctx.needs_input_grad[0] else None
        for start in range(0, count, rows):
            tile = slice(start, start + rows)
            wanted = targets[tile, None]
            logits = torch.nn.functional.linear(states[tile], weight, bias).float()
            slope: Any = scale / temperature
            if softcap is None and slope != 1:
                logits.mul_(slope)
            elif softcap is not None:
                capped = torch.tanh(logits.mul_(scale / softcap))
                slope = slope * (1 - capped.square())
                logits = capped.mul_(softcap / temperature)
            own, total = logits.gather(1, wanted), torch.logsumexp(logits, 1, keepdim=True)
            log_probs[tile], mean_logits[tile] = (own - total)[:, 0], logits.mean(1)
            is_top1[tile] = logits.argmax(1) == wanted[:, 0]
            probs = torch.exp(logits - total)
            entropy[tile] = total[:, 0] - torch.linalg.vecdot(probs, logits)
            if gradient is not None:
                # d log p(label) / d logits: one at the label, minus the probabilities.
                rise = probs.neg_().scatter_add_(1, wanted, torch.ones_like(own))
                if softcap is not None or slope != 1:
                    rise.mul_(slope)
                gradient[tile] = rise.to(dtype) @ weight
        ctx.dtype = hidden.dtype
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(entropy, mean_logits, is_top1)
        ctx.set_materialize_grads(False)
        return log_probs, entropy, None, mean_logits, is_top1

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        """[N, H] gradient of the loss, from that of every label's log-probability [N]."""
        (gradient,), (wanted, *_) = ctx.saved_tensors, gradients
        hidden = None if wanted is None else (gradient * wanted.float()[:, None]).to(ctx.dtype)
        return (hidden, *[None] * 8)
