"""Our converted file against upstream llama.cpp's own converter on the same model: every tensor, every token."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.runtime.llama.context import logits
from edge_behavior.runtime.llama.model import LlamaModel
from tests.unit.export.conftest import LLAMA3_ROPE, gemma3, llama, qwen2, qwen3, some_ids

pytestmark = pytest.mark.slow

# What upstream adds for people: names, tags, sampling; and what it leaves to llama.cpp's defaults.
ONLY_OURS = {
    f"{architecture}.{key}"
    for architecture in ("llama", "qwen2", "qwen3", "gemma3")
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count", "vocab_size")
}
# llama.cpp's defaults for Gemma 3 are every sixth layer, and the local base of the published models.
ONLY_OURS |= {"gemma3.attention.sliding_window_pattern", "gemma3.rope.freq_base_swa"}
# Upstream leaves out a start token that Qwen's tokenizer names and never uses; ours says that it is not to be added.
ONLY_OURS |= {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_space_prefix"}
# llama.cpp finds user-defined tokens in any text. To us an added token is one that no text may become.
USER_DEFINED, CONTROL = 4, 3
FOR_PEOPLE = ("general.name", "general.size_label", "general.tags", "general.languages", "general.license")
FOR_PEOPLE += (
    "general.finetune",
    "general.basename",
    "general.sampling",
    "general.base_model",
)
CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def converter(llama_cpp_source: Path) -> Path:
    """Upstream's script, of the llama.cpp version that is installed."""
    return llama_cpp_source / "convert_hf_to_gguf.py"


def random_model(name: str, tokens: Any, folder: Path) -> Path:
    """A few layers with random weights, and a real tokenizer with a chat template."""
    makers: dict[str, Any] = {
        "qwen2": qwen2,
        "qwen3": qwen3,
        "llama3": lambda rows: llama(rows, rope_parameters=LLAMA3_ROPE),
        "gemma3": gemma3,
    }
    torch.manual_seed(0)
    tokens.chat_template = CHAT
    tokens.save_pretrained(folder)
    makers[name](len(tokens)).save_pretrained(folder)
    return folder


def as_gemma(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of stories260K without the space in front, as Gemma's is."""
    fields = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    fields["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    backend = Tokenizer.from_str(json.dumps(fields))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "llama3", "gemma3", "stories260K"])
def test_same_file(name: str, shared: Path, real_tokenizers: dict[str, Any], converter: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader

    source = shared / "models/stories260K"
    if name == "gemma3":
        trained = source
        source = random_model(name, as_gemma(trained), tmp_path / "model")
        # Upstream reads SentencePiece's own file.
        shutil.copy(trained / "tokenizer.model", source)
    elif name != "stories260K":
        source = random_model(name, real_tokenizers["qwen2" if name == "qwen3" else name], tmp_path / "model")
    theirs, ours = tmp_path / "theirs.gguf", tmp_path / "ours.gguf"
    command = [sys.executable, str(converter), str(source), "--outfile", str(theirs), "--outtype", "f16"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    write_gguf(source, ours)
    expected, found = GGUFReader(theirs), GGUFReader(ours)
    wanted = {t.name: t for t in expected.tensors}
    assert {t.name for t in found.tensors} == set(wanted)
    for tensor in found.tensors:
        other = wanted[tensor.name]
        assert (tensor.tensor_type, list(tensor.shape)) == (other.tensor_type, list(other.shape)), tensor.name
        if tensor.name == "rope_freqs.weight":
            np.testing.assert_allclose(tensor.data, other.data, rtol=1e-6)
        else:
            assert tensor.data.tobytes() == other.data.tobytes(), tensor.name
    keys = {key for key in expected.fields if not key.startswith(("GGUF.", *FOR_PEOPLE))}
    assert {k for k in found.fields if not k.startswith("GGUF.")} - keys <= ONLY_OURS
    for key in sorted(keys & set(found.fields)):
        a, b = expected.fields[key].contents(), found.fields[key].contents()
        if key == "tokenizer.ggml.pre" and name == "llama3":
            # Upstream tells tokenizers by a hash of what they do to a sample; Smaug's has Llama 3's pattern.
            assert (a, b) in (("smaug-bpe", "llama-bpe"), ("llama-bpe", "llama-bpe"))
            continue
        if key == "tokenizer.ggml.token_type":
            a = [CONTROL if kind == USER_DEFINED else kind for kind in a]
        if key == "tokenizer.ggml.scores":
            # Upstream's are SentencePiece's own, ours count the merges: only the order of what is merged matters.
            merged = np.flatnonzero(b)
            assert len(merged) > 100
            a, b = (np.argsort(np.array(scores)[merged], kind="stable").tolist() for scores in (a, b))
        assert b == (pytest.approx(a, rel=1e-6) if isinstance(a, float) else a), key
    # A separator that Llama 2's tokenizers do not have, and so do not add.
    assert {k for k in keys - set(found.fields) if k.startswith("tokenizer.")} <= {"tokenizer.ggml.add_sep_token"}
    ids = some_ids(300, 24)
    with LlamaModel(theirs) as a, LlamaModel(ours) as b:
        np.testing.assert_array_equal(logits(a, ids), logits(b, ids))
        for text in ("(Mon 9, home, Café 東京)\n", " it's 2024", "<|im_end|>"):
            assert a.tokenize(text) == b.tokenize(text)
