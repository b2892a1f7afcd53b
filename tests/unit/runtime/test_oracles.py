"""Exact scores are what scoring every label by itself gives: random and trained models, every engine, every layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from edge_behavior.bundle.gguf_file import write_bundle
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import LAYOUTS, PromptLayout
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.hf.tokenizers import encoder_for
from edge_behavior.runtime.predictor import Predictor
from edge_behavior.runtime.torch_predictor import torch_predictor
from tests import helpers
from tests.label_sets import label_sets, many_labels
from tests.unit.runtime.engines import CACHE, IN_TORCH, LITERT, litert_bundle, manifest_of

# The target: 1e-4 in log-probability, at f32.
TOLERANCE = 1e-4
SHORT = 4


@dataclass(frozen=True)
class Subject:
    """A model with its tokenizer, in memory and as an f32 GGUF."""

    model: Any
    tokens: Any
    gguf: Path
    architecture: str
    positions: int

    def open(self, engine: str, candidates: CandidateSet, layout: PromptLayout, folder: Path) -> Predictor:
        if engine == "torch":
            return torch_predictor(self.model, self.tokens, candidates, layout)
        path = folder / "m.gguf"
        manifest = manifest_of(
            self.tokens, candidates, layout, architecture=self.architecture, context_length=self.positions
        )
        if engine == "llama.cpp":
            write_bundle(self.gguf, manifest, path)
        else:
            manifest = replace(manifest, context_length=CACHE)
            path = litert_bundle(engine, self.gguf.parent / "m", self.gguf, manifest, folder / "m.tflite")
        return Predictor.load(path, threads=1, exact_math=True, verify=False, prefix_cache=False)


def subject(model: Any, tokens: Any, folder: Path, architecture: str = "qwen2") -> Subject:
    helpers.save(model, tokens, folder / "m")
    write_gguf(folder / "m", folder / "m.gguf", "f32")
    return Subject(model, tokens, folder / "m.gguf", architecture, int(model.config.max_position_embeddings))


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    tokens = helpers.tokenizer()
    return subject(helpers.model(tokens), tokens, tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="module")
def trained_model(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A few seconds of training on diaries: peaked distributions, unlike a random model's."""
    tokens = helpers.tokenizer()
    model, encoder = helpers.model(tokens, seed=1, spread=1.0).train(), helpers.encoder(tokens)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for step in range(40):
        rows = [encoder.stretch(helpers.diary(12, 100 * step + i)).ids for i in range(4)]
        ids = torch.tensor([row[: min(map(len, rows))] for row in rows])
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    return subject(model.eval(), tokens, tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def real_model(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Trained Llama weights of 260,000 parameters, with a SentencePiece tokenizer."""
    folder = shared / "models" / "stories260K"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return subject(model, AutoTokenizer.from_pretrained(folder), tmp_path_factory.mktemp("real"), "llama")


def by_itself(model: Any, prompt: Sequence[int], paths: Sequence[Sequence[int]]) -> np.ndarray:
    """Every label's log-probability from a row of its own: prompt, label, nothing shared, no trie."""
    found = []
    for start in range(0, len(paths), 64):
        some = paths[start : start + 64]
        width = max(map(len, some))
        # What is padded on the right is seen by nothing on its left.
        ids = torch.tensor([[*prompt, *path, *[0] * (width - len(path))] for path in some])
        with torch.no_grad():
            logits = model(input_ids=ids, logits_to_keep=width + 1).logits
        rows = torch.log_softmax(logits.double(), -1).numpy()
        found += [sum(rows[i, k, token] for k, token in enumerate(path)) for i, path in enumerate(some)]
    return np.array(found)


def check(subject: Subject, engine: str, labels: list[str], layout: PromptLayout, length: int, folder: Path) -> None:
    """The predictor's log-probabilities, and its proven best three, against the oracle."""
    candidates = CandidateSet.of(labels)
    encoder = encoder_for(subject.tokens, layout, candidates)
    events = helpers.diary(length + 1, length, labels)
    history, when, place = events[:-1], events[-1].time, events[-1].place
    prompt = encoder.prompt_ids(history, when, place)
    expected = by_itself(subject.model, prompt, [encoder.label_ids(label) for label in labels])
    with subject.open(engine, candidates, layout, folder) as predictor:
        found = predictor.log_probs(history, when, place)
        best = predictor.predict(history, when, place, 3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    order = np.argsort(-expected)
    for rank, answer in zip(order, best.ranked, strict=False):
        # Only labels that differ by less than the tolerance may trade places.
        assert expected[labels.index(answer.behavior)] == pytest.approx(expected[rank], abs=TOLERANCE)


ENGINES = pytest.mark.parametrize("engine", ["torch", "llama.cpp", IN_TORCH, LITERT])
PROPERTY = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


# The instruct layout always lists its candidates.
LAYOUT = st.sampled_from([("stream", True), ("stream", False), ("prefix", True), ("prefix", False), ("instruct", True)])


@ENGINES
@PROPERTY
@given(labels=label_sets(), layout=LAYOUT, length=st.integers(0, 6))
def test_random_model(
    random_model: Subject, tmp_path: Path, engine: str, labels: list[str], layout: tuple[str, bool], length: int
) -> None:
    check(random_model, engine, labels, PromptLayout(*layout, history_length=SHORT), length, tmp_path)


@ENGINES
@PROPERTY
@given(labels=label_sets(), layout=LAYOUT, length=st.integers(0, 6))
def test_trained_model(
    trained_model: Subject, tmp_path: Path, engine: str, labels: list[str], layout: tuple[str, bool], length: int
) -> None:
    check(trained_model, engine, labels, PromptLayout(*layout, history_length=SHORT), length, tmp_path)


@ENGINES
@pytest.mark.parametrize("name", LAYOUTS)
def test_labels_it_was_trained_on(trained_model: Subject, tmp_path: Path, engine: str, name: str) -> None:
    check(trained_model, engine, helpers.LABELS, PromptLayout(name), 24, tmp_path)


@ENGINES
@pytest.mark.parametrize("name", LAYOUTS)
def test_real_weights(real_model: Subject, tmp_path: Path, engine: str, name: str) -> None:
    layout = PromptLayout(name, history_length=SHORT, list_candidates=name != "prefix")
    for labels in (helpers.LABELS[:4], ["play", "play ball", "play with a dog", "go to sleep"]):
        check(real_model, engine, labels, layout, 3, tmp_path)


@ENGINES
@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("trained_model", 40),
        ("random_model", 300),
        pytest.param("trained_model", 1000, marks=pytest.mark.slow),
        pytest.param("random_model", 2000, marks=pytest.mark.slow),
    ],
)
def test_many_labels(request: pytest.FixtureRequest, tmp_path: Path, engine: str, kind: str, count: int) -> None:
    layout = PromptLayout(history_length=SHORT, list_candidates=count <= 40)
    check(request.getfixturevalue(kind), engine, many_labels(count, count), layout, 4, tmp_path)
