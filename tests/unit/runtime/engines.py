"""One model on every engine, for tests of what all of them owe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from edge_behavior.bundle.gguf_file import write_bundle
from edge_behavior.bundle.manifest import BaseModelInfo, Manifest
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.export.litert.worker import check_packages
from edge_behavior.export.onnx.options import OnnxOptions
from edge_behavior.export.onnx.pipeline import export_onnx
from edge_behavior.export.source import ExportSource
from edge_behavior.hf.tokenizers import special_ids
from edge_behavior.runtime.backends.base import Backend
from edge_behavior.runtime.backends.litert import LiteRtBackend, LiteRtRunOptions
from edge_behavior.runtime.backends.llama import LlamaBackend, LlamaOptions
from edge_behavior.runtime.backends.onnx import OnnxBackend, OnnxRunOptions
from edge_behavior.runtime.backends.torch import TorchBackend
from tests import helpers, litert_files

CANDIDATES = CandidateSet.of(helpers.LABELS, range(1, 1 + len(helpers.LABELS)))
IN_TORCH, LITERT = "litert in PyTorch", "litert"
ENGINES = ("torch", "llama.cpp", "onnx", IN_TORCH, LITERT)
# Slots of the LiteRT models made here.
CACHE = 1024


@dataclass(frozen=True)
class Engine:
    """A model on one engine, in float32.

    Attributes:
        name: One of ENGINES.
        model: The model in memory, for the expected logits.
        tokens: Its tokenizer.
        open: Opens a backend with so many positions.
    """

    name: str
    model: Any
    tokens: Any
    open: Callable[[int], Backend]


def require(engine: str) -> None:
    """Skip a test whose engine is not installed."""
    if engine == LITERT:
        try:
            check_packages()
        except EdgebError as error:
            pytest.skip(str(error))


def manifest_of(tokens: Any, candidates: CandidateSet, layout: PromptLayout, **fields: Any) -> Manifest:
    bos_id, eos_id = special_ids(tokens)
    known = {
        "architecture": "qwen2",
        "quantization": "F32",
        "context_length": CACHE,
        "base_model": BaseModelInfo("x", None, "00"),
    }
    return Manifest(
        created_with="test", candidates=candidates, layout=layout, bos_id=bos_id, eos_id=eos_id, **{**known, **fields}
    )


def litert_bundle(engine: str, backbone: Path, tokenizer: Path, manifest: Manifest, out: Path) -> Path:
    """A LiteRT bundle for `IN_TORCH` or `LITERT`, with CACHE slots."""
    require(engine)
    make = litert_files.converted if engine == LITERT else litert_files.stand_in
    return make(backbone, tokenizer, manifest, out, CACHE)


def engine_of(name: str, folder: Path) -> Engine:
    """A random model on an engine, its files in a folder."""
    require(name)
    tokens = helpers.tokenizer()
    base = helpers.save(helpers.model(tokens), tokens, folder / "base")
    model, tokens = AutoModelForCausalLM.from_pretrained(base).eval(), AutoTokenizer.from_pretrained(base)
    if name == "torch":
        return Engine(name, model, tokens, lambda n_ctx: TorchBackend(model, tokens, capacity=n_ctx))
    if name == "onnx":
        source = ExportSource(base, None, CANDIDATES, PromptLayout())
        export_onnx(source, folder / "onnx", OnnxOptions("f32"), helpers.profile())
        return Engine(name, model, tokens, lambda n_ctx: OnnxBackend(folder / "onnx", OnnxRunOptions(n_ctx, threads=1)))
    gguf, manifest = folder / "m.gguf", manifest_of(tokens, CANDIDATES, PromptLayout())
    write_gguf(base, gguf, "f32")
    if name == "llama.cpp":
        write_bundle(gguf, manifest, folder / "bundle.gguf")
        path = folder / "bundle.gguf"
        return Engine(name, model, tokens, lambda n_ctx: LlamaBackend(path, LlamaOptions(n_ctx, 1, exact=True)))
    file = litert_bundle(name, base, gguf, manifest, folder / "bundle.tflite")
    return Engine(name, model, tokens, lambda n_ctx: LiteRtBackend(file, LiteRtRunOptions(n_ctx, 1)))
