"""The models of a run folder: backbone, tokenizer, encoder, and the backbone under a stage's adapter."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from peft import PeftModel

from edge_behavior.encoding import PromptEncoder
from edge_behavior.hf_tokens import encoder_for
from edge_behavior.recipes import BackboneConfig
from edge_behavior.runs import RunFolder
from edge_behavior.train.backbone import load_model, load_tokenizer


class RunModels:
    """Loads what a run's stages share. Nothing is loaded before it is asked for."""

    def __init__(self, run: RunFolder, settings: BackboneConfig) -> None:
        self._run, self._settings = run, settings

    @cached_property
    def tokenizer(self) -> Any:
        """The backbone's tokenizer."""
        return load_tokenizer(self._run.backbone, self._settings.revision)

    @cached_property
    def encoder(self) -> PromptEncoder:
        """The run's layout over the backbone's tokenizer."""
        return encoder_for(self.tokenizer, self._run.layout, self._run.candidates)

    def load(self, stage: str, trainable: bool = False) -> Any:
        """The backbone itself for `untuned`, else the backbone with the stage's adapter."""
        base = load_model(self._run.backbone, self._settings)
        if stage == "untuned":
            return base
        return PeftModel.from_pretrained(base, self._run.adapter(stage), is_trainable=trainable)
