"""The whole export: merge, convert, prune, quantize, compare, write the bundle, prove it, put it in place.

Every intermediate file lives in one hidden folder beside the output, which disappears whatever happens; the bundle
appears under its name only once it has been verified.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from edge_behavior import __version__
from edge_behavior.bundle.bundle import verify_bundle
from edge_behavior.bundle.folder import write_folder_manifest
from edge_behavior.bundle.gguf_file import write_bundle
from edge_behavior.bundle.gguf_header import GgufFile
from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.encoding import PromptEncoder, Tokenize
from edge_behavior.core.events import UNKNOWN_PLACE
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError, nearest
from edge_behavior.export.gguf.llama_file import LlamaFile
from edge_behavior.export.gguf.quantize import UNQUANTIZED, find_quant, tensor_types
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.export.merge import Probe, logit_difference, merge_adapter
from edge_behavior.export.parity.probe import Witness
from edge_behavior.export.parity.quantization import AUTO, quantize_within
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.export.prune.check import PruneRequest, Pruning, check_mode, decide_pruning
from edge_behavior.export.prune.vocabulary import PrunePlan, write_pruned
from edge_behavior.export.prune.words import domain_texts
from edge_behavior.export.source import ExportSource
from edge_behavior.export.steps import base_name, merge_dtype, require_space, timed, total_bytes, workspace
from edge_behavior.hf.architectures import architecture, check_backbone, load_tokenizer
from edge_behavior.hf.folder import count_parameters, find_backbone, weight_files
from edge_behavior.hf.tensors import tensor_names
from edge_behavior.hf.tokenizers import plain_encoder, special_ids
from edge_behavior.runtime.backends.base import Backend
from edge_behavior.runtime.predictor import context_needed
from edge_behavior.util.checksums import files_sha256
from edge_behavior.util.files import check_file, put_file
from edge_behavior.util.progress import progress_bar

# f16 weights and activations against f32: relative to the largest logit. A wrong conversion is off by about 1.
CONVERSION_TOLERANCE = 5e-2
_PROBE_LENGTH = 48
FITTING_MODES = ("auto", "on", "off")
_SAMPLE_PLACES = ("home", "work", "unknown", "40.75/-73.98", "a b-c_d.e&f/g+h", "Café Zürich", "東京駅", "место 7")


@dataclass(frozen=True)
class Opened:
    """A backbone before its weights are read.

    Attributes:
        config: Its transformers configuration.
        files: Its weight files.
        parameters: Number of weights.
        tokenizer: As transformers loads it.
        encode: What training tokenizes with.
        encoder: The prompts of the run.
        probe_ids: A prompt to compare logits on.
    """

    config: Any
    files: list[Path]
    parameters: int
    tokenizer: Any
    encode: Tokenize
    encoder: PromptEncoder
    probe_ids: list[int]


@dataclass
class _Model:
    """The model at one point of the export: its unquantized file, the numbers to check it by, and its prompts."""

    plain: Path
    probe: Probe
    encoder: PromptEncoder
    encode: Tokenize


def export_bundle(
    source: ExportSource, out: Path, profile: ExportProfile | None = None, force: bool = False
) -> dict[str, Any]:
    """Write a verified bundle.

    Args:
        source: What to export.
        out: The GGUF file to write.
        profile: How, and what loss is accepted; None for the defaults.
        force: Replace an existing `out`.

    Returns:
        A JSON-ready report: bundle, bytes, architecture, quantization, tensor_types (count per type), parameters,
        pruning (mode, pruned, reason, vocabulary, parity), habits (mode, fitted, reason, default, measured),
        calibration (mode, fitted, reason, and what the manifest holds),
        segments_checked (texts tokenized on both sides), parity (the gate's table, see `parity.parity_report`, with
        `tried` formats and `recovery`), importance (prompts, tensors),
        logit_difference (largest absolute difference to the PyTorch model before merging, after each of merge, convert,
        prune and quantize), logit_scale (largest logit), seconds (per step).

    Raises:
        ParityError: the predictions changed more than the profile accepts.
        EdgebError: any user error named by the modules of this package; too little disk space; `out` exists or
            cannot be written. Nothing is left behind.
    """
    profile = profile or ExportProfile()
    quant = profile.quant if profile.quant == AUTO else find_quant(profile.quant).name
    check_mode(profile.prune)
    check_fitting(profile.habits, "habits", source)
    check_fitting(profile.calibrate, "calibration", source)
    check_file(out, force)
    opened = open_source(source)
    config, parameters, tokenizer, encoder = opened.config, opened.parameters, opened.tokenizer, opened.encoder
    dtype = merge_dtype(parameters)
    precision = profile.quant if profile.quant in UNQUANTIZED else "f16"
    seconds: dict[str, float] = {}
    with workspace(out) as folder:
        prunes = profile.prune == "on" or (profile.prune == "auto" and source.places is not None)
        _check_space(folder, parameters, dtype, precision, profile.quant, prunes)
        with timed(seconds, "hash"):
            base_hash = hash_backbone(opened.files)
        manifest = make_manifest(source, config, quant, encoder, base_hash)
        manifest.to_json()  # refuse what cannot be written before the long work
        witness = Witness(source, profile, parameters, encoder, tensor_names(config), context_needed(manifest))
        merged = folder / "merged"
        with timed(seconds, "merge"):
            probe = merge_adapter(
                source.base,
                source.adapter,
                merged,
                dtype,
                opened.probe_ids,
                witness.observe,
                precision,
                source.revision,
            )
        model = _Model(folder / "plain.gguf", probe, encoder, opened.encode)
        with timed(seconds, "convert"):
            write_gguf(merged, model.plain, precision)
            witness.score("convert", model.plain, manifest)
        differences = {"merge": probe.difference, "convert": _converted_difference(model)}
        with timed(seconds, "prune"):
            request = PruneRequest(profile.prune, profile.extra_tokens, source.places, source.data, source.data_note)
            pruning = decide_pruning(request, model.plain, tokenizer, config, encoder)
            if pruning.plan is not None:
                _prune(model, pruning, merged, folder / "pruned", precision)
                differences["prune"] = _converted_difference(model)
                manifest = replace(
                    manifest,
                    bos_id=model.encoder.bos_id,
                    eos_id=model.encoder.eos_id,
                    vocabulary=pruning.plan.facts(),
                )
                witness.score("prune", model.plain, manifest)
        shutil.rmtree(merged, ignore_errors=True)
        with timed(seconds, "quantize"):
            quantized = quantize_within(witness.unquantized(model.plain, manifest), folder, profile)
            parity = {**quantized.parity, "tried": quantized.tried, "recovery": quantized.recovery}
            manifest = replace(manifest, quantization=find_quant(quantized.quant).name, parity=parity)
        total = 2 * _data_bytes(quantized.path)
        with timed(seconds, "write"), progress_bar("Writing", total, unit_bytes=True) as advance:
            write_bundle(quantized.path, manifest, folder / "bundle.gguf", advance)
        quantized.path.unlink()
        model.plain.unlink(missing_ok=True)
        with timed(seconds, "verify"):
            verify_bundle(folder / "bundle.gguf")
            segments = prompt_segments(source.layout, source.candidates, source.places or ())
            differences["quantize"] = _check_loads(folder / "bundle.gguf", model, segments)
        with timed(seconds, "habits"):
            path = folder / "bundle.gguf"
            fitted, calibrated = fit_held_out(path, manifest, source, profile.habits, profile.calibrate)
        report = {
            "bundle": str(out),
            "bytes": total_bytes([folder / "bundle.gguf"]),
            "architecture": manifest.architecture,
            "quantization": manifest.quantization,
            "tensor_types": tensor_types(folder / "bundle.gguf"),
            "parameters": parameters,
            "pruning": pruning.report(),
            "habits": fitted,
            "calibration": calibrated,
            "segments_checked": len(segments),
            "importance": {"prompts": witness.prompts, "tensors": len(witness.importance)},
            "parity": parity,
            "logit_difference": differences,
            "logit_scale": float(np.abs(probe.logits).max()),
            "seconds": seconds,
        }
        put_file(folder / "bundle.gguf", out, replace=force)
    return report


def open_source(source: ExportSource) -> Opened:
    """Check what can be checked without reading the weights.

    Raises:
        EdgebError: a backbone that is missing or not supported, labels that the tokenizer cannot tell apart.
    """
    backbone = check_backbone(find_backbone(source.base, source.revision))
    files, tokenizer = weight_files(backbone.folder), backbone.tokenizer
    bos_id, eos_id = source.special_ids or special_ids(tokenizer)
    encode = plain_encoder(tokenizer)
    encoder = PromptEncoder(encode, source.layout, source.candidates, bos_id, eos_id)
    probe_ids = encoder.prompt_ids([], datetime(2024, 1, 1, 18), UNKNOWN_PLACE)[:_PROBE_LENGTH]
    parameters = count_parameters(files)
    return Opened(backbone.config, files, parameters, tokenizer, encode, encoder, probe_ids)


def hash_backbone(files: list[Path]) -> str:
    """One hash over the backbone's weight files, `weights_sha256` in the manifest."""
    with progress_bar("Hashing backbone", total_bytes(files), unit_bytes=True) as advance:
        return files_sha256(files, advance)


