"""Samples and their summary, peak memory, and the machine they were taken on."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edge_behavior.util.cpus import physical_cores


@dataclass(frozen=True)
class Sample:
    """One timed prediction.

    Attributes:
        ms: Wall time, milliseconds.
        tokens: Tokens the model was run on.
        decode_ms: The part of `ms` inside the engine, where it is known.
    """

    ms: float
    tokens: int
    decode_ms: float | None = None


@dataclass(frozen=True)
class Timing:
    """A scenario's samples, summed up.

    Attributes:
        tokens_per_prediction: Mean over the samples.
        overhead_ms: p50 and p95 of the time outside the engine, where the engine's share is known.
        parts_ms: Medians of a cold start's parts; None for other scenarios.
    """

    p50_ms: float
    p95_ms: float
    mean_ms: float
    tokens_per_prediction: float
    samples_ms: Sequence[float]
    overhead_ms: Mapping[str, float] | None = None
    parts_ms: Mapping[str, float] | None = None

    @classmethod
    def of(cls, samples: Sequence[Sample], parts_ms: Mapping[str, float] | None = None) -> Timing:
        """Sum up samples."""
        times = [s.ms for s in samples]
        outside = [s.ms - s.decode_ms for s in samples if s.decode_ms is not None]
        return cls(
            percentile(times, 50),
            percentile(times, 95),
            round(float(np.mean(times)), 3),
            round(float(np.mean([s.tokens for s in samples])), 2),
            [round(t, 3) for t in times],
            {"p50": percentile(outside, 50), "p95": percentile(outside, 95)} if outside else None,
            parts_ms,
        )

    @property
    def predictions(self) -> int:
        """Number of samples."""
        return len(self.samples_ms)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `overhead_ms` and `parts_ms` only where they are known."""
        found: dict[str, Any] = {
            "p50_ms": self.p50_ms,
            "p95_ms": self.p95_ms,
            "mean_ms": self.mean_ms,
            "tokens_per_prediction": self.tokens_per_prediction,
            "predictions": self.predictions,
        }
        if self.overhead_ms is not None:
            found["overhead_ms"] = dict(self.overhead_ms)
        found["samples_ms"] = list(self.samples_ms)
        if self.parts_ms is not None:
            found["parts_ms"] = dict(self.parts_ms)
        return found


@dataclass(frozen=True)
class Machine:
    """What numbers were measured on.

    Attributes:
        ai_edge_litert: Version, where LiteRT runs the bundle; None where llama.cpp does.
        load_average: Over 1, 5 and 15 minutes before the measurement; None where the system does not say.
        load_average_after: The same at its end; None, too, where there was no measurement.
    """

    system: str
    processor: str
    cores: int | None
    memory_bytes: int
    threads: int
    python: str
    llama_cpp_python: str
    llama_cpp_features: str
    ai_edge_litert: str | None
    load_average: Sequence[float] | None
    load_average_after: Sequence[float] | None = None

    @classmethod
    def here(cls, threads: int, litert: bool = False) -> Machine:
        """This machine, for a measurement with so many threads, on LiteRT or on llama.cpp."""
        import llama_cpp
        import psutil

        return cls(
            platform.system(),
            processor(),
            os.cpu_count(),
            psutil.virtual_memory().total,
            threads,
            platform.python_version(),
            llama_cpp.__version__,
            llama_cpp.llama_print_system_info().decode().strip().rstrip("|").strip(),
            version("ai-edge-litert") if litert else None,
            load_average(),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def percentile(values: Sequence[float], share: float) -> float:
    """Percentile with linear interpolation, rounded to microseconds where the values are milliseconds."""
    return round(float(np.percentile(values, share)), 3)


def load_average() -> list[float] | None:
    """Runnable processes over 1, 5 and 15 minutes; None where the system does not count them."""
    return [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None


def peak_rss_bytes() -> int:
    """Peak resident memory of this process, mapped file pages included, bytes."""
    # Not getrusage on Linux: its maximum survives exec, so a child would report its parent's.
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, others KiB.
    return peak if sys.platform == "darwin" else peak * 1024


def default_threads(bundle: Path) -> int:
    """What `threads=None` means to the runtime for this file, which need not exist."""
    from edge_behavior.runtime.predictor import SMALL_BUNDLE

    if bundle.is_file() and bundle.stat().st_size < SMALL_BUNDLE:
        return 1
    return physical_cores()


def processor() -> str:
    """This machine's CPU, as it calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({platform.machine()})"
    except OSError:
        pass
    return platform.processor() or platform.machine()
