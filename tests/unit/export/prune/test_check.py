"""Whether to prune: the comparison against two models in PyTorch, and every way the decision can go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.core.scoring import log_softmax
from edge_behavior.data.dataset import Dataset
from edge_behavior.data.importers.importer import import_log
from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.export.prune import check as prune_check
from edge_behavior.export.prune.check import (
    PruneParity,
    PruneRequest,
    Pruning,
    check_mode,
    compare,
    decide_pruning,
    sample_prompts,
)
from edge_behavior.export.prune.merges import CannotPrune
from edge_behavior.export.prune.vocabulary import plan_pruning, write_pruned
from edge_behavior.export.prune.words import domain_texts
from edge_behavior.hf.architectures import load_config, load_tokenizer
from edge_behavior.hf.tokenizers import encoder_for, special_ids
from edge_behavior.hf.tree_scoring import TorchScorer
from tests import helpers
from tests.unit.export.conftest import SMALL_TOKENIZERS

PLACES = ("DK", "AB")
ASKED = PruneRequest("auto", 0, PLACES, None, "no dataset was given")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model, in PyTorch and as GGUF."""
    tokens = helpers.tokenizer()
    made = helpers.save(helpers.model(tokens, spread=6.0), tokens, tmp_path_factory.mktemp("whole"))
    write_gguf(made, made / "f32.gguf", "f32")
    return made


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data")
    rows = [
        f"u{user},{event.time.isoformat()},{event.place},{event.behavior}"
        for user in range(20)
        for event in helpers.diary(30, user)
    ]
    (out / "log.csv").write_text("\n".join(["user_id,timestamp,place,behavior", *rows]), encoding="utf-8")
    import_log(out / "log.csv", "csv", out / "d")
    return out / "d"


def decide(folder: Path, request: PruneRequest, tokenizer: Any = None) -> Pruning:
    loaded = load_tokenizer(folder)
    encoder = encoder_for(loaded, PromptLayout("stream"), helpers.encoder(loaded).candidates)
    return decide_pruning(request, folder / "f32.gguf", tokenizer or loaded, load_config(folder), encoder)


