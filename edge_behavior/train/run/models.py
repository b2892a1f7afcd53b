"""The models of a run folder: backbone, tokenizer, encoder, and the backbone under a stage's adapter."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError

from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.errors import EdgebError
from edge_behavior.hf.find import find_backbone, gguf_file
from edge_behavior.hf.tokenizers import encoder_for
from edge_behavior.train.recipe import BackboneConfig
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.stage_list import UNTUNED
from edge_behavior.train.trainer.backbone import damaged_file, load_model, load_tokenizer
from edge_behavior.train.trainer.lora import merge_for_scoring


class RunModels:
    """Loads the models of a run, each when it is first asked for, in the run's dtype."""

    def __init__(self, run: RunFolder, settings: BackboneConfig) -> None:
        self._run, self._settings = run, settings
        chosen = run.state.computing
        if settings.dtype == "auto" and chosen is not None:
            self._settings = settings.model_copy(update={"dtype": chosen.dtype})

    @cached_property
    def _folder(self) -> Path:
        return find_backbone(self._run.backbone, self._settings.revision)

    @cached_property
    def tokenizer(self) -> Any:
        """The backbone's tokenizer."""
        return load_tokenizer(self._folder)

    @cached_property
    def encoder(self) -> PromptEncoder:
        """The run's layout over the backbone's tokenizer."""
        return encoder_for(self.tokenizer, self._run.layout, self._run.candidates)

    def load(self, stage: str, trainable: bool = False) -> Any:
        """The backbone itself for `untuned`, else the backbone with a stage's adapter, in float32 to train on.

        Args:
            stage: One of `MODELS`.
            trainable: Whether the adapter will be trained on.

        Raises:
            EdgebError: weights that are missing or damaged; names the file.
        """
        if stage == UNTUNED:
            return self._backbone()
        adapter = self._run.adapter(stage)
        hint = f"delete {adapter.parent}: `edgeb train --resume` makes it again"
        for name in (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME):
            # PEFT would look for a missing one on the hub.
            if not (adapter / name).is_file():
                raise EdgebError(f"{adapter / name} is missing", hint)
        base = self._backbone()
        try:
            # A float32 adapter under a bfloat16 backbone costs more than the backbone; scores need none.
            model = PeftModel.from_pretrained(base, adapter, is_trainable=trainable, autocast_adapter_dtype=trainable)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise EdgebError(f"{_culprit(adapter)} is damaged: {' '.join(str(error).split())}", hint) from None
        except RuntimeError as error:
            if "size mismatch" not in str(error):
                raise
            raise EdgebError(f"{adapter} does not fit the backbone {self._run.backbone}", hint) from None
        if not trainable:
            merge_for_scoring(model)
        return model

    def _backbone(self) -> Any:
        # Stock PEFT loads an adapter's base by this name: a GGUF file's is the folder that was made of it.
        name = None if gguf_file(self._run.backbone) else self._run.backbone
        return load_model(self._folder, self._settings, name)


def _culprit(adapter: Path) -> Path:
    return damaged_file(adapter) or adapter / CONFIG_NAME
