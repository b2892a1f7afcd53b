"""Small sequence models with random weights, as files and as folders of a comparison."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edge_behavior import __version__
from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.baselines.sequence.inputs import ContextVocabulary
from edge_behavior.baselines.sequence.kept import KeptModel, Log, Origin
from edge_behavior.baselines.sequence.model import Bert4Rec, EventTransformer, SasRec
from edge_behavior.bundle.bundle import read_manifest, read_population
from edge_behavior.bundle.gguf_file import write_bundle
from edge_behavior.bundle.gguf_header import GgufFile
from edge_behavior.bundle.manifest import BaseModelInfo, Manifest
from edge_behavior.bundle.sequence_file import ARCHITECTURES
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.export.sequence.writer import write_sequence
from tests import helpers

PLACES = ("DK", "home", "Café Zürich", "東京 駅", "unknown")
NAMES = ("sasrec", "bert4rec")


def described(
    architecture: str = "sasrec",
    labels: Sequence[str] = helpers.LABELS,
    length: int = 6,
    config: SequenceConfig | None = None,
    dataset: str = "",
    fingerprint: str = "",
    places: Sequence[str] = PLACES,
) -> KeptModel:
    counts = range(1, 1 + len(labels))
    return KeptModel(
        architecture,
        config or SequenceConfig(hidden=16, layers=2, heads=2),
        length,
        ContextVocabulary(2, tuple(places)),
        Log(CandidateSet.of(list(labels), counts), True),
        Origin(architecture, 0, 0.001, 0, dataset, fingerprint),
    )


def network(model: KeptModel, seed: int = 0, spread: float = 0.4) -> EventTransformer:
    """Far from a symmetric start, biases and norms included; what stands for no context stays 0."""
    torch.manual_seed(seed)
    kind = {"sasrec": SasRec, "bert4rec": Bert4Rec}[model.architecture]
    made = kind(len(model.log.candidates), model.length + 1, model.vocabulary.sizes, model.config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * spread)
        for module in made.modules():
            if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0
    return made


def arrays(made: EventTransformer) -> dict[str, NDArray[np.float32]]:
    shipped = made.shipped()
    assert shipped is not None
    return {name: held.detach().numpy() for name, held in shipped.items()}


def plain(model: KeptModel, made: EventTransformer, out: Path, dtype: str = "f32") -> Path:
    """The file without a manifest."""
    write_sequence(model, arrays(made), out, dtype)
    return out


def context_length(model: KeptModel) -> int:
    return 1 + (model.length + 1) * (4 if model.config.context else 1)


def bundle(model: KeptModel, made: EventTransformer, out: Path, dtype: str = "f32") -> Path:
    """With a manifest and nothing fitted."""
    start = len(model.log.candidates)
    manifest = Manifest(
        created_with=f"edgeb {__version__}",
        candidates=model.log.candidates,
        layout=PromptLayout(list_candidates=False, history_length=model.length, places=model.log.places),
        bos_id=start,
        eos_id=start,
        architecture=ARCHITECTURES[NAMES.index(model.architecture)],
        quantization=dtype.upper(),
        context_length=context_length(model),
        base_model=BaseModelInfo(None, None, None),
    )
    write_bundle(plain(model, made, out.with_name(f"plain-{out.name}"), dtype), manifest, out)
    return out


def overlapping(bundle: Path, out: Path) -> Path:
    """A bundle whose tensors all begin at the first byte, with no more bytes than the longest of them needs."""
    content = bytearray(bundle.read_bytes())
    with GgufFile(bundle) as file:
        table = file.tensor_table()
    longest = max(tensor.elements * 4 for tensor in table.tensors)
    for tensor in table.tensors:
        name = tensor.name.encode()
        info = content.index(struct.pack("<Q", len(name)) + name) + 8 + len(name)
        at = info + 4 + 8 * len(tensor.shape) + 4
        content[at : at + 8] = struct.pack("<Q", 0)
    bare = out.with_suffix(".bare")
    bare.write_bytes(content[: table.data_start + longest])
    write_bundle(bare, read_manifest(bundle), out, population=read_population(bundle))
    return out


# By field of the manifest, one that describes another model.
OTHERS: dict[str, Callable[[Manifest], Manifest]] = {
    "architecture": lambda held: replace(held, architecture=next(a for a in ARCHITECTURES if a != held.architecture)),
    "candidates.labels": lambda held: replace(held, candidates=_backwards(held.candidates)),
    "bos_id": lambda held: replace(held, bos_id=0),
    "layout.name": lambda held: replace(held, layout=replace(held.layout, name="prefix")),
    "layout.history_length": lambda held: replace(held, layout=replace(held.layout, history_length=99)),
}


def _backwards(candidates: CandidateSet) -> CandidateSet:
    return CandidateSet.of(list(candidates.labels)[::-1], list(candidates.counts)[::-1])


def described_as(bundle: Path, out: Path, field: str) -> Path:
    """A bundle with right hashes, in whose manifest a field of `OTHERS` is another model's."""
    write_bundle(bundle, OTHERS[field](read_manifest(bundle)), out, population=read_population(bundle))
    return out
