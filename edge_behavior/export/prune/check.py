"""Does a pruned vocabulary predict like the full one, and is it used?

The pruned model's logits are a subset of the full model's (its rows are copies), so one pass of the full model gives
both distributions: normalized over all tokens and over the kept ones. Knows llama.cpp's backend, the encoder and the
dataset; writes no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.events import UNKNOWN_PLACE
from edge_behavior.core.scoring import Floats, log_softmax
from edge_behavior.core.trie import LabelTrie
from edge_behavior.errors import EdgebError, nearest
from edge_behavior.export.prune.merges import CannotPrune
from edge_behavior.export.prune.vocabulary import PrunePlan, plan_pruning
from edge_behavior.export.prune.words import domain_texts
from edge_behavior.export.synthetic_events import HISTORY_LENGTHS, synthetic_windows
from edge_behavior.runtime.backends.base import Backend, Row
from edge_behavior.runtime.backends.llama import LlamaBackend, LlamaOptions
from edge_behavior.runtime.predictor import SMALL_BUNDLE

MODES = ("auto", "on", "off")
PROMPTS = 32
# KL in nats. On small trained models 4-bit weights cost 1e-4 to 4e-3, pruning 4e-7 to 2e-5.
MAX_FLIPS, MAX_KL = 0.02, 1e-3
# Probabilities that differ by less are a tie.
TIE = 1e-3
# Dropping a smaller share is not worth a changed vocabulary.
MIN_DROPPED = 0.05
_ROWS_AT_ONCE = 48
# Share of the candidates' probability below which a branch of the trie is not followed.
_NEGLIGIBLE = 1e-3


@dataclass(frozen=True)
class PruneParity:
    """How far the candidate distributions of the pruned vocabulary are from the full one's, on the same prompts.

    Attributes:
        prompts: How many were compared.
        flips: Share of prompts with another most probable candidate, ties aside.
        mean_kl: Mean KL(full ‖ pruned) over prompts, nats.
        max_kl: The largest.
        least_mass: Smallest probability of all kept tokens together, over all next-token distributions seen.
    """

    prompts: int
    flips: float
    mean_kl: float
    max_kl: float
    least_mass: float

    @property
    def holds(self) -> bool:
        """Whether the pruned vocabulary may take the place of the full one."""
        return self.flips <= MAX_FLIPS and self.mean_kl <= MAX_KL


@dataclass(frozen=True)
class PruneRequest:
    """What the user asks for and what is known of the domain; fields as in `ExportProfile` and `ExportSource`."""

    mode: str
    extra_tokens: int
    places: tuple[str, ...] | None
    data: Path | None
    data_note: str


@dataclass(frozen=True)
class Pruning:
    """What became of the vocabulary.

    Attributes:
        mode: auto, on or off.
        plan: What to keep; None if nothing is pruned.
        reason: Why nothing is pruned, or what speaks against a pruning that was forced; "" otherwise.
        parity: The comparison; None if there was none.
    """

    mode: str
    plan: PrunePlan | None
    reason: str = ""
    parity: PruneParity | None = None

    def to_dict(self) -> dict[str, Any]:
        """As `--json` has it."""
        return {
            "mode": self.mode,
            "pruned": self.plan is not None,
            "reason": self.reason,
            "vocabulary": None if self.plan is None else self.plan.summary(),
            "parity": None if self.parity is None else asdict(self.parity),
        }


def check_mode(mode: str) -> str:
    """Return `mode` if it is known, else raise EdgebError."""
    if mode not in MODES:
        raise EdgebError(f"unknown pruning mode '{mode}'", nearest(mode, MODES))
    return mode


def decide_pruning(request: PruneRequest, plain: Path, tokenizer: Any, config: Any, encoder: PromptEncoder) -> Pruning:
    """Plan the pruning of a model, compare predictions, and decide.

    `auto` prunes if the places are known, at least `MIN_DROPPED` of the tokens go and the predictions stay the same.
    `on` prunes whatever can be pruned; the reason says what speaks against it.

    Args:
        plain: The model's unquantized GGUF.
        tokenizer: The model's, as transformers loads it.
        config: The model's configuration.
        encoder: The prompts it was trained with.

    Raises:
        CannotPrune: in mode `on`, a model that cannot be pruned.
        EdgebError: `extra_tokens` is negative, or the dataset cannot be read.
    """
    mode = check_mode(request.mode)
    if mode == "off":
        return Pruning(mode, None, "switched off")
    if request.places is None and mode == "auto":
        return Pruning(mode, None, f"{request.data_note}, so the places are not known")
    places = request.places or ()
    texts = domain_texts(encoder.layout, encoder.candidates, places)
    chat = encoder.layout.chat
    needed = [encoder.bos_id, encoder.eos_id, *_named_ids(tokenizer, config), *(() if chat is None else chat.ids)]
    try:
        plan = plan_pruning(tokenizer, int(config.vocab_size), texts, len(places), request.extra_tokens, needed)
    except CannotPrune as error:
        if mode == "on":
            raise
        return Pruning(mode, None, error.message)
    dropped = plan.rows - len(plan.kept)
    if dropped == 0 or (mode == "auto" and dropped < MIN_DROPPED * plan.rows):
        return Pruning(mode, None, f"only {dropped} of {plan.rows} tokens would go")
    parity = compare(plain, encoder, plan.kept, sample_prompts(encoder, places, request.data))
    if parity.holds:
        return Pruning(
            mode, plan, "" if request.places is not None else f"{request.data_note}: no place is covered", parity
        )
    reason = (
        f"predictions change: {parity.flips:.1%} of {parity.prompts} get another first candidate (limit "
        f"{MAX_FLIPS:.1%}), KL {parity.mean_kl:.2g} (limit {MAX_KL:.2g})"
    )
    return Pruning(mode, plan if mode == "on" else None, reason, parity)


def _named_ids(tokenizer: Any, config: Any) -> list[int | None]:
    """Ids with a role in tokenizer or configuration."""
    found = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id]
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(config, name, None)
        found += value if isinstance(value, list) else [value]
    return found


def sample_prompts(
    encoder: PromptEncoder, places: Sequence[str], data: Path | None, count: int = PROMPTS
) -> list[list[int]]:
    """Token ids of prompts with short and long histories, of validation users or synthetic without a dataset.

    Raises:
        EdgebError: `data` is no dataset.
    """
    from edge_behavior.data.dataset import Dataset

    table = None if data is None else Dataset.open(data).events("validation")
    if table is not None and len(table):
        rng, windows = np.random.default_rng(0), []
        for i in range(count):
            length = min(HISTORY_LENGTHS[i % len(HISTORY_LENGTHS)], encoder.layout.history_length)
            target = int(rng.integers(len(table)))
            event = table.event(target)
            windows.append((tuple(table.history(target, length)), event.time, event.place))
    else:
        windows = synthetic_windows(encoder.candidates, encoder.layout, places or (UNKNOWN_PLACE,), count)
    formats = encoder.layout.formats
    return [encoder.prompt_ids(*window, i % formats) for i, window in enumerate(windows)]


def compare(path: Path, encoder: PromptEncoder, kept: NDArray[np.int64], prompts: Sequence[list[int]]) -> PruneParity:
    """Run the unpruned file once and score the candidates over all tokens and over the kept ones.

    Args:
        path: Unpruned, unquantized GGUF.
        encoder: With unpruned ids.
        kept: Old ids that pruning keeps, ascending.
        prompts: Token ids, at least one prompt.
    """
    # Room for the trie nodes of one evaluation; more are evaluated in turns.
    n_ctx = max(len(prompt) for prompt in prompts) + min(len(encoder.trie), 512)
    threads = 1 if path.stat().st_size < SMALL_BUNDLE else None
    backend = LlamaBackend(path, LlamaOptions(-(-n_ctx // 256) * 256, threads, exact=True))
    try:
        # Sorted, so that a shared prefix is evaluated once.
        pairs = [_both(backend, encoder.trie, kept, prompt) for prompt in sorted(prompts)]
    finally:
        backend.close()
    divergences = [float((np.exp(whole) * (whole - pruned)).sum()) for (whole, pruned), _ in pairs]
    return PruneParity(
        prompts=len(prompts),
        flips=float(np.mean([_flipped(np.exp(whole), pruned) for (whole, pruned), _ in pairs])),
        mean_kl=float(np.mean(divergences)),
        max_kl=max(divergences),
        least_mass=min(mass for _, mass in pairs),
    )


def _flipped(whole: Floats, pruned: Floats) -> bool:
    return bool(whole.max() - whole[pruned.argmax()] > TIE)


def _both(backend: Backend, trie: LabelTrie, kept: NDArray[np.int64], prompt: Sequence[int]) -> tuple[Floats, float]:
    """Log-distributions [2, outcomes] over the full and the kept vocabulary, and the least mass of the kept tokens.

    Outcomes are candidates; those below an unlikely node count as one.
    """
    paths = np.zeros((2, len(trie)))
    masses: list[float] = []

    def read(node: int, row: Row) -> None:
        first, stop = (int(i) + 1 for i in np.searchsorted(trie.parents[1:], [node, node + 1]))
        sums = np.array([_log_sum_exp(row), _log_sum_exp(row[kept])])
        paths[:, first:stop] = (paths[:, node] - sums)[:, None] + row[trie.tokens[first:stop]]
        masses.append(float(np.exp(sums[1] - sums[0])))

    read(0, backend.prefill(prompt)[0])
    below = trie.parents == 0
    least = _log_sum_exp(paths[0, below]) + np.log(_NEGLIGIBLE)
    inner = np.isin(np.arange(len(trie)), trie.inner)
    outcomes = []
    while below.any():
        expanded = below & inner & (paths[0] > least)
        outcomes += np.flatnonzero(below & ~expanded).tolist()
        nodes = np.flatnonzero(expanded).tolist()
        for first in range(0, len(nodes), _ROWS_AT_ONCE):
            some = nodes[first : first + _ROWS_AT_ONCE]
            for node, row in zip(some, backend.branch(trie, some)[0], strict=True):
                read(node, row)
        below = np.isin(trie.parents, nodes)
    return log_softmax(paths[:, outcomes]), min(masses)


def _log_sum_exp(row: Row | Floats) -> float:
    top = float(row.max())
    return top + float(np.log(np.exp(row.astype(np.float64) - top).sum()))
