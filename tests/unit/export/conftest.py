"""Small models and tokenizers made on the spot, of the architectures and pre-tokenizers that export knows."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.export.source import ExportSource

# As the published tokenizers spell them.
QWEN2_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    "Predict the next behavior of the user. Candidates: Check email; Listen to music; Watch videos; Take photos",
    "(Mon 9, home, Check email)\n(Tue 21, work, Listen to music)\n(Sat 14, Café Zürich, Watch videos)\n",
    "The history of the user's behaviors: it's 2012, we'll take photos at the station in 東京 and listen to music.",
] * 4


def byte_level(regex: str | None, normalizer: Any, ignore_merges: bool, vocab_size: int = 480) -> Tokenizer:
    """A byte-level BPE that splits by a regex; without one, digits off and the rest as GPT-2 does."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    first = pre_tokenizers.Digits(True) if regex is None else pre_tokenizers.Split(Regex(regex), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [first, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex is None)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def qwen2_tokenizer() -> PreTrainedTokenizerFast:
    """As edgeb's tiny recipe makes them."""
    backend = byte_level(QWEN2_REGEX, normalizers.NFC(), False)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIALS,
    )


def llama3_tokenizer() -> PreTrainedTokenizerFast:
    backend = byte_level(LLAMA3_REGEX, None, True)
    bos = backend.token_to_id("<|im_start|>")
    backend.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", bos)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|endoftext|>")


def smollm_tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_level(None, None, False), bos_token="<|im_start|>", eos_token="<|im_end|>"
    )


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """As `sentencepiece_tokenizer`, but that no space is added in front and that texts are split where none is left."""
    fields = json.loads(sentencepiece_tokenizer().backend_tokenizer.to_str())
    fields["normalizer"] = fields["normalizer"]["normalizers"][1]
    fields["pre_tokenizer"] = {
        "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False,
    }  # fmt: skip
    backend = Tokenizer.from_str(json.dumps(fields))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """Llama 2's kind: no pre-tokenizer, spaces as U+2581, bytes for what is unknown."""
    pieces = ["▁", *"abcdefghijklmnopqrstuvwxyz"]
    merges = [
        ("▁", "t"),
        ("h", "e"),
        ("▁t", "he"),
        ("i", "n"),
        ("o", "n"),
        ("▁", "a"),
        ("e", "r"),
        ("t", "he"),
        ("a", "t"),
    ]
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    joined = dict.fromkeys(a + b for a, b in merges)
    vocab = {piece: i for i, piece in enumerate(["<unk>", "<s>", "</s>", *bytes_, *joined, *pieces])}
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def trained_sentencepiece(texts: list[str], prefix: bool, size: int = 1500) -> PreTrainedTokenizerFast:
    """Llama 2's kind (with a space in front) or Gemma's (without), with the table that Hugging Face makes of scores.

    Every cut of a piece into two pieces merges, in the order of the pieces.
    """
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^▁\n]+|\n+|▁+"), "isolated")
    learner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, show_progress=False))
    ids = learner.get_vocab()
    pieces = sorted(ids, key=ids.__getitem__)
    vocab = {
        token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *pieces])
    }
    merges: list[tuple[str, str]] = []
    for piece in pieces:
        cuts = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        merges += sorted((a, b) for a, b in cuts if a in ids and b in ids)
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Prepend("▁")] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


SMALL_TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "qwen2": qwen2_tokenizer,
    "llama3": llama3_tokenizer,
    "sentencepiece": sentencepiece_tokenizer,
    "smollm": smollm_tokenizer,
    "gemma": gemma_tokenizer,
}

GEOMETRY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.06,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def qwen2(vocab_size: int, **changes: Any) -> Qwen2ForCausalLM:
    return randomized(Qwen2ForCausalLM(Qwen2Config(**GEOMETRY | {"vocab_size": vocab_size} | changes)))


def llama(vocab_size: int, **changes: Any) -> LlamaForCausalLM:
    return randomized(LlamaForCausalLM(LlamaConfig(**GEOMETRY | {"vocab_size": vocab_size} | changes)))


def qwen3(vocab_size: int, **changes: Any) -> Qwen3ForCausalLM:
    given = GEOMETRY | {"vocab_size": vocab_size, "head_dim": 16} | changes
    return randomized(Qwen3ForCausalLM(Qwen3Config(**given)))


def gemma3(vocab_size: int, **changes: Any) -> Gemma3ForCausalLM:
    """Seven layers, so that one attends to everything, the others to a window that texts of the tests exceed."""
    given = GEOMETRY | {"num_hidden_layers": 7, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 24}
    return randomized(Gemma3ForCausalLM(Gemma3TextConfig(**given | {"vocab_size": vocab_size} | changes)))


def randomized(model: Any) -> Any:
    """Fresh models have zero biases and unit norms, which would hide a tensor that is lost or swapped."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def save(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def torch_logits(model: Any, ids: list[int]) -> NDArray[np.float32]:
    with torch.no_grad():
        result: NDArray[np.float32] = model(input_ids=torch.tensor([ids])).logits[0].float().numpy()
    return result


def some_ids(vocab_size: int, count: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(5).integers(0, vocab_size, count)]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 backbone like the tiny recipe's, 192 wide so that K-quants have to fall back for its rows."""
    torch.manual_seed(0)
    tokenizer = qwen2_tokenizer()
    model = qwen2(len(tokenizer), hidden_size=192, intermediate_size=512, tie_word_embeddings=True)
    folder = save(model, tokenizer, tmp_path_factory.mktemp("base") / "tiny")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (folder / "LICENSE").write_text("Apache License\n")
    return folder


@pytest.fixture(scope="session")
def tiny_adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA over `tiny_base` that changes the logits visibly."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.05)
    folder = tmp_path_factory.mktemp("adapter") / "b_tuning"
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama_cpp_source() -> Path:
    """A checkout or source package of the llama.cpp version that is installed."""
    folder = os.environ.get("EDGEB_LLAMA_CPP")
    if not folder:
        pytest.skip("set EDGEB_LLAMA_CPP to a checkout of llama.cpp to compare with its converter and test vectors")
    assert (Path(folder) / "convert_hf_to_gguf.py").is_file(), f"EDGEB_LLAMA_CPP has no convert_hf_to_gguf.py: {folder}"
    return Path(folder)


@pytest.fixture(scope="session")
def real_tokenizers(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The published Qwen2.5 and Llama 3 tokenizers."""
    file = tmp_path_factory.mktemp("llama3") / "tokenizer.json"
    file.write_bytes(gzip.decompress((shared / "models/llama3-tokenizer/tokenizer.json.gz").read_bytes()))
    return {
        "qwen2": AutoTokenizer.from_pretrained(shared / "models/qwen2.5-tokenizer"),
        "llama3": PreTrainedTokenizerFast(
            tokenizer_file=str(file), bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>"
        ),
    }


CANDIDATES = CandidateSet(
    ("Check email", "Listen to music", "Watch videos", "<|im_end|> it's", "買い物"), (9, 5, 2, 1, 0)
)


@pytest.fixture
def source(tiny_base: Path, tiny_adapter: Path) -> ExportSource:
    """A tuned tiny model, which every format is exported from."""
    return ExportSource(
        base=tiny_base,
        adapter=tiny_adapter,
        candidates=CANDIDATES,
        layout=PromptLayout("stream"),
        training={"recipe": "tiny"},
        evaluation={"natural": {"overall": 0.2}},
    )
