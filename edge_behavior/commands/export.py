"""`edgeb export` and `edgeb inspect`: make a bundle, look inside one."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edge_behavior.export.prune.check import Pruning
    from edge_behavior.export.source import ExportSource


_FORMATS = ("gguf", "litert", "onnx", "hf")


def export_command(
    run: Annotated[Path | None, typer.Argument(help="Run folder. Default: the last run.", show_default=False)] = None,
    quant: Annotated[
        str | None,
        typer.Option(
            help="Weight format: q4, q4_0, q5, q8, f16, f32, or auto: the smallest within the limits. "
            "LiteRT: q8, q4, f32, auto. ONNX: q4, q8, f16, f32. hf: f16, bf16, f32; default: the backbone's own. "
            "Default: the profile's.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[str, typer.Option("--format", help="gguf or litert (one file), onnx or hf (folders).")] = "gguf",
    out: Annotated[
        Path | None,
        typer.Option(help="Bundle to write. Default: RUN-QUANT.gguf, RUN-QUANT.tflite, RUN-QUANT-onnx or RUN-hf."),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            help="Export profile: a name from export/configs, or a YAML file. Default: default.", show_default=False
        ),
    ] = None,
    stage: Annotated[str, typer.Option(help="Weights of which stage: b_tuning, a_tuning or untuned.")] = "b_tuning",
    system: Annotated[
        str | None,
        typer.Option(
            help="RUN is a comparison (edgeb compare): which of its systems, like sasrec or tallrec.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="--system: the fit with which seed. Default: the first.", show_default=False)
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Dataset with the places and the users to measure and fit on. Default: the run's.", show_default=False
        ),
    ] = None,
    prune: Annotated[
        str | None,
        typer.Option(
            help="Drop unused tokens: auto (if predictions stay the same), on or off. Default: the profile's; hf: off.",
            show_default=False,
        ),
    ] = None,
    extra_tokens: Annotated[
        int | None, typer.Option(help="Everyday word pieces that pruning keeps.", show_default=False)
    ] = None,
    habits: Annotated[
        bool | None,
        typer.Option(help="Fit how model and habits mix. Default: if there is a dataset.", show_default=False),
    ] = None,
    population: Annotated[
        bool | None,
        typer.Option(
            help="Add a table of what people in general do, beneath the user's habits. Default: if there is a dataset.",
            show_default=False,
        ),
    ] = None,
    calibrate: Annotated[
        bool | None,
        typer.Option(help="Fit the probabilities' calibration. Default: if there is a dataset.", show_default=False),
    ] = None,
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="Write the bundle even if it exceeds the profile's limits.")
    ] = False,
    execution_provider: Annotated[
        str | None,
        typer.Option(help="ONNX: cpu, cuda, dml, webgpu, trt-rtx or qnn. Default: cpu.", show_default=False),
    ] = None,
    block_size: Annotated[
        int | None,
        typer.Option(help="ONNX: weights that share a scale, 16 to 256. Default: 32.", show_default=False),
    ] = None,
    accuracy_level: Annotated[
        int | None,
        typer.Option(
            help="ONNX: precision of activations, 1 (f32) to 4 (8-bit). Default: 4 on the CPU.", show_default=False
        ),
    ] = None,
    context_length: Annotated[
        int | None,
        typer.Option(
            help="ONNX and LiteRT: context length to build for, in tokens. Default: what prompts need; ONNX: at "
            "least 2048.",
            show_default=False,
        ),
    ] = None,
    npu: Annotated[
        str | None,
        typer.Option(
            help="LiteRT: chips to compile for as well, like sm8650,sm8750, or all; list shows them.",
            show_default=False,
        ),
    ] = None,
    npu_windows: Annotated[
        int | None,
        typer.Option(
            help="LiteRT: windows to compare under the NPU's emulator. Default: one user's evening, 5.",
            show_default=False,
        ),
    ] = None,
    npu_quant: Annotated[
        str | None,
        typer.Option(
            help="LiteRT: weights of the NPU's contexts, q8 or f16. Default: q8, or f16 with --quant f32.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at the output path.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")
    ] = False,
) -> None:
    """Merge, prune, convert, quantize: a run becomes one GGUF or LiteRT file, or an ONNX folder, for the phone.

    Stock llama.cpp and LiteRT load the files, stock onnxruntime-genai the folder; candidates, prompt layout and hashes
    are in the GGUF's `edgeb.*` metadata, or in an edgeb.json. `--format hf` leaves the merged model as an ordinary
    Hugging Face folder, for every other tool. After every step the predictions are compared with the trained model's on
    validation windows; beyond the profile's limits nothing is written and the exit code is 1.

        edgeb export runs/tiny --quant q4 --out tiny.gguf

        edgeb export runs/tiny --quant auto --profile smallest

        edgeb export runs/tiny --format litert --quant q8 --out tiny.tflite

        edgeb export runs/tiny --format litert --npu sm8650,sm8750 --out tiny.tflite

        edgeb export runs/tiny --format onnx --block-size 32 --accuracy-level 4 --out tiny-onnx

        edgeb export runs/tiny --format hf --out tiny-hf

        edgeb export comparison --system sasrec --out sasrec.gguf

        edgeb export comparison --system tallrec --quant q4 --out tallrec.gguf
    """
    from edge_behavior.commands.output import emit
    from edge_behavior.commands.shown.export_report import show_parity, show_report
    from edge_behavior.errors import EdgebError, nearest
    from edge_behavior.export.parity.gate import ParityError
    from edge_behavior.export.profiles import DEFAULT_PROFILE, load_profile
    from edge_behavior.export.run_source import run_source
    from edge_behavior.export.source import is_comparison
    from edge_behavior.util.workspace import recall, remember

    if npu == "list":
        emit_chips(as_json)
        return
    if format not in _FORMATS:
        raise EdgebError(f"unknown format '{format}'", nearest(format, _FORMATS))
    for flag, asked in (("npu", npu), ("npu-windows", npu_windows), ("npu-quant", npu_quant)):
        if format != "litert" and asked is not None:
            raise EdgebError(f"--{flag} is for LiteRT bundles", "add --format litert")
    flags = {
        "prune": prune,
        "extra_tokens": extra_tokens,
        "habits": _mode(habits),
        "calibrate": _mode(calibrate),
        "population": _mode(population),
        "parity.enforce": False if allow_loss else None,
    }
    onnx_flags = {
        "execution_provider": execution_provider,
        "block_size": block_size,
        "accuracy_level": accuracy_level,
        "context_length": context_length,
    }
    given = {name: value for name, value in onnx_flags.items() if value is not None}
    source: ExportSource
    try:
        run = (run or recall("run")).resolve()
        source_of, named = partial(run_source, run, stage, data), run
        compared = None
        if system is not None or seed is not None or is_comparison(run):
            from edge_behavior.export.comparison import compared_fit

            compared = compared_fit(run, system, seed)
            source_of, named = partial(compared.language_source, stage, data), run.with_name(f"{run.name}-{system}")
        if compared is not None and compared.is_sequence:
            unfit = {
                "format": format != "gguf",
                "profile": profile is not None,
                "stage": stage != "b_tuning",
                "prune": prune is not None,
                "extra_tokens": extra_tokens is not None,
                **dict.fromkeys(given, True),
            }
            refused = next((name for name, is_set in unfit.items() if is_set), None)
            if refused is not None:
                raise EdgebError(
                    f"--{refused.replace('_', '-')} is not for sequence models", "leave it out: --quant is f32 or f16"
                )
            from edge_behavior.export.sequence.pipeline import export_sequence
            from edge_behavior.export.sequence.source import sequence_source

            chosen = load_profile(flags=flags)
            sequence = sequence_source(compared.folder, data)
            source = sequence.common
            out = out or named.with_name(f"{named.name}.gguf")
            report = export_sequence(sequence, out, quant or "f32", chosen, force)
        elif format == "onnx":
            from edge_behavior.export.onnx.options import onnx_options
            from edge_behavior.export.onnx.pipeline import export_onnx

            chosen = load_profile(flags=flags)
            options = onnx_options(profile, given if quant is None else {"quant": quant, **given})
            out = out or named.with_name(f"{named.name}-{options.quant}-onnx")
            source = source_of()
            report = export_onnx(source, out, options, chosen, force)
        elif format == "litert" and given.keys() <= {"context_length"}:
            from edge_behavior.export.litert.options import litert_options
            from edge_behavior.export.litert.pipeline import export_litert
            from edge_behavior.export.npu.options import NpuOptions
            from edge_behavior.runtime.litert.package import quiet_exit

            quiet_exit()
            contexts = NpuOptions.parse(npu, npu_windows, npu_quant)
            chosen = load_profile(flags=flags)
            built = litert_options(profile, given if quant is None else {"quant": quant, **given})
            out = out or named.with_name(f"{named.name}-{built.quant}.tflite")
            source = source_of()
            report = export_litert(source, out, built, chosen, force, contexts)
        elif given:
            flag = next(iter(given))
            if flag == "context_length":
                raise EdgebError("--context-length is an option of ONNX and LiteRT", "add --format onnx or litert")
            raise EdgebError(f"--{flag.replace('_', '-')} is an ONNX option", "add --format onnx")
        elif format == "hf":
            from edge_behavior.export.hf.pipeline import export_hf

            if profile is not None:
                raise EdgebError("--format hf takes no profile", "leave --profile out: --quant and --prune are enough")
            chosen = load_profile(flags={**flags, "prune": prune or "off"})
            out = out or named.with_name(f"{named.name}-hf")
            source = source_of()
            report = export_hf(source, out, quant, chosen, force)
        else:
            from edge_behavior.export.gguf.pipeline import export_gguf

            chosen = load_profile(profile or DEFAULT_PROFILE, {"quant": quant, **flags})
            out = out or named.with_name(f"{named.name}-{chosen.quant}.gguf")
            source = source_of()
            report = export_gguf(source, out, chosen, force)
    except ParityError as error:
        show_parity(error.report.to_dict(), sys.stderr)
        raise
    remember("bundle", out)
    if source.data is not None and not source.own_data:
        from edge_behavior.evaluation.protocols import other_dataset_note

        typer.echo(f"edgeb: {other_dataset_note(source.data, run)}", err=True)
    note = _pruning_note(report.pruning)
    if note:
        typer.echo(f"edgeb: {note}", err=True)
    fits = ((report.habits, "habits are"), (report.calibration, "calibration is"), (report.balance, "balance is"))
    for fit, what in fits:
        if fit.mode == "auto" and not fit.fitted:
            typer.echo(f"edgeb: {what} not fitted: {fit.reason}", err=True)
    if report.population.mode == "auto" and not report.population.fitted:
        typer.echo(f"edgeb: no table of the population: {report.population.reason}", err=True)
    if report.parity.exceeded:
        typer.echo(f"edgeb: beyond the limits: {'; '.join(report.parity.exceeded)}", err=True)
    emit(report.to_dict(), as_json, lambda: show_report(report))


def emit_chips(as_json: bool) -> None:
    """What `--npu list` prints."""
    from edge_behavior.commands.output import emit
    from edge_behavior.commands.shown.npu import show_chips
    from edge_behavior.export.npu.options import chip_table

    emit(chip_table(), as_json, show_chips)


def inspect_command(
    bundle: Annotated[Path, typer.Argument(help="Bundle made by `edgeb export`.", show_default=False)],
    gbnf: Annotated[
        bool, typer.Option("--gbnf", help="Print a llama.cpp grammar of the candidates, as token ids.")
    ] = False,
    gbnf_text: Annotated[
        bool, typer.Option("--gbnf-text", help="The same as characters, for a llama.cpp older than 2026.")
    ] = False,
    terms: Annotated[
        bool, typer.Option("--license", help="Print the backbone's license: attribution and texts.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")
    ] = False,
) -> None:
    """Check a bundle's hashes and show its manifest, or its candidates as a grammar for llama.cpp.

    The contexts for NPUs beside a LiteRT file are checked and shown as well.

    Greedy sampling under the token grammar chooses as `masked` scoring does. Under the character grammar the sampler
    may spell a candidate with other tokens than training did, so its choice can differ.

        edgeb inspect tiny.gguf

        edgeb inspect tiny.gguf --gbnf > candidates.gbnf

        edgeb inspect tiny.gguf --license
    """
    import json

    from edge_behavior.bundle.bundle import require_gguf, verify_bundle
    from edge_behavior.bundle.npu_folder import find_contexts, npu_folder
    from edge_behavior.commands.output import emit
    from edge_behavior.commands.shown.manifest import license_text, show_manifest
    from edge_behavior.commands.shown.npu import show_contexts
    from edge_behavior.errors import EdgebError

    if sum((gbnf, gbnf_text, terms)) > 1:
        raise EdgebError("--gbnf, --gbnf-text and --license exclude each other", "pass one of them")
    manifest = verify_bundle(bundle)
    if gbnf or gbnf_text:
        require_gguf(bundle, "grammars are llama.cpp's")
        from edge_behavior.export.gguf.grammar import bundle_grammar

        grammar = bundle_grammar(bundle, manifest, characters=gbnf_text)
        spelled = [manifest.candidates.labels[i] for i in grammar.spelled]
        emit({"gbnf": grammar.text, "spelled": spelled}, as_json, lambda: typer.echo(grammar.text, nl=False))
        return
    if terms:
        stated = manifest.base_model.license
        document = {"license": None if stated is None else stated.to_dict()}
        emit(document, as_json, lambda: typer.echo(license_text(stated)))
        return
    document = json.loads(manifest.to_json())
    contexts = find_contexts(bundle, manifest.tensors_sha256)
    if contexts is not None:
        document["npu"] = contexts.summary()

    def show(shown: dict[str, Any]) -> None:
        shown.pop("npu", None)
        show_manifest(shown, manifest.base_model)
        if contexts is not None:
            show_contexts(contexts, npu_folder(bundle))

    emit(document, as_json, show)


def _mode(wanted: bool | None) -> str | None:
    return None if wanted is None else "on" if wanted else "off"


def _pruning_note(pruning: Pruning) -> str:
    """Why pruning was not done, or what speaks against it; empty if it was switched off or went well."""
    if pruning.mode == "off" or not pruning.reason:
        return ""
    done = "vocabulary not pruned:" if pruning.plan is None else "vocabulary pruned, but"
    return f"{done} {pruning.reason}"
