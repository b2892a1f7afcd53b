"""The whole ONNX export: merge, prune, build, check, write the manifest, prove it, put the folder in place.

Every intermediate file lives in one hidden folder beside the output, which disappears whatever happens; the bundle
appears under its name only once it has been verified. Checks run on the CPU, whatever the folder is for.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_behavior.bundle.bundle import read_manifest, verify_bundle
from edge_behavior.bundle.folder import MANIFEST_FILE, folder_bytes, write_folder_manifest
from edge_behavior.core.encoding import PromptEncoder, Tokenize
from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.export.merge import Probe, logit_difference, merge_adapter
from edge_behavior.export.onnx.builder import (
    QUANTIZED,
    OnnxOptions,
    build_onnx,
    name_provider,
    weight_operators,
)
from edge_behavior.export.parity.gate import ParityError, parity_report
from edge_behavior.export.parity.probe import Witness
from edge_behavior.export.pipeline import (
    CONVERSION_TOLERANCE,
    Opened,
    check_fitting,
    check_tokens,
    fit_held_out,
    hash_backbone,
    make_manifest,
    open_source,
    prompt_segments,
    renumbered_encoder,
    renumbered_probe,
)
from edge_behavior.export.profiles import ExportProfile, ImportanceSettings
from edge_behavior.export.prune.check import PruneRequest, Pruning, check_mode, decide_pruning
from edge_behavior.export.prune.vocabulary import write_pruned
from edge_behavior.export.source import ExportSource
from edge_behavior.export.steps import merge_dtype, require_space, timed, workspace
from edge_behavior.hf.architectures import check_onnx, load_tokenizer
from edge_behavior.hf.tokenizers import plain_encoder
from edge_behavior.runtime.backends.base import Row
from edge_behavior.runtime.backends.genai import load_genai
from edge_behavior.runtime.backends.onnx import OnnxBackend, OnnxRunOptions
from edge_behavior.runtime.predictor import context_needed
from edge_behavior.util.files import put_folder
from edge_behavior.util.progress import progress_bar

# Positions that are built at least, where the backbone has them: room for other programs' prompts.
LEAST_CONTEXT = 2048
# Bytes per weight at the most: the builder keeps embeddings in f32 where they are not shared.
_BYTES_PER_WEIGHT = {"q4": 2.5, "q8": 3.0, "f16": 2.0, "f32": 4.0}
# Correlation of a quantized model's logits with PyTorch's: rounding took .98 to .94 on random small models.
LEAST_CORRELATION = 0.5


@dataclass
class _Model:
    """The model at one point of the export: its folder, the numbers to check it by, and its prompts."""

    folder: Path
    probe: Probe
    encoder: PromptEncoder
    encode: Tokenize


def export_onnx(
    source: ExportSource,
    out: Path,
    options: OnnxOptions,
    profile: ExportProfile | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write a verified folder bundle.

    Args:
        source: What to export.
        out: The folder to write.
        options: How to build the model.
        profile: What `pipeline.export_bundle` takes, without `quant`, `importance` and `recover`.
        force: Replace `out` if it is a bundle.

    Returns:
        A JSON-ready report as of `pipeline.export_bundle`, but `operators` (how many of each kind hold weights) in the
        place of `tensor_types`, and logit_difference after merge, of the graph before its weights are quantized (where
        that fits into memory) and of what was built.

    Raises:
        ParityError: the predictions changed more than the profile accepts.
        EdgebError: any user error named by the modules of this package; too little disk space; `out` exists or
            cannot be written. Nothing is left behind.
    """
    load_genai()
    profile = (profile or ExportProfile()).model_copy(update={"importance": ImportanceSettings(prompts=0)})
    check_mode(profile.prune)
    check_fitting(profile.habits, "habits", source)
    check_fitting(profile.calibrate, "calibration", source)
    _check_output(out, force)
    opened = open_source(source)
    check_onnx(opened.config)
    dtype = merge_dtype(opened.parameters)
    seconds: dict[str, float] = {}
    with workspace(out) as folder:
        prunes = profile.prune == "on" or (profile.prune == "auto" and source.places is not None)
        require_space(folder, _space(opened.parameters, dtype, options, prunes))
        with timed(seconds, "hash"):
            base_hash = hash_backbone(opened.files)
        manifest = make_manifest(source, opened.config, options.name, opened.encoder, base_hash)
        options = _with_context(options, manifest.context_length, max(LEAST_CONTEXT, context_needed(manifest)))
        manifest = replace(manifest, context_length=options.context_length or manifest.context_length)
        manifest.to_json()  # refuse what cannot be written before the long work
        witness = Witness(source, profile, opened.parameters, opened.encoder, {}, context_needed(manifest))
        with timed(seconds, "merge"):
            merged = folder / "merged"
            # What pruning is compared by is of the same width.
            stored = "f16" if options.quant == "f16" or (prunes and options.quant != "f32") else "f32"
            probe = merge_adapter(
                source.base, source.adapter, merged, dtype, opened.probe_ids, witness.observe, stored, source.revision
            )
        model = _Model(folder / "merged", probe, opened.encoder, opened.encode)
        with timed(seconds, "prune"):
            pruning = _prune(model, opened, source, profile, folder, options)
        if pruning.plan is not None:
            manifest = replace(
                manifest,
                bos_id=model.encoder.bos_id,
                eos_id=model.encoder.eos_id,
                vocabulary=pruning.plan.facts(),
            )
        built, scratch = folder / "bundle", folder / "scratch"
        differences = {"merge": probe.difference}
        if options.quant in QUANTIZED and dtype == "float32":
            with timed(seconds, "check"):
                differences["graph"] = _check_graph(model, options, folder / "plain", scratch)
        with timed(seconds, "build"):
            provider = build_onnx(model.folder, built, options, scratch)
        shutil.rmtree(model.folder)
        with timed(seconds, "write"), progress_bar("Hashing", folder_bytes(built), unit_bytes=True) as advance:
            write_folder_manifest(built, manifest, advance)
        with timed(seconds, "compare"):
            segments = prompt_segments(source.layout, source.candidates, source.places or ())
            differences["build"] = _check_loads(built, model, segments, options)
            witness.score("build", built, manifest)
            parity = parity_report(witness.scores, witness.samples, profile.parity)
        if parity["exceeded"] and profile.parity.enforce:
            raise ParityError(options.name, parity)
        with timed(seconds, "habits"):
            # No other format is tried here, and no tensor kept.
            parity |= {"tried": {}, "recovery": None}
            manifest = replace(manifest, parity=parity)
            write_folder_manifest(built, manifest)
            fitted, calibrated = fit_held_out(built, manifest, source, profile.habits, profile.calibrate)
        if provider:
            manifest = read_manifest(built)
            name_provider(built, provider)
            write_folder_manifest(built, manifest)
        with timed(seconds, "verify"):
            verify_bundle(built)
        report = {
            "bundle": str(out),
            "bytes": folder_bytes(built),
            "architecture": manifest.architecture,
            "quantization": options.name,
            "operators": weight_operators(built),
            "parameters": opened.parameters,
            "pruning": pruning.report(),
            "habits": fitted,
            "calibration": calibrated,
            "segments_checked": len(segments),
            "parity": parity,
            "logit_difference": differences,
            "logit_scale": float(np.abs(probe.logits).max()),
            "seconds": seconds,
        }
        put_folder(built, out, replace=force, durable=True)
    return report


