"""Export to a Hugging Face folder: merge, prune if asked, write, check, verify, put in place.

Every intermediate file lies in a scratch folder beside the output, which is removed whatever happens; the folder
appears under its name only once it has been verified. It is checked as other tools will load it: by the Auto classes.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from edge_behavior.bundle.bundle import verify_bundle
from edge_behavior.bundle.folder import folder_bytes, write_folder_manifest
from edge_behavior.errors import EdgebError
from edge_behavior.export.checks import check_logits
from edge_behavior.export.context import Export, Model, check_profile, open_source
from edge_behavior.export.fits import FitReport, Fits
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.export.hf.card import render_card
from edge_behavior.export.hf.model_folder import BYTES_PER_WEIGHT, check_format, own_format, write_model_folder
from edge_behavior.export.merge import load_model, model_logits
from edge_behavior.export.population import ExportedPopulation
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.export.report import ExportReport
from edge_behavior.export.scratch import check_folder, require_space, scratch_folder
from edge_behavior.export.source import ExportSource
from edge_behavior.hf.architectures import load_tokenizer
from edge_behavior.hf.license import CARD, write_texts
from edge_behavior.hf.tokenizers import plain_encoder
from edge_behavior.util.files import put_folder
from edge_behavior.util.progress import progress_bar

NOT_FITTED = "a Hugging Face folder carries none, GGUF, LiteRT and ONNX bundles do"


def export_hf(
    source: ExportSource,
    out: Path,
    quant: str | None = None,
    profile: ExportProfile | None = None,
    force: bool = False,
) -> ExportReport:
    """Write the merged model as a verified Hugging Face folder with a manifest.

    Args:
        source: What to export.
        out: The folder to write.
        quant: f16, bf16 or f32; None for the backbone's own precision.
        profile: What loss is accepted and whether to prune; its `quant`, `importance` and `recover` are GGUF's.
        force: Replace `out` if it is a bundle.

    Raises:
        ParityError: the predictions changed more than the profile accepts.
        EdgebError: any user error named by the modules of this package; a quantized weight format; too little disk
            space; `out` exists or cannot be written. Nothing is left behind.
    """
    profile = profile or ExportProfile(prune="off")
    if quant is not None:
        check_format(quant)
    check_profile(profile, source)
    if "on" in (profile.habits, profile.calibrate, profile.population):
        raise EdgebError(
            f"habits, calibration and population cannot be fitted: {NOT_FITTED}",
            "export with --format gguf, litert or onnx",
        )
    check_folder(out, force)
    opened = open_source(source)
    quant = quant or own_format(opened.config)
    with scratch_folder(out) as folder:
        export = Export(opened, profile.model_copy(update={"population": "off"}), folder)
        if quant == "bf16" and export.dtype == "float16":
            export.dtype = "bfloat16"
        require_space(folder, opened.parameters * _bytes_per_weight(export, quant))
        export.begin(quant.upper())
        _announce(export)
        model = export.merge("f16" if quant == "f16" else "f32")
        if export.may_prune:
            with export.timed("prune"):
                plain = folder / "plain.gguf"
                write_gguf(model.folder, plain, "f32" if quant == "f32" else "f16")
                model = export.prune(model, plain)
                plain.unlink(missing_ok=True)
        made = folder / "bundle"
        with export.timed("write"):
            types = write_model_folder(model.folder, made, quant)
        shutil.rmtree(model.folder)
        with export.timed("compare"):
            _check(export, made, model)
            export.gate(quant.upper())
        _leave_out_fits(export, profile)
        with export.timed("verify"):
            _finish(export, made, out.name)
        report = export.report(out, folder_bytes(made), tensor_types=types)
        put_folder(made, out, replace=force, durable=True)
    return report


def _announce(export: Export) -> None:
    """Tell the forecast what this format has ahead beside what all have."""
    scores = export.scores
    export.forecast.expect("write", "torch", lambda: scores.tokens(len(scores.samples)))
    if export.source.data is not None:
        # Here, since an export without a dataset needs no pyarrow.
        from edge_behavior.fit.mixture import HELD_OUT

        export.forecast.drop(HELD_OUT)


def _check(export: Export, made: Path, model: Model) -> None:
    """Load the folder as other tools do, and compare tokens, logits and predictions."""
    tokenizer = load_tokenizer(made)
    export.check_tokens(plain_encoder(tokenizer), model)
    loaded: Any = load_model(made, export.dtype, "the written model")
    export.logit_difference["write"] = check_logits(model.probe, model_logits(loaded, model.probe.ids), "saved")
    export.scores.score_torch("write", loaded, model.encoder, last=True)


def _leave_out_fits(export: Export, profile: ExportProfile) -> None:
    habits, calibration = (FitReport(mode).skipped(NOT_FITTED) for mode in (profile.habits, profile.calibrate))
    export.population = ExportedPopulation(None, None, FitReport(profile.population).skipped(NOT_FITTED))
    export.fits = Fits(export.manifest, habits, calibration, calibration)


def _finish(export: Export, made: Path, title: str) -> None:
    """Write license, card and manifest, and verify the folder."""
    write_texts(made, export.opened.license)
    (made / CARD).write_text(render_card(export.manifest, title, export.source.adapter is not None), encoding="utf-8")
    with progress_bar("Hashing", 2 * folder_bytes(made), unit_bytes=True) as advance:
        write_folder_manifest(made, export.manifest, advance)
        verify_bundle(made, advance)


def _bytes_per_weight(export: Export, quant: str) -> float:
    """Most that lies on the disk at a time: the merged model with the GGUF, its pruned copy, or what is written."""
    merged = export.merged_bytes_per_weight
    compared = 4.0 if quant == "f32" else 2.0
    return merged + max(max(compared, merged) * export.may_prune, BYTES_PER_WEIGHT[quant])
