"""Windows are scored in shards: kept, read again, never mixed up, and the same scores as DPO's reference needs."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_behavior.core.prompts import PromptLayout
from edge_behavior.core.search import Goal
from edge_behavior.data.dataset import EventTable
from edge_behavior.data.windows import eligible
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.evaluate import metrics_by_protocol
from edge_behavior.evaluation.protocols import EvaluationWindows, WindowChoice
from edge_behavior.hf.tree_scoring import TorchScorer
from edge_behavior.train.recipe import BTuning, Recipe, ScoringConfig
from edge_behavior.train.rows.samples import window_prompt
from edge_behavior.train.rows.windows import WindowSet, draw_formats
from edge_behavior.train.stages import scoring as scoring_pass
from edge_behavior.train.stages.pool import choose_pairs, score_pool, tokenized
from edge_behavior.train.stages.scoring import EVERYTHING, ScoringPass, proving, score_windows
from edge_behavior.train.trainer.failures import explained
from edge_behavior.util import progress
from tests import helpers

INSTRUCT = PromptLayout(name="instruct", history_length=5)


@pytest.fixture(scope="module")
def tokens() -> Any:
    return helpers.tokenizer()


@pytest.fixture(scope="module")
def model(tokens: Any) -> Any:
    return helpers.model(tokens)


def table() -> EventTable:
    rng = random.Random(0)
    return helpers.event_table([rng.choices(helpers.LABELS, k=30) for _ in range(4)])


def test_shards_are_kept_read_again_and_equal_one_pass(
    tokens: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, events = helpers.encoder(tokens, INSTRUCT), table()
    targets = eligible(events, 5)
    formats = draw_formats(encoder, len(targets), 1)
    assert set(formats) == {0, 1, 2}
    windows = WindowSet(events, targets, formats)
    scoring = ScoringPass("x", shards=tmp_path / "s", embeddings=True)
    monkeypatch.setattr(scoring_pass, "SHARD", 16)
    first = score_windows(model, encoder, windows, scoring)
    prompts = [window_prompt(events, encoder, int(t), int(f)) for t, f in zip(targets, formats, strict=True)]
    whole = TorchScorer(model, encoder).score(prompts)
    np.testing.assert_allclose(first.log_probs, whole.log_probs, atol=1e-4)
    np.testing.assert_allclose(first.embeddings, whole.embeddings, atol=1e-4)
    shards = sorted((tmp_path / "s").glob("*.safetensors"))
    assert len(shards) == -(-len(targets) // 16)

    def refuse(*_: Any) -> Any:
        raise AssertionError("scored again")

    shards[1].unlink()
    again = score_windows(model, encoder, windows, scoring)
    np.testing.assert_array_equal(again.log_probs, first.log_probs)
    monkeypatch.setattr(TorchScorer, "score_shared", refuse)
    kept = score_windows(model, encoder, windows, scoring)
    np.testing.assert_array_equal(kept.log_probs, first.log_probs)
    np.testing.assert_array_equal(kept.embeddings, first.embeddings)
    with pytest.raises(AssertionError, match="scored again"):
        score_windows(model, encoder, WindowSet(events, targets[1:], formats[1:]), scoring)


@pytest.mark.parametrize("rebase_every", [None, 10])
def test_the_bar_counts_windows(
    rebase_every: int | None,
    tokens: Any,
    model: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By passes of a few windows, kept shards, and windows of the same event; a single window has no bar."""
    encoder, events = helpers.encoder(tokens, PromptLayout("stream")), table()
    targets = np.repeat(eligible(events, 20)[:10], 2)
    monkeypatch.setattr(scoring_pass, "SHARD", 8)
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    scoring = ScoringPass("score", 3 * len(encoder.trie.evaluated), shards=tmp_path / "s")

    def counts(targets: Any) -> list[int]:
        windows = WindowSet(events, targets, np.zeros(len(targets), np.int64), rebase_every)
        score_windows(model, encoder, windows, scoring)
        return [int(found) for found in re.findall(rf"(\d+)/{len(targets)} ", capsys.readouterr().err)]

    first = counts(targets)
    assert first == sorted(first)
    assert first[-1] == 20
    assert len(set(first)) > 3
    assert set(counts(targets)) == {8, 16, 20}
    (tmp_path / "s").rename(tmp_path / "other")
    assert counts(targets[:1]) == []


