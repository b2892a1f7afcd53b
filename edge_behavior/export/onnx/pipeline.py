"""Export to ONNX: merge, prune, build, check, write the manifest, verify it, put the folder in place.

Every intermediate file lies in a scratch folder beside the output, which is removed whatever happens; the bundle
appears under its name only once it has been verified. Checks run on the CPU, whatever the folder is built for.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_behavior.bundle.bundle import verify_bundle
from edge_behavior.bundle.folder import folder_bytes, write_folder_manifest
from edge_behavior.bundle.manifest import Manifest
from edge_behavior.errors import EdgebError
from edge_behavior.export.checks import check_logits, check_quantized_logits
from edge_behavior.export.context import Export, Model, check_profile, chosen_context, open_source
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.export.merge import Probe
from edge_behavior.export.onnx.builder import build_onnx, name_provider, weight_operators
from edge_behavior.export.onnx.options import QUANTIZED, OnnxOptions
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.export.report import ExportReport
from edge_behavior.export.scratch import check_folder, require_space, scratch_folder
from edge_behavior.export.source import ExportSource
from edge_behavior.hf.architectures import check_onnx
from edge_behavior.runtime.backends.base import Row
from edge_behavior.runtime.backends.genai import load_genai
from edge_behavior.runtime.backends.onnx import OnnxBackend, OnnxRunOptions
from edge_behavior.runtime.predictor import context_needed
from edge_behavior.util.files import put_folder
from edge_behavior.util.progress import progress_bar

# Positions that are built at least, if the backbone has them: room for other programs' prompts.
MIN_CONTEXT = 2048
# Bytes per weight at most: the builder keeps embeddings in f32 if they are not shared.
_BYTES_PER_WEIGHT = {"q4": 2.5, "q8": 3.0, "f16": 2.0, "f32": 4.0}
# Correlation of a quantized model's logits with PyTorch's: rounding took .98 to .94 on random small models.
MIN_CORRELATION = 0.5


def export_onnx(
    source: ExportSource,
    out: Path,
    options: OnnxOptions,
    profile: ExportProfile | None = None,
    force: bool = False,
) -> ExportReport:
    """Write a verified bundle as a folder for onnxruntime-genai.

    Args:
        source: What to export.
        out: The folder to write.
        options: How to build the model.
        profile: What loss is accepted, and what is pruned and fitted; its `quant`, `importance` and `recover` are
            GGUF's.
        force: Replace `out` if it is a bundle.

    Raises:
        ParityError: the predictions changed more than the profile accepts.
        EdgebError: any user error named by the modules of this package; too little disk space; `out` exists or
            cannot be written. Nothing is left behind.
    """
    load_genai()
    profile = profile or ExportProfile()
    check_profile(profile, source)
    check_folder(out, force)
    opened = open_source(source)
    check_onnx(opened.config)
    with scratch_folder(out) as folder:
        export = Export(opened, profile, folder)
        require_space(folder, opened.parameters * _bytes_per_weight(export, options))
        export.begin(options.name, lambda manifest: _context_length(options, manifest))
        options = replace(options, context_length=export.manifest.context_length)
        export.forecast.drop("prune")
        scores = export.scores
        export.forecast.expect("build", "llama", lambda: scores.tokens(scores.expected))
        # A pruned vocabulary is compared at the width of the format's activations.
        f16 = options.quant == "f16" or (export.may_prune and options.quant != "f32")
        model = export.merge("f16" if f16 else "f32")
        with export.timed("prune"):
            plain = folder / "plain.gguf"
            if export.may_prune:
                write_gguf(model.folder, plain, "f32" if options.quant == "f32" else "f16")
            model = export.prune(model, plain)
            plain.unlink(missing_ok=True)
        built, scratch = folder / "bundle", folder / "scratch"
        if options.quant in QUANTIZED and export.dtype == "float32":
            with export.timed("check"):
                export.logit_difference["graph"] = _graph_difference(model, options, folder / "plain", scratch)
        with export.timed("build"):
            provider = build_onnx(model.folder, built, options, scratch)
        shutil.rmtree(model.folder)
        with export.timed("write"):
            _write_manifest(built, export)
        with export.timed("compare"):
            with _cpu_backend(built, model) as backend:
                export.check_tokens(backend.tokenize, model)
                export.logit_difference["build"] = _built_difference(model.probe, backend, options)
            export.score("build", built, last=True)
            export.gate(options.name)
        with export.timed("habits"):
            export.fit(built)
        with export.timed("verify"):
            # Last, since checks and fits ran on the CPU.
            name_provider(built, provider)
            _write_manifest(built, export)
            verify_bundle(built)
        report = export.report(out, folder_bytes(built), operators=weight_operators(built))
        put_folder(built, out, replace=force, durable=True)
    return report


def _context_length(options: OnnxOptions, manifest: Manifest) -> int:
    """Positions to build for."""
    default = min(manifest.context_length, max(MIN_CONTEXT, context_needed(manifest)))
    return chosen_context(manifest, options.context_length, default)


def _write_manifest(built: Path, export: Export) -> None:
    with progress_bar("Hashing", folder_bytes(built), unit_bytes=True) as advance:
        write_folder_manifest(built, export.manifest, advance, export.population.table)


def _graph_difference(model: Model, options: OnnxOptions, plain: Path, scratch: Path) -> float:
    """Build the same graph without quantizing: a wrong graph cannot hide behind rounding."""
    build_onnx(model.folder, plain, OnnxOptions("f32", context_length=options.context_length), scratch)
    with _cpu_backend(plain, model) as backend:
        difference = check_logits(model.probe, backend.logits(model.probe.ids), "ONNX")
    shutil.rmtree(plain)
    return difference


def _built_difference(probe: Probe, backend: OnnxBackend, options: OnnxOptions) -> float:
    """Largest difference of the finished folder's logits from PyTorch's."""
    found: Row = backend.logits(probe.ids)
    if options.quant not in QUANTIZED:
        return check_logits(probe, found, "ONNX")
    difference = check_quantized_logits(probe, found, "ONNX", finer="q8 or f32")
    correlation = float(np.corrcoef(probe.logits.ravel(), found.ravel())[0, 1])
    if correlation < MIN_CORRELATION:
        raise EdgebError(
            f"the ONNX model's logits hardly follow PyTorch's (correlation {correlation:.2f})",
            "try --quant q8 or f32, or report this with the backbone's config.json",
        )
    return difference


@contextmanager
def _cpu_backend(folder: Path, model: Model) -> Iterator[OnnxBackend]:
    backend = OnnxBackend(folder, OnnxRunOptions(n_ctx=len(model.probe.ids), cpu=True))
    try:
        yield backend
    finally:
        backend.close()


def _bytes_per_weight(export: Export, options: OnnxOptions) -> float:
    """Most that lies on the disk at a time.

    The merged model with the GGUF to compare by, with its pruned copy, with its graph, or with what is built.
    """
    merged = export.merged_bytes_per_weight
    graph = 4.0 if export.dtype == "float32" and options.quant in QUANTIZED else 0.0
    compared = 4.0 if options.quant == "f32" else 2.0
    return merged + max(compared * export.may_prune, merged * export.may_prune, graph, _BYTES_PER_WEIGHT[options.quant])
