"""What each rival trains, on which rows, and what it answers by: looked at step by step, mostly without training."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edge_behavior.baselines.language import a_llmrec, fitting
from edge_behavior.baselines.language.a_llmrec import ALlmRec, Joint
from edge_behavior.baselines.language.alphafuse import AlphaFuse
from edge_behavior.baselines.language.collm import CoLlm
from edge_behavior.baselines.language.llara import Llara
from edge_behavior.baselines.language.rows import Curriculum
from edge_behavior.baselines.language.tallrec import TallRec
from edge_behavior.baselines.language.training import Step
from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.baselines.sequence.inputs import IGNORED
from edge_behavior.baselines.sequence.system import SequenceSystem
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.data.dataset import EventTable
from edge_behavior.train.rows.samples import BehaviorRows
from tests.helpers import LABELS, event_table
from tests.unit.baselines.language.conftest import LENGTH, RATE, SASREC, Users, backbone, budget, language, made

B = len(LABELS)
BRIEF = replace(SASREC, least_steps=2, eval_steps=1)
KINDS = pytest.mark.parametrize("kind", [TallRec, CoLlm, Llara, ALlmRec])
COLLABORATIVE = pytest.mark.parametrize("kind", [CoLlm, Llara, ALlmRec])
FEW: dict[Any, dict[str, Any]] = {TallRec: {"conversations": 20}, ALlmRec: {"alignment_steps": 3}}


class Split(Users):
    """Validation users go round the other way, and one training user does something rare."""

    def __init__(self) -> None:
        super().__init__()
        six = LABELS[:6]
        train = [(six[i:] + six[:i]) * 3 for i in range(6)]
        train[0][7] = LABELS[8]
        counts = [sum(user.count(label) for user in train) for label in LABELS]
        self.parts = {
            "train": event_table(train, counts=counts),
            "validation": event_table([six[::-1] * 2 for _ in range(4)], counts=counts),
        }
        self.candidates = self.parts["train"].candidates

    def events(self, split: str) -> EventTable:
        return self.parts[split]


@dataclass
class Seen:
    """A tuning step that was about to begin."""

    model: Any
    step: Step
    collate: Callable[[list[Any]], dict[str, Any]]
    free: set[str]


@pytest.fixture
def split() -> Any:
    return Split()


@pytest.fixture(scope="module")
def sasrec(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return SequenceSystem("sasrec", BRIEF).fit(Split(), LENGTH, budget(tmp_path_factory.mktemp("sasrec")), None)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, sasrec: Any) -> list[Seen]:
    """The steps of fits, none of which trains anything; all share one SASRec."""
    found = list[Seen]()
    monkeypatch.setattr(fitting.Fit, "events", lambda *_: deepcopy(sasrec))

    def look(model: Any, step: Step, stage: Any, collate: Any, *_: Any) -> None:
        free = (name for name, held in model.named_parameters() if held.requires_grad)
        kinds = {"lora" if "lora" in name else name.split(".")[1] for name in free}
        found.append(Seen(model, step, collate, kinds))

    monkeypatch.setattr(fitting, "tune", look)
    return found


def watched(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[tuple[tuple[Any, ...], Any]]:
    """Arguments and result of every call of a function from now on."""
    calls, own = list[tuple[tuple[Any, ...], Any]](), getattr(owner, name)

    def call(*asked: Any) -> Any:
        calls.append((asked, own(*asked)))
        return calls[-1][1]

    monkeypatch.setattr(owner, name, call)
    return calls


def fit(kind: Any, users: Any, folder: Path, targets: int = 0, held: Any = None, **fields: Any) -> Any:
    system = made(kind, held or language(anchor_threshold=0.05), **{**FEW.get(kind, {}), **fields})
    return system.fit(users, LENGTH, budget(folder, targets), RATE)


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        (TallRec, {"general": {"lora"}, "text": {"lora"}}),
        (CoLlm, {"text": {"lora"}, "mapping": {"mapping"}}),
        (Llara, {"hybrid": {"lora", "projection"}}),
        (ALlmRec, {"prompts": {"item", "user"}}),
    ],
)
def test_each_step_trains_what_is_its_own(
    kind: Any, steps: dict[str, set[str]], split: Any, seen: list[Seen], tmp_path: Path
) -> None:
    found = fit(kind, split, tmp_path)
    assert {one.step.name: one.free for one in seen} == steps
    # Each goes on with what the one before it left.
    assert all(one.model is found.model for one in seen)
    assert [one.step.name for one in seen] == list(steps)


@KINDS
def test_every_behavior_of_the_training_users_is_asked_for(
    kind: Any, split: Any, seen: list[Seen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = watched(monkeypatch, fitting, "behavior_rows")
    fit(kind, split, tmp_path / "all")
    made_rows: list[BehaviorRows] = [found for _, found in calls]
    assert {id(rows.table) for rows in made_rows} == {id(table) for table in split.parts.values()}
    for rows in made_rows:
        # From the second event of a stretch on, rare ones too.
        assert (rows.targets == rows.stops - rows.starts - 1).all()
        assert rows.targets.sum() >= 0.8 * (len(rows.table) - len(rows.table.user_offsets) + 1)
    trained = next(rows for rows in made_rows if rows.table is split.parts["train"])
    del calls[:]
    fit(kind, split, tmp_path / "few", targets=30)
    made_rows = [found for _, found in calls]
    few = next(rows for rows in made_rows if rows.table is split.parts["train"])
    assert 30 <= few.targets.sum() < 45 < trained.targets.sum()
    # The rows of an epoch are all of them, and stop by the validation users'.
    step = seen[-1].step
    assert len(step.train) == 8 * -(-len(few) // 8) == 8 * step.steps
    assert step.validation is not None
    held = sorted(step.validation.lengths.tolist())
    places = {TallRec: 0, ALlmRec: 2}.get(kind, 1)
    other = next(rows for rows in made_rows if rows.table is split.parts["validation"])
    assert set(held) == set((other.lengths + places * (other.stops - other.starts)).tolist())


def test_general_data_is_what_was_asked_for_and_once(split: Any, seen: list[Seen], tmp_path: Path) -> None:
    fit(TallRec, split, tmp_path / "generated", conversations=20)
    step = seen[0].step
    assert (step.name, len(step.train), step.steps, step.validation) == ("general", 24, 3, None)
    assert len({tuple(step.train[i]["input_ids"]) for i in range(24)}) > 15
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps({"instruction": "Video", "output": "Bar"}) + "\n")
    held = language(aux_path=str(file))
    fit(TallRec, split, tmp_path / "own", held=held, conversations=20)
    rows = seen[2].step.train
    assert {tuple(rows[i]["input_ids"]) for i in range(len(rows))} == {tuple(rows[0]["input_ids"])}
    assert "Bar" in held.tokenizer.decode([i for i in rows[0]["labels"] if i != IGNORED])


@COLLABORATIVE
def test_vectors_in_training_are_of_the_rows_own_events(
    kind: Any, split: Any, seen: list[Seen], tmp_path: Path
) -> None:
    fit(kind, split, tmp_path)
    step, collate = seen[-1].step, seen[-1].collate
    inner = step.train._rows if isinstance(step.train, Curriculum) else step.train
    assert step.validation is not None
    for rows, table in ((inner, split.parts["train"]), (step.validation, split.parts["validation"])):
        batch = [rows[i] for i in range(4)]
        events = collate(batch)["events"]
        for i, row in enumerate(batch):
            _, start, stop = row["events"]
            shown = events["behavior"][i][: stop - start].tolist()
            assert shown == [B, *table.behavior[start : stop - 1].tolist()]


@COLLABORATIVE
def test_vectors_in_predictions_are_of_the_events_before_the_target(
    kind: Any, split: Any, seen: list[Seen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, table = fit(kind, split, tmp_path), split.parts["train"]
    asked = watched(monkeypatch, found.model, "event_vectors")
    targets = np.array([26, 1, 18, 8])
    together = found.log_probs(table, targets)
    shown = [
        [B, *table.behavior[max(t - LENGTH, int(table.user_offsets[table.user_of(np.array([t]))[0]])) : t].tolist()]
        for t in targets.tolist()
    ]
    (events,), _ = asked[0]
    assert [events["behavior"][i][events["present"][i]].tolist() for i in range(4)] == shown
    alone = [found.log_probs(table, targets[i : i + 1])[0] for i in range(4)]
    np.testing.assert_allclose(together, alone, atol=1e-4)
    with torch.no_grad():
        for name, weight in found.model.vectors.named_parameters():
            if not name.startswith(("events", "joint")):
                weight.add_(torch.randn(weight.shape))
    assert (np.abs(found.log_probs(table, targets) - together).max(1) > 1e-3).all()


@COLLABORATIVE
def test_what_is_collaborative_is_sasrec_on_the_same_targets(
    kind: Any, split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "tune", lambda *_: None)
    found = fit(kind, split, tmp_path / "fit", targets=30, sasrec=BRIEF)
    alone = SequenceSystem("sasrec", BRIEF).fit(split, LENGTH, budget(tmp_path / "alone", 30), None)
    held, own = found.model.vectors.events.state_dict(), alone.model.state_dict()
    assert held.keys() == own.keys()
    assert all(torch.equal(held[name], own[name]) for name in own)


@COLLABORATIVE
def test_the_loss_is_the_mean_over_label_tokens_and_reaches_what_makes_vectors(
    kind: Any, split: Any, seen: list[Seen], tmp_path: Path
) -> None:
    model = fit(kind, split, tmp_path).model
    step, collate = seen[-1].step, seen[-1].collate
    rows = step.train._rows if isinstance(step.train, Curriculum) else step.train
    batch = collate([rows[i] for i in range(3)])
    loss = model(**batch)["loss"]
    embedded = model.inputs.embed(batch["input_ids"], model.event_vectors(batch["events"]))
    logits = model.language(inputs_embeds=embedded, attention_mask=batch["attention_mask"]).logits
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED)
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model(**batch, num_items_in_batch=7)["loss"] * 7, loss * int(_asked(batch)))
    loss.backward()
    own = [p for name, p in model.vectors.named_parameters() if not name.startswith(("events", "joint"))]
    assert all(weight.grad is not None and weight.grad.any() for weight in own)


def _asked(batch: dict[str, Any]) -> torch.Tensor:
    return (batch["labels"][:, 1:] != IGNORED).sum()


def test_llaras_curriculum_ends_where_it_is_set(split: Any, seen: list[Seen], tmp_path: Path) -> None:
    held = language(40)
    for end in (1.0, 0.3):
        fit(Llara, split, tmp_path / f"{end}", held=held, curriculum=end)
        rows = seen[-1].step.train
        assert isinstance(rows, Curriculum)
        assert rows.hybrid.mean() == pytest.approx(end / 2, abs=0.12)
        late = rows.hybrid[len(rows.hybrid) // 2 :].mean()
        assert late > rows.hybrid[: len(rows.hybrid) // 2].mean()


def test_collms_mapping_is_as_wide_as_it_is_set(split: Any, seen: list[Seen], tmp_path: Path) -> None:
    mapping = fit(CoLlm, split, tmp_path, times=3).model.vectors.mapping
    assert [mapping[0].in_features, mapping[0].out_features, mapping[2].out_features] == [16, 48, 64]


def test_a_llmrecs_losses_are_those_of_the_paper() -> None:
    """Matching, half of the items' and a fifth of the texts' reconstruction, and rating, on the same few answers."""
    torch.manual_seed(0)
    items, texts = torch.randn(7, 8), torch.randn(6, 12).numpy()
    joint, states, answers = Joint(items, texts, 16), torch.randn(4, 8), torch.tensor([1, 5, 1, 0])
    code = torch.sigmoid(joint.item_in(items[answers]))
    told = torch.sigmoid(joint.text_in(torch.from_numpy(texts)[answers]))
    back, again = joint.item_out(code), joint.text_out(told)
    logits = states @ joint.item_out(torch.sigmoid(joint.item_in(items[:6]))).T
    expected = {
        "matching": (code - told).square().mean(),
        "reconstruction": 0.5 * (back - items[answers]).square().mean()
        + 0.2 * (again - torch.from_numpy(texts)[answers]).square().mean(),
        "rating": -torch.log_softmax(logits, 1)[torch.arange(4), answers].mean(),
    }
    found = joint.losses(states, answers)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_a_llmrecs_alignment_follows_all_three_losses_at_its_rate(
    split: Any, seen: list[Seen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each loss is put on weights of its own, whose gradient is one: Adam moves them by the rate, step by step."""

    def losses(joint: Joint, *_: Any) -> dict[str, torch.Tensor]:
        reached = {"matching": joint.item_in, "reconstruction": joint.text_out, "rating": joint.item_out}
        return {name: layer.weight.sum() for name, layer in reached.items()}

    monkeypatch.setattr(Joint, "losses", losses)
    joint = fit(ALlmRec, split, tmp_path, alignment_rate=0.01, alignment_steps=5, joint_size=6).model.vectors.joint
    torch.manual_seed(0)
    fresh = Joint(joint.items, joint.texts.numpy(), 6)
    for name in ("item_in", "text_out", "item_out"):
        moved = getattr(fresh, name).weight - getattr(joint, name).weight
        torch.testing.assert_close(moved, torch.full_like(moved, 0.05), atol=1e-4, rtol=1e-3)
    assert torch.equal(fresh.text_in.weight, joint.text_in.weight)


