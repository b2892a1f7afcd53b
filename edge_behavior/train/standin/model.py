"""The stand-in backbone: a small model of Qwen2's architecture and its tokenizer, trained locally.

It replaces a pretrained model in tests, CI and the demo. It is trained as a plain language model on synthetic everyday
text (`everyday`), on nothing of the dataset's users. Results with it show that the pipeline works, not what Qwen2-1.5B
would reach.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch.utils.data import IterableDataset
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Trainer,
    TrainingArguments,
)

from edge_behavior.core.candidates import ANCHOR_THRESHOLD, CandidateSet
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.hf.tokenizers import encoder_for
from edge_behavior.train.recipe import BackboneConfig, Recipe
from edge_behavior.train.standin.everyday import EverydayText
from edge_behavior.train.trainer.processes import is_main, share_of

# Qwen2's pre-tokenizer: AutoTokenizer gives it to the tokenizer of any qwen2 model, and llama.cpp has it.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_END, _PAD = "<|endoftext|>", "<|pad|>"
_MAX_POSITIONS = 4096
_TOKENIZER_DOCUMENTS = 3000


def train_tokenizer(text: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer like Qwen2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_END, _PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    wrap: Any = PreTrainedTokenizerFast
    wrapped: PreTrainedTokenizerFast = wrap(tokenizer_object=tokenizer, eos_token=_END, pad_token=_PAD)
    return wrapped


def standin_tokenizer(recipe: Recipe, candidates: CandidateSet, places: Sequence[str]) -> PreTrainedTokenizerFast:
    """The stand-in's tokenizer, trained on a sample of its text.

    Args:
        places: The dataset's place names; empty if it has none.
    """
    layout = recipe.layout.layout(bool(places), None)
    sample = EverydayText(candidates.labels, places, recipe.seed + 1, _bare_labels(recipe, candidates))
    static = "".join(layout.static(candidates.labels))
    documents = itertools.islice(sample.documents(), _TOKENIZER_DOCUMENTS)
    lines = (text for document in documents for text in (document_text(document, layout), static))
    return train_tokenizer(lines, recipe.backbone.vocab_size)


def build_standin(
    recipe: Recipe, candidates: CandidateSet, places: Sequence[str], out: Path, log_dir: Path
) -> dict[str, Any]:
    """Train the tokenizer, pretrain the model, and save both to `out` as a Hugging Face folder.

    Args:
        places: The dataset's place names; empty if it has none.

    Returns:
        `parameters`, `pretrain_tokens` and `pretrain_loss`.
    """
    settings, layout = recipe.backbone, recipe.layout.layout(bool(places), None)
    tokenizer = standin_tokenizer(recipe, candidates, places)
    torch.manual_seed(recipe.seed)
    model = Qwen2ForCausalLM(architecture(settings, tokenizer))
    encoder = encoder_for(tokenizer, layout, candidates)
    text = EverydayText(candidates.labels, places, recipe.seed, _bare_labels(recipe, candidates))
    blocks = _Blocks(text, encoder, settings.pretrain_block)
    per_step = settings.pretrain_batch_size * settings.pretrain_block
    steps = settings.pretrain_tokens // per_step
    loss = _pretrain(model, blocks, recipe, steps, log_dir) if steps else None
    if is_main():
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    return {"parameters": model.num_parameters(), "pretrain_tokens": steps * per_step, "pretrain_loss": loss}


def _bare_labels(recipe: Recipe, candidates: CandidateSet) -> tuple[str, ...]:
    """Labels that the text only names: none, or the tail."""
    if recipe.backbone.pretrain_tail_contexts:
        return ()
    # At the default threshold: the backbone must not depend on A-Tuning's settings.
    anchors = candidates.anchors(ANCHOR_THRESHOLD)
    return tuple(label for label, anchor in zip(candidates.labels, anchors, strict=True) if not anchor)


def sizes(settings: BackboneConfig) -> dict[str, Any]:
    """The part of a stand-in's configuration that does not depend on its tokenizer."""
    return {
        "hidden_size": settings.hidden_size,
        "intermediate_size": settings.intermediate_size,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "num_key_value_heads": settings.kv_heads,
    }


def architecture(settings: BackboneConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen2Config:
    """A stand-in's configuration, of the recipe's size, for a tokenizer."""
    return Qwen2Config(
        **sizes(settings),
        vocab_size=len(tokenizer),
        max_position_embeddings=_MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def document_text(document: str | list[BehaviorEvent], layout: PromptLayout) -> str:
    """A document of `EverydayText` as text; diaries in the prompt layout."""
    if isinstance(document, str):
        return document
    return "".join(segment for event in document for segment in layout.line(event))


class _Blocks(IterableDataset[dict[str, list[int]]]):
    """Endless blocks of documents joined by end-of-text. Diaries are tokenized in the runtime's segments."""

    def __init__(self, text: EverydayText, encoder: PromptEncoder, block: int) -> None:
        self._text, self._encoder, self._block = text, encoder, block

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        ids: list[int] = []
        for document in self._text.documents():
            if isinstance(document, str):
                ids += self._encoder.segment(document)
            else:
                for event in document:
                    for segment in self._encoder.layout.line(event):
                        ids += self._encoder.segment(segment)
            ids.append(self._encoder.eos_id)
            while len(ids) >= self._block:
                yield {"input_ids": ids[: self._block], "labels": ids[: self._block]}
                ids = ids[self._block :]


def _pretrain(model: Qwen2ForCausalLM, blocks: _Blocks, recipe: Recipe, steps: int, log_dir: Path) -> float:
    from edge_behavior.train.trainer.arguments import hardware, on_one_device
    from edge_behavior.train.trainer.progress import mean_loss, run, trainer_callbacks

    settings = recipe.backbone
    arguments = TrainingArguments(
        output_dir=str(log_dir),
        per_device_train_batch_size=share_of(settings.pretrain_batch_size, "backbone.pretrain_batch_size"),
        max_steps=steps,
        learning_rate=settings.pretrain_learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.05},
        warmup_steps=0.05,
        weight_decay=0.01,
        adam_beta2=0.98,
        logging_steps=max(1, steps // 50),
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=recipe.seed,
        **hardware(model.dtype),
    )
    callbacks = trainer_callbacks("pretrain stand-in", "backbone.pretrain_learning_rate", recipe, log_dir)
    trainer = Trainer(model=model, args=on_one_device(arguments), train_dataset=blocks, callbacks=callbacks)
    return mean_loss(run(trainer))
