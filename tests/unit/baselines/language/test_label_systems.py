"""LLM-ESR and AlphaFuse: they learn twenty users by heart, and what makes each of them itself does what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from edge_behavior.baselines import trained
from edge_behavior.baselines.language.alphafuse import AlphaFuse, language_coordinates
from edge_behavior.baselines.language.llm_esr import DualView, LlmEsr, PeeredRow, collate, similar_users
from edge_behavior.baselines.sequence import training
from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.baselines.sequence.fitting import WindowRows
from edge_behavior.baselines.sequence.inputs import ContextVocabulary, Row, asked_only, causal_row
from edge_behavior.baselines.sequence.kept import load_network, read_kept
from edge_behavior.baselines.sequence.model import SasRec
from edge_behavior.baselines.sequence.training import TrainingData
from edge_behavior.data.windows import natural_windows
from tests.helpers import LABELS, event_table
from tests.unit.baselines.checks import KillAt, Killed, assert_blind_from_the_target_on
from tests.unit.baselines.language.conftest import LENGTH, Users, budget, language

SMALL = SequenceConfig(
    hidden=16, layers=1, heads=2, epochs=1, least_steps=20, eval_steps=10, batch_size=8, dropout=0.0, patience=99
)
BOTH = pytest.mark.parametrize("kind", [LlmEsr, AlphaFuse])
WINDOWS = np.array([8, 20, 31, 3, 0])


@pytest.fixture
def users() -> Any:
    return Users(both=True)


def quick(kind: Any, users: Any, folder: Path, **fields: Any) -> Any:
    return kind(language(), config=SMALL, **fields).fit(users, LENGTH, budget(folder, targets=100), 0.01)


def a_batch(users: Any, fitted: Any, targets: np.ndarray) -> dict[str, torch.Tensor]:
    """Windows as the network takes them."""
    columns = fitted.vocabulary.columns(users.table)
    batch = training.tensors(fitted.rows.windows(users.table, columns, targets))
    del batch["answers"]
    return batch


@pytest.mark.long
@BOTH
def test_twenty_users_are_learned_by_heart(kind: Any, users: Any, tmp_path: Path) -> None:
    config = replace(SMALL, hidden=32, least_steps=300, eval_steps=100, batch_size=16)
    windows = natural_windows(users.table, LENGTH)
    found = kind(language(), config=config).fit(users, LENGTH, budget(tmp_path / "fit"), 0.005)
    right = found.log_probs(users.table, windows).argmax(1) == users.table.behavior[windows]
    assert right.mean() > 0.95
    # One event does not tell which way round a user goes.
    fewer = found.log_probs(users.table, windows, 1).argmax(1) == users.table.behavior[windows]
    assert fewer.mean() < right.mean()


@BOTH
def test_a_prediction_sees_no_behavior_from_the_target_on(kind: Any, users: Any, tmp_path: Path) -> None:
    assert_blind_from_the_target_on(quick(kind, users, tmp_path), users)


@BOTH
def test_an_interrupted_fit_goes_on_to_the_same_result(
    kind: Any, users: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = quick(kind, users, tmp_path / "whole").log_probs(users.table, WINDOWS)
    own = trained.trainer_callbacks
    monkeypatch.setattr(trained, "trainer_callbacks", lambda *a: [*own(*a), KillAt(15)])
    with pytest.raises(Killed):
        quick(kind, users, tmp_path / "cut")
    monkeypatch.setattr(trained, "trainer_callbacks", own)
    assert (quick(kind, users, tmp_path / "cut").log_probs(users.table, WINDOWS) == whole).all()
    monkeypatch.setattr(training, "train", None)
    assert (quick(kind, users, tmp_path / "cut").log_probs(users.table, WINDOWS) == whole).all()


def test_alphafuse_leaves_the_language_subspace_untouched(users: Any, tmp_path: Path) -> None:
    held = language()
    coordinates = language_coordinates(held.label_vectors(), SMALL.hidden // 2)
    model = AlphaFuse(held, config=SMALL).fit(users, LENGTH, budget(tmp_path), 0.01).model
    learned = model.item_vectors().detach().numpy()
    kept = coordinates.shape[1]
    assert kept == 8  # of the 16 dimensions, with 9 labels
    np.testing.assert_array_equal(learned[:-1, :kept], coordinates)
    # What is learned has moved, and has moved along the other axes only.
    torch.manual_seed(0)
    fresh = AlphaFuse(held, config=replace(SMALL, least_steps=1)).fit(users, LENGTH, budget(tmp_path / "b"), 1e-9).model
    before = fresh.item_vectors().detach().numpy()
    np.testing.assert_array_equal(before[:, :kept], learned[:, :kept])
    assert (np.abs(before[:-1, kept:] - learned[:-1, kept:]).max(1) > 1e-3).any()


def test_language_coordinates_keep_what_tells_labels_apart() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.normal(size=(9, 3)) @ rng.normal(size=(3, 40)) + rng.normal(size=40)).astype(np.float32)
    found = language_coordinates(labels, 8)
    assert found.shape == (9, 3)  # the labels differ along three axes
    np.testing.assert_allclose(found.T @ found, np.eye(3) * 3, atol=1e-4)  # standardized
    np.testing.assert_allclose((found**2).sum(1).mean(), 1, atol=1e-5)
    # Labels are linear in them.
    centered = labels - labels.mean(0)
    fit, *_ = np.linalg.lstsq(found, centered, rcond=None)
    np.testing.assert_allclose(found @ fit, centered, atol=1e-4)


def test_llm_esr_without_the_second_view_is_sasrec_on_frozen_embeddings(users: Any, tmp_path: Path) -> None:
    held = language()
    found = LlmEsr(held, config=SMALL, collaborative=False).fit(users, LENGTH, budget(tmp_path, targets=100), 0.01)
    model, batch = found.model, a_batch(users, found, WINDOWS)
    oracle = SasRec(model.candidates, LENGTH + 1, found.vocabulary.sizes, SMALL)
    weights = {name: held for name, held in model.state_dict().items() if name in oracle.state_dict()}
    oracle.load_state_dict({**weights, "items.weight": model.item_vectors()})
    oracle.eval()
    with torch.no_grad():
        np.testing.assert_allclose(model(**batch)["logits"], oracle(**batch)["logits"], atol=1e-6)
    # The embeddings are those of the language model, up to a shift and a scale, and are not learned.
    labels = held.label_vectors()
    centered = labels - labels.mean(0)
    np.testing.assert_allclose(model.labels, centered / np.linalg.norm(centered, axis=1).mean(), atol=1e-6)
    assert {name for name, _ in model.named_parameters() if name not in weights} == {
        *("items.weight", "adapter.0.weight", "adapter.0.bias", "adapter.1.weight", "adapter.1.bias"),
    } - weights.keys()
    both = quick(LlmEsr, users, tmp_path / "both")
    assert not np.allclose(both.log_probs(users.table, WINDOWS), found.log_probs(users.table, WINDOWS), atol=1e-3)


def test_llm_esrs_second_view_begins_as_a_pca_of_the_first() -> None:
    labels = np.random.default_rng(0).normal(size=(9, 40)).astype(np.float32)
    model = DualView(0.1, labels, 9, LENGTH + 1, (13, 8, 3), replace(SMALL, hidden=4))
    found = model.collaborative.detach().numpy()
    expected = PCA(4).fit_transform(labels)
    # Up to the sign of an axis, and one scale for all.
    np.testing.assert_allclose(np.abs(found[:-1]) / np.abs(expected), np.abs(found[0, 0] / expected[0, 0]), rtol=1e-3)
    assert found[:-1].std() == pytest.approx(0.02, rel=0.2)
    assert not found[-1].any()
    # Fewer axes than dimensions leave zeros.
    few = DualView(0.1, labels, 9, LENGTH + 1, (13, 8, 3), SMALL).collaborative.detach().numpy()
    assert few.shape == (10, 16)
    assert not few[:, 9:].any()


def test_llm_esrs_views_ask_each_other(users: Any, tmp_path: Path) -> None:
    """What changes one view alone reaches the states of the other."""
    found = quick(LlmEsr, users, tmp_path)
    model, batch = found.model, a_batch(users, found, WINDOWS)
    arguments = [batch[name] for name in ("behavior", "event", "target")]
    for weight, other in ((model.collaborative, 0), (model.adapter[1].weight, 1)):
        with torch.no_grad():
            before = model.states(*arguments).chunk(2, -1)[other]
            weight += torch.randn(weight.shape)
            after = model.states(*arguments).chunk(2, -1)[other]
        assert (before - after).abs().max() > 1e-3


def test_llm_esr_draws_users_towards_similar_ones_that_stay_where_they_are(users: Any, tmp_path: Path) -> None:
    found = quick(LlmEsr, users, tmp_path)
    columns = found.vocabulary.columns(users.table)
    row = asked_only(causal_row(columns, 0, 5, len(LABELS)), np.arange(5) == 4)
    peers = [causal_row(columns, 12, 17, len(LABELS)), causal_row(columns, 24, 28, len(LABELS))]
    model: DualView = found.model

    def distance(weight: float) -> torch.Tensor:
        model.distillation = weight
        return model(**collate([PeeredRow(row, peers)]))["loss"] - model(**collate([row]))["loss"]

    def last(one: Row) -> torch.Tensor:
        batch = training.tensors([one])
        return model.states(batch["behavior"], batch["event"], batch["target"])[0, -1]

    expected = (last(row) - (last(peers[0]) + last(peers[1])) / 2).square().mean()
    torch.testing.assert_close(distance(0.5), 0.5 * expected)
    assert float(distance(0.0)) == 0
    # No gradient through the peers: the start symbol is in every row, another user's place only in its own.
    model.zero_grad()
    distance(1.0).backward()
    with_peers = model.collaborative.grad.clone()
    model.zero_grad()
    mean = ((last(peers[0]) + last(peers[1])) / 2).detach()
    (last(row) - mean).square().mean().backward()
    torch.testing.assert_close(with_peers, model.collaborative.grad, atol=1e-6, rtol=1e-4)


def test_similar_users_do_similar_things() -> None:
    video, bar = ["Video", "Video Call"] * 3, ["Bar", "Café"] * 3
    table = event_table([video, bar, video[::-1], bar[::-1], bar[:4]])
    labels = np.eye(len(LABELS), dtype=np.float32)
    assert similar_users(table, labels, 1)[:, 0].tolist() == [2, 3, 0, 1, 1]
    found = similar_users(table, labels, 10)
    assert found.shape == (5, 10)
    assert all(user not in found[user] for user in range(5))
    assert similar_users(event_table([video]), labels, 3).tolist() == [[0, 0, 0]]


def test_llm_esr_is_trained_towards_similar_users(users: Any, tmp_path: Path) -> None:
    """The same rows in the same order: only the distance to the users shown beside them is another."""
    with_them, without = (
        quick(LlmEsr, users, tmp_path / f"{weight}", distillation=weight).log_probs(users.table, WINDOWS)
        for weight in (1.0, 0.0)
    )
    assert not np.allclose(with_them, without, atol=1e-3)


def test_llm_esrs_rows_show_what_similar_users_did_last(users: Any) -> None:
    video, bar = ["Video", "Video Call"] * 4, ["Bar", "Café"] * 4
    table, labels = event_table([video, bar, video[::-1], bar[::-1]]), np.eye(len(LABELS), dtype=np.float32)
    columns = ContextVocabulary.of(table, 2, 1).columns(table)
    rows = WindowRows("sasrec", SMALL, LENGTH, len(LABELS))
    data = TrainingData(
        np.array([0, 8]), np.array([4, 12]), lambda start, stop, _: causal_row(columns, start, stop, 9), []
    )
    made = LlmEsr(language(), peers=1)._with_peers(labels, data, rows, table, columns)
    for start, peer in ((0, 2), (8, 3)):
        row = made.row(start, start + 4, np.random.default_rng(0))
        assert (row.row.behavior == causal_row(columns, start, start + 4, 9).behavior).all()
        last = causal_row(columns, 8 * peer + 8 - LENGTH - 1, 8 * peer + 8, 9)
        assert all((one.behavior == last.behavior).all() for one in row.peers)


def test_alphafuse_ships_as_a_plain_sasrec_and_llm_esr_does_not(users: Any, tmp_path: Path) -> None:
    """Whatever a behavior's vector is made of; two views of a sequence are another network."""
    found = quick(AlphaFuse, users, tmp_path / "alphafuse")
    assert found.keep(tmp_path / "kept")
    kept = read_kept(tmp_path / "kept")
    plain = load_network(tmp_path / "kept", kept)
    # Its vectors were made with a language model, whose license goes with them.
    assert kept.labels is not None
    assert kept.labels == language().source
    assert type(plain) is SasRec
    batch = a_batch(users, found, WINDOWS)
    with torch.inference_mode():
        assert torch.equal(plain(**batch)["logits"], found.model(**batch)["logits"])
    assert not quick(LlmEsr, users, tmp_path / "llm_esr").keep(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    # Without the second view it is SASRec on frozen embeddings.
    assert quick(LlmEsr, users, tmp_path / "one", collaborative=False).keep(tmp_path / "kept-one")