def _with_context(options: OnnxOptions, most: int, needed: int) -> OnnxOptions:
    """Options with the positions to build for."""
    wanted = options.context_length
    if wanted is not None and wanted > most:
        raise EdgebError(f"the backbone has {most} positions, --context-length asks for {wanted}", "ask for fewer")
    return replace(options, context_length=wanted or min(most, needed))


def _prune(
    model: _Model, opened: Opened, source: ExportSource, profile: ExportProfile, folder: Path, options: OnnxOptions
) -> Pruning:
    """Decide on pruning, with llama.cpp where predictions are to be compared, and put the pruned model in place."""
    plain, mode = folder / "plain.gguf", profile.prune
    request = PruneRequest(mode, profile.extra_tokens, source.places, source.data, source.data_note)
    if mode == "on" or (mode == "auto" and source.places is not None):
        write_gguf(model.folder, plain, "f32" if options.quant == "f32" else "f16")
    pruning = decide_pruning(request, plain, opened.tokenizer, opened.config, opened.encoder)
    plain.unlink(missing_ok=True)
    if pruning.plan is not None:
        pruned = folder / "pruned"
        write_pruned(model.folder, pruning.plan, pruned)
        shutil.rmtree(model.folder)
        model.folder = pruned
        model.encode = plain_encoder(load_tokenizer(pruned))
        model.encoder = renumbered_encoder(model.encoder, pruning.plan, model.encode)
        model.probe = renumbered_probe(model.probe, pruning.plan)
    return pruning


