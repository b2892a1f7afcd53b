"""The reference backend: brute force, and the same sessions, sources and snapshots as llama.cpp's."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from typer.testing import CliRunner

from edge_behavior.bundle.gguf_file import write_bundle
from edge_behavior.bundle.manifest import BaseModelInfo, Manifest
from edge_behavior.cli import app
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.core.scoring import log_softmax
from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.records.history import write_history
from edge_behavior.runtime.backends.torch import TorchBackend, limit_threads
from edge_behavior.runtime.predictor import Predictor
from edge_behavior.runtime.torch_predictor import torch_predictor
from edge_behavior.train.recipe import load_recipe
from edge_behavior.train.run.folder import RunFolder, write_text
from edge_behavior.util import cpus
from tests import helpers
from tests.trie_scoring import masked_log_probs
from tests.unit.export.conftest import gemma3, gemma_tokenizer
from tests.unit.runtime import lives

CANDIDATES = CandidateSet.of(helpers.LABELS, range(1, 1 + len(helpers.LABELS)))


@pytest.fixture(scope="module")
def tokens() -> Any:
    return helpers.tokenizer()


@pytest.fixture(scope="module")
def model(tokens: Any) -> Any:
    return helpers.model(tokens)


@pytest.fixture
def backend(model: Any, tokens: Any) -> TorchBackend:
    return TorchBackend(model, tokens)


def last_row(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(model(input_ids=torch.tensor([ids])).logits[0, -1].numpy())


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_windows_slide_over_prompt_and_labels(windowed: tuple[Any, Any], data: st.DataObject) -> None:
    """Gemma 3, whose layers but one attend to 24 positions: prompts longer than that, appended to and cut anywhere."""
    model, tokens = windowed
    backend, trie = TorchBackend(model, tokens), helpers.encoder(tokens).trie
    ids: list[int] = []
    for _ in range(data.draw(st.integers(1, 3))):
        kept = data.draw(st.integers(0, len(ids)))
        ids = [*ids[:kept], *data.draw(st.lists(st.integers(0, 250), min_size=15, max_size=40))]
        np.testing.assert_allclose(backend.prefill(ids)[0], last_row(model, ids), atol=1e-4)
        for _ in range(data.draw(st.integers(1, 2))):
            nodes = sorted(data.draw(st.sets(st.sampled_from(trie.evaluated.tolist()), min_size=1, max_size=8)))
            for node, found in zip(nodes, backend.branch(trie, nodes)[0], strict=True):
                way = [int(trie.tokens[n]) for n in trie.ancestors(node)]
                np.testing.assert_allclose(found, last_row(model, ids + way), atol=1e-4)
    state, restored = backend.save_state(), TorchBackend(model, tokens)
    assert restored.load_state(ids, state)
    np.testing.assert_allclose(restored.prefill([*ids, 7])[0], last_row(model, [*ids, 7]), atol=1e-4)


@pytest.fixture(scope="module")
def windowed() -> tuple[Any, Any]:
    tokens = gemma_tokenizer()
    torch.manual_seed(0)
    model = gemma3(len(tokens))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3.0)
    return model, tokens


@pytest.mark.filterwarnings("error::FutureWarning")
def test_no_name_that_transformers_is_about_to_drop(model: Any, tokens: Any) -> None:
    backend = TorchBackend(model, tokens)
    backend.prefill([40, 41, 42])
    backend.branch(lives.TRIE, [1, 2])


def test_many_nodes_take_several_passes(model: Any, tokens: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = helpers.encoder(tokens)
    whole, parts = TorchBackend(model, tokens), TorchBackend(model, tokens)
    nodes = encoder.trie.evaluated.tolist()
    whole.prefill(encoder.static_ids)
    expected = np.stack(whole.branch(encoder.trie, nodes)[0])
    monkeypatch.setattr("edge_behavior.runtime.backends.torch._MAX_LOGITS", 3 * whole.n_vocab)
    parts.prefill(encoder.static_ids)
    np.testing.assert_allclose(np.stack(parts.branch(encoder.trie, nodes)[0]), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["stream", "prefix", "instruct"])
@pytest.mark.parametrize("adapted", [False, True])
def test_predictor_agrees_with_brute_force(name: str, adapted: bool, tokens: Any) -> None:
    model, layout = helpers.model(tokens), PromptLayout(name=name)
    if adapted:
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    encoder = helpers.encoder(tokens, layout)
    with torch_predictor(model, tokens, CANDIDATES, layout) as predictor:
        for length in (1, 9, 25):
            history = helpers.diary(length, length)
            when, place = history[-1].time, history[-1].place
            found = predictor.log_probs(history[:-1], when, place)
            prompt = encoder.prompt_ids(history[:-1], when, place)
            expected = [helpers.brute_force(model, prompt, encoder.label_ids(x)) for x in helpers.LABELS]
            np.testing.assert_allclose(found, expected, atol=1e-4)
        logits = np.zeros(len(encoder.trie))
        for node in range(1, len(encoder.trie)):
            way = [int(encoder.trie.tokens[n]) for n in encoder.trie.ancestors(node)]
            logits[node] = last_row(model, prompt + way[:-1])[way[-1]]
        masked = predictor.log_probs(history[:-1], when, place, "masked")
        np.testing.assert_allclose(masked, masked_log_probs(encoder.trie, logits), atol=1e-4)
        best = predictor.predict(history[:-1], when, place, 1)
        assert best.ranked[0].behavior == helpers.LABELS[int(np.argmax(expected))]
        assert 0 < best.decode_ms <= best.latency_ms


@pytest.fixture(scope="module")
def gguf(model: Any, tokens: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(helpers.save(model, tokens, folder / "m"), folder / "m.gguf", "f32")
    return folder / "m.gguf"


@pytest.mark.parametrize("rebase_every", [1, 3])
@pytest.mark.parametrize("name", ["stream", "prefix"])
def test_a_session_is_what_it_is_on_llama(
    model: Any, tokens: Any, gguf: Path, tmp_path: Path, name: str, rebase_every: int
) -> None:
    layout = PromptLayout(name=name, history_length=5)
    manifest = Manifest(
        created_with="test", candidates=CANDIDATES, layout=layout, bos_id=None, eos_id=int(tokens.eos_token_id),
        architecture="qwen2", quantization="F32", context_length=4096,
        base_model=BaseModelInfo("x", None, "00"),
    )  # fmt: skip
    write_bundle(gguf, manifest, tmp_path / "m.gguf")
    events = helpers.diary(14, 3)
    with (
        torch_predictor(model, tokens, CANDIDATES, layout) as reference,
        Predictor.load(tmp_path / "m.gguf", threads=1, exact_math=True, prefix_cache=False) as predictor,
    ):
        ours, theirs = reference.session(rebase_every), predictor.session(rebase_every)
        for before, after in pairwise(events):
            found, expected = [], []
            for session, into in ((ours, found), (theirs, expected)):
                session.observe(before)
                prediction = session.predict(after.time, after.place, None)
                into += sorted((r.behavior, r.probability) for r in prediction.ranked)
            assert [b for b, _ in found] == [b for b, _ in expected]
            np.testing.assert_allclose([p for _, p in found], [p for _, p in expected], atol=1e-4)


def test_state_round_trip(model: Any, tokens: Any) -> None:
    trie, ids = helpers.encoder(tokens).trie, list(range(30, 50))
    saved, restored = TorchBackend(model, tokens), TorchBackend(model, tokens)
    saved.prefill(ids)
    saved.branch(trie, trie.evaluated[:3].tolist())
    state = saved.save_state()
    assert restored.load_state(ids, state)
    assert restored.held == ids
    row, evaluated = restored.prefill([*ids, 77])
    assert evaluated == 1
    np.testing.assert_allclose(row, last_row(model, [*ids, 77]), atol=1e-4)
    # One id less or more, another model, or no state at all: an empty cache.
    narrow = TorchBackend(helpers.model(tokens, hidden=32), tokens)
    half = helpers.model(tokens).to(torch.bfloat16)
    for backend, claimed, content in (
        (restored, ids[:-1], state),
        (restored, [*ids, 5], state),
        (restored, ids, state[:-7]),
        (restored, ids, b""),
        (restored, ids, b"\xff" * 100),
        (narrow, ids, state),
        (TorchBackend(half, tokens), ids, state),
    ):
        assert not backend.load_state(claimed, content)
        assert backend.held == []
    np.testing.assert_allclose(restored.prefill(ids)[0], last_row(model, ids), atol=1e-4)


def test_snapshots_and_sessions_on_disk(model: Any, tokens: Any, tmp_path: Path) -> None:
    layout, history = PromptLayout(), helpers.diary(6)
    with torch_predictor(model, tokens, CANDIDATES, layout) as predictor:
        assert not predictor.warm(tmp_path / "prefix")
        assert predictor.warm(tmp_path / "prefix")
        session = predictor.session()
        for event in history:
            session.observe(event)
        expected = session.predict(history[-1].time, "DK", None).ranked
        session.save(tmp_path / "s")
    with torch_predictor(model, tokens, CANDIDATES, layout) as predictor:
        again = predictor.restore(tmp_path / "s").predict(history[-1].time, "DK", None)
        assert [r.behavior for r in again.ranked] == [r.behavior for r in expected]
        np.testing.assert_allclose([r.probability for r in again.ranked], [r.probability for r in expected], atol=1e-4)
    with (
        torch_predictor(helpers.model(tokens, seed=1), tokens, CANDIDATES, layout) as other,
        pytest.raises(EdgebError, match="another model"),
    ):
        other.restore(tmp_path / "s")


def test_a_failed_pass_starts_over(model: Any, tokens: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, ids = TorchBackend(model, tokens), list(range(30, 40))
    backend.prefill(ids)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(model.model.layers[1], "forward", fail)
        with pytest.raises(RuntimeError):
            backend.prefill([*ids, 50, 51])
    assert backend.held == []
    np.testing.assert_allclose(backend.prefill(ids)[0], last_row(model, ids), atol=1e-4)


def test_an_interrupt_in_any_layer_starts_over(model: Any, tokens: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some layers hold the new tokens then, and the bookkeeping none."""
    backend, ids = TorchBackend(model, tokens), list(range(30, 40))

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for layer in model.model.layers:
        backend.prefill(ids)
        with monkeypatch.context() as patched:
            patched.setattr(layer, "forward", interrupted)
            with pytest.raises(KeyboardInterrupt):
                backend.branch(lives.TRIE, [1, 2])
        assert not backend.at_hand(lives.TRIE)
        row, evaluated = backend.prefill(ids)
        assert evaluated == len(ids)
        np.testing.assert_allclose(row, last_row(model, ids), atol=1e-4)
        rows, _ = backend.branch(lives.TRIE, [1])
        np.testing.assert_allclose(rows[0], last_row(model, [*ids, int(lives.TRIE.tokens[1])]), atol=1e-4)