def _prune(model: _Model, pruning: Pruning, merged: Path, pruned: Path, precision: str) -> None:
    """Put the pruned model in the place of `model`; the folders are gone afterwards."""
    plan = pruning.plan
    if plan is None:
        return
    model.plain.unlink()
    write_pruned(merged, plan, pruned)
    shutil.rmtree(merged)
    write_gguf(pruned, model.plain, precision)
    model.encode = plain_encoder(load_tokenizer(pruned))
    model.encoder = renumbered_encoder(model.encoder, plan, model.encode)
    model.probe = renumbered_probe(model.probe, plan)
    shutil.rmtree(pruned)


def renumbered_encoder(old: PromptEncoder, plan: PrunePlan, encode: Tokenize) -> PromptEncoder:
    """The same prompts in ids of the pruned vocabulary."""
    bos_id = None if old.bos_id is None else plan.new_ids([old.bos_id])[0]
    return PromptEncoder(encode, old.layout, old.candidates, bos_id, plan.new_ids([old.eos_id])[0])


def renumbered_probe(probe: Probe, plan: PrunePlan) -> Probe:
    """The logits that the pruned model must have."""
    return Probe(plan.new_ids(probe.ids), probe.logits[:, plan.kept], probe.difference)


def check_fitting(mode: str, what: str, source: ExportSource) -> None:
    """Refuse an unknown mode, and `on` without a dataset."""
    if mode not in FITTING_MODES:
        raise EdgebError(f"unknown {what} mode '{mode}'", nearest(mode, FITTING_MODES))
    if mode == "on" and source.data is None:
        raise EdgebError(f"{what} cannot be fitted: {source.data_note}", "pass the run's dataset with --data")


