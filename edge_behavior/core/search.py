"""Best-first search over the label trie: prove the top candidates without evaluating the whole trie.

The probability of a node's path is an upper bound for every candidate below it. Each round expands, in one call, the
nodes the answer still depends on. The search ends when the wanted ranks are proven, the unexpanded candidates hold at
most `tolerance` of the probability, and every threshold is decided. Ranks are then those of the whole distribution;
probabilities are lower bounds. Candidate scores are affine in the model's log-probability, so that fusion and
calibration are searched in the same way. Knows logits and the trie, no inference engine: `TrieSearch.run` is given a
function that evaluates nodes, and whoever evaluates the nodes of many searches at once takes `TrieSearch.begin`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.scoring import Floats, row_log_probs
from edge_behavior.core.trie import LabelTrie

# Tolerance with which a search stops as soon as the ranks are proven.
RANKS_ONLY = 1.0
# Candidates whose bound misses the last wanted rank by less than this (log-probability) are expanded in the same round:
# bounds above them still fall, and another round costs more than a token.
_MARGIN = 0.1
# Subtrees with at most this many inner nodes are evaluated whole, again to save rounds.
_LOOKAHEAD = 2

# From trie nodes to the logits [V] after each.
Expand = Callable[[list[int]], Sequence[NDArray[np.float32]]]


@dataclass(frozen=True)
class Affine:
    """Candidate scores `slope * log p(model) + offset`, arrays [B], slope ≥ 0."""

    slope: Floats
    offset: Floats


@dataclass(frozen=True)
class Thresholds:
    """Probabilities that candidates are compared with; None compares nothing.

    Attributes:
        first: For the best candidate.
        each: For every candidate.
    """

    first: float | None = None
    each: float | None = None


@dataclass(frozen=True)
class Goal:
    """What a search has to establish before it stops.

    Attributes:
        top_k: Ranks to prove; None expands everything.
        tolerance: Most probability that may stay unexpanded; 0 expands everything.
        thresholds: Comparisons to decide: a candidate's probability among the allowed ones reaches the threshold if
            and only if the candidate is known and exp(score - log_total) reaches it.
        target: A candidate to know whatever its score: the true one, where a model is measured. None for none.
    """

    top_k: int | None = None
    tolerance: float = RANKS_ONLY
    thresholds: Thresholds = Thresholds()
    target: int | None = None

    @property
    def everything(self) -> bool:
        """Whether the whole trie has to be expanded."""
        return self.top_k is None or self.tolerance <= 0


@dataclass(frozen=True)
class SearchResult:
    """Result of a search.

    Attributes:
        log_probs: [B] log-probability of each candidate under the model; an upper bound where not `known`.
        scores: [B] the affine scores; likewise upper bounds where not `known`; -inf for candidates not allowed.
        known: [B] whether the candidate's whole path was evaluated.
        log_total: Log of the sum of exp(scores), the unexpanded part at its upper bound.
        unexpanded: Share of that sum held by the candidates not `known`, an upper bound.
        rounds: Calls of `expand` that evaluated anything.
    """

    log_probs: Floats
    scores: Floats
    known: NDArray[np.bool_]
    log_total: float
    unexpanded: float
    rounds: int


class TrieSearch:
    """Searches one trie for one set of allowed candidates.

    Args:
        trie: The label trie.
        scoring: `exact` or `masked`, see `scoring`.
        allowed: [B] candidates to rank; None for all.
    """

    def __init__(self, trie: LabelTrie, scoring: str, allowed: NDArray[np.bool_] | None = None) -> None:
        self._trie, self._scoring = trie, scoring
        self._allowed = np.ones(trie.n_candidates, dtype=np.bool_) if allowed is None else allowed
        live = np.zeros(len(trie), dtype=np.bool_)
        live[trie.leaves[self._allowed]] = True
        for node in range(len(trie) - 1, 0, -1):
            live[trie.parents[node]] |= live[node]
        self._children: dict[int, NDArray[np.int32]] = {
            int(node): np.empty(0, dtype=np.int32) for node in trie.inner if live[node]
        }
        alive = np.flatnonzero(live[1:]).astype(np.int32) + 1
        parents = trie.parents[alive]
        starts = np.flatnonzero(np.diff(parents, prepend=-1))
        for group in np.split(alive, starts[1:]):
            self._children[int(trie.parents[group[0]])] = group
        # Under masked scoring an only child has probability 1: no logits are needed.
        self._choosing = {node for node, children in self._children.items() if scoring == "exact" or len(children) > 1}
        self._levels = [np.flatnonzero(live & (trie.depths == d)) for d in range(1, int(trie.depths[-1]) + 1)]
        self._inner_children = {
            node: [int(child) for child in children if int(child) in self._children]
            for node, children in self._children.items()
        }

    def begin(self, goal: Goal = Goal(), affine: Affine | None = None) -> OpenSearch:
        """A search whose nodes the caller evaluates; arguments as for `run`."""
        size = self._trie.n_candidates
        affine = affine or Affine(np.ones(size), np.zeros(size))
        return OpenSearch(self, _State(self._trie, self._levels, self._allowed, affine, self._choosing), goal)

    def run(
        self,
        root: NDArray[np.float32],
        expand: Expand,
        goal: Goal = Goal(),
        affine: Affine | None = None,
        ready: Collection[int] = (),
    ) -> SearchResult:
        """Search until the goal is reached.

        Args:
            root: Logits [V] at the end of the prompt.
            expand: Evaluates trie nodes and returns the logits after each.
            goal: What to establish.
            affine: Scores to rank by; None ranks by the log-probability itself.
            ready: Nodes whose logits `expand` returns without evaluating anything.
        """
        state = self.begin(goal, affine).state
        if 0 in self._choosing:
            self._read(state, 0, root)
        else:
            state.evaluated[0] = True
        # Reading logits takes time in the size of the vocabulary, so only what is wanted of those at hand is read.
        at_hand = {node for node in ready if node in self._choosing}
        rounds = 0
        while True:
            state.refresh()
            chosen = state.choose(goal)
            if not chosen:
                break
            wanted = at_hand.intersection(chosen)
            nodes = sorted(wanted.union(*(at_hand.intersection(self._subtree(node)) for node in wanted)))
            if not nodes and at_hand:
                # The next evaluation overwrites what is at hand.
                nodes = sorted(at_hand)
            if not nodes:
                nodes = self.with_descendants(chosen, state, goal.everything)
                rounds += 1
            for node, row in zip(nodes, expand(nodes), strict=True):
                self._read(state, node, row)
            at_hand.difference_update(nodes)
        return state.result(rounds)

    def expected_nodes(self, scores: Floats, count: int) -> list[int]:
        """Nodes to expand to know the `count` best of `scores` [B]: the best one's first, parents before children."""
        best = np.argsort(-np.where(self._allowed, scores, -np.inf), kind="stable")[: min(count, self._allowed.sum())]
        steps = (step for b in best for step in self._trie.ancestors(int(self._trie.leaves[b])))
        return [step for step in dict.fromkeys(steps) if step in self._choosing]

    def _read(self, state: _State, node: int, row: NDArray[np.float32]) -> None:
        children = self._children[node]
        state.edges[children] = row_log_probs(row, self._trie.tokens[children], self._scoring)
        state.evaluated[node] = True

    def with_descendants(self, chosen: list[int], state: _State, everything: bool) -> list[int]:
        """The chosen nodes and what is worth evaluating in the same call, sorted."""
        nodes: set[int] = set()
        for top in chosen:
            below = self._subtree(top)
            chain = len(self._inner_children[top]) <= 1
            take = everything or chain or len(below) <= _LOOKAHEAD
            node = top
            nodes.add(top)
            if take and not everything and chain:
                # Down to the first branching node, and on from there if its subtree is small.
                while len(self._inner_children[node]) == 1 and len(self._children[node]) == 1:
                    node = self._inner_children[node][0]
                    nodes.add(node)
                below = self._subtree(node)
                take = len(below) <= _LOOKAHEAD
            if take:
                nodes.update(below)
        return sorted(node for node in nodes if node in self._choosing and not state.evaluated[node])

    def _subtree(self, top: int) -> list[int]:
        found, stack = [], list(self._inner_children[top])
        while stack:
            node = stack.pop()
            found.append(node)
            stack += self._inner_children[node]
        return found


