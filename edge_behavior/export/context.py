"""What every export shares, whatever its format: the source opened, merged, pruned, scored, fitted and reported.

A format is a pipeline over an `Export`, see `gguf.pipeline` and `onnx.pipeline`: it turns the model's folder into its
own files and checks them. Knows no format.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from edge_behavior import __version__
from edge_behavior.bundle.manifest import BaseModelInfo, Manifest
from edge_behavior.core.encoding import PromptEncoder, Tokenize
from edge_behavior.core.events import UNKNOWN_PLACE
from edge_behavior.core.license import License
from edge_behavior.errors import EdgebError
from edge_behavior.export.checks import check_tokens, prompt_segments
from edge_behavior.export.fits import Fits, check_fitting, fit_held_out
from edge_behavior.export.merge import MergeOptions, Probe, merge_adapter, merge_dtype
from edge_behavior.export.parity.gate import ParityError, ParityReport, parity_report
from edge_behavior.export.parity.samples import SampleSizes
from edge_behavior.export.parity.scores import REFERENCE, StageScores
from edge_behavior.export.population import ExportedPopulation, check_population, export_population
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.export.prune.check import PROMPTS, PruneRequest, Pruning, check_mode, decide_pruning
from edge_behavior.export.prune.vocabulary import write_pruned
from edge_behavior.export.report import ExportReport, ImportanceReport
from edge_behavior.export.source import ExportSource
from edge_behavior.hf.architectures import architecture, check_backbone, load_tokenizer
from edge_behavior.hf.find import backbone_name, find_backbone
from edge_behavior.hf.folder import count_parameters, weight_files
from edge_behavior.hf.license import read_license
from edge_behavior.hf.tokenizers import plain_encoder, special_ids
from edge_behavior.runtime.predictor import context_needed
from edge_behavior.util.checksums import files_sha256
from edge_behavior.util.progress import progress_bar
from edge_behavior.util.timebox import Forecast, TimeBudget

_PROBE_LENGTH = 48
# How long a token takes in PyTorch relative to llama.cpp, until both are measured (benchmarks/export_speed.py).
SECONDS_PER_TOKEN = {"torch": 1.8, "llama": 1.2, "vocabulary": 1.2}
# The forecast's name of comparing vocabularies.
_VOCABULARY = "vocabulary"


@dataclass(frozen=True)
class OpenedSource:
    """A source whose backbone is checked, its weights not read yet.

    Attributes:
        source: What is exported.
        config: The backbone's Transformers configuration.
        files: Its weight files.
        parameters: Number of weights.
        tokenizer: As Transformers loads it.
        encode: What training tokenizes with.
        encoder: The prompts of the run.
        probe_ids: A prompt to compare logits on.
        license: The backbone's; None where it states none.
    """

    source: ExportSource
    config: Any
    files: list[Path]
    parameters: int
    tokenizer: Any
    encode: Tokenize
    encoder: PromptEncoder
    probe_ids: list[int]
    license: License | None


@dataclass(frozen=True)
class Model:
    """The model at one point of an export.

    Attributes:
        folder: Its Hugging Face folder.
        probe: The logits that every file made of it must reproduce.
        encoder: Its prompts.
        encode: Its tokenizer.
    """

    folder: Path
    probe: Probe
    encoder: PromptEncoder
    encode: Tokenize


def check_profile(profile: ExportProfile, source: ExportSource) -> None:
    """Refuse unknown modes, and fits that are asked for without a dataset."""
    check_mode(profile.prune)
    check_fitting(profile.habits, "habits", source)
    check_fitting(profile.calibrate, "calibration", source)
    check_population(source, profile.population)


def open_source(source: ExportSource) -> OpenedSource:
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
    parameters, stated = count_parameters(files), read_license(backbone.folder)
    return OpenedSource(source, backbone.config, files, parameters, tokenizer, encode, encoder, probe_ids, stated)


class Export:
    """One export under way.

    In order: `begin`, `merge`, `prune`, the format's own files, `check_tokens`, `score`, `gate`, `fit`, `report`.

    Args:
        opened: What is exported.
        profile: How, and what loss is accepted.
        folder: Scratch folder; `merge` and `prune` write below it.

    Attributes:
        dtype: Precision of the merge: float32 where it fits into memory.
        may_prune: Whether pruning will be considered, so that an unquantized GGUF is needed.
        manifest: The bundle's, as far as it is known; from `begin` on.
        scores: Scores per stage; from `begin` on.
        pruning: What became of the vocabulary.
        logit_difference: Largest difference from PyTorch's logits, per step.
        seconds: Per step.
        forecast: The time budget and the time left.
        logit_scale: PyTorch's largest logit; from `merge` on.
        segments_checked: Texts tokenized like in training; from `check_tokens` on.
        parity: What the gate measured; from `accept` on.
        fits: What was fitted; from `fit` on.
        population: The population's table, if the bundle has one; from `begin` on.
    """

    manifest: Manifest
    scores: StageScores
    segments_checked: int
    logit_scale: float
    parity: ParityReport
    fits: Fits
    population: ExportedPopulation

    def __init__(self, opened: OpenedSource, profile: ExportProfile, folder: Path) -> None:
        self.opened, self.profile, self.folder = opened, profile, folder
        self.source = opened.source
        self.dtype = merge_dtype(opened.parameters)
        self.may_prune = profile.prune == "on" or (profile.prune == "auto" and self.source.places is not None)
        self.pruning = Pruning(profile.prune, None, "")
        self.logit_difference: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        seconds = None if profile.minutes is None else 60 * profile.minutes
        self.forecast = Forecast(TimeBudget(seconds), SECONDS_PER_TOKEN)

    @property
    def merged_bytes_per_weight(self) -> float:
        """Disk space of the merged folder."""
        return 4.0 if self.dtype == "float32" else 2.0

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Note how long the block takes."""
        start = time.perf_counter()
        yield
        self.seconds[step] = round(time.perf_counter() - start, 3)

    def begin(self, quantization: str, context_length: Callable[[Manifest], int] | None = None) -> None:
        """Hash the backbone, start the manifest and draw the windows to compare on.

        Args:
            quantization: The manifest's name of the weight format, as far as it is known.
            context_length: Positions to build for, from the manifest; the backbone's by default.

        Raises:
            EdgebError: a manifest that cannot be written, or no prompt fits the model.
        """
        with (
            self.timed("hash"),
            progress_bar("Hashing backbone", total_bytes(self.opened.files), unit_bytes=True) as advance,
        ):
            base_hash = files_sha256(self.opened.files, advance)
        source, encoder, config = self.source, self.opened.encoder, self.opened.config
        manifest = Manifest(
            created_with=f"edgeb {__version__}",
            candidates=source.candidates,
            layout=source.layout,
            bos_id=encoder.bos_id,
            eos_id=encoder.eos_id,
            architecture=architecture(config),
            quantization=quantization,
            context_length=int(config.max_position_embeddings),
            base_model=BaseModelInfo(backbone_name(source.base), self.opened.license, base_hash),
            training=source.training,
            evaluation=source.evaluation,
        )
        if context_length is not None:
            manifest = replace(manifest, context_length=context_length(manifest))
        with self.timed("population"):
            self.population = export_population(source, self.profile, source.candidates)
        manifest = replace(manifest, population=self.population.info)
        manifest.to_json()  # refuse what cannot be written before the long work
        self.manifest = manifest
        room = context_needed(manifest) - len(encoder.trie)
        sizes = SampleSizes.of(self.profile.parity, self.opened.parameters)
        self.scores = StageScores(source, encoder, sizes, room, self.forecast)
        self._announce()

    def _announce(self) -> None:
        """Tell the forecast what every format has ahead."""
        scores, profile, forecast = self.scores, self.profile, self.forecast

        def between() -> float:
            return scores.tokens(int(scores.between.sum()))

        forecast.expect(REFERENCE, "torch", lambda: scores.tokens(scores.expected))
        if self.source.adapter is not None:
            forecast.expect("merge", "torch", between)
        if self.may_prune:
            # Only a part of the trie is looked at.
            forecast.expect(_VOCABULARY, "vocabulary", lambda: PROMPTS * scores.prompt_tokens)
            forecast.expect("prune", "llama", between)
        if self.source.data is not None and (profile.habits, profile.calibrate) != ("off", "off"):
            # Here, since an export without a dataset needs no pyarrow.
            from edge_behavior.fit.mixture import HELD_OUT, STRETCH, windows_wanted

            windows = windows_wanted(len(self.source.candidates), self.opened.parameters)
            forecast.expect(HELD_OUT, "llama", lambda: scores.tokens(windows, STRETCH), fills=True)

    def merge(self, stored: str, on_merged: Callable[[Any], None] | None = None) -> Model:
        """Merge adapter and backbone, scoring the model before and after.

        Args:
            stored: "f32" or "f16": what the weights have to fit into later.
            on_merged: Called with the merged model in PyTorch.
        """
        source = self.source

        def observe(stage: str, model: Any) -> None:
            if stage == REFERENCE or source.adapter is not None:
                self.scores.score_torch(stage, model)
            if stage != REFERENCE and on_merged is not None:
                on_merged(model)

        folder = self.folder / "merged"
        options = MergeOptions(self.dtype, stored, source.revision, self.opened.probe_ids)
        with self.timed("merge"):
            probe = merge_adapter(source.base, source.adapter, folder, options, observe)
        self.logit_difference["merge"] = probe.difference
        self.logit_scale = float(np.abs(probe.logits).max())
        return Model(folder, probe, self.opened.encoder, self.opened.encode)

    def prune(self, model: Model, plain: Path) -> Model:
        """Decide on pruning the vocabulary; the pruned model, which takes the place of `model`, or `model` itself.

        Args:
            model: The merged model.
            plain: The model as an unquantized GGUF, which predictions are compared with; needed if `may_prune`.
        """
        source, opened = self.source, self.opened
        request = PruneRequest(
            self.profile.prune, self.profile.extra_tokens, source.places, source.data, source.data_note
        )
        with self.forecast.step(_VOCABULARY, "Comparing vocabularies", 1) as advance:
            self.pruning = decide_pruning(request, plain, opened.tokenizer, opened.config, opened.encoder)
            advance(1)
        plan = self.pruning.plan
        if plan is None:
            self.forecast.drop("prune")
            return model
        plain.unlink()
        folder = self.folder / "pruned"
        write_pruned(model.folder, plan, folder)
        shutil.rmtree(model.folder)
        encode, old = plain_encoder(load_tokenizer(folder)), model.encoder
        bos_id = None if old.bos_id is None else plan.new_ids([old.bos_id])[0]
        eos_id = plan.new_ids([old.eos_id])[0]
        layout = old.layout
        if layout.chat is not None:
            layout = replace(layout, chat=layout.chat.renumbered(plan.new_ids))
        self.manifest = replace(self.manifest, layout=layout, bos_id=bos_id, eos_id=eos_id, vocabulary=plan.summary())
        probe = Probe(plan.new_ids(model.probe.ids), model.probe.logits[:, plan.kept], model.probe.difference)
        return Model(folder, probe, PromptEncoder(encode, layout, old.candidates, bos_id, eos_id), encode)

    def score(self, stage: str, path: Path, last: bool = False) -> None:
        """Score a converted model on the windows to compare on: on all of them if it is the `last` one."""
        self.scores.score_bundle(stage, path, self.manifest, last)

    def check_tokens(self, tokenize: Tokenize, model: Model) -> None:
        """Refuse a written file that tokenizes a text of the domain differently from the model.

        Raises:
            EdgebError: naming the text and both ids.
        """
        segments = prompt_segments(self.source.layout, self.source.candidates, self.source.places or ())
        check_tokens(tokenize, model.encode, segments)
        self.segments_checked = len(segments)

    def gate(self, quantization: str) -> None:
        """Compare the stages scored so far and accept the last one; see `accept`."""
        self.accept(parity_report(self.scores.by_stage, self.scores.samples, self.profile.parity), quantization)

    def accept(self, parity: ParityReport, quantization: str) -> None:
        """Put what the gate measured, and the final name of the weight format, into the manifest.

        Raises:
            ParityError: the profile enforces its limits and the finished model exceeds them.
        """
        if parity.exceeded and self.profile.parity.enforce:
            raise ParityError(quantization, parity)
        self.parity = parity
        self.manifest = replace(self.manifest, quantization=quantization, parity=parity.to_dict())

    def fit(self, bundle: Path) -> bool:
        """Fit habits and calibration with the written bundle; whether its manifest has to be written again."""
        before = self.manifest
        self.fits = fit_held_out(bundle, before, self.source, self.profile, self.forecast)
        self.manifest = self.fits.manifest
        return self.manifest is not before

    def report(
        self,
        out: Path,
        size: int,
        tensor_types: Mapping[str, int] | None = None,
        operators: Mapping[str, int] | None = None,
        importance: ImportanceReport | None = None,
    ) -> ExportReport:
        """What was done; `size` is the bundle's in bytes, the rest see `ExportReport`."""
        return ExportReport(
            bundle=out,
            bytes=size,
            architecture=self.manifest.architecture,
            quantization=self.manifest.quantization,
            parameters=self.opened.parameters,
            pruning=self.pruning,
            population=self.population.report,
            habits=self.fits.habits,
            calibration=self.fits.calibration,
            balance=self.fits.balance,
            segments_checked=self.segments_checked,
            parity=self.parity,
            logit_difference=self.logit_difference,
            logit_scale=self.logit_scale,
            seconds=self.seconds,
            estimates=self.forecast.estimates,
            tensor_types=tensor_types,
            operators=operators,
            importance=importance,
        )


def chosen_context(manifest: Manifest, wanted: int | None, default: int) -> int:
    """Positions to build for: those that `--context-length` asks for, else the default.

    Raises:
        EdgebError: the backbone has fewer than are asked for.
    """
    most = manifest.context_length
    if wanted is not None and wanted > most:
        raise EdgebError(f"the backbone has {most} positions, --context-length asks for {wanted}", "ask for fewer")
    return wanted or default


def total_bytes(files: list[Path]) -> int:
    """Size of all files."""
    return sum(file.stat().st_size for file in files)
