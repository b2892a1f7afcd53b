"""What a measurement holds; `to_dict` is what `edgeb bench --json` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edge_behavior.bench.timing import Machine, Timing


@dataclass(frozen=True)
class BoundForm:
    """One form of the lower bound, see `LowerBoundScenario`.

    Attributes:
        p50_ms: Median time of the form itself.
        over: Median over the rounds of session time over this form's time.
        samples_ms: Every round's time.
    """

    p50_ms: float
    over: float
    samples_ms: Sequence[float]


@dataclass(frozen=True)
class LowerBound:
    """A session scenario beside the forms of its lower bound.

    Attributes:
        tokens_p50: Tokens the session evaluated per prediction, median; `floor_tokens_p50` the lower bound's.
        forms: By name: `floor`, `floor_one_row`, `floor_same_calls`.
    """

    tokens_p50: float
    session_p50_ms: float
    forms: Mapping[str, BoundForm]
    floor_tokens_p50: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        found: dict[str, Any] = {"tokens_p50": self.tokens_p50, "session_p50_ms": self.session_p50_ms}
        for name, form in self.forms.items():
            found[f"{name}_p50_ms"] = form.p50_ms
            found[f"over_{name}"] = form.over
            found[f"{name}_samples_ms"] = list(form.samples_ms)
        return {**found, "floor_tokens_p50": self.floor_tokens_p50}


@dataclass(frozen=True)
class Speed:
    """llama.cpp's tokens per second: mean, standard deviation and every run's."""

    tokens_per_second: float
    deviation: float
    runs: int
    samples: Sequence[float]


@dataclass(frozen=True)
class Comparison:
    """What `--compare` adds: the lower bound by session scenario, llama.cpp's speed by test, ratios by name.

    What was cut to keep the time budget is missing.
    """

    floor: Mapping[str, LowerBound]
    native: Mapping[str, Speed]
    ratios: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "floor": {depth: bound.to_dict() for depth, bound in self.floor.items()},
            "native": {name: asdict(speed) for name, speed in self.native.items()},
            "ratios": dict(self.ratios),
        }


@dataclass(frozen=True)
class Budget:
    """The time of a measurement, seconds.

    Attributes:
        seconds: What it was given.
        spent: What it took.
        cut: What was left out or shortened to keep it, in words.
    """

    seconds: float
    spent: float
    cut: Sequence[str]


@dataclass(frozen=True)
class Slice:
    """A tenth of a sustained run: its start in seconds, its predictions and their median (None without any)."""

    from_s: float
    p50_ms: float | None
    predictions: int


@dataclass(frozen=True)
class Sustained:
    """Session predictions without a pause.

    Attributes:
        seconds: How long they went on.
        drift: The last slice's median over the first's; None where one of them has no prediction.
    """

    seconds: float
    predictions: int
    slices: Sequence[Slice]
    drift: float | None


@dataclass(frozen=True)
class NpuWork:
    """What predictions take of an NPU: never times, which only a phone can tell.

    Attributes:
        size: Tokens that a call has room for, whose time it takes however few it gets.
        calls: Calls of each prediction, by scenario.
        tokens: Tokens that they evaluated, likewise.
    """

    size: int
    calls: Mapping[str, list[int]]
    tokens: Mapping[str, list[int]]


@dataclass(frozen=True)
class Measurement:
    """A bundle measured on this machine.

    Attributes:
        peak_rss_bytes: By scenario: peak memory of a process that ran nothing else.
        scenarios: By name, cold starts first.
        comparison: None unless it was asked for.
        budget: The time it was given and took, without `threads` and `sustained`.
        threads: `session` (top 1) by number of threads; None unless several were asked for.
        sustained: None unless it was asked for.
        accelerator: What evaluated a LiteRT bundle; None for other bundles.
        npu: The work of an NPU, of a bundle with contexts beside it.
    """

    bundle: str
    architecture: str
    quantization: str
    candidates: int
    trie_nodes: int
    layout: str
    static_tokens: int
    scoring: str
    anchor_every: int
    file_bytes: int
    peak_rss_bytes: Mapping[str, int]
    scenarios: Mapping[str, Timing]
    machine: Machine
    comparison: Comparison | None = None
    budget: Budget | None = None
    threads: Mapping[str, Timing] | None = None
    sustained: Sustained | None = None
    accelerator: str | None = None
    npu: NpuWork | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the keys of what was not asked for are left out."""
        found = {
            "bundle": self.bundle,
            "architecture": self.architecture,
            "quantization": self.quantization,
            "candidates": self.candidates,
            "trie_nodes": self.trie_nodes,
            "layout": self.layout,
            "static_tokens": self.static_tokens,
            "scoring": self.scoring,
            "accelerator": self.accelerator,
            "anchor_every": self.anchor_every,
            "file_bytes": self.file_bytes,
            "peak_rss_bytes": dict(self.peak_rss_bytes),
            "scenarios": {name: timing.to_dict() for name, timing in self.scenarios.items()},
            **(self.comparison.to_dict() if self.comparison else {}),
            "machine": self.machine.to_dict(),
        }
        if self.npu is not None:
            found["npu"] = asdict(self.npu)
        if self.budget is not None:
            found["budget"] = asdict(self.budget)
        if self.threads is not None:
            found["threads"] = {count: timing.to_dict() for count, timing in self.threads.items()}
        if self.sustained is not None:
            found["sustained"] = asdict(self.sustained)
        return found
