"""The language model that a system is built on: a run's backbone under the recipe of a comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_behavior.baselines.sequence.kept import LabelSource
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.errors import EdgebError
from edge_behavior.hf.find import backbone_name, find_backbone
from edge_behavior.hf.license import read_license
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.run.models import RunModels
from edge_behavior.train.stage_list import UNTUNED

# Differences below this share of the largest number are rounding.
_SAME = 1e-6


@dataclass(frozen=True)
class Language:
    """A language model, and how it is tuned and asked.

    Attributes:
        recipe: Its `lora`, `a_tuning`, `evaluation` and `scoring` sections are a system's settings.
        tokenizer: The backbone's.
        encoder: The layout over it.
        load: Loads the backbone's weights, at every call anew.
        identity: What fits record of it: other weights, another identity.
        source: Its name and license.
    """

    recipe: Recipe
    tokenizer: Any
    encoder: PromptEncoder
    load: Callable[[], Any]
    identity: str
    source: LabelSource

    @classmethod
    def of_run(cls, run: RunFolder, recipe: Recipe) -> Language:
        """The backbone of a run that has one."""
        models, base = RunModels(run, recipe.backbone), run.backbone
        source = LabelSource(backbone_name(base), read_license(find_backbone(base, recipe.backbone.revision)))
        load, identity = partial(models.load, UNTUNED), str(run.state.backbone)
        return cls(recipe, models.tokenizer, models.encoder, load, identity, source)

    def label_vectors(self) -> NDArray[np.float32]:
        """[B, H] the mean of the backbone's last hidden states over each label's tokens.

        Raises:
            EdgebError: they are no numbers, or tell no label from another.
        """
        model, encoder = self.load().eval(), self.encoder
        device, found = next(model.parameters()).device, []
        before = [] if encoder.bos_id is None else [encoder.bos_id]
        for label in encoder.candidates.labels:
            own = encoder.segment(encoder.layout.mention(label))
            with torch.inference_mode():
                ids = torch.tensor([before + own], device=device)
                states = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
            found.append(states[0, len(before) :].float().mean(0).cpu().numpy())
        vectors, hint = np.stack(found), "use another backbone"
        if not np.isfinite(vectors).all():
            raise EdgebError(f"the backbone {self.source.name} makes vectors of labels that are no numbers", hint)
        if np.ptp(vectors, axis=0).max() <= _SAME * np.abs(vectors).max():
            raise EdgebError(f"all labels are the same text for the backbone {self.source.name}", hint)
        return vectors