def fit_held_out(
    bundle: Path, manifest: Manifest, source: ExportSource, habits: str, calibrate: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fit fusion and calibration with the written bundle and put them into its manifest.

    Returns:
        What was done or why not, for habits and for calibration.
    """
    reports = [{"mode": mode, "fitted": False, "reason": "not asked for"} for mode in (habits, calibrate)]
    if habits == calibrate == "off" or source.data is None:
        for report in reports:
            if report["mode"] != "off":
                report["reason"] = source.data_note
        return reports[0], reports[1]
    # Here, since an export without a dataset needs no pyarrow.
    from edge_behavior.fit.calibrate import TooFewToCalibrateError, fit_calibration
    from edge_behavior.fit.mixture import TooFewUsersError, fit_habits, score_held_out

    try:
        held = score_held_out(bundle, source.data)
    except TooFewUsersError as error:
        if "on" in (habits, calibrate):
            raise
        for report in reports:
            if report["mode"] != "off":
                report["reason"] = error.message
        return reports[0], reports[1]
    fitted = manifest
    if habits != "off":
        found = fit_habits(held).to_dict()
        fitted = replace(fitted, habits=found)
        reports[0] |= {"fitted": True, "reason": "", "default": found["default"], "measured": found["measured"]}
    if calibrate != "off":
        try:
            found = fit_calibration(held, fused=fitted.habits is not None).to_dict()
        except TooFewToCalibrateError as error:
            if calibrate == "on":
                raise
            reports[1]["reason"] = error.message
        else:
            fitted = replace(fitted, calibration=found)
            reports[1] |= {"fitted": True, "reason": "", **found}
    if fitted is not manifest:
        _rewrite(bundle, fitted)
    return reports[0], reports[1]


def _rewrite(bundle: Path, manifest: Manifest) -> None:
    """Give a written bundle another manifest."""
    if bundle.is_dir():
        write_folder_manifest(bundle, manifest)
        return
    rewritten = bundle.with_name("rewritten.gguf")
    with progress_bar("Writing", 2 * _data_bytes(bundle), unit_bytes=True) as advance:
        write_bundle(bundle, manifest, rewritten, advance)
    verify_bundle(rewritten)
    os.replace(rewritten, bundle)


def make_manifest(
    source: ExportSource, config: Any, quantization: str, encoder: PromptEncoder, base_hash: str
) -> Manifest:
    """The manifest before anything is pruned, fitted or measured."""
    return Manifest(
        created_with=f"edgeb {__version__}",
        candidates=source.candidates,
        layout=source.layout,
        bos_id=encoder.bos_id,
        eos_id=encoder.eos_id,
        architecture=architecture(config),
        quantization=quantization,
        context_length=int(config.max_position_embeddings),
        base_model={"name": base_name(source.base), "license": source.base_license, "weights_sha256": base_hash},
        training=source.training,
        evaluation=source.evaluation,
    )


def prompt_segments(layout: PromptLayout, candidates: CandidateSet, places: Sequence[str] = ()) -> list[str]:
    """Every text of the domain, and contexts of all hours in sample places of any kind."""
    times = [datetime(2024, 1, 1) + timedelta(hours=hour) for hour in range(7 * 24)]
    texts = [layout.context(when, place) for when in times for place in _SAMPLE_PLACES]
    return list(dict.fromkeys([*domain_texts(layout, candidates, places), *texts]))


def check_tokens(model: LlamaFile | Backend, encode: Tokenize, texts: list[str]) -> None:
    """Refuse a file that tokenizes one of `texts` otherwise than training did."""
    for text in texts:
        found, expected = model.tokenize(text), encode(text)
        if found != expected:
            raise EdgebError(
                f"the exported file tokenizes {text!r} as {found}, training as {expected}",
                "rename the label or reword the prompt, or report this as a bug",
            )


def _check_space(folder: Path, parameters: int, dtype: str, precision: str, quant: str, prunes: bool) -> None:
    merged = 4.0 if dtype == "float32" else 2.0
    plain = UNQUANTIZED[precision]
    each = find_quant("q8" if quant == AUTO else quant).bytes_per_weight
    # What exists at a time: merged or pruned model and unquantized file, or that file with a quantized one and either
    # another try or the bundle.
    require_space(folder, int(parameters * max(merged + plain, 2 * merged * prunes, plain + 2 * each)))


def _converted_difference(model: _Model) -> float:
    probe = model.probe
    with LlamaFile(model.plain, n_ctx=len(probe.ids)) as file:
        difference = logit_difference(probe.logits, file.logits(probe.ids))
    limit = CONVERSION_TOLERANCE * max(1.0, float(np.abs(probe.logits).max()))
    if difference > limit:
        raise EdgebError(
            f"the converted model's logits differ by {difference:.3g} from PyTorch's (limit {limit:.3g})",
            "report this with the backbone's config.json",
        )
    return difference


def _check_loads(path: Path, model: _Model, segments: list[str]) -> float:
    probe = model.probe
    with LlamaFile(path, n_ctx=len(probe.ids)) as file:
        check_tokens(file, model.encode, segments)
        difference = logit_difference(probe.logits, file.logits(probe.ids))
    if not math.isfinite(difference):
        raise EdgebError("the quantized model gives logits that are not numbers", "try --quant q8 or f16")
    return difference


def _data_bytes(path: Path) -> int:
    with GgufFile(path) as file:
        return file.size - file.tensor_table().data_start
