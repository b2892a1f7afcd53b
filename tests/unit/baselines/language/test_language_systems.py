"""TALLRec, CoLLM and LLaRA: each learns twenty users by heart, and each is TALLRec without what makes it itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_behavior.baselines import trained
from edge_behavior.baselines.language import fitting, training
from edge_behavior.baselines.language.collm import CoLlm
from edge_behavior.baselines.language.llara import Llara
from edge_behavior.baselines.language.tallrec import TallRec
from edge_behavior.baselines.system import SMALL_VALIDATION, FailedTrainingError
from edge_behavior.data.windows import natural_windows
from edge_behavior.errors import EdgebError
from tests import helpers
from tests.helpers import LABELS
from tests.unit.baselines.checks import KillAt, Killed, assert_blind_from_the_target_on
from tests.unit.baselines.language.conftest import LENGTH, RATE, Users, backbone, budget, language, made

WINDOWS = np.array([8, 20, 31, 3, 0])
KINDS = pytest.mark.parametrize("kind", [TallRec, CoLlm, Llara])
FEW: dict[Any, dict[str, Any]] = {TallRec: {"conversations": 8}, CoLlm: {}, Llara: {}}


def quick(kind: Any, users: Any, folder: Path, seed: int = 0, **fields: Any) -> Any:
    """A fit of a few steps."""
    system = made(kind, language(), **{**FEW[kind], **fields})
    return system.fit(users, LENGTH, budget(folder, targets=60, seed=seed), RATE)


def adapter(fitted: Any) -> dict[str, torch.Tensor]:
    return {name: held.clone() for name, held in fitted.model.language.named_parameters() if "lora" in name}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return bool(first) and first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.long
@KINDS
def test_twenty_users_are_learned_by_heart(kind: Any, users: Any, tmp_path: Path) -> None:
    windows = natural_windows(users.table, LENGTH)
    # Hybrid prompts come late in the curriculum, CoLLM's vectors after the adapter: both take longer.
    epochs = 20 if kind is TallRec else 40
    fields = {"conversations": 0} if kind is TallRec else {}
    system = made(kind, language(epochs, evals_per_epoch=1 / epochs), **fields)
    found = system.fit(users, LENGTH, budget(tmp_path / "fit"), RATE)
    right = found.log_probs(users.table, windows).argmax(1) == users.table.behavior[windows]
    assert right.mean() > 0.9
    # Who is known by nothing may do anything.
    fewer = found.log_probs(users.table, windows, 0).argmax(1) == users.table.behavior[windows]
    assert fewer.mean() < 0.5


@KINDS
@pytest.mark.parametrize("layout", ["stream", "prefix", "instruct"])
def test_it_gives_distributions_of_each_window_by_itself(kind: Any, layout: str, users: Any, tmp_path: Path) -> None:
    found = made(kind, language(layout=layout), **FEW[kind]).fit(users, LENGTH, budget(tmp_path, targets=30), RATE)
    for known in (None, 0, 2):
        rows = found.log_probs(users.table, WINDOWS, known)
        np.testing.assert_allclose(np.exp(rows).sum(1), 1)
        if layout != "instruct":  # which draws a wording per window
            alone = [found.log_probs(users.table, WINDOWS[i : i + 1], known)[0] for i in range(len(WINDOWS))]
            np.testing.assert_allclose(rows, alone, atol=1e-4)
    assert found.log_probs(users.table, WINDOWS[:0]).shape == (0, len(LABELS))


@KINDS
def test_a_prediction_sees_no_behavior_from_the_target_on(kind: Any, users: Any, tmp_path: Path) -> None:
    assert_blind_from_the_target_on(quick(kind, users, tmp_path), users)


def test_llara_at_curriculum_zero_is_tallrec(users: Any, tmp_path: Path) -> None:
    plain = quick(TallRec, users, tmp_path / "tallrec", conversations=0)
    without = quick(Llara, users, tmp_path / "without", curriculum=0.0)
    assert same(adapter(plain), adapter(without))
    assert (plain.log_probs(users.table, WINDOWS) == without.log_probs(users.table, WINDOWS)).all()
    # Of the few batches some show vectors, and fewer do where the curriculum ends earlier.
    hybrid, less = (quick(Llara, users, tmp_path / f"{end}", curriculum=end) for end in (1.0, 0.2))
    assert not same(adapter(plain), adapter(hybrid))
    assert not same(adapter(less), adapter(hybrid))


def test_collm_without_the_mapped_tokens_is_tallrec(users: Any, tmp_path: Path) -> None:
    plain = quick(TallRec, users, tmp_path / "tallrec", conversations=0)
    without = quick(CoLlm, users, tmp_path / "without", mapped=False)
    assert same(adapter(plain), adapter(without))
    assert (plain.log_probs(users.table, WINDOWS) == without.log_probs(users.table, WINDOWS)).all()
    # With them the adapter is the same, since the second step trains the mapping alone, and the answers are not.
    mapped = quick(CoLlm, users, tmp_path / "mapped")
    assert same(adapter(plain), adapter(mapped))
    assert (plain.log_probs(users.table, WINDOWS) != mapped.log_probs(users.table, WINDOWS)).any(1).all()


@KINDS
def test_all_behaviors_are_learned_whatever_the_recipe_learns(kind: Any, users: Any, tmp_path: Path) -> None:
    held = language()
    assert held.recipe.a_tuning.targets == "anchors"
    stage = made(kind, held).begin(users, LENGTH, budget(tmp_path), 0.02).stage
    assert (stage.targets, stage.class_weights, stage.learning_rate) == ("all", "none", 0.02)


def test_tallrec_learns_general_data_first(users: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without, general = quick(TallRec, users, tmp_path / "a", conversations=0), quick(TallRec, users, tmp_path / "b")
    assert not same(adapter(without), adapter(general))
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["fit.json", "general.safetensors", "text.safetensors"]
    steps = list[str]()
    monkeypatch.setattr(fitting, "tune", lambda model, step, *_: steps.append(step.name))
    quick(TallRec, users, tmp_path / "c")
    assert steps == ["general", "text"]


@pytest.mark.parametrize("kind", [CoLlm, Llara])
def test_its_sequence_model_is_stopped_by_more_windows_than_the_language_model(
    kind: Any, users: Any, tmp_path: Path
) -> None:
    quick(kind, users, tmp_path)
    found = [json.loads((folder / "fit.json").read_text()) for folder in (tmp_path, tmp_path / "sasrec")]
    assert [record["validation_targets"] for record in found] == [60, SMALL_VALIDATION]


@KINDS
def test_the_backbone_stays_as_it_is(kind: Any, users: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # That comes after training.
    monkeypatch.setattr(fitting, "merge_for_scoring", lambda _: None)
    found, own = quick(kind, users, tmp_path), backbone().state_dict()
    tuned = found.model.language.get_base_model().state_dict()
    for name, weight in own.items():
        name = name if name in tuned else name.replace(".weight", ".base_layer.weight")
        name = name if name in tuned else name.replace(".bias", ".base_layer.bias")
        assert torch.equal(tuned[name], weight)


@KINDS
def test_an_interrupted_fit_goes_on_to_the_same_result(
    kind: Any, users: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fitted(folder: str) -> Any:
        system = made(kind, language(2, evals_per_epoch=1), **FEW[kind])
        return system.fit(users, LENGTH, budget(tmp_path / folder, targets=60), RATE).log_probs(users.table, WINDOWS)

    whole, own = fitted("whole"), trained.trainer_callbacks
    for title in ("general", "text", "mapping", "hybrid"):

        def killing(name: str, *rest: Any, title: str = title) -> Any:
            return [*own(name, *rest), *([KillAt(5)] if title in name else [])]

        monkeypatch.setattr(trained, "trainer_callbacks", killing)
        if any(title in name for name in {TallRec: ["text"], CoLlm: ["text", "mapping"], Llara: ["hybrid"]}[kind]):
            with pytest.raises(Killed):
                fitted("cut")
    monkeypatch.setattr(trained, "trainer_callbacks", own)
    assert (fitted("cut") == whole).all()
    costs = [trained.cost_of(torch.nn.Linear(1, 1), tmp_path / folder) for folder in ("whole", "cut")]
    assert costs[0].tokens == costs[1].tokens != 0
    # A finished fit is read.
    monkeypatch.setattr(training, "_trained", None)
    assert (fitted("cut") == whole).all()


def test_the_folder_of_another_fit_is_refused(users: Any, tmp_path: Path) -> None:
    quick(Llara, users, tmp_path)
    with pytest.raises(EdgebError, match="holds a fit with another 'seed'"):
        quick(Llara, users, tmp_path, seed=1)
    with pytest.raises(EdgebError, match="holds a fit with another 'settings'"):
        quick(Llara, users, tmp_path, curriculum=0.5)


def test_a_rate_at_which_nothing_trains_is_told_apart(users: Any, tmp_path: Path) -> None:
    system = TallRec(language(), conversations=0)
    with pytest.raises(FailedTrainingError, match=r"tallrec: text: the loss (became|diverged)"):
        system.fit(users, LENGTH, budget(tmp_path, targets=60), 1e30)


def test_a_log_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgebError, match="users is too small: its train part has 0 events"):
        quick(TallRec, Users(0), tmp_path)


def test_a_backbone_without_access_to_its_input_is_refused(users: Any, tmp_path: Path) -> None:
    def closed() -> Any:
        model = backbone()
        model.get_input_embeddings = lambda: None  # type: ignore[method-assign]
        return model

    system = made(Llara, language(model=closed))
    with pytest.raises(EdgebError, match="type qwen2 gives no access to its input embeddings"):
        system.fit(users, LENGTH, budget(tmp_path, targets=60), RATE)


def test_labels_of_the_same_text_for_the_language_model_are_refused() -> None:
    own = helpers.tokenizer(["Café", "Bar"])
    from tokenizers.normalizers import NFD, Sequence, StripAccents

    own.backend_tokenizer.normalizer = Sequence([NFD(), StripAccents()])
    with pytest.raises(EdgebError, match="'Café' and 'Cafe' have the same tokens"):
        helpers.encoder(own, labels=["Café", "Bar", "Cafe"])


def test_rates_lie_around_the_recipes() -> None:
    assert TallRec(language()).rates == (0.01, 0.0033, 0.03)
    assert TallRec(language(), rates=(1e-4,)).rates == (1e-4,)
