"""Private names of TRL, where it has no public ones. Tested with 1.16; `pyproject.toml` admits no other."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from trl import DPOTrainer
from trl.kernels import ChunkedLogProbFunction
from trl.trainer import utils

from edge_behavior.train.trainer.label_head import LabelLogProbs

# What TRL calls the copy of the adapter that it keeps for reference passes.
_REFERENCE = "ref"


class _LogProbs:
    """TRL's fused head on a GPU, ours on a CPU."""

    @staticmethod
    def apply(hidden: torch.Tensor, *arguments: Any) -> Any:
        function: Any = LabelLogProbs if hidden.device.type == "cpu" else ChunkedLogProbFunction
        return function.apply(hidden, *arguments)


def score_labels_only() -> None:
    """Have TRL's trainers on a CPU compute logits where a label is, as they do on a GPU, and in small tiles."""
    trl: Any = utils
    if trl._ChunkedLogProbFunction is not _LogProbs:
        on_gpu = trl._use_triton
        trl._use_triton = lambda device: device.type == "cpu" or on_gpu(device)
        trl._ChunkedLogProbFunction = _LogProbs


class ScoredDPOTrainer(DPOTrainer):
    """TRL's trainer on rows that are token ids already and carry their reference log-probabilities.

    TRL tokenizes prompt and completion as one text and appends EOS, which would give the stream layout other
    tokens than the runtime's; the collator itself takes prompt_ids, chosen_ids and rejected_ids.

    Args:
        model: A PEFT model.
        sft_weight: Weight of the chosen answers' negative log-probability in the loss. TRL's own term of that name is a
            mean over tokens, which depends on how a batch is cut and favors long answers; this is one over pairs.
        options: `DPOTrainer`'s.
    """

    def __init__(self, model: Any, sft_weight: float = 0.0, **options: Any) -> None:
        super().__init__(model=model, ref_model=None, **options)
        self._sft_weight = sft_weight
        # Given as an argument, it would hash the whole model first.
        self.precompute_ref_logps = True
        # The reference passes never happen.
        model.delete_adapter(_REFERENCE)

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        dpo: Any = super()._compute_loss
        if not self._sft_weight:
            return dpo(model, inputs, return_outputs)
        made: list[Any] = []
        # TRL's outputs cost a second forward pass.
        watch = model.register_forward_hook(lambda *call: made.append(call[-1].log_probs))
        try:
            found = dpo(model, inputs, return_outputs)
        finally:
            watch.remove()
        # Zero where there is no label; a batch is all chosen answers, then all rejected ones.
        chosen, _ = made[0].sum(1).chunk(2)
        loss, *outputs = found if return_outputs else (found,)
        loss = loss - self._sft_weight * chosen.mean()
        return (loss, *outputs) if return_outputs else loss
