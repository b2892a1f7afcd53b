"""LiteRT bundles for tests: converted ones where the packages are there, and stand-ins that PyTorch runs.

A stand-in is a bundle like any other but for its model, which only names the folder of the Transformers model. With
`run_stand_ins` the backend evaluates it by the graph that is otherwise converted, so that everything but LiteRT itself
is tested on every machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from edge_behavior.bundle.litert_file import read_litert, write_litert
from edge_behavior.bundle.litert_graph import LiteRtGraph
from edge_behavior.bundle.litert_probe import LiteRtProbe
from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.population import PopulationTable
from edge_behavior.export.litert import convert
from edge_behavior.export.litert import graph as graph_module
from edge_behavior.export.litert.graph import Decoder, Embed, First, Step, describe, load_decoder
from edge_behavior.export.litert.worker import convert_apart, quantize_apart
from edge_behavior.hf.architectures import load_config
from edge_behavior.runtime.accelerator import CPU, Accelerator
from edge_behavior.runtime.backends import litert
from edge_behavior.runtime.npu import signatures

SIZES, FIRST_SIZES = (1, 4, 8, 32), (8, 48)
# Converting takes time by the signature.
FEW_SIZES, FEW_FIRST_SIZES = (1, 8), (8,)
_HEAD = b"\x1c\x00\x00\x00TFL3"
_MARK = b"run in PyTorch: "


def stand_in(backbone: Path, tokenizer: Path, manifest: Manifest, out: Path, cache_length: int = 1024) -> Path:
    """Write a stand-in.

    Args:
        backbone: Folder of the Transformers model.
        tokenizer: A GGUF file with its vocabulary.
        manifest: Says what the bundle is for.
        out: The file.
        cache_length: Slots of its cache.
    """
    model = out.with_suffix(".model")
    stand_in_model(backbone, model)
    graph = describe(load_config(backbone), SIZES, FIRST_SIZES, cache_length)
    write_litert(model, tokenizer.read_bytes(), manifest, graph, out, probe=known_rows(backbone))
    model.unlink()
    return out


def stand_in_model(backbone: Path, out: Path) -> None:
    """Write the model's part of a stand-in, in a converted model's place."""
    out.write_bytes(_HEAD + _MARK + str(backbone).encode())


def stood_in(model: Path) -> Path:
    """The folder that such a part names."""
    return Path(model.read_bytes().removeprefix(_HEAD + _MARK).decode())


def converted(
    backbone: Path,
    tokenizer: Path,
    manifest: Manifest,
    out: Path,
    cache_length: int = 1024,
    population: PopulationTable | None = None,
    sizes: tuple[int, ...] = FEW_SIZES,
    first_sizes: tuple[int, ...] = FEW_FIRST_SIZES,
    quant: str = "f32",
) -> Path:
    """Write a bundle for LiteRT itself; the other arguments are those of `stand_in`, of the population and the export.

    A conversion takes from half a minute to minutes, and is kept for other tests of the same weights.
    """
    graph = describe(load_config(backbone), sizes, first_sizes, cache_length)
    model = _converted(backbone, graph)
    if quant == "f32":
        probe = known_rows(backbone)
    else:
        made = out.with_suffix(f".{quant}")
        quantize_apart(model, made, quant)
        write_litert(made, tokenizer.read_bytes(), manifest, graph, out)
        model, probe = made, known_rows(backbone, shipped=out)
    write_litert(model, tokenizer.read_bytes(), manifest, graph, out, population=population, probe=probe)
    return out


def _converted(backbone: Path, graph: LiteRtGraph) -> Path:
    """The float32 model."""
    key = hashlib.sha256(json.dumps(graph.to_dict()).encode())
    code = (Path(str(module.__file__)) for module in (convert, graph_module))
    for file in (backbone / "config.json", backbone / "model.safetensors", *code):
        key.update(file.read_bytes())
    kept = Path(tempfile.gettempdir()) / "edgeb-tests" / "litert"
    model = kept / f"{key.hexdigest()[:32]}.tflite"
    if not model.is_file():
        kept.mkdir(parents=True, exist_ok=True)
        made = backbone / "converted.tflite"
        convert_apart(backbone, graph, made)
        # Whole or not at all, whichever process makes it.
        shutil.copy(made, model.with_suffix(f".{os.getpid()}"))
        model.with_suffix(f".{os.getpid()}").replace(model)
    return model


def known_rows(backbone: Path, shipped: Path | None = None) -> LiteRtProbe:
    """Known rows of a model, by Transformers.

    Args:
        backbone: Its folder.
        shipped: A quantized bundle of it; None where it is shipped in float32.
    """
    ids = list(range(30, 40))
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(backbone).eval()(torch.tensor([ids])).logits[0].numpy()
    found = logits
    if shipped is not None:
        backend = litert.LiteRtBackend(shipped, litert.LiteRtRunOptions(len(ids), 1))
        found = np.stack([backend.prefill(ids[:end])[0].copy() for end in range(1, len(ids) + 1)])
        backend.close()
    return LiteRtProbe.measured(("gpu",), ids, logits, found)


def run_stand_ins(patch: pytest.MonkeyPatch) -> None:
    """Have the backend run stand-ins; other files go to LiteRT."""
    plain = litert.CompiledGraph

    def opened(path: Path, threads: int, needed: Sequence[str], accelerator: Accelerator = CPU) -> Any:
        content = path.read_bytes()[: read_litert(path).model_bytes]
        if not content.startswith(_HEAD + _MARK):
            return plain(path, threads, needed, accelerator)
        return InTorch(_decoder(Path(content[len(_HEAD + _MARK) :].decode())))

    for module in (litert, signatures):
        patch.setattr(module, "CompiledGraph", opened)


class InTorch:
    """What `CompiledGraph` is, over the graph before it is converted."""

    engine = "PyTorch in LiteRT's place"

    def __init__(self, decoder: Decoder) -> None:
        self._decoder: Decoder | None = decoder

    def bind(
        self, name: str, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> Callable[[], None]:
        kind = name.split("_")[0]
        taken, given = ({key: torch.from_numpy(value) for key, value in arrays.items()} for arrays in (inputs, outputs))

        @torch.inference_mode()
        def run() -> None:
            assert self._decoder is not None, "closed"
            if kind == "embed":
                found = Embed(self._decoder)(**taken)
            else:
                gathered = {key: value for key, value in taken.items() if key[:2] not in ("k_", "v_")}
                if kind == "step":
                    for part in "kv":
                        gathered[part] = [taken[f"{part}_{i}"] for i in range(len(self._decoder.sliding))]
                found = {"step": Step, "first": First}[kind](self._decoder)(**gathered)
                for part in ("new_k", "new_v"):
                    found |= {f"{part}_{i}": value for i, value in enumerate(found.pop(part))}
            assert set(found) == set(given)
            for key, value in found.items():
                assert value.shape == given[key].shape, key
                given[key].copy_(value)

        return run

    def close(self) -> None:
        self._decoder = None


@cache
def _decoder(folder: Path) -> Decoder:
    return load_decoder(folder)