class OpenSearch:
    """One search in progress. The caller evaluates the root, then what `wanted` names until that is nothing.

    Attributes:
        state: What is known so far.
    """

    def __init__(self, search: TrieSearch, state: _State, goal: Goal) -> None:
        self._search, self._goal, self.state = search, goal, state

    def read(self, nodes: NDArray[np.int64], children: NDArray[np.int64], log_probs: Floats) -> None:
        """Take in evaluated nodes.

        Args:
            nodes: [k] the nodes.
            children: [c] all their children.
            log_probs: [c] of the step to each child.
        """
        self.state.evaluated[nodes] = True
        self.state.edges[children] = log_probs

    def wanted(self) -> list[int]:
        """Nodes to evaluate next, parents first; none once the goal is reached."""
        self.state.refresh()
        chosen = self.state.choose(self._goal)
        return self._search.with_descendants(chosen, self.state, self._goal.everything) if chosen else []

    @property
    def known(self) -> NDArray[np.bool_]:
        """[B] whether the candidate's whole path was evaluated, when `wanted` was last asked."""
        return np.asarray(self.state.known)

    def shares(self) -> Floats:
        """[B] log-probabilities, when `wanted` was last asked; see `_State.shares`."""
        return self.state.shares()


class _State:
    """What is known so far: log-probabilities of evaluated steps, and the bounds they give."""

    def __init__(
        self,
        trie: LabelTrie,
        levels: list[NDArray[np.int64]],
        allowed: NDArray[np.bool_],
        affine: Affine,
        choosing: set[int],
    ) -> None:
        self._trie, self._levels, self._allowed, self._affine = trie, levels, allowed, affine
        # Log-probability of the step to each node; 0, an upper bound, until its parent is evaluated.
        self.edges = np.zeros(len(trie))
        self.evaluated = np.zeros(len(trie), dtype=np.bool_)
        self._needed = np.zeros(len(trie), dtype=np.bool_)
        self._needed[list(choosing)] = True
        self._bounds = np.zeros(len(trie))
        # First unevaluated node on the path to each node; 0 for none.
        self._open = np.zeros(len(trie), dtype=np.int64)

    def refresh(self) -> None:
        parents = self._trie.parents
        for nodes in self._levels:
            above = parents[nodes]
            self._bounds[nodes] = self._bounds[above] + self.edges[nodes]
            own = np.where(self._needed[nodes] & ~self.evaluated[nodes], nodes, 0)
            self._open[nodes] = np.where(self._open[above] > 0, self._open[above], own)
        self.log_probs = self._bounds[self._trie.leaves]
        waiting = self._open[self._trie.leaves]
        self.scores = np.where(self._allowed, self._affine.slope * self.log_probs + self._affine.offset, -np.inf)
        self.known = waiting == 0
        self._nodes, self._owner = np.unique(waiting[self._allowed & ~self.known], return_inverse=True)

    def choose(self, goal: Goal) -> list[int]:
        """Nodes to expand next: those that may reach a wanted rank or threshold, and those that hold too much mass."""
        if goal.top_k is None or goal.everything or not len(self._nodes):
            return [int(node) for node in self._nodes]
        masses, known = self._masses()
        unknown = self._allowed & ~self.known
        ranked = np.sort(self.scores[self._allowed])[::-1]
        wanted = min(goal.top_k, len(ranked))
        last = ranked[wanted - 1]
        proven = np.sort(self.scores[self._allowed & self.known])[::-1]
        open_scores = self.scores[unknown]
        best = np.full(len(self._nodes), -np.inf)
        np.maximum.at(best, self._owner, open_scores)
        total = known + masses.sum()
        target = set[int]()
        if goal.target is not None and unknown[goal.target]:
            target.add(int(np.searchsorted(self._nodes, self._open[self._trie.leaves[goal.target]])))
        is_proven = len(proven) >= wanted and proven[wanted - 1] >= best.max()
        spare, chosen = goal.tolerance * total, set[int]()
        # Before that hardly anything is known, and any candidate might reach a threshold.
        if is_proven:
            spare = min(spare, self._spare(goal.thresholds, masses.sum(), known))
            chosen = self._may_reach(goal.thresholds, best, known)
        if masses.sum() > spare:
            order = np.argsort(-masses, kind="stable")
            left = masses.sum() - np.cumsum(masses[order])
            chosen |= set(order[: int(np.searchsorted(-left, -spare)) + 1].tolist())
        if not is_proven:
            chosen |= set(np.flatnonzero(best >= last - _MARGIN).tolist())
        return [int(self._nodes[i]) for i in sorted(chosen | target)]

    def shares(self) -> Floats:
        """[B] log-probabilities; candidates not `known` have equal shares of that of the path they have in common.

        Their sum is then what `SearchResult.log_total` is under scores that are log-probabilities: an upper bound.
        """
        waiting = self._open[self._trie.leaves]
        count = np.bincount(waiting[self._allowed], minlength=len(self._trie))
        return np.where(waiting > 0, self.log_probs - np.log(np.maximum(count[waiting], 1)), self.log_probs)

    def result(self, rounds: int) -> SearchResult:
        self.refresh()
        top = self.scores.max()
        masses, known = self._masses()
        open_mass = float(masses.sum())
        return SearchResult(
            log_probs=self.log_probs,
            scores=self.scores,
            known=self.known,
            log_total=float(top + np.log(known + open_mass)),
            unexpanded=open_mass / (known + open_mass),
            rounds=rounds,
        )

    def _spare(self, thresholds: Thresholds, open_mass: float, known: float) -> float:
        """Open mass below which every known candidate whose comparison is undecided would reach its threshold."""
        weights = np.exp(self.scores[self._allowed & self.known] - self.scores.max())
        spare = np.inf
        for threshold, compared in ((thresholds.first, weights[weights == weights.max()]), (thresholds.each, weights)):
            if threshold is not None:
                # Not reached yet, and reached if nothing else were there.
                undecided = compared[(compared < threshold * (known + open_mass)) & (compared >= threshold * known)]
                spare = min(spare, float((undecided / threshold - known).min(initial=np.inf)))
        return spare

    def _may_reach(self, thresholds: Thresholds, best: Floats, known: float) -> set[int]:
        """Open nodes with a candidate that may reach the threshold for each."""
        if thresholds.each is None:
            return set()
        weights = np.exp(best - self.scores.max())
        return set(np.flatnonzero(weights >= thresholds.each * (known + weights)).tolist())

    def _masses(self) -> tuple[Floats, float]:
        """Upper bound of the sum of exp(score) below each open node, and the known sum, relative to the best score.

        Below a node of probability P, scores a·log p + c sum to at most Σ exp(a·log P + c); and since the p there sum
        to at most P, also (Jensen) to exp(max c)·P^a·m^max(0, 1-a) over its m candidates, with the smallest a.
        """
        top = self.scores.max()
        is_known = self._allowed & self.known
        known = float(np.exp(self.scores[is_known] - top).sum())
        count = len(self._nodes)
        unknown = self._allowed & ~self.known
        each = np.bincount(self._owner, np.exp(self.scores[unknown] - top), minlength=count)
        least, most = np.full(count, np.inf), np.full(count, -np.inf)
        np.minimum.at(least, self._owner, self._affine.slope[unknown])
        np.maximum.at(most, self._owner, self._affine.offset[unknown])
        members = np.bincount(self._owner, minlength=count)
        together = (
            most + least * self._bounds[self._nodes] + np.maximum(0.0, 1.0 - least) * np.log(np.maximum(members, 1))
        )
        return np.minimum(each, np.exp(together - top)), known
