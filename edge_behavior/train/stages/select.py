"""Difficulty-based data selection of B-Tuning (§3.3): score, weigh, spread, pair.

Arrays in, indices and pairs out; the scores come from `TorchScorer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import kmeans_plusplus

from edge_behavior.core.scoring import log_softmax
from edge_behavior.train.recipe import BTuning

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """Scored samples of the pool (anchor and tail).

    Attributes:
        targets: [n] event index of each sample's next behavior in the training table.
        truth: [n] candidate code y.
        formats: [n] wording of the layout in which each sample was asked.
        log_probs: [n, B] log-probabilities under the A-tuned model: exact for the truth and the first two, for the
            others as `PromptScores` has them.
        embeddings: [n, H] E(x).
    """

    targets: Ints
    truth: Ints
    formats: Ints
    log_probs: Floats
    embeddings: NDArray[np.float32]

    @property
    def probability(self) -> Floats:
        """[n] p(y|x), renormalized over the candidates."""
        return np.asarray(np.exp(log_softmax(self.log_probs))[np.arange(len(self.truth)), self.truth])

    @property
    def predicted(self) -> Ints:
        """[n] ŷ."""
        return np.asarray(self.log_probs.argmax(1), dtype=np.int64)

    @property
    def best_wrong(self) -> Ints:
        """[n] highest-scored candidate other than the truth: ŷ where the model errs, else its runner-up."""
        scores = self.log_probs.copy()
        scores[np.arange(len(self.truth)), self.truth] = -np.inf
        return np.asarray(scores.argmax(1), dtype=np.int64)


@dataclass(frozen=True)
class Pair:
    """One preference pair: at event `target`, `chosen` (the truth) is preferred to `rejected` (codes).

    DPO's reference is the log-probabilities that the A-tuned model gave both answers when the pool was scored.
    """

    target: int
    format: int
    chosen: int
    rejected: int
    chosen_log_prob: float
    rejected_log_prob: float
    probability: float
    difficulty: float


def confusion(truth: Ints, predicted: Ints, anchors: NDArray[np.bool_]) -> Floats:
    """Eq. 2: d = 0 for a misprediction within the truth's category (anchor or tail), else 1."""
    within = (predicted != truth) & (anchors[predicted] == anchors[truth])
    return np.where(within, 0.0, 1.0)


def difficulty(probability: Floats, d_confusion: Floats, weight: float, rule: str) -> Floats:
    """Difficulty D in [0, 1] of each sample, Eq. 3 with λ = `weight`.

    `as-printed` is λ(1-p) + (1-λ)d; `intended` is λ(1-p) + (1-λ)(1-d), which ranks mistakes within the category as
    the hardest, as the paper's text says (docs/train.md).
    """
    term = d_confusion if rule == "as-printed" else 1.0 - d_confusion
    return weight * (1.0 - probability) + (1.0 - weight) * term


def select(pool: Pool, hardness: Floats, settings: BTuning, seed: int) -> Ints:
    """Indices into the pool: up to F samples of every behavior (Algorithm 1, step 2.2), sorted.

    `weighted-kmeans++` draws k = F seeds over E(x) with weights D/max D; `difficulty` takes the F hardest;
    `uniform` takes F at random. A behavior with at most F samples gives all it has.
    """
    rng = np.random.default_rng(seed)
    chosen: list[Ints] = []
    for behavior in np.unique(pool.truth):
        members = np.flatnonzero(pool.truth == behavior)
        if len(members) > settings.samples_per_behavior:
            members = members[_spread(pool, members, hardness[members], settings, rng)]
        chosen.append(members)
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, dtype=np.int64)


def _spread(pool: Pool, members: Ints, hardness: Floats, settings: BTuning, rng: np.random.Generator) -> Ints:
    size = settings.samples_per_behavior
    hardest_first = np.argsort(-hardness, kind="stable")
    if settings.selection == "difficulty":
        return hardest_first[:size]
    if settings.selection == "uniform":
        return np.asarray(rng.choice(len(members), size, replace=False))
    # A weight of zero would exclude a sample; D is zero only where p is 1.
    weights = np.maximum(hardness / max(float(hardness.max()), 1e-12), 1e-6)
    _, seeds = kmeans_plusplus(
        pool.embeddings[members].astype(np.float64),
        size,
        sample_weight=weights,
        random_state=int(rng.integers(2**31)),
        # With more trials scikit-learn's greedy choice applies the weights a second time: 4:1 acts as 8:1.
        n_local_trials=1,
    )
    # Equal embeddings can be drawn twice; the hardest unused samples replace them.
    unique = list(dict.fromkeys(int(i) for i in seeds))
    unique += [int(i) for i in hardest_first if int(i) not in set(unique)][: size - len(unique)]
    return np.asarray(unique)


def build_pairs(pool: Pool, chosen: Ints, hardness: Floats) -> list[Pair]:
    """Preference pairs of the selected samples (step 2.3); chosen and rejected always differ."""
    probability, rejected = pool.probability, pool.best_wrong
    return [
        Pair(
            target=int(pool.targets[i]),
            format=int(pool.formats[i]),
            chosen=int(pool.truth[i]),
            rejected=int(rejected[i]),
            chosen_log_prob=float(pool.log_probs[i, pool.truth[i]]),
            rejected_log_prob=float(pool.log_probs[i, rejected[i]]),
            probability=float(probability[i]),
            difficulty=float(hardness[i]),
        )
        for i in chosen
    ]


def per_behavior(truth: Ints, indices: Ints, labels: Sequence[str]) -> dict[str, int]:
    """Number of selected samples by label, zeros included."""
    counts = np.bincount(truth[indices], minlength=len(labels))
    return {label: int(counts[i]) for i, label in enumerate(labels)}
