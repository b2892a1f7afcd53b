"""Small sequence models in PyTorch: SASRec, BERT4Rec and GPT-2's shape, over behaviors with their contexts.

SASRec is Kang and McAuley (2018), §III; BERT4Rec Sun et al. (2019), §3; both with a softmax over all candidates, and
both optionally told what a language model reads in the prompt: hour, weekday and place of every event, and of the one
that is asked about. Knows tensors; `sequence` makes them from events and trains.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model

from edge_behavior.errors import EdgebError

HOURS, WEEKDAYS = 24, 7
IGNORED = -100
ARCHITECTURES = ("sasrec", "bert4rec", "gpt2")


@dataclass(frozen=True)
class SequenceConfig:
    """The shape of a sequence model.

    Attributes:
        architecture: One of `ARCHITECTURES`.
        hidden: Width; divisible by `heads`.
        layers: Depth.
        heads: Attention heads.
        dropout: Of embeddings, attention and feed-forward layers.
        context: Whether hour, weekday and place are embedded, too; without, it is the published model.
    """

    architecture: str
    hidden: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.2
    context: bool = True

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise EdgebError(f"no architecture '{self.architecture}'", f"use one of {', '.join(ARCHITECTURES)}")
        if self.hidden % self.heads:
            raise EdgebError(f"hidden {self.hidden} is not divisible by {self.heads} heads", "change one of them")

    @property
    def causal(self) -> bool:
        """Whether every position predicts its next event; BERT4Rec predicts masked ones instead."""
        return self.architecture != "bert4rec"


class SequenceModel(nn.Module):
    """Scores all candidates at positions of sequences that end at the right of their rows.

    A causal row holds, at each position, the behavior before the one to predict (at first a start token) with its
    context, and the context that is asked about. BERT4Rec's holds behaviors with their own contexts, some masked.

    Args:
        config: The shape.
        candidates: B.
        places: Number of place codes, of which the last is "unknown".
        width: Positions of a row.
    """

    def __init__(self, config: SequenceConfig, candidates: int, places: int, width: int) -> None:
        super().__init__()
        self.shape, self.candidates = config, candidates
        hidden = config.hidden
        # Behind the candidates: padding, and the token that starts or masks.
        self.items = nn.Embedding(candidates + 2, hidden, padding_idx=candidates)
        self.positions = nn.Embedding(width, hidden)
        sizes = (HOURS, WEEKDAYS, places)
        # One more each, for no event.
        self.own = nn.ModuleList(nn.Embedding(size + 1, hidden) for size in sizes if config.context)
        asked = config.context and config.causal
        self.asked = nn.ModuleList(nn.Embedding(size + 1, hidden) for size in sizes if asked)
        self.dropout = nn.Dropout(config.dropout)
        self.bias: nn.Parameter | None = None
        if config.architecture == "gpt2":
            self.blocks: nn.Module = GPT2Model(
                GPT2Config(
                    vocab_size=1,
                    n_positions=width,
                    n_embd=hidden,
                    n_layer=config.layers,
                    n_head=config.heads,
                    resid_pdrop=config.dropout,
                    embd_pdrop=0.0,
                    attn_pdrop=config.dropout,
                    use_cache=False,
                )
            )
        elif config.architecture == "sasrec":
            self.blocks = nn.ModuleList(_SasrecBlock(config) for _ in range(config.layers))
            self.last = nn.LayerNorm(hidden)
        else:
            self.blocks = nn.ModuleList(
                nn.TransformerEncoderLayer(
                    hidden, config.heads, 4 * hidden, config.dropout, activation="gelu", batch_first=True
                )
                for _ in range(config.layers)
            )
            self.first = nn.LayerNorm(hidden)
            self.head = nn.Linear(hidden, hidden)
            self.bias = nn.Parameter(torch.zeros(candidates))
        self.apply(_initialize)

    def forward(self, behavior: Tensor, own: Tensor, asked: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Logits [n, W, B], and with labels their mean cross-entropy.

        Args:
            behavior: int64 [n, W], codes; B is padding, B + 1 starts or masks.
            own: int64 [n, W, 3], hour, weekday and place of each behavior.
            asked: int64 [n, W, 3], those of the event that a causal model's position predicts.
            labels: int64 [n, W], codes, or `IGNORED`.
        """
        valid = behavior != self.candidates
        x = self.items(behavior)
        if self.shape.architecture == "sasrec":
            x = x * self.shape.hidden**0.5
        for tables, columns in ((self.own, own), (self.asked, asked)):
            for number, table in enumerate(tables):
                x = x + table(columns[..., number])
        if self.shape.architecture != "gpt2":
            x = x + self.positions.weight
        hidden = self._encode(self.dropout(x), valid)
        logits = hidden @ self.items.weight[: self.candidates].T
        logits = logits if self.bias is None else logits + self.bias
        if labels is None:
            return {"logits": logits}
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        return {"loss": loss, "logits": logits}

    def _encode(self, x: Tensor, valid: Tensor) -> Tensor:
        if isinstance(self.blocks, GPT2Model):
            # Positions count from the right, as the rows end there.
            where = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
            found: Tensor = self.blocks(
                inputs_embeds=x, attention_mask=valid.long(), position_ids=where
            ).last_hidden_state
            return found
        assert isinstance(self.blocks, nn.ModuleList)
        if self.shape.architecture == "bert4rec":
            x = self.first(x)
            for block in self.blocks:
                x = block(x, src_key_padding_mask=~valid)
            return nn.functional.gelu(self.head(x))
        width = x.shape[1]
        causal = torch.ones(width, width, dtype=torch.bool, device=x.device).tril()
        # A padded position sees itself, so that no row of the softmax is empty.
        allowed = (causal & valid[:, None, :]) | torch.eye(width, dtype=torch.bool, device=x.device)
        for block in self.blocks:
            x = block(x, allowed)
        normed: Tensor = self.last(x)
        return normed


class _SasrecBlock(nn.Module):
    """x + Attention(LayerNorm(x)), then x + FFN(LayerNorm(x)) with a ReLU between two equally wide layers (§III.B)."""

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.before_attention, self.before_feed = nn.LayerNorm(config.hidden), nn.LayerNorm(config.hidden)
        self.attention = nn.MultiheadAttention(config.hidden, config.heads, config.dropout, batch_first=True)
        self.feed = nn.Sequential(
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.hidden),
            nn.Dropout(config.dropout),
        )

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """[n, W, hidden] after the block; `allowed` [n, W, W] says which positions (last axis) each one sees."""
        hidden: Tensor = self.before_attention(x)
        blocked = (~allowed).repeat_interleave(self.heads, dim=0)
        seen, _ = self.attention(hidden, hidden, hidden, attn_mask=blocked, need_weights=False)
        x = x + seen
        fed: Tensor = self.feed(self.before_feed(x))
        return x + fed


def _initialize(module: nn.Module) -> None:
    """Normal weights of standard deviation .02, as BERT4Rec and GPT-2 begin; padding stays zero."""
    if isinstance(module, nn.Embedding | nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()