def test_a_damaged_shard_is_named(tokens: Any, model: Any, tmp_path: Path) -> None:
    encoder, events = helpers.encoder(tokens), table()
    targets = eligible(events, 20)
    windows = WindowSet(events, targets, draw_formats(encoder, len(targets), 0))
    scoring = ScoringPass("x", shards=tmp_path / "s")
    score_windows(model, encoder, windows, scoring)
    [shard] = (tmp_path / "s").glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(EdgebError, match=r"000000000\.safetensors"):
        score_windows(model, encoder, windows, scoring)


@pytest.mark.parametrize(
    ("tokens_per_pass", "hint"), [(500, "lower scoring.tokens_per_pass (now 500)"), (9, "one window already")]
)
def test_out_of_memory_names_the_field_of_scoring(
    tokens_per_pass: int, hint: str, tokens: Any, model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The pool is scored inside B-Tuning, whose own fields have nothing to do with it."""
    encoder, events = helpers.encoder(tokens), table()
    recipe = Recipe(scoring=ScoringConfig(tokens_per_pass=tokens_per_pass))

    def no_memory(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model.model.layers[1].mlp, "forward", no_memory)
    with pytest.raises(EdgebError, match="out of memory while scoring windows") as caught:
        score_pool(model, encoder, events, recipe, tmp_path / "pool")
    assert hint in caught.value.hint
    assert explained(caught.value, "b_tuning", recipe, tmp_path) is None


def test_the_recipe_s_tokens_per_pass_bound_every_pass(tokens: Any, model: Any, tmp_path: Path) -> None:
    encoder, events = helpers.encoder(tokens), table()
    static, sizes = len(encoder.static_ids), []
    watch = model.model.layers[0].register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape[:2]))
    for bound, nats in ((600, 0.1), (1200, 0.1), (600, None), (1200, None)):
        recipe = Recipe(scoring=ScoringConfig(tokens_per_pass=bound, bound=nats))
        score_pool(model, encoder, events, recipe, tmp_path / f"{bound}-{nats}")
        windows = [rows * length for rows, length in sizes if (rows, length) != (1, static)]
        assert bound / 2 < max(windows) <= bound
        sizes.clear()
    watch.remove()


def test_the_pool_pass_gives_dpo_its_reference(tokens: Any, model: Any, tmp_path: Path) -> None:
    """Each row's reference is the log-probability of its own answer after its own prompt, by a plain forward pass."""
    encoder, events = helpers.encoder(tokens, INSTRUCT), table()
    recipe = Recipe(b_tuning=BTuning(pool_per_behavior=5, samples_per_behavior=2))
    pool = score_pool(model, encoder, events, recipe, tmp_path / "pool")
    pairs, _ = choose_pairs(pool, events, recipe)
    assert len({pair.format for pair in pairs}) == 3
    for row in tokenized(pairs, events, encoder):
        for answer, reference in (("chosen_ids", "ref_chosen_logps"), ("rejected_ids", "ref_rejected_logps")):
            by_hand = helpers.brute_force(model, row["prompt_ids"], row[answer])  # type: ignore[literal-required]
            assert row[reference] == pytest.approx(by_hand, abs=1e-3)  # type: ignore[literal-required]


@pytest.mark.parametrize("rule", ["weighted-kmeans++", "difficulty"])
def test_a_bound_changes_no_pair(rule: Any, tokens: Any, model: Any, tmp_path: Path) -> None:
    """Truth, first and second are exact; of p(y|x), the normalizer is within the bound."""
    encoder, events = helpers.encoder(tokens), table()
    found = []
    for bound in (None, 0.01):
        recipe = Recipe(
            b_tuning=BTuning(pool_per_behavior=8, samples_per_behavior=3, selection=rule),
            scoring=ScoringConfig(bound=bound),
        )
        pool = score_pool(model, encoder, events, recipe, tmp_path / f"pool-{bound}")
        found.append((pool, choose_pairs(pool, events, recipe)[0]))
    (whole, wanted), (pool, pairs) = found
    np.testing.assert_array_equal(pool.predicted, whole.predicted)
    np.testing.assert_array_equal(pool.best_wrong, whole.best_wrong)
    np.testing.assert_allclose(np.log(pool.probability), np.log(whole.probability), atol=0.01 + 1e-4)
    for pair, other in zip(pairs, wanted, strict=True):
        assert (pair.target, pair.chosen, pair.rejected) == (other.target, other.chosen, other.rejected)
        assert pair.chosen_log_prob == pytest.approx(other.chosen_log_prob, abs=1e-4)
        assert pair.rejected_log_prob == pytest.approx(other.rejected_log_prob, abs=1e-4)


def test_metrics_of_a_bound_are_those_of_every_score(tokens: Any, model: Any) -> None:
    encoder, events = helpers.encoder(tokens), table()
    windows = EvaluationWindows.draw("both", events, encoder.layout.history_length, WindowChoice())
    asked = WindowSet(events, windows.targets, draw_formats(encoder, len(windows.targets), 0))
    whole, bounded = (
        metrics_by_protocol(windows, score_windows(model, encoder, asked, ScoringPass("x", goal=goal)).log_probs)
        for goal in (EVERYTHING, proving(5, 0.05))
    )
    for name, held in whole.items():
        other = bounded[name]
        assert other.nll == pytest.approx(held.nll, abs=0.05 + 1e-4)
        for metric in ("weighted_precision", "weighted_recall", "overall", "hit_at_3", "hit_at_5"):
            assert other.value(metric) == held.value(metric)


def test_windows_of_a_session_come_back_in_the_order_asked(
    tokens: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However they are cut into shards, and whether they were kept."""
    encoder, events = helpers.encoder(tokens, PromptLayout("stream", history_length=5)), table()
    targets = np.random.default_rng(0).choice(eligible(events, 5), 60)
    windows = WindowSet(events, targets, np.zeros(len(targets), np.int64), rebase_every=6)
    sequences, where = windows.prompts(encoder, EVERYTHING)
    alone = [list(one.ids[:end]) for one in sequences for end in one.ends]
    expected = TorchScorer(model, encoder).score(alone).log_probs[where]
    for shard in (7, 128):
        monkeypatch.setattr(scoring_pass, "SHARD", shard)
        scoring = ScoringPass("x", goal=Goal(2), shards=tmp_path / str(shard))
        for _ in range(2):
            found = score_windows(model, encoder, windows, scoring)
            np.testing.assert_allclose(found.log_probs[found.known], expected[found.known], atol=1e-4)
            np.testing.assert_array_equal(found.log_probs.argmax(1), expected.argmax(1))
            assert found.known[np.arange(len(targets)), windows.truth].all()


def test_behaviors_without_a_training_window_are_named(tokens: Any, model: Any, tmp_path: Path) -> None:
    events = helpers.event_table([["Bar", "Video"] * 15], counts=[20, 0, 0, 20, 0, 0, 0, 0, 0])
    recipe = Recipe()
    pool = score_pool(model, helpers.encoder(tokens), events, recipe, tmp_path / "pool")
    _, summary = choose_pairs(pool, events, recipe)
    assert set(summary.without_sample) == set(helpers.LABELS) - {"Bar", "Video"}