def test_a_llmrec_aligns_every_label_with_its_own_text_and_users_with_what_they_did(
    split: Any, seen: list[Seen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = language(anchor_threshold=0.05)
    given, batches = watched(monkeypatch, Joint, "losses"), watched(monkeypatch, a_llmrec, "tensors")
    vectors = fit(ALlmRec, split, tmp_path, held=held).model.vectors
    np.testing.assert_array_equal(vectors.joint.texts, held.label_vectors())
    assert torch.equal(vectors.joint.items, vectors.events.item_vectors())
    assert len(given) == len(batches) == FEW[ALlmRec]["alignment_steps"]
    for ((_, states, answers), _), (_, batch) in zip(given, batches, strict=True):
        asked = batch["answers"] != IGNORED
        own = vectors.events.states(batch["behavior"], batch["event"], batch["target"])
        torch.testing.assert_close(states, own[asked])
        assert torch.equal(answers, batch["answers"][asked])


def test_alphafuse_leaves_the_labels_what_the_null_space_does_not_take(users: Any, tmp_path: Path) -> None:
    config = SequenceConfig(hidden=16, layers=1, heads=2, least_steps=1, eval_steps=1)
    for share, kept in ((0.75, 4), (0.1, 8), (0.95, 1)):  # nine labels have eight axes
        system = AlphaFuse(language(), config=config, null_share=share)
        model = system.fit(users, LENGTH, budget(tmp_path / f"{share}", 20), 1e-4).model
        assert tuple(model.language.shape) == (B + 1, kept)
        assert tuple(model.items.weight.shape) == (B + 1, 16 - kept)
        # The start symbol is no label, and what is learned is learned for it, too.
        assert not model.language[-1].any()
        assert {name for name, held in model.named_parameters() if held.requires_grad} >= {"items.weight"}


def test_label_vectors_are_means_of_last_hidden_states(users: Any) -> None:
    """Over the tokens of a label as it is mentioned; the start token is read, and not counted."""
    held = language()
    own = held.encoder
    encoder = PromptEncoder(own.segment, own.layout, own.candidates, 3, own.eos_id)
    found = SimpleNamespace(load=held.load, encoder=encoder, source=held.source)
    vectors, model = type(held).label_vectors(found), backbone()  # type: ignore[arg-type]
    for label, vector in zip(LABELS, vectors, strict=True):
        ids = [3, *own.segment(own.layout.mention(label))]
        assert len(ids) > 1
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
        np.testing.assert_allclose(vector, states[1:].mean(0), atol=1e-5)