@pytest.mark.parametrize("name", ["stream", "prefix", "instruct"])
def test_one_pass_says_what_two_models_say(
    folder: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the whole and the pruned folder, each scored by itself in PyTorch with its own tokenizer."""
    monkeypatch.setattr(prune_check, "_NEGLIGIBLE", 1e-30)
    tokens, layout = load_tokenizer(folder), PromptLayout(name)
    encoder = helpers.encoder(tokens, layout)
    texts = domain_texts(layout, encoder.candidates, PLACES)
    plan = plan_pruning(tokens, len(tokens), texts, 2, 0, special_ids(tokens))
    assert len(plan.kept) < 0.8 * len(tokens)
    ids = sample_prompts(encoder, PLACES, None, 12)
    found = compare(folder / "f32.gguf", encoder, plan.kept, ids)

    write_pruned(folder, plan, tmp_path / "pruned")
    pruned_encoder = helpers.encoder(load_tokenizer(tmp_path / "pruned"), layout)
    distributions = []
    for where, own, asked in (
        (folder, encoder, ids),
        (tmp_path / "pruned", pruned_encoder, [plan.new_ids(x) for x in ids]),
    ):
        scorer = TorchScorer(AutoModelForCausalLM.from_pretrained(where), own)
        distributions.append(log_softmax(scorer.score(asked).log_probs))
    whole, pruned = distributions
    divergence = (np.exp(whole) * (whole - pruned)).sum(axis=1)
    assert divergence.max() > 1e-4, "the case is too easy"
    np.testing.assert_allclose(
        [found.mean_kl, found.max_kl], [divergence.mean(), divergence.max()], rtol=1e-2, atol=1e-6
    )
    rows = np.arange(12)
    margins = np.exp(whole.max(axis=1)) - np.exp(whole[rows, pruned.argmax(axis=1)])
    assert found.flips == np.mean(margins > 1e-3)
    assert found.prompts == 12
    assert 0 < found.least_mass < 1


def test_unlikely_branches_are_not_followed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = load_tokenizer(folder)
    encoder = helpers.encoder(tokens)
    ids, kept = sample_prompts(encoder, PLACES, None, 6), np.arange(400)
    asked: list[int] = []
    branch = prune_check.LlamaBackend.branch

    def counted(self: Any, trie: Any, nodes: Any) -> Any:
        asked.extend(nodes)
        return branch(self, trie, nodes)

    monkeypatch.setattr(prune_check.LlamaBackend, "branch", counted)
    monkeypatch.setattr(prune_check, "_NEGLIGIBLE", 1e-30)
    full = compare(folder / "f32.gguf", encoder, kept, ids)
    assert len(asked) == 6 * len(encoder.trie.evaluated)
    asked.clear()
    monkeypatch.setattr(prune_check, "_NEGLIGIBLE", 1e-3)
    rough = compare(folder / "f32.gguf", encoder, kept, ids)
    assert len(asked) < 6 * len(encoder.trie.evaluated)
    assert rough.mean_kl == pytest.approx(full.mean_kl, rel=0.5)
    everything = compare(folder / "f32.gguf", encoder, np.arange(len(tokens)), ids)
    assert asdict(everything) == {
        "prompts": 6, "flips": 0, "mean_kl": pytest.approx(0), "max_kl": pytest.approx(0), "least_mass": 1.0
    }  # fmt: skip


def test_prompts_come_from_validation_users(folder: Path, dataset: Path) -> None:
    tokens = load_tokenizer(folder)
    encoder: PromptEncoder = helpers.encoder(tokens, PromptLayout("stream", list_candidates=False))
    table = Dataset.open(dataset).events("validation")
    found = [tokens.decode(ids[len(encoder.static_ids) :]) for ids in sample_prompts(encoder, (), dataset, 30)]
    lines = {f"({t.strftime('%a')} {t.hour}, {table.event(i).place}," for i, t in enumerate(table.time.tolist())}
    assert {text.rsplit("\n", 1)[-1] for text in found} <= lines
    assert {text.count("\n") for text in found} >= {0, 1, 2, 5}
    assert len(set(found)) > 15
    synthetic = [tokens.decode(ids) for ids in sample_prompts(encoder, ("AB", "DK"), None, 12)]
    assert {text.rsplit("\n", 1)[-1].split(", ")[1] for text in synthetic} == {"AB,", "DK,"}
    assert sample_prompts(encoder, ("AB",), None, 5) == sample_prompts(encoder, ("AB",), None, 5)
    assert "unknown," in tokens.decode(sample_prompts(encoder, (), None, 1)[0])


def parity(flips: float = 0.0, kl: float = 0.0) -> PruneParity:
    return PruneParity(32, flips, kl, kl, 0.99)


def test_limits() -> None:
    assert parity().holds
    assert parity(prune_check.MAX_FLIPS, prune_check.MAX_KL).holds
    assert not parity(flips=1 / 32).holds
    assert not parity(kl=prune_check.MAX_KL * 1.01).holds
    with pytest.raises(EdgebError, match=r"unknown pruning mode 'onn' .did you mean 'on'"):
        check_mode("onn")


@pytest.fixture
def outcome(monkeypatch: pytest.MonkeyPatch) -> Callable[[PruneParity], None]:
    """Sets what the comparison says."""
    return lambda found: monkeypatch.setattr(prune_check, "compare", lambda *_: found)


def test_decisions(folder: Path, outcome: Callable[[PruneParity], None]) -> None:
    outcome(parity())
    held = decide(folder, ASKED)
    assert (held.plan is not None, held.reason, held.parity) == (True, "", parity())
    assert held.to_dict()["vocabulary"] == held.plan.summary()
    assert held.to_dict()["parity"]["prompts"] == 32
    off = decide(folder, replace(ASKED, mode="off"))
    assert off.to_dict() == {
        "mode": "off", "pruned": False, "reason": "switched off", "vocabulary": None, "parity": None
    }  # fmt: skip
    unknown = replace(ASKED, places=None, data_note="the run's dataset is gone")
    assert decide(folder, unknown).plan is None
    assert decide(folder, unknown).reason == "the run's dataset is gone, so the places are not known"
    forced = decide(folder, replace(unknown, mode="on"))
    assert forced.plan.places == 0
    assert forced.reason == "the run's dataset is gone: no place is covered"
    assert decide(folder, replace(ASKED, places=())).plan is not None

    outcome(parity(0.25, 0.5))
    failed = decide(folder, ASKED)
    assert (failed.plan, failed.parity) == (None, parity(0.25, 0.5))
    assert failed.reason == (
        "predictions change: 25.0% of 32 get another first candidate (limit 2.0%), KL 0.5 (limit 0.001)"
    )
    insisted = decide(folder, replace(ASKED, mode="on"))
    assert (insisted.plan is not None, insisted.reason) == (True, failed.reason)


def test_small_gains_are_left(
    folder: Path, outcome: Callable[[PruneParity], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome(parity())
    monkeypatch.setattr(prune_check, "MIN_DROPPED", 0.6)
    kept = decide(folder, ASKED)
    assert (kept.plan, kept.parity) == (None, None)
    assert kept.reason.endswith(f"of {load_config(folder).vocab_size} tokens would go")
    assert decide(folder, replace(ASKED, mode="on")).plan is not None
    with pytest.raises(EdgebError, match="extra_tokens is -3"):
        decide(folder, replace(ASKED, extra_tokens=-3))


def test_what_cannot_be_pruned(folder: Path) -> None:
    """`auto` leaves it and says why; `on` fails."""
    foreign = SMALL_TOKENIZERS["sentencepiece"]()
    left = decide(folder, ASKED, foreign)
    assert (left.plan, left.reason) == (None, "the tokenizer has no merge of '▁' and 'the'")
    with pytest.raises(CannotPrune, match="has no merge of"):
        decide(folder, replace(ASKED, mode="on"), foreign)
