"""LiteRT's backend beyond what every backend owes: sliding windows, hints, interrupts, failures, missing parts."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from edge_behavior.bundle.litert_file import TOKENIZER_ENTRY, read_litert, read_litert_entry, write_litert
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.runtime.backends import litert
from edge_behavior.runtime.backends.litert import LiteRtBackend, LiteRtRunOptions
from edge_behavior.runtime.litert.calls import CallPlanner
from edge_behavior.runtime.litert.package import load_litert
from edge_behavior.runtime.llama.model import LlamaModel
from edge_behavior.runtime.predictor import Predictor
from edge_behavior.util.cpus import allowed_cpus
from tests import helpers, litert_files
from tests.command import invoked
from tests.unit.export.conftest import gemma3, gemma_tokenizer
from tests.unit.runtime import lives
from tests.unit.runtime.engines import CACHE, CANDIDATES, IN_TORCH, LITERT, Engine, engine_of, manifest_of

CLOSE = 1e-4


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return engine_of(IN_TORCH, tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def file(engine: Engine) -> Path:
    return Path(engine.model.config.name_or_path).parent / "bundle.tflite"


@pytest.fixture
def backend(engine: Engine) -> Iterator[Any]:
    made = engine.open(256)
    yield made
    made.close()


def last_row(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(model(input_ids=torch.tensor([ids])).logits[0, -1].numpy())


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_windows_slide_over_prompt_and_labels(windowed: tuple[Any, Any, Path], data: st.DataObject) -> None:
    """Gemma 3, whose layers but one attend to 24 positions: prompts longer than that, appended to and cut anywhere."""
    model, tokens, path = windowed
    backend, trie = LiteRtBackend(path, LiteRtRunOptions(256, 1)), helpers.encoder(tokens).trie
    ids: list[int] = []
    for _ in range(data.draw(st.integers(1, 3))):
        kept = data.draw(st.integers(0, len(ids)))
        ids = [*ids[:kept], *data.draw(st.lists(st.integers(0, 250), min_size=15, max_size=40))]
        np.testing.assert_allclose(backend.prefill(ids)[0], last_row(model, ids), atol=CLOSE)
        for _ in range(data.draw(st.integers(1, 2))):
            nodes = sorted(data.draw(st.sets(st.sampled_from(trie.evaluated.tolist()), min_size=1, max_size=8)))
            for node, found in zip(nodes, backend.branch(trie, nodes)[0], strict=True):
                way = [int(trie.tokens[n]) for n in trie.ancestors(node)]
                np.testing.assert_allclose(found, last_row(model, ids + way), atol=CLOSE)
    state, restored = backend.save_state(), LiteRtBackend(path, LiteRtRunOptions(256, 1))
    assert restored.load_state(ids, state)
    np.testing.assert_allclose(restored.prefill([*ids, 7])[0], last_row(model, [*ids, 7]), atol=CLOSE)


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    folder, tokens = tmp_path_factory.mktemp("windowed"), gemma_tokenizer()
    torch.manual_seed(0)
    model = gemma3(len(tokens))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3.0)
    base = helpers.save(model, tokens, folder / "base")
    write_gguf(base, folder / "m.gguf", "f32")
    manifest = manifest_of(tokens, CANDIDATES, PromptLayout(), architecture="gemma3")
    path = litert_files.stand_in(base, folder / "m.gguf", manifest, folder / "m.tflite", 256)
    return AutoModelForCausalLM.from_pretrained(base).eval(), tokens, path


def test_logits_that_are_gone_are_evaluated_again(engine: Engine, backend: Any) -> None:
    """Those of another pass; keys and values stay where they are."""
    ids, trie = [40, 41, 42], helpers.encoder(engine.tokens).trie
    nodes = trie.evaluated.tolist()
    backend.prefill(ids, trie, nodes[:2])
    used = len(backend._slots)
    assert backend.branch(trie, nodes[-1:])[1] > 0
    assert not set(nodes[:2]) & set(backend.at_hand(trie)) - set(trie.ancestors(nodes[-1]))
    assert used < len(backend._slots)
    used = len(backend._slots)
    rows, evaluated = backend.branch(trie, nodes[:2])
    assert (evaluated, len(backend._slots)) == (2, used)
    for node, row in zip(nodes, rows, strict=False):
        way = [int(trie.tokens[step]) for step in trie.ancestors(node)]
        np.testing.assert_allclose(row, last_row(engine.model, ids + way), atol=CLOSE)


def test_hint_and_prompt_are_one_pass(engine: Engine, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, bool, int]] = []
    run = backend._evaluator._run

    def counted(call: Any, tokens: Any) -> Any:
        calls.append((call.size, call.first, len(tokens)))
        return run(call, tokens)

    monkeypatch.setattr(backend._evaluator, "_run", counted)
    _, evaluated = backend.prefill([40], lives.TRIE, [1, 2])
    assert (evaluated, calls) == (3, [(4, False, 3)])
    del calls[:]
    # A long prompt has a beginning, without logits, unless it follows on what is held.
    backend.prefill(list(range(30, 110)), lives.TRIE, [1, 2])
    assert [first for _, first, _ in calls] == [True] + [False] * (len(calls) - 1)
    assert sum(count for _, _, count in calls) == 82
    del calls[:]
    backend.prefill([*range(30, 110), *range(60)])
    assert not any(first for _, first, _ in calls)


def test_spare_nodes_fill_calls_and_cost_none(engine: Engine, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes are 1, 4, 8 and 32, so that six tokens leave room for two."""
    trie, ids = helpers.encoder(engine.tokens).trie, list(range(30, 35))
    nodes = [int(node) for node in trie.evaluated if trie.depths[node] == 1][:6]
    assert len(nodes) == 6
    calls: list[tuple[int, int]] = []
    run = backend._evaluator._run

    def counted(call: Any, tokens: Any) -> Any:
        calls.append((call.size, len(tokens)))
        return run(call, tokens)

    monkeypatch.setattr(backend._evaluator, "_run", counted)
    monkeypatch.setattr(backend._evaluator, "_planner", CallPlanner({1: 20, 4: 23, 8: 27, 32: 50}, {}))
    backend.prefill([7])
    assert backend.prefill([7, *ids], trie, nodes[:1], nodes[1:])[1] == 8
    assert calls[1:] == [(8, 8)]
    assert set(backend.at_hand(trie)) == set(nodes[:3])
    # Two nodes, and what a call of four has room for: the one that is left.
    _, evaluated = backend.branch(trie, nodes[3:5])
    assert (evaluated, calls[2:]) == (3, [(4, 3)])
    rows, evaluated = backend.branch(trie, nodes[5:])
    assert evaluated == 0
    np.testing.assert_allclose(rows[0], last_row(engine.model, [7, *ids, int(trie.tokens[nodes[5]])]), atol=CLOSE)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(1, 9))
