"""SASRec's logits against RecTools' SASRec with the same weights.

RecTools needs an older NumPy than edgeb, so that the two halves run in environments of their own:

    python -m benchmarks.rectools_oracle make /tmp/sasrec.npz     # in edgeb's
    pip install "rectools[torch]" && python -m benchmarks.rectools_oracle check /tmp/sasrec.npz

Result: results/rectools_oracle.md. RecTools' BERT4Rec is a pre-norm transformer, not the paper's: that one is held
against the paper's equations in tests/unit/baselines/sequence/test_model.py, as SASRec is.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import nn

ITEMS, POSITIONS, HIDDEN, HEADS, LAYERS = 37, 21, 64, 2, 2


def make(file: str) -> None:
    """Write random weights far from the initial ones, sequences, and our logits."""
    from edge_behavior.baselines.sequence.config import SequenceConfig
    from edge_behavior.baselines.sequence.model import SasRec

    torch.manual_seed(0)
    config = SequenceConfig(hidden=HIDDEN, heads=HEADS, layers=LAYERS, context=False)
    model = SasRec(ITEMS, POSITIONS, (), config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        behavior = torch.randint(ITEMS + 1, (16, POSITIONS))
        none = torch.zeros(16, POSITIONS, 0, dtype=torch.long)
        logits = model(behavior, none, none, torch.ones_like(behavior, dtype=torch.bool))["logits"]
    weights = {f"weight:{name}": value.numpy() for name, value in model.state_dict().items()}
    np.savez(file, behavior=behavior.numpy(), logits=logits.numpy(), **weights)


def check(file: str) -> None:
    """Print the largest difference of RecTools' logits."""
    import rectools
    from rectools.models.nn.transformers.net_blocks import LearnableInversePositionalEncoding
    from rectools.models.nn.transformers.sasrec import SASRecTransformerLayers
    from rectools.models.nn.transformers.similarity import DistanceSimilarityModule
    from rectools.models.nn.transformers.torch_backbone import TransformerTorchBackbone

    held = np.load(file, allow_pickle=False)
    ours = {name.partition(":")[2]: torch.from_numpy(held[name]) for name in held.files if ":" in name}

    class Items(nn.Module):
        """RecTools' item 0 is padding."""

        def get_all_embeddings(self) -> torch.Tensor:
            return torch.cat([torch.zeros(1, HIDDEN), ours["items.weight"]])

    positions = LearnableInversePositionalEncoding(True, POSITIONS, HIDDEN)
    layers = SASRecTransformerLayers(LAYERS, HIDDEN, HEADS, dropout_rate=0.2)
    names = {
        "query_norm": "q_layer_norm",
        "feed_norm": "ff_layer_norm",
        "attention": "multi_head_attn",
        "inner": "feed_forward.ff_linear_1",
        "outer": "feed_forward.ff_linear_2",
    }
    theirs = {"last_layernorm.weight": ours["norm.weight"], "last_layernorm.bias": ours["norm.bias"]}
    for name, value in ours.items():
        if name.startswith("blocks."):
            _, number, part, rest = name.split(".", 3)
            theirs[f"transformer_blocks.{number}.{names[part]}.{rest}"] = value
    layers.load_state_dict(theirs)
    # They count from the last event, we from the first.
    positions.load_state_dict({"pos_emb.weight": ours["positions.weight"].flip(0)})
    backbone = TransformerTorchBackbone(HEADS, 0.2, Items(), positions, layers, DistanceSimilarityModule("dot")).eval()
    with torch.no_grad():
        logits = backbone({"x": torch.from_numpy(held["behavior"]) + 1})[..., 1 : ITEMS + 1].numpy()
    difference = np.abs(logits - held["logits"])
    print(f"RecTools {rectools.__version__}, torch {torch.__version__}, {logits.size:,} logits")
    print(f"largest difference {difference.max():.1e}, largest logit {np.abs(logits).max():.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("half", choices=("make", "check"))
    parser.add_argument("file", help="weights, sequences and logits (.npz)")
    args = parser.parse_args()
    {"make": make, "check": check}[args.half](args.file)


if __name__ == "__main__":
    main()
