"""Export to GGUF: merge, convert, prune, quantize, compare, write the bundle, verify it, put it in place.

Every intermediate file lies in a scratch folder beside the output, which is removed whatever happens; the bundle
appears under its name only once it has been verified.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bundle.bundle import verify_bundle
from edge_behavior.bundle.gguf_file import write_bundle
from edge_behavior.bundle.gguf_header import GgufFile
from edge_behavior.export.checks import check_logits, check_quantized_logits
from edge_behavior.export.context import Export, Model, check_profile, open_source
from edge_behavior.export.gguf.format_search import AUTO, QUANTIZE, Unquantized, quantize_within
from edge_behavior.export.gguf.importance import IMPORTANCE_SEED, importance, importance_sequences
from edge_behavior.export.gguf.quantize import UNQUANTIZED, find_quant, tensor_types
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.export.parity.samples import SampleSizes
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.export.report import ExportReport, ImportanceReport
from edge_behavior.export.scratch import require_space, scratch_folder
from edge_behavior.export.source import ExportSource
from edge_behavior.hf.architectures import tensor_names
from edge_behavior.runtime.llama.context import logits
from edge_behavior.runtime.llama.model import LlamaModel
from edge_behavior.util.files import check_file, put_file
from edge_behavior.util.progress import progress_bar


def export_gguf(
    source: ExportSource, out: Path, profile: ExportProfile | None = None, force: bool = False
) -> ExportReport:
    """Write a verified bundle as one GGUF file.

    Args:
        source: What to export.
        out: The file to write.
        profile: How, and what loss is accepted; None for the defaults.
        force: Replace an existing `out`.

    Raises:
        ParityError: the predictions changed more than the profile accepts.
        EdgebError: any user error named by the modules of this package; too little disk space; `out` exists or
            cannot be written. Nothing is left behind.
    """
    profile = profile or ExportProfile()
    quantization = AUTO if profile.quant == AUTO else find_quant(profile.quant).name
    check_profile(profile, source)
    check_file(out, force)
    opened = open_source(source)
    precision = profile.quant if profile.quant in UNQUANTIZED else "f16"
    with scratch_folder(out) as folder:
        export = Export(opened, profile, folder)
        require_space(folder, opened.parameters * _bytes_per_weight(export, precision))
        export.begin(quantization)
        _announce(export)
        matrix = _ImportanceMatrix(export)
        model = export.merge(precision, matrix.measure)
        plain, bundle = folder / "plain.gguf", folder / "bundle.gguf"
        with export.timed("convert"):
            write_gguf(model.folder, plain, precision, export.manifest.base_model)
            export.score("convert", plain)
            export.logit_difference["convert"] = _converted_difference(plain, model)
        with export.timed("prune"):
            model = export.prune(model, plain)
            if export.pruning.plan is not None:
                write_gguf(model.folder, plain, precision, export.manifest.base_model)
                export.logit_difference["prune"] = _converted_difference(plain, model)
                export.score("prune", plain)
        shutil.rmtree(model.folder, ignore_errors=True)
        with export.timed("quantize"):
            quantized = quantize_within(
                Unquantized(plain, export.manifest, export.scores, matrix.rows), folder, profile
            )
            export.accept(quantized.parity, find_quant(quantized.quant).name)
        with export.timed("write"):
            _write(quantized.path, export, bundle)
        quantized.path.unlink()
        plain.unlink(missing_ok=True)
        with export.timed("verify"):
            verify_bundle(bundle)
            with LlamaModel(bundle) as file:
                export.check_tokens(file.tokenize, model)
                found = logits(file, model.probe.ids)
            export.logit_difference["quantize"] = check_quantized_logits(
                model.probe, found, "quantized", finer="q8 or f16"
            )
        with export.timed("habits"):
            if export.fit(bundle):
                rewritten = folder / "rewritten.gguf"
                _write(bundle, export, rewritten)
                verify_bundle(rewritten)
                os.replace(rewritten, bundle)
        report = export.report(
            out,
            bundle.stat().st_size,
            tensor_types=tensor_types(bundle),
            importance=ImportanceReport(matrix.prompts, len(matrix.rows)),
        )
        put_file(bundle, out, replace=force)
    return report


def _announce(export: Export) -> None:
    """Tell the forecast what this format has ahead beside what all have."""
    scores, forecast, profile = export.scores, export.forecast, export.profile
    forecast.expect("convert", "llama", lambda: scores.tokens(int(scores.between.sum())))
    if profile.quant not in UNQUANTIZED:
        forecast.expect("importance", "torch", lambda: scores.prompt_tokens * profile.importance.prompts)
        forecast.expect(QUANTIZE, "llama", lambda: scores.tokens(scores.expected))


class _ImportanceMatrix:
    """What the quantizer is told about the weights: measured on the merged model, with prompts of training users.

    Attributes:
        prompts: How many prompts; 0 where nothing is rounded.
        rows: [columns] per GGUF tensor name; from `measure` on.
    """

    def __init__(self, export: Export) -> None:
        profile = export.profile
        self._export = export
        self.prompts = 0 if profile.quant in UNQUANTIZED else profile.importance.prompts
        self.rows: dict[str, NDArray[np.float32]] = {}

    def measure(self, model: Any) -> None:
        """Evaluate the prompts with the model in PyTorch."""
        if not self.prompts:
            return
        scores, encoder = self._export.scores, self._export.opened.encoder
        with self._export.forecast.step("importance", "Measuring importance", self.prompts) as advance:
            samples = scores.draw(SampleSizes(self.prompts, 0), "train", IMPORTANCE_SEED)
            sequences = importance_sequences(encoder, samples)[: self.prompts]
            names = tensor_names(self._export.opened.config)
            self.rows = importance(model, names, sequences, len(encoder.static_ids), advance)


def _write(file: Path, export: Export, bundle: Path) -> None:
    """Copy a GGUF file with the manifest and the population's table in it."""
    with GgufFile(file) as opened:
        data = opened.size - opened.tensor_table().data_start
    with progress_bar("Writing", 2 * data, unit_bytes=True) as advance:
        write_bundle(file, export.manifest, bundle, advance, export.population.table)


def _bytes_per_weight(export: Export, precision: str) -> float:
    """Most that lies on the disk at a time.

    The merged or pruned model with the unquantized file, or that file with a quantized one and either another try or
    the bundle.
    """
    merged, plain = export.merged_bytes_per_weight, UNQUANTIZED[precision]
    quant = export.profile.quant
    each = find_quant("q8" if quant == AUTO else quant).bytes_per_weight
    return max(merged + plain, 2 * merged * export.may_prune, plain + 2 * each)


def _converted_difference(plain: Path, model: Model) -> float:
    with LlamaModel(plain) as file:
        return check_logits(model.probe, logits(file, model.probe.ids), "converted")
