"""Choosing tensors to keep: the greedy search against trials with known outcomes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_behavior.export.gguf.recover import keep_sensitive
from edge_behavior.export.parity.gate import RecoveryTrial

GAINS = {"v": 0.3, "down": 0.4, "up": 0.05, "q": -0.1}
SIZES = {"v": 10, "down": 100, "up": 100, "q": 10}


def trial(kept: tuple[str, ...]) -> RecoveryTrial:
    return RecoveryTrial(kept, 1.0 - sum(GAINS[k] for k in kept), 1000 + sum(SIZES[k] for k in kept))


def test_by_gain_per_byte_within_the_size() -> None:
    assert keep_sensitive(tuple(GAINS), trial, 1050)[0].kept == ("v",)
    assert keep_sensitive(tuple(GAINS), trial, 1110)[0].kept == ("v", "down")
    assert keep_sensitive(tuple(GAINS), trial, 2000)[0].kept == ("v", "down", "up")
    assert keep_sensitive(tuple(GAINS), trial, 1005)[0].kept == ()


def test_what_does_not_help_together_is_left_out() -> None:
    def jealous(kept: tuple[str, ...]) -> RecoveryTrial:
        found = trial(kept)
        return RecoveryTrial(kept, found.loss + 10 * (len(kept) > 1), found.size)

    best, trials = keep_sensitive(tuple(GAINS), jealous, 5000)
    assert best.kept == ("v",)
    assert trials[0].to_dict() == {"kept": [], "mean_kl": 1.0, "bytes": 1000}


@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(1, 500)), min_size=1, max_size=7), st.integers(1000, 3000))
def test_never_larger_never_worse(kinds: list[tuple[float, int]], largest: int) -> None:
    def measured(kept: tuple[str, ...]) -> RecoveryTrial:
        chosen = [kinds[int(k)] for k in kept]
        return RecoveryTrial(kept, 1 - sum(gain for gain, _ in chosen), 1000 + sum(size for _, size in chosen))

    best, trials = keep_sensitive([str(i) for i in range(len(kinds))], measured, largest)
    assert best.size <= max(largest, 1000)
    assert best.loss <= trials[0].loss
    assert len(trials) <= 1 + 2 * len(kinds)
    assert len({t.kept for t in trials}) == len(trials)