def test_bad_questions_leave_the_predictor_usable(model: Any, tokens: Any) -> None:
    history = helpers.diary(5)
    with torch_predictor(model, tokens, CANDIDATES, PromptLayout()) as predictor:
        before = predictor.predict(history, history[-1].time, "DK", None).ranked
        with pytest.raises(EdgebError, match="'Vidio' is not in the candidate set"):
            predictor.predict([*history, BehaviorEvent("DK", history[-1].time, "Vidio")], history[-1].time, "DK")
        assert [r.behavior for r in predictor.predict(history, history[-1].time, "DK", None).ranked] == [
            r.behavior for r in before
        ]
    with pytest.raises(EdgebError, match="closed"):
        predictor.predict(history, history[-1].time, "DK")


def test_predict_on_a_run_folder(tokens: Any, tmp_path: Path) -> None:
    """The adapter of the last stage over the backbone, as the run's own scorer has it."""
    run = RunFolder(tmp_path / "run")
    helpers.save(helpers.model(tokens), tokens, run.path / "backbone")
    adapted = get_peft_model(
        helpers.model(tokens), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    ).eval()
    adapted.save_pretrained(run.adapter("b_tuning"))
    run.update(
        backbone={"path": "backbone", "standin": True},
        candidates=[{"label": x, "count": 1} for x in helpers.LABELS],
        layout=PromptLayout().to_dict(),
    )
    write_text(run.path / "recipe.yaml", load_recipe("tiny").to_yaml())
    history = helpers.diary(7)
    write_history(tmp_path / "h.csv", history[:-1])
    question = ["--history", str(tmp_path / "h.csv"), "--at", history[-1].time.isoformat(), "--place", "DK"]
    arguments = ["predict", str(run.path), *question, "--top", "0", "--threads", "1", "--json"]
    unfinished = CliRunner().invoke(app, arguments)
    assert "a_tuning is not finished" in str(unfinished.exception)
    run.finish("a_tuning", {})
    run.finish("b_tuning", {})
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.exception
    found = {p["behavior"]: p["probability"] for p in json.loads(result.stdout)["predictions"]}
    encoder = helpers.encoder(tokens)
    prompt = encoder.prompt_ids(history[:-1], history[-1].time.replace(second=0), "DK")
    expected = [helpers.brute_force(adapted, prompt, encoder.label_ids(x)) for x in helpers.LABELS]
    np.testing.assert_allclose([found[x] for x in helpers.LABELS], np.exp(log_softmax(np.array(expected))), atol=1e-4)


def test_threads_are_no_more_than_allowed(model: Any, tokens: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "allowed_cpus", lambda root=None: 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        TorchBackend(model, tokens)
        assert torch.get_num_threads() == 1
        with pytest.raises(EdgebError, match="threads is 2, but this process may use 1 CPU"):
            limit_threads(2)
    finally:
        torch.set_num_threads(before)
