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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bundle.bundle import verify_bundle
from edge_behavior.bundle.litert_file import write_litert
from edge_behavior.bundle.litert_graph import LiteRtGraph
from edge_behavior.bundle.litert_probe import LiteRtProbe
from edge_behavior.bundle.manifest import Manifest
from edge_behavior.errors import EdgebError
from edge_behavior.export.checks import check_logits, check_quantized_logits
from edge_behavior.export.context import Export, Model, check_profile, chosen_context, open_source
from edge_behavior.export.gguf.writer import write_gguf, write_vocabulary
from edge_behavior.export.litert.options import AUTO, NORMS, PRECISIONS, LiteRtOptions
from edge_behavior.export.litert.quantize import BLOCK
from edge_behavior.export.litert.worker import check_packages, convert_apart, quantize_apart
from edge_behavior.export.npu.options import NpuOptions
from edge_behavior.export.npu.pipeline import NpuExport, ScoredWindows
from edge_behavior.export.parity.gate import ParityError, ParityReport, parity_report
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.export.report import ExportReport
from edge_behavior.export.scratch import require_space, scratch_folder
from edge_behavior.export.source import ExportSource
from edge_behavior.hf.architectures import load_config
from edge_behavior.hf.tensors import head_dim
from edge_behavior.runtime.backends.litert import LiteRtBackend, LiteRtRunOptions
from edge_behavior.runtime.predictor import context_needed
from edge_behavior.util.cpus import physical_cores
from edge_behavior.util.files import check_file, put_file
from edge_behavior.util.progress import progress_bar

# Bytes per weight of an unquantized file at most.
_FLOAT_BYTES = 4.2
_NPU_FILE = "npu-float.tflite"
# The cache's length is a multiple of this, with one over this share of the longest prompt to spare, and at most so many
# slots for the label trie.
_SLOTS_STEP, _SPARE_SHARE, _MOST_NODES = 64, 8, 256


def export_litert(
    source: ExportSource,
    out: Path,
    options: LiteRtOptions,
    profile: ExportProfile | None = None,
    force: bool = False,
    npu: NpuOptions | None = None,
) -> ExportReport:
    """Write a verified bundle as one LiteRT file, and contexts for NPUs beside it where they are asked for.

    Args:
        source: What to export.
        out: The file to write.
        options: How to build the model.
        profile: What loss is accepted, and what is pruned and fitted; its `quant`, `importance` and `recover` are
            GGUF's.
        force: Replace an existing `out`.
        npu: What to compile beside it; None for nothing.

    Raises:
        ParityError: the predictions changed more than the profile accepts.
        NpuParityError: they did so on an NPU under emulation: then the bundle is written, the contexts are not.
        EdgebError: any user error named by the modules of this package; too little disk space; `out` exists or
            cannot be written. Nothing is left behind.
    """
    check_packages()
    profile = profile or ExportProfile()
    check_profile(profile, source)
    check_file(out, force)
    opened = open_source(source)
    unfit = _unfit(opened.config, options.quant)
    if unfit:
        raise EdgebError(f"--quant {options.quant}: {unfit}", "use q8")
    contexts = None
    if npu is not None:
        contexts = NpuExport(npu, out, force, options.quant, opened.parameters, profile.parity.enforce)
    with scratch_folder(out) as folder:
        export = Export(opened, profile, folder)
        more = 0.0 if contexts is None else contexts.bytes_per_weight
        require_space(folder, opened.parameters * (_bytes_per_weight(export, options) + more))
        export.begin(options.quant, lambda manifest: _most_positions(options, manifest))
        if options.context_length is None:
            export.manifest = replace(export.manifest, context_length=_cache_length(export))
        _announce(export)
        if contexts is not None and contexts.windows != 0:
            export.scores.draw_evenings(contexts.windows)
        model = _pruned(export, options)
        float_file, bundle = folder / "float.tflite", folder / "bundle.tflite"
        graph = _describe(model.folder, export, options)
        with export.timed("convert"), progress_bar("Converting to LiteRT", 1) as advance:
            convert_apart(model.folder, graph, float_file, options.norm)
            advance(1)
        if contexts is not None:
            with export.timed("convert_npu"), progress_bar("Converting for the NPU", 1) as advance:
                convert_apart(model.folder, contexts.graph_of(graph), folder / _NPU_FILE, "composite", embeddings=False)
                advance(1)
        writer = _Writer(export, graph, _vocabulary(model.folder, folder))
        shutil.rmtree(model.folder)
        with export.timed("compare"):
            writer.write(float_file, bundle)
            plain = _checked(bundle, export, model)
            bundle.unlink()
        with export.timed("quantize"):
            chosen = _quantized(writer, model, float_file, options, plain)
        export.accept(chosen.parity, PRECISIONS[chosen.quant])
        if contexts is not None:
            with export.timed("compile_npu"):
                _compile(contexts, folder)
        with export.timed("habits"):
            writer.write(chosen.file, bundle, chosen.probe)
            if export.fit(bundle):
                writer.write(chosen.file, bundle, chosen.probe)
        with export.timed("verify"):
            verify_bundle(bundle)
        report = export.report(out, bundle.stat().st_size, tensor_types=chosen.types)
        put_file(bundle, out, replace=force)
        if contexts is not None:
            evenings, trained = export.scores.evenings, export.scores.evening_scores
            windows = None
            if evenings is not None and trained is not None:
                windows = ScoredWindows(evenings, trained, profile.parity)
            with export.timed("emulate_npu"):
                found = contexts.finish(folder, windows)
            report = replace(report, npu=found, npu_folder=contexts.folder)
    return report