def _check_graph(model: _Model, options: OnnxOptions, plain: Path, scratch: Path) -> float:
    """Build the same graph without quantized weights: a wrong one cannot hide behind rounding."""
    build_onnx(model.folder, plain, OnnxOptions("f32", context_length=options.context_length), scratch)
    with _opened(plain, model) as backend:
        difference = _unquantized_difference(model.probe, backend.logits(model.probe.ids))
    shutil.rmtree(plain)
    return difference


def _check_loads(built: Path, model: _Model, segments: list[str], options: OnnxOptions) -> float:
    """Open the folder on the CPU; largest difference of its logits to PyTorch's."""
    probe = model.probe
    with _opened(built, model) as backend:
        check_tokens(backend, model.encode, segments)
        found = backend.logits(probe.ids)
    if options.quant not in QUANTIZED:
        return _unquantized_difference(probe, found)
    difference = logit_difference(probe.logits, found)
    if not np.isfinite(difference):
        raise EdgebError("the ONNX model gives logits that are not numbers", "try --quant q8 or f32")
    correlation = float(np.corrcoef(probe.logits.ravel(), found.ravel())[0, 1])
    if correlation < LEAST_CORRELATION:
        raise EdgebError(
            f"the ONNX model's logits hardly follow PyTorch's (correlation {correlation:.2f})",
            "try --quant q8 or f32, or report this with the backbone's config.json",
        )
    return difference


@contextmanager
def _opened(folder: Path, model: _Model) -> Iterator[OnnxBackend]:
    backend = OnnxBackend(folder, OnnxRunOptions(n_ctx=len(model.probe.ids), cpu=True))
    try:
        yield backend
    finally:
        backend.close()


def _unquantized_difference(probe: Probe, found: Row) -> float:
    difference = logit_difference(probe.logits, found)
    limit = CONVERSION_TOLERANCE * max(1.0, float(np.abs(probe.logits).max()))
    if difference > limit:
        raise EdgebError(
            f"the ONNX model's logits differ by {difference:.3g} from PyTorch's (limit {limit:.3g})",
            "report this with the backbone's config.json",
        )
    return difference


def _space(parameters: int, dtype: str, options: OnnxOptions, prunes: bool) -> int:
    merged = 4.0 if dtype == "float32" else 2.0
    graph = 4.0 if dtype == "float32" and options.quant in QUANTIZED else 0.0
    # The merged model with the GGUF to compare by, with its pruned copy, with its graph, or with what is built.
    compared = 4.0 if options.quant == "f32" else 2.0
    beside = max(compared * prunes, merged * prunes, graph, _BYTES_PER_WEIGHT[options.quant])
    return int(parameters * (merged + beside))


def _check_output(out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise EdgebError(f"the output {out} is not a folder", "choose another --out")
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / MANIFEST_FILE).is_file():
        raise EdgebError(f"the folder {out} is not empty and no bundle", "choose another --out")
    if not force:
        raise EdgebError(f"the output {out} exists", "choose another --out or pass --force")
