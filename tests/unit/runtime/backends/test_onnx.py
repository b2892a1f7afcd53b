"""The ONNX backend: PyTorch's scores, whatever was asked before, on folders that stock onnxruntime-genai runs."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from edge_behavior.bundle.bundle import read_manifest
from edge_behavior.bundle.folder import write_folder_manifest
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.core.scoring import log_softmax
from edge_behavior.errors import EdgebError
from edge_behavior.export.checks import prompt_segments
from edge_behavior.export.onnx.options import OnnxOptions
from edge_behavior.export.onnx.pipeline import export_onnx
from edge_behavior.export.source import ExportSource
from edge_behavior.runtime.backends import onnx as onnx_backend
from edge_behavior.runtime.backends.genai import load_genai
from edge_behavior.runtime.backends.onnx import OnnxBackend, OnnxRunOptions
from edge_behavior.runtime.predictor import Predictor
from edge_behavior.runtime.torch_predictor import torch_predictor
from tests import helpers
from tests.unit.export.conftest import LLAMA3_ROPE, llama, llama3_tokenizer
from tests.unit.runtime import lives

CANDIDATES = CandidateSet.of(helpers.LABELS, range(1, 1 + len(helpers.LABELS)))
# f32 on both sides: 1e-6 was seen on logits, 5e-6 on sums along a label.
CLOSE = 1e-4


@dataclass
class Made:
    """A model in memory and its f32 folder."""

    model: Any
    tokens: Any
    folder: Path


def make(model: Any, tokens: Any, folder: Path, layout: PromptLayout | None = None, quant: str = "f32") -> Made:
    base = helpers.save(model, tokens, folder / "base")
    source = ExportSource(base, None, CANDIDATES, layout or PromptLayout())
    export_onnx(source, folder / "onnx", OnnxOptions(quant), helpers.profile())
    return Made(AutoModelForCausalLM.from_pretrained(base).eval(), AutoTokenizer.from_pretrained(base), folder / "onnx")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Made:
    tokens = helpers.tokenizer()
    return make(helpers.model(tokens), tokens, tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def llama3(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A start token, untied embeddings, scaled rotations, and a context that the export lowers."""
    torch.manual_seed(0)
    tokens = llama3_tokenizer()
    made = llama(len(tokens) + 3, rope_parameters=LLAMA3_ROPE, max_position_embeddings=4096)
    return make(made, tokens, tmp_path_factory.mktemp("llama"))


@pytest.fixture
def backend(qwen: Made) -> Iterator[OnnxBackend]:
    made = OnnxBackend(qwen.folder, OnnxRunOptions(n_ctx=256, threads=1))
    yield made
    made.close()


