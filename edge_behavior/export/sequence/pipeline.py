"""Export a sequence model: write, check against PyTorch, fit, verify, put in place.

The bundle is one GGUF file (`bundle.sequence_file`) with the manifest, habits, population, calibration and balance of
any other; they are fitted by the same code, on what the bundle itself says.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_behavior import __version__
from edge_behavior.baselines.sequence.fitting import FittedSequence, WindowRows
from edge_behavior.baselines.sequence.kept import load_network
from edge_behavior.bundle.bundle import verify_bundle
from edge_behavior.bundle.gguf_file import write_bundle
from edge_behavior.bundle.manifest import Manifest
from edge_behavior.bundle.sequence_file import SequenceShape, read_sequence
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.core.population import PopulationTable
from edge_behavior.core.scoring import Floats
from edge_behavior.data.dataset import EventTable
from edge_behavior.errors import EdgebError, nearest
from edge_behavior.export.checks import check_tokens, prompt_segments
from edge_behavior.export.context import SECONDS_PER_TOKEN, check_profile
from edge_behavior.export.fits import fit_held_out
from edge_behavior.export.gguf.quantize import tensor_types
from edge_behavior.export.parity.gate import ParityError, parity_report
from edge_behavior.export.parity.samples import Samples, SampleSizes, draw_samples
from edge_behavior.export.parity.scores import REFERENCE, score_bundle
from edge_behavior.export.population import export_population
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.export.prune.check import Pruning
from edge_behavior.export.report import ExportReport
from edge_behavior.export.scratch import scratch_folder
from edge_behavior.export.sequence.source import SequenceSource
from edge_behavior.export.sequence.writer import DTYPES, base_model, place_hashes, shape_of, write_sequence
from edge_behavior.runtime.backends.sequence import SequenceBackend, capacity
from edge_behavior.runtime.sequence.tokens import EventTokens
from edge_behavior.util.files import check_file, put_file
from edge_behavior.util.progress import progress_bar
from edge_behavior.util.timebox import Forecast, TimeBudget

STAGE = "convert"
# How far float32 in PyTorch may be from float64 here, as a share of the largest log-probability.
_ROUNDING = 1e-4


def export_sequence(
    source: SequenceSource, out: Path, quant: str = "f32", profile: ExportProfile | None = None, force: bool = False
) -> ExportReport:
    """Write a verified bundle of a sequence model.

    Args:
        source: What to export.
        out: The file to write.
        quant: f32 or f16.
        profile: What loss is accepted and what is fitted; what it says of language models is not read.
        force: Replace an existing `out`.

    Raises:
        ParityError: the predictions changed more than the profile accepts.
        EdgebError: any user error named by the modules of this package; another weight format; `out` exists or cannot
            be written. Nothing is left behind.
    """
    profile = profile or ExportProfile()
    if quant not in DTYPES:
        raise EdgebError(f"a sequence model has no weight format '{quant}'", nearest(quant, DTYPES))
    common, seconds = source.common, dict[str, float]()
    check_profile(profile, common)
    check_file(out, force)
    forecast = Forecast(TimeBudget(None if profile.minutes is None else 60 * profile.minutes), SECONDS_PER_TOKEN)
    fitted = _fitted(source)
    shape = shape_of(source.model)
    with scratch_folder(out) as folder:
        plain, bundle = folder / "plain.gguf", folder / "bundle.gguf"
        with _timed(seconds, "population"):
            population = export_population(common, profile, common.candidates)
        manifest = replace(_manifest(source, shape, quant), population=population.info)
        with _timed(seconds, "convert"):
            weights = {name: held.float().numpy() for name, held in fitted.model.state_dict().items()}
            write_sequence(source.model, weights, plain, quant)
            write_bundle(plain, manifest, bundle, population=population.table)
            checked = _check(bundle, source)
        with _timed(seconds, "parity"):
            samples = draw_samples(common, SampleSizes.of(profile.parity, shape.parameters))
            expected = _reference(fitted, samples)
            with progress_bar("Scoring (convert)", len(samples)) as advance:
                found = score_bundle(bundle, manifest, samples, advance)
            difference = float(np.abs(expected - found).max())
            if quant == "f32" and not difference <= _ROUNDING * max(1.0, float(np.abs(expected).max())):
                raise EdgebError(
                    f"the exported model's log-probabilities differ by {difference:.3g} from PyTorch's",
                    "report this with the comparison's folder of the model",
                )
            parity = parity_report({REFERENCE: expected, STAGE: found}, samples, profile.parity)
            if parity.exceeded and profile.parity.enforce:
                raise ParityError(quant, parity)
        manifest = _rewritten(bundle, replace(manifest, parity=parity.to_dict()), population.table)
        with _timed(seconds, "habits"):
            fits = fit_held_out(bundle, manifest, common, profile, forecast)
            if fits.manifest is not manifest:
                _rewritten(bundle, fits.manifest, population.table)
        report = ExportReport(
            bundle=out,
            bytes=bundle.stat().st_size,
            architecture=manifest.architecture,
            quantization=manifest.quantization,
            parameters=shape.parameters,
            pruning=Pruning("off", None, ""),
            population=population.report,
            habits=fits.habits,
            calibration=fits.calibration,
            balance=fits.balance,
            segments_checked=checked,
            parity=parity,
            logit_difference={STAGE: difference},
            logit_scale=float(np.abs(expected).max()),
            seconds=seconds,
            estimates=forecast.estimates,
            tensor_types=tensor_types(bundle),
        )
        put_file(bundle, out, replace=force)
    return report


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = round(time.perf_counter() - start, 3)


def _fitted(source: SequenceSource) -> FittedSequence:
    model = source.model
    rows = WindowRows(model.architecture, model.config, model.length, len(model.log.candidates))
    return FittedSequence(load_network(source.folder, model), rows, model.vocabulary, model.log, model.origin)


def _manifest(source: SequenceSource, shape: SequenceShape, quant: str) -> Manifest:
    common, tokens = source.common, _tokens(source, shape)
    return Manifest(
        created_with=f"edgeb {__version__}",
        candidates=common.candidates,
        layout=common.layout,
        bos_id=tokens.start,
        # Not used: a label is one token, and nothing ends it.
        eos_id=tokens.start,
        architecture=shape.architecture,
        quantization=quant.upper(),
        context_length=capacity(tokens, shape.length),
        base_model=base_model(source.model),
        training={**common.training, "parameters": shape.parameters},
        evaluation=common.evaluation,
    )


def _tokens(source: SequenceSource, shape: SequenceShape) -> EventTokens:
    return EventTokens(shape, source.common.candidates.labels, place_hashes(source.model))


def _check(bundle: Path, source: SequenceSource) -> int:
    """Verify the file, and compare its numbers of every text of the domain with those of training; how many."""
    verify_bundle(bundle)
    layout, candidates = source.common.layout, source.common.candidates
    segments = prompt_segments(layout, candidates, source.common.places or ())
    backend = SequenceBackend(bundle)
    try:
        check_tokens(backend.tokenize, _tokens(source, read_sequence(bundle).shape).encode, segments)
    finally:
        backend.close()
    return len(segments)


def _reference(fitted: FittedSequence, samples: Samples) -> Floats:
    """[n, B] log-probabilities by PyTorch, from rows as training makes them: every window is a user of its own."""
    candidates, events = fitted.log.candidates, list[BehaviorEvent]()
    for window in samples.windows:
        # What happened is not known to a window, and no row shows it.
        events += [*window.history, BehaviorEvent(window.place, window.when, candidates.labels[0])]
    offsets = np.cumsum([0, *(len(window.history) + 1 for window in samples.windows)])
    places = list(dict.fromkeys(event.place for event in events))
    table = EventTable(
        user_offsets=offsets.astype(np.int64),
        time=np.array([event.time for event in events], dtype="datetime64[s]"),
        place=np.array([places.index(event.place) for event in events], dtype=np.int32),
        behavior=np.array([candidates.code(event.behavior) for event in events], dtype=np.int32),
        places=places,
        candidates=candidates,
    )
    return fitted.log_probs(table, (offsets[1:] - 1).astype(np.int64))


def _rewritten(bundle: Path, manifest: Manifest, population: PopulationTable | None) -> Manifest:
    """Exchange the manifest of a bundle; the manifest as written."""
    rewritten = bundle.with_name("rewritten.gguf")
    written = write_bundle(bundle, manifest, rewritten, population=population)
    verify_bundle(rewritten)
    os.replace(rewritten, bundle)
    return written
