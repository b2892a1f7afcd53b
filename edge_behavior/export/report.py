"""The report of a finished export: what `edgeb export --json` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_behavior.bundle.npu_folder import NpuFolder
from edge_behavior.export.fits import FitReport
from edge_behavior.export.parity.gate import ParityReport
from edge_behavior.export.prune.check import Pruning


@dataclass(frozen=True)
class ImportanceReport:
    """The importance matrix that the quantizer was given: how many prompts it was measured on, for how many tensors."""

    prompts: int
    tensors: int


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote and measured.

    Attributes:
        bundle: The file or folder.
        bytes: Its size.
        architecture: llama.cpp's name of the model's architecture.
        quantization: The engine's name of the weight format.
        tensor_types: How many tensors have each type, of a GGUF file.
        operators: How many operators of each kind hold weights, of an ONNX folder.
        parameters: Number of weights of the backbone.
        pruning: What became of the vocabulary.
        population: What became of the population's table.
        habits: What became of the fit of model and habits.
        calibration: What became of the fit of the probabilities.
        balance: What became of the fit of the balance between frequent and rare behaviors.
        segments_checked: Texts tokenized like in training.
        importance: The importance matrix; None for formats without one.
        npu: The contexts for NPUs beside the bundle; None where none were asked for.
        npu_folder: Where they are.
        parity: What the gate measured.
        logit_difference: Largest absolute difference from PyTorch's logits before merging, per step.
        logit_scale: The largest logit.
        seconds: Per step.
        estimates: (seconds since the start, seconds then expected in all), as steps went by.
    """

    bundle: Path
    bytes: int
    architecture: str
    quantization: str
    parameters: int
    pruning: Pruning
    population: FitReport
    habits: FitReport
    calibration: FitReport
    balance: FitReport
    segments_checked: int
    parity: ParityReport
    logit_difference: Mapping[str, float]
    logit_scale: float
    seconds: Mapping[str, float]
    estimates: Sequence[tuple[float, float]] = ()
    tensor_types: Mapping[str, int] | None = None
    operators: Mapping[str, int] | None = None
    importance: ImportanceReport | None = None
    npu: NpuFolder | None = None
    npu_folder: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """As `--json` has it; what the format does not have is left out."""
        weights = {"tensor_types": self.tensor_types, "operators": self.operators}
        return {
            "bundle": str(self.bundle),
            "bytes": self.bytes,
            "architecture": self.architecture,
            "quantization": self.quantization,
            **{name: dict(counts) for name, counts in weights.items() if counts is not None},
            "parameters": self.parameters,
            "pruning": self.pruning.to_dict(),
            "population": self.population.to_dict(),
            "habits": self.habits.to_dict(),
            "calibration": self.calibration.to_dict(),
            "balance": self.balance.to_dict(),
            "segments_checked": self.segments_checked,
            **({} if self.importance is None else {"importance": asdict(self.importance)}),
            "parity": self.parity.to_dict(),
            "logit_difference": dict(self.logit_difference),
            "logit_scale": self.logit_scale,
            "seconds": dict(self.seconds),
            "estimates": [list(pair) for pair in self.estimates],
            **({} if self.npu is None else {"npu": {"folder": str(self.npu_folder), **self.npu.summary()}}),
        }
