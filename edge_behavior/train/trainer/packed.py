"""Batches without padding on a CPU: sequences lie end to end in one row, and a pair's common beginning lies there once.

The trainers give and take padded batches; the model in between computes one row of `Packed`. Everything but attention
works token by token. Attention is called once per segment: a mask over the whole row would cost the square of its
length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from edge_behavior.hf.architectures import ARCHITECTURES
from edge_behavior.hf.internals import attention_of

_NAME = "edgeb_packed"
# torch's own label for positions without a loss.
_IGNORED = -100
_TYPES = {architecture.model_type for architecture in ARCHITECTURES.values()}


@dataclass(frozen=True)
class Segment:
    """Tokens that lie side by side in a packed row, and attend to what precedes them in their own sequence.

    Attributes:
        length: Tokens.
        parent: The segment that begins the same sequence; None for a sequence that lies whole.
        shared: How many tokens of the parent precede these.
    """

    length: int
    parent: int | None = None
    shared: int = 0


@dataclass(frozen=True)
class Packed:
    """A batch [B, T] as one row of N tokens.

    Attributes:
        ids: int64 [1, N].
        positions: int64 [1, N], of each token in its sequence.
        labels: int64 [1, N], ignored where a token's predecessor in its sequence is not to its left.
        segments: In order; their lengths sum to N.
        places: int64 [L] places in `labels[0, 1:]` of all labels.
        rows: int64 [L], and
        columns: int64 [L]: where each of these is in the batch's `labels[:, 1:]`.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    segments: tuple[Segment, ...]
    places: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor

    def unpacked(self, values: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
        """[B, T - 1] of values [1, N - 1], zero where no label is.

        Args:
            values: What was computed for each label; None stays None.
            like: A tensor of the batch's shape [B, T].
        """
        if values is None:
            return None
        out = values.new_zeros(like.shape[0], like.shape[1] - 1)
        return out.index_put((self.rows, self.columns), values[0, self.places])


def pack(ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor, pairs: bool = False) -> Packed:
    """Lay a batch's sequences end to end.

    Args:
        ids: int64 [B, T], padded on the right.
        mask: int64 [B, T], one at tokens and zero at padding.
        labels: int64 [B, T].
        pairs: Row i of the first half and row i of the second half begin alike (DPO's batches): the second one's
            tokens begin at the last token that both share without a label, which is repeated to predict its successor.
    """
    lengths, half = mask.sum(1).tolist(), len(ids) // 2
    segments: list[Segment] = []
    for row, length in enumerate(lengths):
        parent = row - half
        shared = _shared(ids, labels, parent, row) if pairs and parent >= 0 else 0
        segments.append(Segment(length - shared, parent, shared) if shared else Segment(length))
    kept = [(row, slice(part.shared, part.shared + part.length)) for row, part in enumerate(segments)]
    own = torch.cat([labels[at].index_fill(0, torch.tensor([0]), _IGNORED) for at in kept])
    columns = torch.cat([torch.arange(T.start, T.stop) for _, T in kept])
    rows = torch.repeat_interleave(torch.arange(len(kept)), torch.tensor([part.length for part in segments]))
    places = (own != _IGNORED).nonzero()[:, 0]
    return Packed(
        ids=torch.cat([ids[at] for at in kept])[None],
        positions=columns[None],
        labels=own[None],
        segments=tuple(segments),
        places=places - 1,
        rows=rows[places],
        columns=columns[places] - 1,
    )


def _shared(ids: torch.Tensor, labels: torch.Tensor, first: int, second: int) -> int:
    """Tokens before the last one that two rows have in common, of those before both rows' first label."""
    free = ((labels[first] == _IGNORED) & (labels[second] == _IGNORED) & (ids[first] == ids[second])).long()
    return max(0, int(free.cumprod(0).sum()) - 1)


def packs_type(config: Any) -> bool:
    """Whether `packed` knows the attention of a model with this configuration: of the architectures for export."""
    return config.get_text_config().model_type in _TYPES


def can_pack(model: Any) -> bool:
    """Whether `packed` takes a model: on a CPU, with an attention that it knows."""
    return packs_type(model.config) and model.device.type == "cpu" and attention_of(model) in ("sdpa", _NAME)


@contextmanager
def packed(model: Any, wanted: bool = True, pairs: bool = False) -> Iterator[None]:
    """In the block, a model with TRL's fused head computes padded batches without their padding.

    Args:
        model: With or without PEFT. Passes with a 4D mask work as before.
        wanted: False leaves the model alone.
        pairs: See `pack`.
    """
    if not wanted:
        yield
        return
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    attention, padded = attention_of(base), base.forward

    def forward(*args: Any, fused_lm_head: bool = False, **inputs: Any) -> Any:
        if not fused_lm_head:
            return padded(*args, **inputs)
        ids, labels = inputs.pop("input_ids"), inputs.pop("labels")
        row = pack(ids, inputs.pop("attention_mask"), labels, pairs)
        found = padded(
            input_ids=row.ids,
            position_ids=row.positions,
            labels=row.labels,
            segments=row.segments,
            fused_lm_head=True,
            **inputs,
        )
        whole = {
            field.name: row.unpacked(getattr(found, field.name), ids)
            for field in fields(found)
            if field.name not in ("loss", "label_mask", "aux_loss")
        }
        return replace(found, **whole, label_mask=labels[:, 1:] != _IGNORED)

    interface: Any = AttentionInterface
    interface.register(_NAME, segment_attention)
    base.set_attn_implementation(_NAME)
    base.forward = forward
    try:
        yield
    finally:
        base.forward = padded
        base.set_attn_implementation(attention)


def segment_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    segments: Sequence[Segment] = (),
    sliding_window: int | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a packed row, as Transformers calls it.

    Args:
        module: The layer.
        query: [1, heads, N, width].
        key: [1, key/value heads, N, width].
        value: As `key`.
        attention_mask: A 4D mask, for which this is plain attention.
        segments: Of the row; none for plain attention.
        sliding_window: How many positions back a token attends to, its own included; None for all.
        scaling: Of the scores; None for the usual one.
        dropout: Of the weights.
        options: Transformers' others.

    Returns:
        [1, N, heads, width].
    """
    if not segments or attention_mask is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    lengths = [segment.length for segment in segments]
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    # Splitting once is cheaper to differentiate than cutting out one part after the other.
    queries, keys, values = (torch.split(states, lengths, 2) for states in (query, key, value))
    found = []
    for i, segment in enumerate(segments):
        seen_keys, seen_values = keys[i], values[i]
        if segment.parent is not None:
            seen_keys, seen_values = (
                torch.cat([parts[segment.parent][:, :, : segment.shared], parts[i]], 2) for parts in (keys, values)
            )
        mask = _mask(segment, sliding_window, query.device)
        attended = scaled_dot_product_attention(
            queries[i], seen_keys, seen_values, mask, dropout, is_causal=mask is None, scale=scaling
        )
        found.append(attended.transpose(1, 2))
    return torch.cat(found, 1), None


def _mask(segment: Segment, window: int | None, device: torch.device) -> torch.Tensor | None:
    """[1, 1, length, shared + length], true where a token may attend; None where causality says it all."""
    end = segment.shared + segment.length
    short = window is not None and window < end
    if not segment.shared and not short:
        return None
    ones = torch.ones((segment.length, end), dtype=torch.bool, device=device).tril(segment.shared)
    return (ones.triu(segment.shared + 1 - window) if short and window is not None else ones)[None, None]