def _describe(model_dir: Path, export: Export, options: LiteRtOptions) -> LiteRtGraph:
    # Here, since it loads torch: what is refused at once is refused before.
    from edge_behavior.export.litert.graph import describe

    return describe(load_config(model_dir), options.sizes, options.first_sizes, export.manifest.context_length)


@dataclass(frozen=True)
class _Chosen:
    """The file to ship, its known rows, the weight format's name here, what the gate measured, its weights by type."""

    file: Path
    probe: LiteRtProbe
    quant: str
    parity: ParityReport
    types: dict[str, int]


@dataclass(frozen=True)
class _Writer:
    """Writes bundles of one export: what changes is the model's file, and the manifest."""

    export: Export
    graph: LiteRtGraph
    vocabulary: bytes

    def write(self, model: Path, bundle: Path, probe: LiteRtProbe | None = None) -> None:
        """Copy a file with manifest, tokenizer, the population's table and known rows behind it."""
        export, table = self.export, self.export.population.table
        with progress_bar("Writing", model.stat().st_size, unit_bytes=True) as advance:
            write_litert(model, self.vocabulary, export.manifest, self.graph, bundle, advance, table, probe)


def _compile(contexts: NpuExport, folder: Path) -> None:
    """Quantize what was converted for NPUs, and compile it."""
    model = plain = folder / _NPU_FILE
    if contexts.quant != "f16":
        model = folder / "npu.tflite"
        quantize_apart(plain, model, contexts.quant)
        plain.unlink()
    contexts.compile(model, folder)
    model.unlink()


def _announce(export: Export) -> None:
    """Tell the forecast what this format has ahead beside what all have."""
    scores, forecast = export.scores, export.forecast
    forecast.drop("prune")
    forecast.expect("convert", "llama", lambda: scores.tokens(int(scores.between.sum())))
    forecast.expect("quantize", "llama", lambda: scores.tokens(scores.expected))


def _pruned(export: Export, options: LiteRtOptions) -> Model:
    """The merged model, with a smaller vocabulary where that is wanted and changes nothing."""
    # Vocabularies are compared by GGUF files.
    plain_type = "f32" if options.quant == "f32" else "f16"
    model = export.merge(plain_type if export.may_prune else "f32")
    if export.may_prune:
        with export.timed("prune"):
            plain = export.folder / "plain.gguf"
            write_gguf(model.folder, plain, plain_type)
            model = export.prune(model, plain)
            plain.unlink(missing_ok=True)
    return model


def _most_positions(options: LiteRtOptions, manifest: Manifest) -> int:
    """Slots of the cache as the options say, or at most."""
    return chosen_context(manifest, options.context_length, context_needed(manifest))


