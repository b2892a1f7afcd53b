"""LiteRT on another accelerator than the CPU: whole or not at all, checked by known rows, and as exact.

What needs no LiteRT runs with PyTorch in its place; LiteRT's own GPU accelerator runs on a GPU in software.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_behavior.bundle.litert_file import (
    TOKENIZER_ENTRY,
    read_litert,
    read_litert_entry,
    read_litert_probe,
    write_litert,
)
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.runtime.backends import litert
from edge_behavior.runtime.backends.litert import LiteRtBackend, LiteRtRunOptions
from edge_behavior.runtime.litert import compiled
from edge_behavior.runtime.predictor import Predictor, open_backend
from tests import helpers, litert_files
from tests.command import invoked
from tests.software_adapter import VARIABLES, require_adapter
from tests.unit.runtime.engines import CACHE, CANDIDATES, IN_TORCH, LITERT, Engine, engine_of, manifest_of, require

# The largest difference that was seen on SwiftShader is a thousandth of it; other adapters round otherwise.
CLOSE = 5e-4
QUESTION = ("--no-history", "--at", "2024-03-18T20:00", "--place", "DK", "--json")


def last_row(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(model(input_ids=torch.tensor([ids])).logits[0, -1].numpy())


def in_eight_bits(model: Any) -> Any:
    """A copy whose matrices are rounded as the quantizer does: a step per row, symmetric."""
    made = copy.deepcopy(model)
    with torch.no_grad():
        for values in made.parameters():
            if values.ndim == 2:
                steps = values.abs().amax(1, keepdim=True).clamp_min(1e-9) / 127
                values.copy_((values / steps).round() * steps)
    return made


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stand-in")
    engine_of(IN_TORCH, folder)
    return folder / "bundle.tflite"


class Faulty:
    """The stand-in of a compiled model, one of whose signatures computes something else and reports success."""

    def __init__(self, path: Path, signature: str, output: str, fault: Any) -> None:
        self._plain, self._fault = litert.CompiledGraph(path, 1, (), "gpu"), (signature, output, fault)
        self.engine = self._plain.engine

    def bind(self, name: str, inputs: Any, outputs: Any) -> Any:
        run, (signature, output, fault) = self._plain.bind(name, inputs, outputs), self._fault

        def faulty() -> None:
            run()
            if name == signature:
                fault(outputs[output])

        return faulty

    def close(self) -> None:
        self._plain.close()


class TestKnownRows:
    def test_the_same_rows_are_answered(self, stand_in: Path) -> None:
        with Predictor.load(stand_in, accelerator="gpu", prefix_cache=False) as predictor:
            assert predictor.accelerator == "gpu"
            assert predictor.log_probs([], helpers.diary(1)[0].time, "DK").shape == (len(CANDIDATES),)
        backends = [open_backend(stand_in, 64, 1, accelerator=name) for name in ("cpu", "gpu")]
        assert len({backend.fingerprint for backend in backends}) == 2, "caches are not the same to the bit"
        for backend in backends:
            backend.close()

    @pytest.mark.parametrize(
        ("signature", "output", "fault", "calls"),
        [
            ("step_8", "logits", lambda found: found[..., 400:].fill(0), 8),
            ("step_1", "logits", lambda found: np.negative(found, out=found), 1),
            ("step_32", "logits", lambda found: found.fill(np.nan), 32),
            ("step_4", "new_v_1", lambda found: found.fill(0), 4),
            ("first_8", "new_k_1", lambda found: found.fill(0), 8),
        ],
    )
    def test_others_are_refused(
        self, signature: str, output: str, fault: Any, calls: int, stand_in: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = Faulty(stand_in, signature, output, fault)
        monkeypatch.setattr(litert, "CompiledGraph", lambda *arguments: made)
        with pytest.raises(EdgebError, match=f"the GPU computes other answers .* calls of {calls} tokens") as error:
            LiteRtBackend(stand_in, LiteRtRunOptions(64, 1, "gpu"))
        assert "\n" not in str(error.value)
        assert "use the CPU, or export with --prune on" in error.value.hint
        LiteRtBackend(stand_in, LiteRtRunOptions(64, 1)).close()

    def test_a_bundle_without_them_or_for_others(self, stand_in: Path, tmp_path: Path) -> None:
        bundle, model, out = read_litert(stand_in), tmp_path / "model", tmp_path / "m.tflite"
        model.write_bytes(stand_in.read_bytes()[: bundle.model_bytes])
        write_litert(model, read_litert_entry(stand_in, TOKENIZER_ENTRY), bundle.manifest, bundle.graph, out)
        with pytest.raises(EdgebError, match=r"has no known rows to check the GPU by .export it again"):
            LiteRtBackend(out, LiteRtRunOptions(64, 1, "gpu"))
        LiteRtBackend(out, LiteRtRunOptions(64, 1)).close()
        for_npu = replace(litert_files.known_rows(litert_files.stood_in(model)), accelerators=("npu",))
        tokenizer = read_litert_entry(stand_in, TOKENIZER_ENTRY)
        write_litert(model, tokenizer, bundle.manifest, bundle.graph, out, probe=for_npu)
        with pytest.raises(EdgebError, match=r"was not exported for the GPU .export it with norm: apart, or use"):
            LiteRtBackend(out, LiteRtRunOptions(64, 1, "gpu"))


class TestRefused:
    def test_an_accelerator_that_is_none(self, stand_in: Path) -> None:
        with pytest.raises(EdgebError, match=r"there is no accelerator 'gpus' .did you mean 'gpu'"):
            Predictor.load(stand_in, accelerator="gpus")
        with pytest.raises(EdgebError, match="there is no accelerator 'tpu'"):
            invoked("predict", stand_in, *QUESTION, "--accelerator", "tpu")

    @pytest.mark.parametrize("accelerator", ["cpu", "gpu"])
    def test_another_format(self, accelerator: str, small_bundle: Path, tmp_path: Path) -> None:
        for command in (("predict", small_bundle, *QUESTION), ("bench", small_bundle), ("evaluate", small_bundle)):
            if command[0] == "evaluate":
                command = (*command, "--data", tmp_path)
            with pytest.raises(EdgebError, match=r"is not a LiteRT file, and accelerators are LiteRT's") as error:
                invoked(*command, "--accelerator", accelerator)
            assert "\n" not in str(error.value)

    def test_a_run_folder(self, tmp_path: Path) -> None:
        with pytest.raises(EdgebError, match="is a run folder, and --accelerator is for bundles"):
            invoked("evaluate", tmp_path, "--data", tmp_path, "--accelerator", "gpu")

    @pytest.mark.parametrize(
        ("said", "message"),
        [
            ("ERROR: [a.h:1]\n└ Some ops are not accelerated. Add", "on the GPU: the GPU does not take all of it"),
            ("ERROR: [a.h:1]\n└ ERROR: [b.cc:2]", "on the GPU: there is no GPU, or it does not take the model"),
        ],
    )
    def test_what_litert_says(self, said: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise RuntimeError(said)

        monkeypatch.setattr(compiled, "open_model", refuse)
        with pytest.raises(EdgebError, match=message) as error:
            compiled.CompiledGraph(tmp_path / "m.tflite", 1, (), "gpu")
        assert "\n" not in str(error.value)
        assert "use the CPU" in error.value.hint

    def test_a_model_that_is_not_taken_whole(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Partly:
            def get_signature_list(self) -> dict[str, Any]:
                return {}

            def is_fully_accelerated(self) -> bool:
                return False

        monkeypatch.setattr(compiled, "open_model", lambda *_: Partly())
        compiled.CompiledGraph(tmp_path / "m.tflite", 1)
        with pytest.raises(EdgebError, match="the GPU does not take all of it"):
            compiled.CompiledGraph(tmp_path / "m.tflite", 1, (), "gpu")


def test_a_command_says_what_answered(stand_in: Path, small_bundle: Path) -> None:
    answers = {}
    for name, asked in {"default": (), "cpu": ("--accelerator", "cpu"), "gpu": ("--accelerator", "gpu")}.items():
        answers[name] = json.loads(invoked("predict", stand_in, *QUESTION, *asked).stdout)
    assert [answer["accelerator"] for answer in answers.values()] == ["cpu", "cpu", "gpu"]
    assert json.loads(invoked("predict", small_bundle, *QUESTION).stdout)["accelerator"] is None
    assert " on the GPU" in invoked("predict", stand_in, *QUESTION[:-1], "--accelerator", "gpu").stdout


class TestWithoutAGpu:
    def test_nothing_is_answered(self, tmp_path: Path) -> None:
        engine_of(LITERT, tmp_path)
        nowhere = {name: str(tmp_path / "none.json") for name in VARIABLES}
        command = [sys.executable, "-m", "edge_behavior", "predict", str(tmp_path / "bundle.tflite"), *QUESTION]
        environment = {**os.environ, **nowhere, "EDGEB_HOME": str(tmp_path)}
        done = subprocess.run(
            [*command, "--accelerator", "gpu"], capture_output=True, text=True, env=environment, check=False
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert "on the GPU: there is no GPU, or it does not take the model (install the GPU's driver" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
class TestOnASoftwareAdapter:
    """One backend for all: opening one takes up to a minute."""

    @pytest.fixture(scope="class", autouse=True)
    def adapter(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            require_adapter(patch)
            yield

    @pytest.fixture(scope="class")
    def engine(self, adapter: None, tmp_path_factory: pytest.TempPathFactory) -> Engine:
        return engine_of(LITERT, tmp_path_factory.mktemp("engine"))

    @pytest.fixture(scope="class")
    def bundle(self, engine: Engine) -> Path:
        return Path(engine.model.config.name_or_path).parent / "bundle.tflite"

    @pytest.fixture(scope="class")
    def gpu(self, bundle: Path) -> Iterator[LiteRtBackend]:
        made = LiteRtBackend(bundle, LiteRtRunOptions(1024, 1, "gpu"))
        yield made
        made.close()

    def test_prompt_and_tree(self, engine: Engine, gpu: LiteRtBackend) -> None:
        trie, ids = helpers.encoder(engine.tokens).trie, list(range(30, 80))
        nodes = trie.evaluated.tolist()
        row, evaluated = gpu.prefill(ids, trie, nodes[:2])
        assert evaluated >= len(ids) + 2
        np.testing.assert_allclose(row, last_row(engine.model, ids), atol=CLOSE)
        assert gpu.branch(trie, nodes[:2])[1] == 0
        for subset in (nodes[::3], nodes):
            for node, found in zip(subset, gpu.branch(trie, subset)[0], strict=True):
                way = [int(trie.tokens[step]) for step in trie.ancestors(node)]
                np.testing.assert_allclose(found, last_row(engine.model, ids + way), atol=CLOSE)
        assert gpu.held == ids

    def test_append_and_rewind(self, engine: Engine, gpu: LiteRtBackend) -> None:
        ids = list(range(30, 80))
        gpu.prefill(ids)
        for token in (7, 8, 9):
            ids = [*ids, token]
            row, evaluated = gpu.prefill(ids)
            assert evaluated == 1
            np.testing.assert_allclose(row, last_row(engine.model, ids), atol=CLOSE)
        for ids in ([*range(30, 50), 5], [40]):
            np.testing.assert_allclose(gpu.prefill(ids)[0], last_row(engine.model, ids), atol=CLOSE)
        assert gpu.held == [40]

    def test_state(self, engine: Engine, gpu: LiteRtBackend) -> None:
        ids = list(range(30, 70))
        gpu.prefill(ids)
        state, row = gpu.save_state(), gpu.prefill([*ids, 77])[0].copy()
        gpu.prefill([9, 8, 7])
        assert gpu.load_state(ids, state)
        assert gpu.save_state() == state
        np.testing.assert_array_equal(gpu.prefill([*ids, 77])[0], row)
        np.testing.assert_allclose(row, last_row(engine.model, [*ids, 77]), atol=CLOSE)
        assert not gpu.load_state(ids, state[:-8])

    def test_every_label_of_a_predictor_and_a_session(self, bundle: Path, gpu: LiteRtBackend) -> None:
        manifest, diary = read_litert(bundle).manifest, helpers.diary(24)
        ours = Predictor(manifest, gpu, None, "gpu")
        with Predictor.load(bundle, threads=1, prefix_cache=False) as cpu:
            sessions = ours.session(), cpu.session()
            for i, event in enumerate(diary):
                if i >= 20:
                    found, expected = (p.log_probs(diary[:i], event.time, event.place) for p in (ours, cpu))
                    np.testing.assert_allclose(found, expected, atol=CLOSE)
                    first, second = (session.predict(event.time, event.place, None) for session in sessions)
                    assert [r.behavior for r in first.ranked] == [r.behavior for r in second.ranked]
                for session in sessions:
                    session.observe(event)

    @pytest.fixture(scope="class")
    def int8(self, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The same model, its weights in 8 bits."""
        base = Path(engine.model.config.name_or_path)
        manifest = manifest_of(engine.tokens, CANDIDATES, PromptLayout(), quantization="int8")
        out = tmp_path_factory.mktemp("int8") / "bundle.tflite"
        return litert_files.converted(base, base.parent / "m.gguf", manifest, out, CACHE, quant="q8")

    def test_int8(self, engine: Engine, int8: Path) -> None:
        """Activations stay float32 on the GPU, so that PyTorch says the same with rounded weights; the CPU is near."""
        rounded, trie, ids = in_eight_bits(engine.model), helpers.encoder(engine.tokens).trie, list(range(30, 80))
        nodes, probe, diary = trie.evaluated.tolist(), read_litert_probe(int8), helpers.diary(22)
        assert probe is not None
        gpu = LiteRtBackend(int8, LiteRtRunOptions(CACHE, 1, "gpu"))
        np.testing.assert_allclose(gpu.prefill(ids, trie, nodes[:2])[0], last_row(rounded, ids), atol=CLOSE)
        for node, found in zip(nodes, gpu.branch(trie, nodes)[0], strict=True):
            way = [int(trie.tokens[step]) for step in trie.ancestors(node)]
            np.testing.assert_allclose(found, last_row(rounded, ids + way), atol=CLOSE)
        ours = Predictor(read_litert(int8).manifest, gpu, None, "gpu")
        with Predictor.load(int8, threads=1, prefix_cache=False) as cpu:
            event = diary[-1]
            scores, expected = (p.log_probs(diary[:-1], event.time, event.place) for p in (ours, cpu))
        assert CLOSE < np.abs(scores - expected).max() < probe.tolerance, "the CPU rounds activations, and no more"
        gpu.close()

    def test_a_command_writes_its_answer_and_nothing_else(self, bundle: Path, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "edge_behavior", "predict", str(bundle), *QUESTION, "--accelerator", "gpu"]
        home = {**os.environ, "EDGEB_HOME": str(tmp_path)}
        done = subprocess.run(command, capture_output=True, text=True, env=home, check=True)
        assert done.stderr == ""
        assert json.loads(done.stdout)["accelerator"] == "gpu"

    def test_a_head_that_is_too_wide_is_refused(self, engine: Engine, tmp_path: Path) -> None:
        """Its texture has a column for four tokens, and this adapter takes 8,192: noise, while every call succeeds."""
        require(LITERT)
        torch.manual_seed(0)
        model = helpers.model(engine.tokens, layers=1)
        model.resize_token_embeddings(49_152)
        base = helpers.save(model, engine.tokens, tmp_path / "base")
        write_gguf(base, tmp_path / "m.gguf", "f32")
        manifest = manifest_of(engine.tokens, CANDIDATES, PromptLayout())
        # Calls of 8 tokens are not affected.
        files = base, tmp_path / "m.gguf", manifest, tmp_path / "wide.tflite"
        out = litert_files.converted(*files, 64, sizes=(32,), first_sizes=())
        LiteRtBackend(out, LiteRtRunOptions(64, 1)).close()
        with pytest.raises(EdgebError, match="the GPU computes other answers than the CPU in calls of 32 tokens"):
            LiteRtBackend(out, LiteRtRunOptions(64, 1, "gpu"))