def last_row(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(model(input_ids=torch.tensor([ids])).logits[0, -1].numpy())


@pytest.mark.parametrize("family", ["qwen", "llama3"])
def test_scores_are_those_of_pytorch(family: str, request: pytest.FixtureRequest) -> None:
    made: Made = request.getfixturevalue(family)
    with (
        Predictor.load(made.folder, prefix_cache=False) as predictor,
        torch_predictor(made.model, made.tokens, CANDIDATES, PromptLayout()) as reference,
    ):
        encoder = helpers.encoder(made.tokens)
        for length in (0, 9, 25):
            history = helpers.diary(length + 1, length)
            asked = (history[:-1], history[-1].time, history[-1].place)
            prompt = encoder.prompt_ids(*asked)
            expected = [helpers.brute_force(made.model, prompt, encoder.label_ids(x)) for x in helpers.LABELS]
            np.testing.assert_allclose(predictor.log_probs(*asked), expected, atol=CLOSE)
            np.testing.assert_allclose(
                predictor.log_probs(*asked, "masked"), reference.log_probs(*asked, "masked"), atol=CLOSE
            )
            top = predictor.predict(*asked, 3)
            best = np.argsort(-np.array(expected))[:3]
            assert [r.behavior for r in top.ranked] == [helpers.LABELS[i] for i in best]
            exact = np.exp(log_softmax(np.array(expected)))[best]
            assert (np.array([r.probability for r in top.ranked]) <= exact + CLOSE).all(), "lower bounds"
            assert 0 < top.decode_ms <= top.latency_ms


@pytest.mark.parametrize("name", ["prefix", "instruct"])
def test_other_layouts(name: str, tmp_path: Path) -> None:
    tokens = helpers.tokenizer()
    made = make(helpers.model(tokens), tokens, tmp_path, PromptLayout(name))
    history = helpers.diary(6, 2)
    asked = (history[:-1], history[-1].time, history[-1].place)
    with (
        Predictor.load(made.folder, prefix_cache=False) as predictor,
        torch_predictor(made.model, made.tokens, CANDIDATES, PromptLayout(name)) as reference,
    ):
        np.testing.assert_allclose(predictor.log_probs(*asked), reference.log_probs(*asked), atol=CLOSE)


@pytest.mark.parametrize("rebase_every", [1, 3])
def test_a_session_is_what_fresh_predictions_are(qwen: Made, tmp_path: Path, rebase_every: int) -> None:
    tokens = helpers.tokenizer()
    layout = PromptLayout(history_length=5)
    made = make(helpers.model(tokens), tokens, tmp_path, layout)
    events = helpers.diary(14, 3)
    with (
        torch_predictor(made.model, made.tokens, CANDIDATES, layout) as reference,
        Predictor.load(made.folder, prefix_cache=False) as predictor,
    ):
        ours, theirs = predictor.session(rebase_every), reference.session(rebase_every)
        for before, after in pairwise(events):
            found, expected = [], []
            for session, into in ((ours, found), (theirs, expected)):
                session.observe(before)
                prediction = session.predict(after.time, after.place, None)
                into += sorted((r.behavior, r.probability) for r in prediction.ranked)
            assert [b for b, _ in found] == [b for b, _ in expected]
            np.testing.assert_allclose([p for _, p in found], [p for _, p in expected], atol=CLOSE)
        # The next answer costs the trie and little more, and a saved session goes on in another predictor.
        again = ours.predict(after.time, after.place, None)
        assert again.tokens_evaluated < len(helpers.encoder(tokens).trie) + 20
        ours.save(tmp_path / "s")
    with Predictor.load(made.folder, prefix_cache=False) as predictor:
        restored = predictor.restore(tmp_path / "s").predict(after.time, after.place, None)
    assert [r.behavior for r in restored.ranked] == [r.behavior for r in again.ranked]
    np.testing.assert_allclose(
        [r.probability for r in restored.ranked], [r.probability for r in again.ranked], atol=CLOSE
    )


def test_nothing_is_saved_of_the_static_part(qwen: Made, tmp_path: Path) -> None:
    with Predictor.load(qwen.folder, prefix_cache=tmp_path / "prefix") as predictor:
        assert not predictor.warm(tmp_path / "prefix")
        assert not (tmp_path / "prefix").exists()
    backend = OnnxBackend(qwen.folder, OnnxRunOptions(64))
    backend.prefill([40, 41, 42])
    assert backend.save_state() == b""
    assert not backend.load_state([40, 41], b"")
    assert backend.held == []
    np.testing.assert_allclose(backend.prefill([40, 41])[0], last_row(qwen.model, [40, 41]), atol=CLOSE)


def test_a_long_prompt_is_evaluated_in_parts(qwen: Made, backend: OnnxBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_backend, "_MAX_LOGITS", 7 * 511)
    trie, ids = helpers.encoder(qwen.tokens).trie, list(range(30, 80))
    deep = int(trie.evaluated[-1])
    row, evaluated = backend.prefill(ids, trie, [deep])
    way = [int(trie.tokens[n]) for n in trie.ancestors(deep)]
    assert evaluated == len(ids) + len(way)
    np.testing.assert_allclose(row, last_row(qwen.model, ids), atol=CLOSE)
    np.testing.assert_allclose(backend.branch(trie, [deep])[0][0], last_row(qwen.model, ids + way), atol=CLOSE)
    expected = torch.no_grad()(lambda: qwen.model(input_ids=torch.tensor([ids])).logits[0].numpy())()
    np.testing.assert_allclose(backend.logits(ids), expected, atol=CLOSE)


def test_a_failed_pass_starts_over(qwen: Made, backend: OnnxBackend) -> None:
    ids = list(range(30, 40))
    backend.prefill(ids)
    with pytest.raises(EdgebError, match=r"onnxruntime could not evaluate the prompt: .*out of data bounds"):
        backend.prefill([*ids, 100_000])
    assert backend.held == []
    np.testing.assert_allclose(backend.prefill(ids)[0], last_row(qwen.model, ids), atol=CLOSE)


def test_text_becomes_the_same_tokens_as_in_training(qwen: Made, llama3: Made) -> None:
    for made in (qwen, llama3):
        backend = OnnxBackend(made.folder, OnnxRunOptions(16))
        texts = prompt_segments(PromptLayout("instruct"), CANDIDATES, ("DK", "AB"))
        for text in [*texts, "<|endoftext|>", "a<|im_end|>b", "東京 é́ \u00a0x"]:
            encoder = helpers.encoder(made.tokens)
            assert backend.tokenize(text) == encoder.segment(text), text
        assert len(backend.tokenize("<|endoftext|>")) > 1, "special tokens are text"


@pytest.mark.parametrize("family", ["qwen", "llama3"])
def test_stock_onnxruntime_genai_generates(family: str, request: pytest.FixtureRequest) -> None:
    import onnxruntime_genai as og

    made: Made = request.getfixturevalue(family)
    text, steps = "(Mon 9, DK, Video)\n(Tue 21, AB,", 6
    model = og.Model(str(made.folder))
    ids = og.Tokenizer(model).encode(text).tolist()
    assert ids == made.tokens(text, add_special_tokens=False).input_ids, "the caller puts a start token in front"
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(ids) + steps, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(np.array(ids, dtype=np.int32))
    expected = list(ids)
    while not generator.is_done():
        generator.generate_next_token()
        expected.append(int(last_row(made.model, expected).argmax()))
    assert generator.get_sequence(0).tolist() == expected
    assert len(expected) > len(ids)


def test_four_bits_run(tmp_path: Path) -> None:
    tokens = helpers.tokenizer()
    made = make(helpers.model(tokens), tokens, tmp_path, quant="q4")
    history = helpers.diary(5, 1)
    asked = (history[:-1], history[-1].time, history[-1].place)
    with Predictor.load(made.folder, prefix_cache=False) as predictor:
        found = predictor.predict(*asked, None)
        assert sorted(r.behavior for r in found.ranked) == sorted(helpers.LABELS)
        assert sum(r.probability for r in found.ranked) == pytest.approx(1)
        session = predictor.session()
        for event in history[:-1]:
            session.observe(event)
        same = session.predict(*asked[1:], None)
    np.testing.assert_allclose([r.probability for r in same.ranked], [r.probability for r in found.ranked], atol=CLOSE)


def edited(made: Made, to: Path, change: dict[str, Any]) -> Path:
    """A copy whose genai_config.json has other entries under model.decoder, with honest hashes."""
    shutil.copytree(made.folder, to)
    manifest = read_manifest(to)
    file = to / "genai_config.json"
    config = json.loads(file.read_text())
    config["model"]["decoder"] |= change
    file.write_text(json.dumps(config))
    write_folder_manifest(to, manifest)
    return to


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"filename": "../model.onnx"}, r"the model '../model.onnx' is not in the folder"),
        ({"filename": "other.onnx"}, "the model 'other.onnx' is not in the folder"),
        ({"session_options": {"custom_ops_library": "evil.so"}}, "loads a library of its own, 'evil.so'"),
        ({"session_options": None}, "genai_config.json cannot be used"),
        ({"session_options": {"provider_options": [{"cuda": {}}]}}, "onnxruntime-genai cannot load"),
    ],
)
def test_folders_that_cannot_run(qwen: Made, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgebError, match=message) as error:
        Predictor.load(edited(qwen, tmp_path / "bad", change))
    assert "\n" not in str(error.value)