def _cache_length(export: Export) -> int:
    """Slots for the longest of the prompts that are compared, an eighth more, and the label trie, or many nodes of it.

    Every slot costs time in every call; nodes that find none are evaluated in another pass.
    """
    scores, encoder = export.scores, export.opened.encoder
    longest = max(map(len, scores.samples.prompts(encoder)))
    needed = longest + longest // _SPARE_SHARE + min(len(encoder.trie.evaluated), _MOST_NODES)
    return min(-(-needed // _SLOTS_STEP) * _SLOTS_STEP, export.manifest.context_length)


def _unfit(config: Any, quant: str) -> str:
    """Why a model cannot have a weight format; "" if it can."""
    rows = (int(config.hidden_size), int(config.intermediate_size), int(config.num_attention_heads) * head_dim(config))
    if quant == "q4" and any(row % BLOCK for row in rows):
        return f"its rows of {', '.join(map(str, sorted(set(rows))))} weights are not all divisible by {BLOCK}"
    return ""


def _vocabulary(model_dir: Path, folder: Path) -> bytes:
    file = folder / "tokenizer.gguf"
    write_vocabulary(model_dir, file)
    content = file.read_bytes()
    file.unlink()
    return content


def _checked(bundle: Path, export: Export, model: Model) -> NDArray[np.float32]:
    """Refuse a converted file that tokenizes differently, or whose logits are not PyTorch's; its logits [T, V]."""
    with _cpu_backend(bundle, model) as backend:
        export.check_tokens(backend.tokenize, model)
        found = _logits(backend, model.probe.ids)
    export.logit_difference["convert"] = check_logits(model.probe, found, "LiteRT")
    export.score("convert", bundle)
    return found


def _quantized(
    writer: _Writer, model: Model, float_file: Path, options: LiteRtOptions, plain: NDArray[np.float32]
) -> _Chosen:
    """Quantize as the options say, and compare: one format, or the smallest within the limits.

    Args:
        writer: Writes the bundles to compare.
        model: The model that was converted.
        float_file: What it was converted to.
        options: What is tried.
        plain: Logits [T, V] of that file.

    Raises:
        ParityError: the profile enforces its limits and no format that is tried stays within them.
    """
    export = writer.export
    scores, settings = export.scores, export.profile.parity
    tried: dict[str, list[str]] = {}
    for quant in options.tried:
        unfit = _unfit(export.opened.config, quant)
        if unfit:
            tried[quant] = [unfit]
            continue
        file, bundle = float_file.with_name(f"{quant}.tflite"), float_file.with_name("trial.tflite")
        types = quantize_apart(float_file, file, quant)
        chosen = float_file if quant == "f32" else file
        writer.write(chosen, bundle)
        with _cpu_backend(bundle, model) as backend:
            found = _logits(backend, model.probe.ids)
        export.logit_difference["quantize"] = check_quantized_logits(model.probe, found, "quantized", "q8 or f32")
        export.score("quantize", bundle, last=True)
        bundle.unlink()
        report = parity_report(scores.by_stage, scores.samples, settings)
        if not report.exceeded or (options.quant != AUTO and not settings.enforce):
            probe = LiteRtProbe.measured(NORMS[options.norm], model.probe.ids, plain, found)
            return _Chosen(chosen, probe, quant, replace(report, tried=tried), types)
        tried[quant] = report.exceeded
        file.unlink(missing_ok=True)
    raise ParityError(PRECISIONS[quant], report)


def _logits(backend: LiteRtBackend, ids: list[int]) -> NDArray[np.float32]:
    """[T, V] after every id, which are evaluated one by one."""
    return np.stack([backend.prefill(ids[:end])[0].copy() for end in range(1, len(ids) + 1)])


@contextmanager
def _cpu_backend(bundle: Path, model: Model) -> Iterator[LiteRtBackend]:
    backend = LiteRtBackend(bundle, LiteRtRunOptions(n_ctx=len(model.probe.ids), threads=physical_cores()))
    try:
        yield backend
    finally:
        backend.close()


def _bytes_per_weight(export: Export, options: LiteRtOptions) -> float:
    """Most that lies on the disk at a time.

    The merged model with the GGUF to compare by, with its pruned copy, or with the unquantized file; or that file with
    its bundle, or with a quantized one and its bundle.
    """
    merged, plain = export.merged_bytes_per_weight, _FLOAT_BYTES
    compared = 4.0 if options.quant == "f32" else 2.0
    return max(merged + max(max(compared, merged) * export.may_prune, plain), 2 * plain)
