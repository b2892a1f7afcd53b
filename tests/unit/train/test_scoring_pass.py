"""Windows are scored in shards: kept, read again, never mixed up, and the same scores as DPO's reference needs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_behavior.data.dataset import EventTable
from edge_behavior.data.windows import eligible
from edge_behavior.errors import EdgebError
from edge_behavior.prompts import PromptLayout
from edge_behavior.recipes import BTuning, Recipe
from edge_behavior.runtime.torch_scorer import TorchScorer
from edge_behavior.train import scoring_pass
from edge_behavior.train.samples import window_prompt
from edge_behavior.train.scoring_pass import draw_formats, score_windows
from edge_behavior.train.stage2 import choose_pairs, preference_rows, score_pool
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
    monkeypatch.setattr(scoring_pass, "_SHARD", 16)
    first = score_windows(model, encoder, events, targets, formats, "x", tmp_path / "s", embeddings=True)
    prompts = [window_prompt(events, encoder, int(t), int(f)) for t, f in zip(targets, formats, strict=True)]
    whole = TorchScorer(model, encoder).score(prompts)
    np.testing.assert_allclose(first.log_probs, whole.log_probs, atol=1e-4)
    np.testing.assert_allclose(first.embeddings, whole.embeddings, atol=1e-4)
    shards = sorted((tmp_path / "s").glob("*.safetensors"))
    assert len(shards) == -(-len(targets) // 16)

    def refuse(*_: Any) -> Any:
        raise AssertionError("scored again")

    shards[1].unlink()
    again = score_windows(model, encoder, events, targets, formats, "x", tmp_path / "s", embeddings=True)
    np.testing.assert_array_equal(again.log_probs, first.log_probs)
    monkeypatch.setattr(TorchScorer, "score", refuse)
    kept = score_windows(model, encoder, events, targets, formats, "x", tmp_path / "s", embeddings=True)
    np.testing.assert_array_equal(kept.log_probs, first.log_probs)
    np.testing.assert_array_equal(kept.embeddings, first.embeddings)
    with pytest.raises(AssertionError, match="scored again"):
        score_windows(model, encoder, events, targets[1:], formats[1:], "x", tmp_path / "s", embeddings=True)


def test_a_damaged_shard_is_named(tokens: Any, model: Any, tmp_path: Path) -> None:
    encoder, events = helpers.encoder(tokens), table()
    targets = eligible(events, 20)
    formats = draw_formats(encoder, len(targets), 0)
    score_windows(model, encoder, events, targets, formats, "x", tmp_path / "s")
    [shard] = (tmp_path / "s").glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(EdgebError, match=r"000000000\.safetensors"):
        score_windows(model, encoder, events, targets, formats, "x", tmp_path / "s")


def test_the_pool_pass_gives_dpo_its_reference(tokens: Any, model: Any, tmp_path: Path) -> None:
    """Each row's reference is the log-probability of its own answer after its own prompt, by a plain forward pass."""
    encoder, events = helpers.encoder(tokens, INSTRUCT), table()
    recipe = Recipe(b_tuning=BTuning(pool_per_behavior=5, samples_per_behavior=2))
    pool = score_pool(model, encoder, events, recipe, tmp_path / "pool")
    pairs, _ = choose_pairs(pool, events, recipe)
    assert len({pair.format for pair in pairs}) == 3
    for row in preference_rows(pairs, events, encoder):
        for answer, reference in (("chosen_ids", "ref_chosen_logps"), ("rejected_ids", "ref_rejected_logps")):
            by_hand = helpers.brute_force(model, row["prompt_ids"], row[answer])  # type: ignore[literal-required]
            assert row[reference] == pytest.approx(by_hand, abs=1e-3)  # type: ignore[literal-required]


def test_behaviors_without_a_training_window_are_named(tokens: Any, model: Any, tmp_path: Path) -> None:
    events = helpers.event_table([["Bar", "Video"] * 15], counts=[20, 0, 0, 20, 0, 0, 0, 0, 0])
    recipe = Recipe()
    pool = score_pool(model, helpers.encoder(tokens), events, recipe, tmp_path / "pool")
    _, summary = choose_pairs(pool, events, recipe)
    assert set(summary["without_sample"]) == set(helpers.LABELS) - {"Bar", "Video"}