def test_an_interrupt_at_any_call_leaves_no_wrong_answer(
    after: bool, at: int, engine: Engine, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, run = [at], backend._evaluator._run

    def interrupted(call: Any, tokens: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 and not after:
            raise KeyboardInterrupt
        found = run(call, tokens)
        if left[0] == 0:
            raise KeyboardInterrupt
        return found

    def walk() -> None:
        backend.prefill(list(range(30, 70)), lives.TRIE, [1])
        backend.branch(lives.TRIE, [2, 3])
        backend.prefill([*range(30, 50), 5], lives.TRIE, [2])
        backend.branch(lives.TRIE, [1])

    with monkeypatch.context() as patch:
        patch.setattr(backend._evaluator, "_run", interrupted)
        with suppress(KeyboardInterrupt):
            walk()
            walk()
    assert left[0] <= 0
    held = list(backend.held)
    assert not backend.at_hand(lives.TRIE) or held
    if held:
        for node, row in zip([1, 2], backend.branch(lives.TRIE, [1, 2])[0], strict=True):
            expected = last_row(engine.model, [*held, int(lives.TRIE.tokens[node])])
            np.testing.assert_allclose(row, expected, atol=CLOSE)
    for ids in ([*range(30, 50), 4], [9, 8, 5]):
        np.testing.assert_allclose(backend.prefill(ids)[0], last_row(engine.model, ids), atol=CLOSE)


def test_a_token_that_is_none(engine: Engine, backend: Any) -> None:
    backend.prefill([40, 41])
    with pytest.raises(EdgebError, match=f"the prompt has token 100000, the model {backend.n_vocab} tokens"):
        backend.prefill([40, 41, 100_000])
    assert backend.held == [40, 41]


def test_a_prompt_longer_than_the_cache(engine: Engine, file: Path, tmp_path: Path) -> None:
    """Capacity is the file's, whatever the caller would like."""
    bundle = read_litert(file)
    short = tmp_path / "short.tflite"
    base = Path(engine.model.config.name_or_path)
    litert_files.stand_in(base, base.parent / "m.gguf", replace(bundle.manifest, context_length=100), short, 100)
    opened = LiteRtBackend(short, LiteRtRunOptions(4096, 1))
    assert opened.capacity == 100
    with pytest.raises(EdgebError, match="the prompt has 101 tokens, the context holds 1 to 100"):
        opened.prefill(list(range(101)))
    with pytest.raises(EdgebError, match=r"the context holds 1 to 100 .shorten the place names or the history"):
        Predictor.load(short)


def test_a_vocabulary_that_is_not_the_models(engine: Engine, file: Path, tmp_path: Path) -> None:
    bundle = read_litert(file)
    base = Path(engine.model.config.name_or_path)
    litert_files.stand_in_model(base, tmp_path / "model")
    graph = replace(bundle.graph, vocabulary=bundle.graph.vocabulary - 1)
    out = tmp_path / "m.tflite"
    write_litert(tmp_path / "model", (base.parent / "m.gguf").read_bytes(), bundle.manifest, graph, out)
    with pytest.raises(EdgebError, match=rf"the tokenizer has \d+ tokens, the model {graph.vocabulary} "):
        LiteRtBackend(out, LiteRtRunOptions(64, 1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stock", "is a LiteRT file without edgeb's manifest"),
        ("cut", "is cut short"),
        ("newer", r"was written by a newer edgeb .schema 2, this one reads 1. .update edgeb"),
        ("changed", "does not match its hash"),
    ],
)
def test_a_file_that_is_no_bundle_or_not_whole(
    name: str, message: str, engine: Engine, file: Path, tmp_path: Path
) -> None:
    bundle, content, bad = read_litert(file), bytearray(file.read_bytes()), tmp_path / "bad.tflite"
    if name == "newer":
        base = Path(engine.model.config.name_or_path)
        litert_files.stand_in(base, base.parent / "m.gguf", replace(bundle.manifest, schema_version=2), bad)
    elif name == "changed":
        content[bundle.model_bytes - 1] ^= 1
        bad.write_bytes(content)
    else:
        bad.write_bytes(content[: bundle.model_bytes] if name == "stock" else content[:-200])
    for command in (("predict", bad, "--no-history", "--at", "2024-03-18T20:00", "--place", "DK"), ("inspect", bad)):
        with pytest.raises(EdgebError, match=message) as error:
            invoked(*command)
        assert "\n" not in str(error.value)


def test_without_the_package(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(EdgebError, match=r"need ai-edge-litert, .*not installed .pip install 'edgeb\[litert\]'"):
        load_litert()


def test_a_failing_engine_is_an_error_and_an_empty_cache(
    engine: Engine, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(call: Any, tokens: Any) -> None:
        raise EdgebError("LiteRT could not evaluate the prompt: out of memory", "load the bundle again")

    backend.prefill([40, 41, 42])
    with monkeypatch.context() as patch:
        patch.setattr(backend._evaluator, "_run", fail)
        with pytest.raises(EdgebError, match="out of memory"):
            backend.prefill([40, 41, 43])
    assert backend.held == []
    np.testing.assert_allclose(backend.prefill([40, 41, 43])[0], last_row(engine.model, [40, 41, 43]), atol=CLOSE)


@pytest.mark.parametrize("end", ["close", "drop"])
def test_memory_comes_back(end: str, engine: Engine) -> None:
    """By reference counts alone: nothing of it is in a circle."""
    backend: Any = engine.open(256)
    backend.prefill([40, 41, 42], lives.TRIE, [1])
    backend.branch(lives.TRIE, [2])
    gone = weakref.ref(backend._evaluator.cache)
    gc.disable()
    try:
        if end == "close":
            backend.close()
        else:
            del backend
        assert gone() is None
    finally:
        gc.enable()


def test_a_failing_constructor_frees_what_it_made(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    plain = LlamaModel.close

    def close(model: LlamaModel) -> None:
        closed.append("tokenizer")
        plain(model)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LlamaModel, "close", close)
    monkeypatch.setattr(litert, "Evaluator", interrupted)
    with pytest.raises(KeyboardInterrupt):
        LiteRtBackend(file, LiteRtRunOptions(64, 1))
    assert closed == ["tokenizer"]


def test_all_of_the_cache_is_used(engine: Engine) -> None:
    backend, ids = engine.open(CACHE), np.random.default_rng(1).integers(3, 500, CACHE).tolist()
    np.testing.assert_allclose(backend.prefill(ids)[0], last_row(engine.model, ids), atol=CLOSE)
    backend.close()


class TestOnLiteRt:
    """What only the package itself can show."""

    @pytest.fixture(scope="class")
    def real(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("real")
        engine_of(LITERT, folder)
        return folder / "bundle.tflite"

    def rewritten(self, real: Path, out: Path, model: bytes | None = None, **graph: Any) -> Path:
        """The same file with another model or graph, and honest hashes."""
        bundle = read_litert(real)
        part = out.with_suffix(".model")
        part.write_bytes(real.read_bytes()[: bundle.model_bytes] if model is None else model)
        tokenizer = read_litert_entry(real, TOKENIZER_ENTRY)
        write_litert(part, tokenizer, bundle.manifest, replace(bundle.graph, **graph), out)
        return out

    def test_a_command_says_nothing_of_the_engine(self, real: Path, tmp_path: Path) -> None:
        question = ["--no-history", "--at", "2024-03-18T20:00", "--place", "DK", "--json"]
        command = [sys.executable, "-m", "edge_behavior", "predict", str(real), *question]
        home = {**os.environ, "EDGEB_HOME": str(tmp_path)}
        done = subprocess.run(command, capture_output=True, text=True, env=home, check=True)
        assert done.stderr == ""
        assert len(json.loads(done.stdout)["predictions"]) == 5

    def test_what_others_write_is_seen_after_loading(self, real: Path, capfd: pytest.CaptureFixture[str]) -> None:
        backend = LiteRtBackend(real, LiteRtRunOptions(64, 1))
        backend.prefill([40, 41])
        os.write(2, b"a line of another's\n")
        backend.close()
        assert capfd.readouterr().err == "a line of another's\n"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"sizes": (1, 2), "first_sizes": ()}, "the model has no signature 'embed_2' .export it again"),
            ({"model": b"\x1c\0\0\0TFL3" + b"x" * 500}, r"LiteRT cannot load .*: Failed to build flatbuffer model"),
        ],
    )
    def test_files_that_cannot_run(self, change: dict[str, Any], message: str, real: Path, tmp_path: Path) -> None:
        with pytest.raises(EdgebError, match=message) as error:
            Predictor.load(self.rewritten(real, tmp_path / "m.tflite", **change), prefix_cache=False)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("change", [{"cache": 128}, {"layers": 1}, {"vocabulary": 4096}])
    def test_a_graph_of_another_shape(self, change: dict[str, int], real: Path, tmp_path: Path) -> None:
        backend = LiteRtBackend(self.rewritten(real, tmp_path / "m.tflite", **change), LiteRtRunOptions(64, 1))
        with pytest.raises(EdgebError, match=r"signature '(first|step)_[0-9]+'"):
            backend.prefill([40, 41, 42])
        assert backend.held == []

    @pytest.mark.skipif(allowed_cpus() < 2, reason="one CPU")
    def test_threads_change_nothing(self, real: Path) -> None:
        rows = []
        for threads in (1, 2):
            backend = LiteRtBackend(real, LiteRtRunOptions(256, threads))
            rows.append(
                np.stack([backend.prefill(list(range(30, 90)))[0].copy(), *backend.branch(lives.TRIE, [1, 2])[0]])
            )
            backend.close()
        np.testing.assert_allclose(*rows, atol=CLOSE)
