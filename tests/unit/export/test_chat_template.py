"""A bundle with a chat template: its control tokens survive pruning, and its answers are the model's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from transformers import AutoModelForCausalLM

from edge_behavior.bundle.bundle import read_manifest
from edge_behavior.bundle.gguf_file import write_bundle
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import ChatTurns, PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.source import ExportSource
from edge_behavior.hf.chat_template import chat_turns
from edge_behavior.runtime.llama.model import LlamaModel
from edge_behavior.runtime.predictor import Predictor
from edge_behavior.runtime.torch_predictor import torch_predictor
from tests import chat_templates, helpers
from tests.unit.export.conftest import llama, save

LAYOUTS = ("stream", "prefix", "instruct")
CANDIDATES = CandidateSet.of(helpers.LABELS)
Exported = dict[str, tuple[Path, Path, PromptLayout]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """By layout: the backbone, its pruned bundle, and the layout before pruning."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = chat_templates.small("smollm")
    base = save(llama(len(tokenizer), max_position_embeddings=2048), tokenizer, folder / "base")
    found = {}
    for name in LAYOUTS:
        layout = PromptLayout(name, history_length=4, chat=chat_turns(tokenizer))
        source = ExportSource(base, None, CANDIDATES, layout, places=("DK", "AB"))
        profile = helpers.profile("f32", prune="on", extra_tokens=0)
        export_gguf(source, folder / f"{name}.gguf", profile)
        found[name] = (base, folder / f"{name}.gguf", layout)
    return found


def chat_of(layout: PromptLayout) -> ChatTurns:
    assert layout.chat is not None
    return layout.chat


def parsed(path: Path, text: str) -> list[int]:
    """llama.cpp's ids of a text whose control tokens are parsed."""
    with LlamaModel(path, vocab_only=True) as model:
        raw = text.encode()
        buffer = (llama_cpp.llama_token * (len(raw) + 2))()
        vocab = llama_cpp.llama_model_get_vocab(model.handle)
        count = llama_cpp.llama_tokenize(vocab, raw, len(raw), buffer, len(buffer), False, True)
        return list(buffer[:count])


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_pruned_file_has_the_templates_tokens(name: str, exported: Exported) -> None:
    _, path, layout = exported[name]
    tokenizer: Any = chat_templates.small("smollm")
    manifest = read_manifest(path)
    assert manifest.vocabulary is not None
    assert manifest.vocabulary["kept"] < manifest.vocabulary["of"]
    before, after = chat_of(layout), chat_of(manifest.layout)
    assert before != after
    assert replace(manifest.layout, chat=None) == replace(layout, chat=None)
    assert parsed(path, tokenizer.decode(list(before.opening))) == list(after.opening)
    assert parsed(path, tokenizer.decode(list(before.reply))) == list(after.reply)
    assert parsed(path, "<|im_end|>") == [after.end_id]
    with LlamaModel(path, vocab_only=True) as model:
        assert not set(model.tokenize("<|im_start|>user<|im_end|>")) & {after.end_id, after.opening[0]}


@pytest.mark.parametrize("name", LAYOUTS)
def test_its_answers_are_the_models(name: str, exported: Exported) -> None:
    base, path, layout = exported[name]
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    reference = torch_predictor(model, chat_templates.small("smollm"), CANDIDATES, layout)
    events = helpers.diary(8, 3)
    with reference, Predictor.load(path, threads=1, exact_math=True, prefix_cache=False) as predictor:
        session = predictor.session()
        for i, event in enumerate(events):
            if i:
                asked = (events[:i], event.time, event.place)
                expected = {r.behavior: r.probability for r in reference.predict(*asked, None).ranked}
                found = {r.behavior: r.probability for r in predictor.predict(*asked, None).ranked}
                followed = {r.behavior: r.probability for r in session.predict(event.time, event.place, None).ranked}
                # Pruned rows are missing in the normalizer.
                assert found == pytest.approx(expected, abs=0.02)
                if i <= layout.history_length:
                    assert followed == pytest.approx(found, abs=1e-4)
            session.observe(event)


def test_a_token_beyond_the_vocabulary_is_refused(exported: Exported, tmp_path: Path) -> None:
    _, path, _ = exported["prefix"]
    manifest = read_manifest(path)
    chat = replace(chat_of(manifest.layout), end_id=1 << 20)
    write_bundle(path, replace(manifest, layout=replace(manifest.layout, chat=chat)), tmp_path / "bad.gguf")
    with pytest.raises(EdgebError, match=r"manifest field 'layout\.chat' is 1048576"):
        Predictor.load(tmp_path / "bad.gguf", threads=1)
