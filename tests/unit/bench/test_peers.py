"""Peers must answer the same question, or comparing with them means nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_behavior.bench.peers import CompletionPeer, LabelPeer, PeerOptions
from edge_behavior.bench.scenarios import Turns, slot
from edge_behavior.bench.setup import Setup
from edge_behavior.runtime.llama.model import LlamaModel
from tests import helpers


@pytest.mark.parametrize("cached", [True, False])
def test_labels_one_by_one_have_the_models_probabilities(
    cached: bool, tokens: object, native: LlamaModel, setup: Setup
) -> None:
    prompts = setup.windows()
    peer = LabelPeer(native, "labels", prompts, setup.encoder, PeerOptions(1, Turns(0), cached))
    model = helpers.model(tokens)
    try:
        for prompt in prompts[:3]:
            scores, count = peer.score(prompt)
            paths = [setup.encoder.label_ids(label) for label in helpers.LABELS]
            expected = [helpers.brute_force(model, prompt, path) for path in paths]
            np.testing.assert_allclose(scores, expected, atol=5e-2)
            steps = sum(len(path) - 1 for path in paths)
            once = len(prompt) - len(setup.encoder.static_ids)
            assert count == (once + steps if cached else len(paths) * len(prompt) + steps)
    finally:
        peer.close()


def test_completions_are_labels_and_the_cache_changes_only_the_cost(bundle: Path, setup: Setup) -> None:
    prompts, grown = setup.windows(), setup.grown()
    cold = CompletionPeer(bundle, "cold", prompts, setup.encoder, PeerOptions(1, Turns(0)))
    cached = CompletionPeer(bundle, "cached", prompts, setup.encoder, PeerOptions(1, Turns(0), cached=True))
    appended = CompletionPeer(bundle, "appended", grown, setup.encoder, PeerOptions(1, Turns(1), True, follow=True))
    try:
        for prompt in prompts[:4]:
            cold._llama.reset()
            assert cold.complete(prompt) == cached.complete(prompt)
        samples = {}
        for i in range(6):
            for peer in (cold, cached, appended):
                for name, sample in peer.turn(i).items():
                    samples.setdefault(name, []).append((i, sample.tokens))
        assert [i for i, _ in samples["cold"]] == [i for i in range(6) if slot(i) == 0]
        assert [i for i, _ in samples["appended"]] == [i for i in range(6) if slot(i) == 1]
        static = len(setup.encoder.static_ids)
        for (i, full), (_, shared) in zip(samples["cold"], samples["cached"], strict=True):
            assert full >= len(prompts[i])
            assert full - shared >= static
        # One event, the time and place asked for, and the answer.
        line = max(len(setup.encoder.line_ids(event)) for event in setup.diary.events)
        longest = max(len(label.encode()) for label in helpers.LABELS)
        assert all(tokens <= 2 * line + longest + 3 for _, tokens in samples["appended"])
    finally:
        for peer in (cold, cached, appended):
            peer.close()
