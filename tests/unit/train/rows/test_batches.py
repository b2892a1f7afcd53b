"""Rows come in whole batches, all of them, the same for any number of processes."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from edge_behavior.train.rows.batches import batched


@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=300),
    batch_size=st.integers(1, 16),
    seed=st.integers(0, 5),
    by_length=st.booleans(),
)
def test_every_row_comes_once_and_the_last_batch_is_filled(
    lengths: list[int], batch_size: int, seed: int, by_length: bool
) -> None:
    rows = list(range(len(lengths)))
    found = batched(rows, lengths, batch_size, seed, by_length)
    assert len(found) % batch_size == 0
    assert 0 <= len(found) - len(rows) < batch_size
    counts = Counter(found)
    assert set(counts) == set(rows)
    if batch_size <= len(rows):
        assert max(counts.values()) <= 2
    assert found == batched(rows, lengths, batch_size, seed, by_length)


@given(lengths=st.lists(st.integers(1, 500), min_size=8, max_size=300), seed=st.integers(0, 5))
def test_the_longest_batch_comes_first(lengths: list[int], seed: int) -> None:
    found = batched(lengths, lengths, 4, seed, by_length=True)
    assert max(found[:4]) == max(lengths)


def test_by_length_saves_padding_and_seeds_differ() -> None:
    lengths = [10 + 7 * i % 400 for i in range(400)]

    def padding(rows: list[int]) -> int:
        return sum(8 * max(rows[i : i + 8]) - sum(rows[i : i + 8]) for i in range(0, len(rows), 8))

    mixed, grouped = (batched(lengths, lengths, 8, 0, by_length) for by_length in (False, True))
    assert padding(grouped) < 0.2 * padding(mixed)
    assert grouped != batched(lengths, lengths, 8, 1, True)
