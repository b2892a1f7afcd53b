"""The label trie against brute force over the set of all path prefixes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_behavior.core.trie import LabelTrie
from edge_behavior.errors import EdgebError

Path = tuple[int, ...]


def keep_prefix_free(paths: list[Path]) -> list[Path]:
    kept: list[Path] = []
    for path in paths:
        if not any(path[: len(other)] == other or other[: len(path)] == path for other in kept):
            kept.append(path)
    return kept


# A small alphabet, so that beginnings are shared; in the second half every path ends in one terminator, as labels do.
TOKENS = st.integers(0, 3)
PATHS = st.one_of(
    st.lists(st.lists(TOKENS, min_size=1, max_size=6).map(tuple), min_size=1, max_size=14).map(keep_prefix_free),
    st.lists(st.lists(TOKENS, max_size=5).map(lambda p: (*p, 9, 8)), min_size=1, max_size=14, unique=True),
)


def prefixes(paths: list[Path]) -> set[Path]:
    """Every way into a path, the empty one (the root) included."""
    return {path[:i] for path in paths for i in range(len(path) + 1)}


def children(prefix: Path, known: set[Path]) -> list[Path]:
    return sorted(p for p in known if len(p) == len(prefix) + 1 and p[:-1] == prefix)


def prefix_of(trie: LabelTrie, node: int) -> Path:
    return tuple(int(trie.tokens[n]) for n in trie.ancestors(node))


@settings(max_examples=150, deadline=None)
@given(PATHS)
@example([(5,)])
@example([(1, 2, 3, 4, 5)])
def test_nodes_are_the_prefixes(paths):
    trie, known = LabelTrie.from_paths(paths), prefixes(paths)
    found = [prefix_of(trie, node) for node in range(len(trie))]
    assert len(trie) == len(known)
    assert set(found) == known
    assert found[0] == ()
    assert (trie.tokens[0], trie.parents[0], trie.depths[0]) == (-1, -1, 0)
    assert trie.depths.tolist() == [len(p) for p in found]
    assert all(found[trie.parents[n]] == found[n][:-1] for n in range(1, len(trie)))


@settings(max_examples=150, deadline=None)
@given(PATHS)
def test_order_is_breadth_first_with_contiguous_siblings(paths):
    trie, known = LabelTrie.from_paths(paths), prefixes(paths)
    assert (np.diff(trie.depths) >= 0).all()
    assert (np.diff(trie.parents) >= 0).all()
    assert (trie.parents[1:] < np.arange(1, len(trie))).all()
    for node in range(len(trie)):
        siblings = np.flatnonzero(trie.parents == node)
        assert (np.diff(siblings) == 1).all()
        assert [prefix_of(trie, int(n)) for n in siblings] == children(prefix_of(trie, node), known)


@settings(max_examples=150, deadline=None)
@given(PATHS)
def test_path_inverts(paths):
    trie = LabelTrie.from_paths(paths)
    assert trie.n_candidates == len(paths)
    assert [tuple(trie.path(i)) for i in range(len(paths))] == paths
    assert [prefix_of(trie, int(leaf)) for leaf in trie.leaves] == paths
    assert trie.candidates[trie.leaves].tolist() == list(range(len(paths)))
    assert sorted(np.flatnonzero(trie.candidates >= 0)) == sorted(trie.leaves)


@settings(max_examples=100, deadline=None)
@given(PATHS)
def test_ancestors_lead_from_below_the_root_to_the_node(paths):
    trie = LabelTrie.from_paths(paths)
    assert trie.ancestors(0) == []
    for node in range(1, len(trie)):
        way = trie.ancestors(node)
        assert way[-1] == node
        assert trie.parents[way].tolist() == [0, *way[:-1]]
        assert trie.depths[way].tolist() == list(range(1, len(way) + 1))


@settings(max_examples=150, deadline=None)
@given(PATHS)
def test_what_each_scoring_has_to_evaluate(paths):
    trie, known = LabelTrie.from_paths(paths), prefixes(paths)
    has_children = {p for p in known if children(p, known)}
    choosing = {p for p in known if len(children(p, known)) > 1}
    on_the_way = {p for p in known if any(q[: len(p)] == p for q in choosing)}
    assert {prefix_of(trie, int(n)) for n in trie.inner} == has_children
    assert trie.inner[0] == 0
    assert (np.diff(trie.inner) > 0).all()
    assert {prefix_of(trie, int(n)) for n in trie.evaluated} == has_children - {()}
    assert {prefix_of(trie, int(n)) for n in trie.choices} == on_the_way - {()}
    assert (np.diff(trie.choices) > 0).all()
    assert set(trie.choices.tolist()) <= set(trie.evaluated.tolist())
    # A backend needs a node's parent before the node.
    for nodes in (trie.evaluated, trie.choices):
        assert set(trie.parents[nodes].tolist()) <= {0, *nodes.tolist()}


@given(PATHS, st.integers(1, 20))
def test_parts_are_whole_subtrees_of_the_root(paths, most):
    trie = LabelTrie.from_paths(paths)
    parts = trie.parts(most)
    assert sorted(node for part in parts for node in part) == trie.evaluated.tolist()
    for part in parts:
        tops = {trie.ancestors(node)[0] for node in part}
        assert {node for node in trie.evaluated.tolist() if trie.ancestors(node)[0] in tops} == set(part)
        assert part == sorted(part)
        assert len(part) <= most or len(tops) == 1


def test_by_hand():
    """read-s, read-m, video: only the node after `read` costs masked scoring anything."""
    read, video, s, m, end = 10, 20, 2, 1, 0
    trie = LabelTrie.from_paths([(read, s, end), (video, end), (read, m, end)])
    assert trie.tokens.tolist() == [-1, read, video, m, s, end, end, end]
    assert trie.parents.tolist() == [-1, 0, 0, 1, 1, 2, 3, 4]
    assert trie.depths.tolist() == [0, 1, 1, 2, 2, 2, 3, 3]
    assert trie.candidates.tolist() == [-1, -1, -1, -1, -1, 1, 2, 0]
    assert trie.leaves.tolist() == [7, 5, 6]
    assert trie.inner.tolist() == [0, 1, 2, 3, 4]
    assert trie.evaluated.tolist() == [1, 2, 3, 4]
    assert trie.choices.tolist() == [1]


def test_the_order_of_candidates_only_renumbers_them():
    paths = [(1, 2), (1, 3), (4,)]
    a, b = LabelTrie.from_paths(paths), LabelTrie.from_paths(paths[::-1])
    for name in ("tokens", "parents", "depths", "inner"):
        assert getattr(a, name).tolist() == getattr(b, name).tolist()
    assert a.leaves.tolist() == b.leaves.tolist()[::-1]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "no tokens"),
        ([()], "no tokens"),
        ([(1,), ()], "no tokens"),
        ([(1, 2), (1, 2)], "candidates 0 and 1 have the same tokens"),
        ([(3,), (1, 2), (1, 2, 3)], "candidate 1 is a token prefix of candidate 2"),
        ([(1, 2, 3), (1,)], "candidate 1 is a token prefix of candidate 0"),
    ],
)
def test_paths_that_make_no_trie(paths, message):
    with pytest.raises(EdgebError, match=message) as caught:
        LabelTrie.from_paths(paths)
    assert caught.value.hint


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(TOKENS, max_size=4).map(tuple), min_size=1, max_size=8))
def test_exactly_the_prefix_free_lists_make_a_trie(paths):
    fine = () not in paths and len(keep_prefix_free(paths)) == len(paths)
    try:
        LabelTrie.from_paths(paths)
    except EdgebError:
        assert not fine
    else:
        assert fine
