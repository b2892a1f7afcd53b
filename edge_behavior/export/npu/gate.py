"""The parity gate of an NPU: the task's own windows through the compiled binary, under emulation.

A window takes minutes, so that few are compared, evening by evening, the cache kept from event to event. KL and the
largest difference of a label decide; flips are told only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from edge_behavior.runtime.backends.base import reusable
from edge_behavior.runtime.backends.litert import LiteRtBackend, LiteRtRunOptions
from edge_behavior.runtime.npu.signatures import NpuRunOptions
from edge_behavior.runtime.predictor import context_needed
from edge_behavior.runtime.ranker import Ranker
from edge_behavior.util.cpus import physical_cores

# Weights are the CPU bundle's and activations finer than its: a label may be further from float32 than the CPU's
# furthest by so many nats at most.
MARGIN = 0.5
# Of known rows, as of those for other accelerators: what was seen twice over, and a floor, nats.
_FACTOR, _FLOOR = 2.0, 0.01
_DIGITS = 6


@dataclass(frozen=True)
class Expected:
    """What a context is compared with.

    Attributes:
        samples: n windows, as a session sees them: each prompt begins with most of the one before.
        trained: [n, B] log-probabilities among the candidates by the model in PyTorch before merging.
        cpu: [n, B] by the bundle on the CPU.
        calls: About how many calls of the NPU the windows and the bundle's known rows take.
    """

    samples: Samples
    trained: Floats
    cpu: Floats
    calls: int

    @classmethod
    def by_bundle(cls, bundle: Path, samples: Samples, trained: Floats, size: int) -> Expected:
        """Score the windows by the bundle on the CPU.

        Args:
            bundle: The bundle.
            samples: The windows.
            trained: See the class.
            size: New tokens per call of the NPU.
        """
        manifest, probe = read_litert(bundle).manifest, read_litert_probe(bundle)
        assert probe is not None
        rows_at_once = min(size, -(-len(probe.ids) // 2))
        backend = LiteRtBackend(bundle, LiteRtRunOptions(context_needed(manifest), physical_cores()))
        try:
            ranker = Ranker(manifest, backend)
            rows = session_rows(ranker, samples)
            calls = planned_calls(samples.prompts(ranker.encoder), len(ranker.encoder.trie.evaluated), size)
            calls += -(-len(probe.ids) // rows_at_once)
        finally:
            backend.close()
        return cls(samples, trained, rows, calls)


@dataclass(frozen=True)
class NpuParity:
    """What was measured of one context.

    Attributes:
        windows: How many windows.
        reference: Its labels against the model in PyTorch before merging.
        cpu: Against the bundle on the CPU.
        cpu_reference: The bundle on the CPU against the model in PyTorch, on the same windows.
        calls: Calls of the NPU in all.
        tokens: Tokens that they evaluated.
        known_rows_tolerance: How far the NPU may be from the bundle's known rows, nats.
    """

    windows: int
    reference: Difference
    cpu: Difference
    cpu_reference: Difference
    calls: int
    tokens: int
    known_rows_tolerance: float

    @classmethod
    def of(cls, expected: Expected, found: Floats, calls: int, tokens: int, off: float) -> NpuParity:
        """From log-probabilities among the candidates.

        Args:
            expected: What they are compared with.
            found: [n, B] by the context.
            calls: See the class.
            tokens: See the class.
            off: How far the bundle's known rows are from the context's at most, nats.
        """
        return cls(
            windows=len(found),
            reference=Difference.between(expected.trained, found),
            cpu=Difference.between(expected.cpu, found),
            cpu_reference=Difference.between(expected.trained, expected.cpu),
            calls=calls,
            tokens=tokens,
            known_rows_tolerance=round(_FLOOR + _FACTOR * off, _DIGITS),
        )

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


def session_rows(ranker: Ranker, samples: Samples) -> Floats:
    """[n, B] log-probabilities among the candidates, window by window, the cache kept from each to the next."""
    found = np.empty((len(samples), len(samples.labels)))
    for i, prompt in enumerate(samples.prompts(ranker.encoder)):
        with ranker.turn():
            found[i] = log_softmax(ranker.log_probs(prompt, "exact"))
    return found


def planned_calls(prompts: Sequence[Sequence[int]], nodes: int, size: int) -> int:
    """Calls for some prompts in turn, the cache kept, with every label after each, where all of them fit the cache.

    Args:
        prompts: Token ids.
        nodes: Nodes of the label trie that are evaluated.
        size: New tokens per call.
    """
    calls, held = 0, list[int]()
    for prompt in prompts:
        new = len(prompt) - reusable(held, prompt, len(prompt))
        calls += -(-new // size) + -(-nodes // size)
        held = list(prompt)
    return calls


def measure(bundle: Path, folder: Path, chip: Chip, expected: Expected, advance: Callable[[], None]) -> NpuParity:
    """Compare a context under emulation with the trained model and with its bundle on the CPU.

    Args:
        bundle: The bundle.
        folder: Its contexts.
        chip: Whose context.
        expected: What is expected of it.
        advance: Called after each call of the NPU.

    Raises:
        NpuRunError: the emulator does not take the context.
        EdgebError: see `LiteRtBackend`.
    """
    manifest, probe = read_litert(bundle).manifest, read_litert_probe(bundle)
    assert probe is not None
    run = NpuRunOptions(folder, chip, checked=False, on_call=advance)
    backend = LiteRtBackend(bundle, LiteRtRunOptions(context_needed(manifest), 1, NPU_EMULATED, run))
    try:
        off = backend.known_rows_difference(probe)
        calls, tokens = backend.calls, backend.tokens
        found = session_rows(Ranker(manifest, backend), expected.samples)
        calls, tokens = backend.calls - calls, backend.tokens - tokens
    finally:
        backend.close()
    return NpuParity.of(expected, found, calls, tokens, off)
