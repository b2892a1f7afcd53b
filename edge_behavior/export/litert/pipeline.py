"""Export to LiteRT: merge, prune, convert, quantize, compare, write the bundle, verify it, put it in place.

Every intermediate file lies in a scratch folder beside the output, which is removed whatever happens; the bundle
appears under its name only once it has been verified. Checks run on the CPU.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from edge_behavior.bundle.bundle import verify_bundle
from edge_behavior.bundle.litert_file import write_litert
from edge_behavior.bundle.litert_graph import LiteRtGraph
from edge_behavior.bundle.manifest import Manifest
from edge_behavior.errors import EdgebError
from edge_behavior.export.checks import check_logits, check_quantized_logits
from edge_behavior.export.context import Export, Model, check_profile, open_source
from edge_behavior.export.gguf.writer import write_gguf, write_vocabulary
from edge_behavior.export.litert.graph import describe
from edge_behavior.export.litert.options import AUTO, PRECISIONS, LiteRtOptions
from edge_behavior.export.litert.worker import check_packages, convert_apart, quantize_apart
from edge_behavior.export.parity.gate import ParityError, ParityReport, parity_report
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.export.report import ExportReport
from edge_behavior.export.scratch import require_space, scratch_folder
from edge_behavior.export.source import ExportSource
from edge_behavior.hf.architectures import load_config
from edge_behavior.runtime.backends.litert import LiteRtBackend, LiteRtRunOptions
from edge_behavior.runtime.predictor import context_needed
from edge_behavior.util.files import check_file, put_file
from edge_behavior.util.progress import progress_bar

# Bytes per weight of a quantized file at most.
_BYTES_PER_WEIGHT = {"q4": 1.2, "q8": 1.2, "f32": 4.2}


def export_litert(
    source: ExportSource,
    out: Path,
    options: LiteRtOptions,
    profile: ExportProfile | None = None,
    force: bool = False,
) -> ExportReport:
    """Write a verified bundle as one LiteRT file.

    Args:
        source: What to export.
        out: The file to write.
        options: How to build the model.
        profile: What loss is accepted, and what is pruned and fitted; its `quant`, `importance` and `recover` are
            GGUF's.
        force: Replace an existing `out`.

    Raises:
        ParityError: the predictions changed more than the profile accepts.
        EdgebError: any user error named by the modules of this package; too little disk space; `out` exists or
            cannot be written. Nothing is left behind.
    """
    check_packages()
    profile = profile or ExportProfile()
    check_profile(profile, source)
    check_file(out, force)
    opened = open_source(source)
    with scratch_folder(out) as folder:
        export = Export(opened, profile, folder)
        require_space(folder, opened.parameters * _bytes_per_weight(export, options))
        export.begin(options.quant, lambda manifest: _context_length(options, manifest))
        _announce(export)
        model = _pruned(export, options)
        float_file, bundle = folder / "float.tflite", folder / "bundle.tflite"
        config = load_config(model.folder)
        graph = describe(config, options.sizes, options.fill_sizes, export.manifest.context_length)
        with export.timed("convert"), progress_bar("Converting to LiteRT", 1) as advance:
            convert_apart(model.folder, graph, float_file)
            advance(1)
        writer = _Writer(export, graph, _vocabulary(model.folder, folder))
        shutil.rmtree(model.folder)
        with export.timed("compare"):
            writer.write(float_file, bundle)
            export.logit_difference["convert"] = _checked(bundle, export, model)
        chosen = _quantized(writer, float_file, bundle, options)
        export.accept(chosen.parity, PRECISIONS[chosen.quant])
        with export.timed("habits"):
            writer.write(chosen.file, bundle)
            if export.fit(bundle):
                writer.write(chosen.file, bundle)
        with export.timed("verify"):
            verify_bundle(bundle)
        report = export.report(out, bundle.stat().st_size, tensor_types=chosen.types)
        put_file(bundle, out, replace=force)
    return report
