"""What stands before every line of a prompt, by system: the vectors against their papers' formulas, over a SASRec."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edge_behavior.baselines.language.a_llmrec import Joint, SoftPrompts
from edge_behavior.baselines.language.collm import MappedStates
from edge_behavior.baselines.language.llara import ProjectedItems
from edge_behavior.baselines.language.model import EventVectors
from edge_behavior.baselines.language.rows import event_tensors
from edge_behavior.baselines.sequence.inputs import ContextVocabulary, causal_row
from edge_behavior.baselines.sequence.model import SasRec
from tests.helpers import LABELS
from tests.unit.baselines.language.conftest import LENGTH, SASREC, Users

WIDTH, B = 12, len(LABELS)


@pytest.fixture
def made() -> Any:
    """SASRec far from its small first weights, and a batch of two rows of events."""
    torch.manual_seed(0)
    table = Users().table
    vocabulary = ContextVocabulary.of(table, 2, 1)
    sasrec = SasRec(B, LENGTH + 1, vocabulary.sizes, SASREC).eval()
    with torch.no_grad():
        for parameter in sasrec.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    columns = vocabulary.columns(table)
    return sasrec, event_tensors([causal_row(columns, 0, 5, B), causal_row(columns, 12, 15, B)])


def trained(vectors: EventVectors) -> set[str]:
    return {name.split(".")[0] for name, held in vectors.named_parameters() if held.requires_grad}


def of_rows(found: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """[K, places, H] of positions that are no padding."""
    return found[batch["present"]]


def test_llara_shows_the_embedding_of_the_behavior_before_each_line(made: Any) -> None:
    sasrec, batch = made
    vectors = ProjectedItems(sasrec, WIDTH)
    items = sasrec.items.weight[of_rows(batch["behavior"], batch)]
    expected = vectors.projection[2](F.gelu(vectors.projection[0](items)))
    torch.testing.assert_close(vectors(**batch), expected)
    # The first position sees no behavior but the start symbol.
    assert int(batch["behavior"][0, 0]) == B
    assert trained(vectors) == {"projection"}
    assert vectors.projection[0].out_features == WIDTH


def test_collm_shows_the_state_of_the_user_before_each_line(made: Any) -> None:
    sasrec, batch = made
    vectors = MappedStates(sasrec, 10, WIDTH)
    states = of_rows(sasrec.states(batch["behavior"], batch["event"], batch["target"]), batch)
    torch.testing.assert_close(vectors(**batch), vectors.mapping[2](F.gelu(vectors.mapping[0](states))))
    assert vectors.mapping[0].out_features == 10 * SASREC.hidden
    assert trained(vectors) == {"mapping"}


def test_a_llmrec_shows_the_joint_embedding_and_the_state(made: Any) -> None:
    sasrec, batch = made
    joint = Joint(sasrec.item_vectors(), np.random.default_rng(0).normal(size=(B, 7)).astype(np.float32), 5)
    vectors = SoftPrompts(sasrec, joint, WIDTH)
    items = torch.sigmoid(joint.item_in(sasrec.items.weight[of_rows(batch["behavior"], batch)]))
    states = of_rows(sasrec.states(batch["behavior"], batch["event"], batch["target"]), batch)
    expected = torch.stack([vectors.item(items), vectors.user(states)], 1).flatten(0, 1)
    torch.testing.assert_close(vectors(**batch), expected)
    assert trained(vectors) == {"item", "user"}


def test_the_sequence_model_drops_nothing_out_while_vectors_are_trained(made: Any) -> None:
    sasrec, batch = made
    vectors = MappedStates(sasrec, 2, WIDTH)
    vectors.events.dropout.p = 0.5
    before = vectors(**batch)
    torch.testing.assert_close(vectors.train()(**batch), before)


def test_each_loss_of_the_joint_network_reaches_what_it_is_about() -> None:
    torch.manual_seed(0)
    joint = Joint(torch.randn(7, 8), torch.randn(6, 12).numpy(), 16)
    reached = {
        "matching": {"item_in", "text_in"},
        "reconstruction": {"item_in", "item_out", "text_in", "text_out"},
        "rating": {"item_in", "item_out"},
    }
    losses = joint.losses(torch.randn(40, 8), torch.randint(6, (40,)))
    assert losses.keys() == reached.keys()
    for name, loss in losses.items():
        joint.zero_grad()
        loss.backward(retain_graph=True)
        found = {key.split(".")[0] for key, held in joint.named_parameters() if held.grad is not None}
        assert found == reached[name]
