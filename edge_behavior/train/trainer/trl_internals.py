"""Private names of TRL, where it has no public ones. Tested with 1.16; `pyproject.toml` admits no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from trl import DPOTrainer, SFTTrainer
from trl.kernels import ChunkedLogProbFunction
from trl.trainer import utils

from edge_behavior.train.trainer.label_head import LabelLogProbs

Row = Mapping[str, list[int]]
# What TRL calls the copy of the adapter that it keeps for reference passes.
_REFERENCE = "ref"
# A token of no behavior, as training rows have it.
_NO_CLASS = -1


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


def weighing(collate: Any, class_weights: NDArray[np.float64]) -> Callable[[Sequence[Row]], dict[str, torch.Tensor]]:
    """TRL's collator of SFT rows, whose batches then have `loss_weights`, float32 of the shape of their labels.

    Args:
        collate: TRL's; it pads on the right or, without padding, lays rows end to end.
        class_weights: See `WeightedSFTTrainer`.
    """
    # The last one is for -1.
    table = torch.tensor([*class_weights, 1.0], dtype=torch.float32)

    def weighted(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        batch = collate(rows)
        classes = [torch.tensor(row.get("classes") or [_NO_CLASS] * len(row["input_ids"])) for row in rows]
        if collate.padding_free:
            classes = [torch.cat(classes)]
        codes = torch.full_like(batch["labels"], _NO_CLASS)
        for place, own in zip(codes, classes, strict=True):
            place[: len(own)] = own
        return {**batch, "loss_weights": table[codes]}

    return weighted


class WeightedSFTTrainer(SFTTrainer):
    """TRL's trainer with a loss that weighs every label's tokens by the label.

    The weighted sum is divided by the number of label tokens in the whole batch, as TRL divides its plain sum: micro-
    batches and processes then add up to the same loss, however the batch is cut.

    Args:
        class_weights: [B] weights by behavior code.
        options: `SFTTrainer`'s. Rows may carry `classes`, the code of the behavior that each token's label is of; a
            token of none (-1), and rows without, have weight 1.
    """

    def __init__(self, class_weights: NDArray[np.float64], **options: Any) -> None:
        super().__init__(**options)
        self.data_collator = weighing(self.data_collator, class_weights)

    def _set_signature_columns_if_needed(self) -> None:
        trl: Any = super()
        trl._set_signature_columns_if_needed()
        columns: Any = self._signature_columns
        if "classes" not in columns:
            columns.append("classes")

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss of weighted log-probabilities; it is a sum of them over a count."""
        trl: Any = super()
        weights = inputs.pop("loss_weights")[:, 1:]

        def weigh(_: Any, __: Any, found: Any) -> Any:
            return replace(found, log_probs=found.log_probs * weights)

        hook = model.register_forward_hook(weigh)
        try:
            return trl.compute_loss(model, inputs, return_outputs, num_items_in_batch)
        finally:
            hook.remove()


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