def test_a_folder_for_another_provider_runs_on_the_cpu_when_told(qwen: Made, tmp_path: Path) -> None:
    folder = edited(qwen, tmp_path / "c", {"session_options": {"provider_options": [{"cuda": {}}]}})
    backend = OnnxBackend(folder, OnnxRunOptions(64, threads=1, cpu=True))
    np.testing.assert_allclose(backend.prefill([40, 41])[0], last_row(qwen.model, [40, 41]), atol=CLOSE)


def test_telemetry_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def disable() -> None:
        calls.append(os.environ["ORT_DISABLE_TELEMETRY"])

    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime_genai", SimpleNamespace(disable_telemetry_events=disable))
    load_genai()
    assert calls == ["1"]


def test_without_the_package(qwen: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_genai", None)
    with pytest.raises(EdgebError, match=r"need onnxruntime-genai, .*not installed .pip install 'edgeb\[onnx\]'"):
        Predictor.load(qwen.folder)


def test_closed(qwen: Made) -> None:
    backend = OnnxBackend(qwen.folder, OnnxRunOptions(n_ctx=64, threads=1))
    backend.close()
    with pytest.raises(EdgebError, match="closed"):
        backend.logits([3])


@pytest.mark.parametrize("name", ["rewind_to", "append_tokens", "get_logits", "get_output", "token_count"])
@pytest.mark.parametrize("after", [False, True])
def test_an_interrupt_leaves_no_wrong_answer(name: str, after: bool, qwen: Made, backend: OnnxBackend) -> None:
    for at in range(1, 6):
        backend._generator = Interrupting(backend._generator, name, at, after)
        with suppress(KeyboardInterrupt):
            walk_about(backend)
        if isinstance(backend._generator, Interrupting):
            backend._generator = backend._generator.plain
        answers_rightly(qwen, backend)


@pytest.mark.parametrize("at", range(1, 5))
def test_an_interrupt_after_a_pass(at: int, qwen: Made, backend: OnnxBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine holds what is not written down yet."""
    left, plain = [at], OnnxBackend._append

    def append(self: OnnxBackend, *arguments: Any) -> Any:
        found = plain(self, *arguments)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return found

    walk_about(backend)
    monkeypatch.setattr(OnnxBackend, "_append", append)
    with pytest.raises(KeyboardInterrupt):
        walk_about(backend)
    answers_rightly(qwen, backend)


def walk_about(backend: OnnxBackend) -> None:
    """Prompts with a common beginning, and both ways of the trie after each."""
    backend.prefill([9, 8, 7, 6], lives.TRIE, [1])
    backend.branch(lives.TRIE, [2])
    backend.prefill([9, 8, 5], lives.TRIE, [2])
    backend.branch(lives.TRIE, [1])


def answers_rightly(made: Made, backend: OnnxBackend) -> None:
    """What is held is what the backend says, and the next prompts get PyTorch's logits."""
    trie, held = lives.TRIE, list(backend.held)
    if held:
        rows, _ = backend.branch(trie, [1, 2])
        for node, row in zip([1, 2], rows, strict=True):
            np.testing.assert_allclose(row, last_row(made.model, [*held, int(trie.tokens[node])]), atol=CLOSE)
    for ids in ([9, 8, 7, 4], [9, 8, 5]):
        np.testing.assert_allclose(backend.prefill(ids)[0], last_row(made.model, ids), atol=CLOSE)


class Interrupting:
    """A generator that raises KeyboardInterrupt at the n-th call of one method, before or after it."""

    def __init__(self, plain: Any, name: str, at: int, after: bool) -> None:
        self.plain, self._name, self._left, self._after = plain, name, at, after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.plain, name)
        if name != self._name:
            return method

        def call(*arguments: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._after:
                raise KeyboardInterrupt
            found = method(*arguments)
            if self._left == 0:
                raise KeyboardInterrupt
            return found

        return call
