"""The parity gate of an NPU: the task's own windows through the compiled binary, under emulation.

A window takes minutes, so that few are compared: KL and the largest difference of a label decide; flips are told only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_behavior.bundle.litert_file import read_litert, read_litert_probe
from edge_behavior.bundle.npu_chips import Chip
from edge_behavior.core.scoring import Floats, log_softmax
from edge_behavior.errors import GateError
from edge_behavior.export.parity.gate import Difference
from edge_behavior.export.parity.samples import Samples
from edge_behavior.runtime.accelerator import NPU_EMULATED
from edge_behavior.runtime.backends.litert import LiteRtBackend, LiteRtRunOptions
from edge_behavior.runtime.predictor import context_needed
from edge_behavior.runtime.ranker import Ranker

# Weights are the CPU bundle's and activations finer than its: a label may be further from float32 than the CPU's
# furthest by so many nats at most.
MARGIN = 0.5
# Of known rows, as of those for other accelerators: what was seen twice over, and a floor, nats.
_FACTOR, _FLOOR = 2.0, 0.01
_DIGITS = 6


@dataclass(frozen=True)
class NpuParity:
    """What was measured of one context.

    Attributes:
        windows: How many windows.
        reference: Its labels against the model in PyTorch before merging.
        cpu: Against the bundle on the CPU.
        cpu_reference: The bundle on the CPU against the model in PyTorch, on the same windows.
        calls: Calls of the NPU in all.
        known_rows_tolerance: How far the NPU may be from the bundle's known rows, nats.
    """

    windows: int
    reference: Difference
    cpu: Difference
    cpu_reference: Difference
    calls: int
    known_rows_tolerance: float

    def to_dict(self) -> dict[str, Any]:
        """As `npu.json` has it."""
        return asdict(self)

    def exceeded(self, max_kl: float) -> list[str]:
        """What is beyond the limits, in words."""
        found, limit = [], self.cpu_reference.max_log_prob + MARGIN
        # Written so that what is no number is beyond them.
        if not self.reference.mean_kl <= max_kl:
            found.append(f"KL {self.reference.mean_kl:.2g} (limit {max_kl:.2g})")
        if not self.reference.max_log_prob <= limit:
            found.append(f"a label is off by {self.reference.max_log_prob:.2g} nats (limit {limit:.2g})")
        return found


class NpuParityError(GateError):
    """A context is too far from the trained model under emulation."""

    def __init__(self, chip: Chip, bundle: Path, exceeded: list[str]) -> None:
        super().__init__(
            f"the NPU of {chip.name} changes the predictions: {'; '.join(exceeded)}",
            f"{bundle} is written, for CPUs; export with another --quant, or accept it with --allow-loss",
        )


def measure(
    bundle: Path,
    folder: Path,
    chip: Chip,
    samples: Samples,
    rows: Mapping[str, Floats],
    advance: Callable[[float], None],
) -> NpuParity:
    """Compare a context under emulation with the trained model and with its bundle on the CPU.

    Args:
        bundle: The bundle.
        folder: Its contexts.
        chip: Whose context.
        samples: The windows.
        rows: [n, B] log-probabilities among the candidates on these windows: "reference" and "cpu".
        advance: Called after each window.

    Raises:
        EmulatorError: the emulator does not take the context.
        EdgebError: see `LiteRtBackend`.
    """
    manifest, probe = read_litert(bundle).manifest, read_litert_probe(bundle)
    assert probe is not None
    options = LiteRtRunOptions(context_needed(manifest), 1, NPU_EMULATED, folder, chip)
    backend = LiteRtBackend(bundle, options)
    try:
        off = backend.known_rows_difference(probe)
        before = backend.calls
        ranker = Ranker(manifest, backend)
        prompts = samples.prompts(ranker.encoder)
        found = np.empty((len(samples), len(samples.labels)))
        # So that a shared prefix is evaluated once.
        for i in sorted(range(len(prompts)), key=prompts.__getitem__):
            with ranker.turn():
                found[i] = log_softmax(ranker.log_probs(prompts[i], "exact"))
            advance(1)
        calls = backend.calls - before
    finally:
        backend.close()
    return NpuParity(
        windows=len(samples),
        reference=Difference.between(rows["reference"], found),
        cpu=Difference.between(rows["cpu"], found),
        cpu_reference=Difference.between(rows["reference"], rows["cpu"]),
        calls=calls,
        known_rows_tolerance=round(_FLOOR + _FACTOR * off, _DIGITS),
    )
