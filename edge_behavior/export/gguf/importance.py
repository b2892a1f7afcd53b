"""The importance matrix: per column of a weight matrix its mean squared input on the task's own prompts.

llama.cpp's quantizer weighs rounding errors by it. The static part of the prompt is counted once, as the phone
evaluates it once. Knows Transformers models; of GGUF only the names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.export.parity.samples import Samples

# The prompts are other ones than those of the gate and of the tensors' selection.
IMPORTANCE_SEED = 2


def importance_sequences(encoder: PromptEncoder, samples: Samples) -> list[tuple[list[int], int]]:
    """Prompts with their true answer, or with labels in turn for synthetic windows: see `importance`'s `sequences`."""
    labels = encoder.candidates.labels
    truth = np.arange(len(samples)) % len(labels) if samples.truth is None else samples.truth
    sequences = []
    for prompt, code in zip(samples.prompts(encoder), truth, strict=True):
        answer = encoder.label_ids(labels[int(code)])
        sequences.append((prompt + answer, len(answer)))
    return sequences


def importance(
    model: Any,
    names: Mapping[str, str],
    sequences: Sequence[tuple[Sequence[int], int]],
    static: int,
    advance: Callable[[float], None],
) -> dict[str, NDArray[np.float32]]:
    """Mean squared input of every linear layer's columns.

    Args:
        model: A Transformers causal language model.
        names: GGUF tensor name by the weight's name in the model, like "model.layers.0.mlp.up_proj.weight".
        sequences: (token ids of prompt and answer, length of the answer) per sequence.
        static: Tokens that all sequences begin with.
        advance: Called with the number of sequences just evaluated.

    Returns:
        [columns] per GGUF name; empty without sequences. The output matrix sees only the positions that an answer's
        tokens are read from; with tied embeddings it is the embedding's entry.
    """
    import torch

    sums: dict[str, Any] = {}
    counts: dict[str, int] = {}
    skip = 0

    def watch(name: str, is_output: bool) -> Callable[[Any, tuple[Any, ...]], None]:
        def hook(module: Any, inputs: tuple[Any, ...]) -> None:
            rows = inputs[0].detach()[0, 0 if is_output else skip :].double()
            sums[name] = sums.get(name, 0.0) + rows.square().sum(0)
            counts[name] = counts.get(name, 0) + len(rows)

        return hook

    with ExitStack() as stack, torch.inference_mode():
        output = model.get_output_embeddings()
        for path, module in model.named_modules():
            is_output = module is output
            name = names.get(f"{path}.weight") or (names["model.embed_tokens.weight"] if is_output else None)
            if isinstance(module, torch.nn.Linear) and name is not None:
                stack.callback(module.register_forward_pre_hook(watch(name, is_output)).remove)
        for i, (ids, answer) in enumerate(sequences):
            skip = static if i else 0
            # The output at the last id is never read.
            model(input_ids=torch.tensor([list(ids[:-1])], device=model.device), logits_to_keep=answer, use_cache=False)
            advance(1)
    return {name: (total / counts[name]).float().cpu().numpy() for name, total in sums.items()}
