"""Sequence models: an independent forward, what a position may see, cold starts, and that they learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edge_behavior.baselines import sequence
from edge_behavior.baselines.sequence import SEQUENCE_SYSTEMS, Columns, Rows, SequenceSystem, training_spans
from edge_behavior.baselines.sequence_model import IGNORED, SequenceConfig, SequenceModel
from edge_behavior.baselines.system import Budget
from edge_behavior.data.dataset import EventTable
from edge_behavior.errors import EdgebError
from tests import helpers

LABELS, LENGTH = [f"b{i}" for i in range(5)], 4
ARCHITECTURES = ("sasrec", "bert4rec", "gpt2")


def table_of(*users: str) -> EventTable:
    """Each letter is an event of that behavior, an hour apart."""
    return helpers.event_table([[LABELS["abcde".index(letter)] for letter in user] for user in users], LABELS)


def rows_of(table: EventTable, spans: list[tuple[int, int]], config: SequenceConfig, **options: Any) -> Rows:
    columns = Columns.of(table, np.ones(len(table.places), dtype=np.bool_))
    sizes = (len(LABELS), len(table.places) + 1, LENGTH + 1)
    return Rows(columns, np.array(spans), config, sizes, **{"last_only": False, **options})


def small(architecture: str, context: bool = True) -> SequenceConfig:
    return SequenceConfig(architecture, hidden=16, layers=2, heads=2, dropout=0.0, context=context)


class Splits:
    """What a sequence system reads of a dataset."""

    def __init__(self, train: EventTable, validation: EventTable) -> None:
        self._tables = {"train": train, "validation": validation}
        self.candidates = train.candidates

    def events(self, split: str) -> EventTable:
        return self._tables[split]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence, "_STEPS", 240)
    monkeypatch.setattr(sequence, "_EPOCHS", 1)
    monkeypatch.setattr(sequence, "_LEAST_STEPS", 80)


def fitted(system: SequenceSystem, train: EventTable, folder: Path, seed: int = 0) -> Any:
    dataset: Any = Splits(train, train)
    folder.mkdir(exist_ok=True)
    return system.fit(dataset, LENGTH, Budget(0, 50, seed, folder), 0.01)


class TestRows:
    def test_causal_rows_shift_behaviors_and_keep_the_context_asked_about(self):
        row = rows_of(table_of("abcde"), [(1, 4)], small("sasrec")).batch(slice(0, 1))
        assert row["behavior"].tolist() == [[5, 5, 6, 1, 2]]  # padding, padding, start, b, c
        assert row["labels"].tolist() == [[IGNORED, IGNORED, 1, 2, 3]]
        hours = row["asked"][0, 2:, 0].tolist()
        assert row["own"][0, 2:, 0].tolist() == [24, *hours[:-1]]

    def test_windows_have_one_target(self):
        row = rows_of(table_of("abcde"), [(0, 5)], small("bert4rec"), last_only=True).batch(slice(0, 1))
        assert row["behavior"].tolist() == [[0, 1, 2, 3, 6]]
        assert row["labels"].tolist() == [[IGNORED] * 4 + [4]]

    def test_masked_events_are_the_targets(self):
        rows = rows_of(table_of("abcde"), [(0, 5)] * 50, small("bert4rec")).batch(slice(0, 50))
        masked = rows["behavior"] == 6
        assert (masked == (rows["labels"] != IGNORED)).all()
        assert masked.any(axis=1).all()
        assert not masked.all(axis=1).all()

    @given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 60), st.integers(0, 5))
    def test_every_event_is_a_target_once(self, sizes: list[int], targets: int, seed: int):
        table = table_of(*("a" * size for size in sizes))
        spans = training_spans(table, LENGTH + 1, 0, seed)
        seen = np.concatenate([np.arange(*span) for span in spans])
        assert sorted(seen.tolist()) == list(range(len(table)))
        assert (np.diff(spans)[:, 0] <= LENGTH + 1).all()
        assert (table.user_of(spans[:, 0]) == table.user_of(spans[:, 1] - 1)).all()
        some = training_spans(table, LENGTH + 1, targets, seed)
        assert np.diff(some).sum() == min(targets, len(table))


class TestModels:
    def test_sasrec_equals_its_equations_in_numpy(self):
        torch.manual_seed(0)
        model = SequenceModel(small("sasrec", context=False), 5, 3, LENGTH + 1).double().eval()
        row = rows_of(table_of("abcde"), [(1, 5), (0, 5)], model.shape).batch(slice(0, 2))
        with torch.no_grad():
            found = model(*(torch.from_numpy(row[name]) for name in ("behavior", "own", "asked")))["logits"].numpy()
        w = {name: value.detach().numpy() for name, value in model.state_dict().items()}
        for n, behavior in enumerate(row["behavior"]):
            first = int((behavior != 5).argmax())
            x = w["items.weight"][behavior] * 4.0 + w["positions.weight"]
            for block in (f"blocks.{i}" for i in range(2)):
                h = _normed(x, w, f"{block}.before_attention")
                q, k, v = np.split(
                    h @ w[f"{block}.attention.in_proj_weight"].T + w[f"{block}.attention.in_proj_bias"], 3, 1
                )
                seen = np.zeros_like(x)
                for head in (slice(0, 8), slice(8, 16)):
                    for t in range(first, LENGTH + 1):
                        scores = k[first : t + 1, head] @ q[t, head] / np.sqrt(8)
                        weights = np.exp(scores - scores.max())
                        seen[t, head] = weights @ v[first : t + 1, head] / weights.sum()
                x = x + seen @ w[f"{block}.attention.out_proj.weight"].T + w[f"{block}.attention.out_proj.bias"]
                h = np.maximum(
                    _normed(x, w, f"{block}.before_feed") @ w[f"{block}.feed.0.weight"].T + w[f"{block}.feed.0.bias"], 0
                )
                x = x + h @ w[f"{block}.feed.3.weight"].T + w[f"{block}.feed.3.bias"]
            expected = _normed(x, w, "last") @ w["items.weight"][:5].T
            np.testing.assert_allclose(found[n, first:], expected[first:], atol=1e-10)

    @pytest.mark.parametrize("architecture", ["sasrec", "gpt2"])
    def test_later_events_change_no_earlier_scores(self, architecture: str):
        torch.manual_seed(0)
        model = SequenceModel(small(architecture), 5, 4, LENGTH + 1).eval()
        logits = []
        for user in ("abcde", "abcaa"):
            row = rows_of(table_of(user), [(0, 5)], model.shape).batch(slice(0, 1))
            with torch.no_grad():
                given = (torch.from_numpy(row[name]) for name in ("behavior", "own", "asked"))
                logits.append(model(*given)["logits"][0])
        # Position 4 is given event 3.
        torch.testing.assert_close(logits[0][:4], logits[1][:4])
        assert not torch.allclose(logits[0][4], logits[1][4])

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_padding_changes_nothing(self, architecture: str):
        """What lies before a window is not seen, whatever it is."""
        torch.manual_seed(0)
        model = SequenceModel(small(architecture), 5, 4, LENGTH + 1).eval()
        logits = []
        for user in ("abcde", "eecde"):
            row = rows_of(table_of(user), [(2, 5)], model.shape, last_only=True).batch(slice(0, 1))
            with torch.no_grad():
                given = (torch.from_numpy(row[name]) for name in ("behavior", "own", "asked"))
                logits.append(model(*given)["logits"][0, -1])
        torch.testing.assert_close(*logits)

    def test_bad_shapes(self):
        with pytest.raises(EdgebError, match="no architecture 'rnn'"):
            SequenceConfig("rnn")
        with pytest.raises(EdgebError, match="hidden 10 is not divisible by 4 heads"):
            SequenceConfig("sasrec", hidden=10, heads=4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_learns_what_follows_what(architecture: str, tmp_path: Path):
    train = table_of(*["abcabcabcabc", "dedededede", "bcabcabcab", "ededededed"] * 5)
    system = SequenceSystem(architecture, architecture, small(architecture, context=False))
    found = fitted(system, train, tmp_path / "one")
    targets = np.flatnonzero(np.arange(len(train)) - train.user_offsets[train.user_of(np.arange(len(train)))] >= 2)
    scores = found.log_probs(train, targets)
    np.testing.assert_allclose(np.exp(scores).sum(1), 1.0)
    assert (scores.argmax(1) == train.behavior[targets]).mean() > 0.95
    for known in (0, 1, 100):
        assert np.isfinite(found.log_probs(train, targets, known)).all()
    np.testing.assert_array_equal(found.log_probs(train, targets, 100), scores)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_learns_where_a_new_user_does_what(architecture: str, tmp_path: Path):
    train = table_of(*["abababab"] * 20)
    found = fitted(SequenceSystem(architecture, architecture, small(architecture)), train, tmp_path / "one")
    scores = found.log_probs(train, np.arange(8), 0)
    # Places alternate as behaviors do.
    assert scores.argmax(1).tolist() == [0, 1] * 4


def test_an_interrupted_fit_ends_like_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    train = table_of(*["abcabcabcabc", "dedededede", "acbdeacbde"] * 6)
    system = SequenceSystem("bert4rec", "BERT4Rec", small("bert4rec"))
    whole = fitted(system, train, tmp_path / "whole")
    targets = train.user_offsets[:-1] + 6

    from edge_behavior.train.run.checkpoints import MarkComplete

    saved, mark = 0, MarkComplete.on_save

    def interrupted(self: MarkComplete, *args: Any, **names: Any) -> None:
        nonlocal saved
        mark(self, *args, **names)
        saved += 1
        if saved == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(MarkComplete, "on_save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitted(system, train, tmp_path / "halves")
    monkeypatch.setattr(MarkComplete, "on_save", mark)
    halves = fitted(system, train, tmp_path / "halves")
    np.testing.assert_array_equal(whole.log_probs(train, targets), halves.log_probs(train, targets))
    again = fitted(system, train, tmp_path / "whole")
    np.testing.assert_array_equal(whole.log_probs(train, targets), again.log_probs(train, targets))
    other = fitted(system, train, tmp_path / "seed", seed=1)
    assert not np.array_equal(whole.log_probs(train, targets), other.log_probs(train, targets))


def test_names():
    assert [system.name for system in SEQUENCE_SYSTEMS] == ["sasrec", "bert4rec", "gpt2"]


def _normed(x: Any, w: dict[str, Any], name: str) -> Any:
    centered = x - x.mean(1, keepdims=True)
    return centered / np.sqrt(x.var(1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]
