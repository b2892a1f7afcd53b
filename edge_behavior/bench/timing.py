"""Samples, their summary, memory and machine: what every scenario reports in."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
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


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """JSON-ready `p50_ms`, `p95_ms`, `mean_ms`, `tokens_per_prediction` (mean), `predictions`, all `samples_ms`.

    Where the engine's share is known, `overhead_ms` holds p50 and p95 of what is spent outside it.
    """
    times = [s.ms for s in samples]
    outside = [s.ms - s.decode_ms for s in samples if s.decode_ms is not None]
    result: dict[str, Any] = {
        "p50_ms": percentile(times, 50),
        "p95_ms": percentile(times, 95),
        "mean_ms": round(float(np.mean(times)), 3),
        "tokens_per_prediction": round(float(np.mean([s.tokens for s in samples])), 2),
        "predictions": len(samples),
    }
    if outside:
        result["overhead_ms"] = {"p50": percentile(outside, 50), "p95": percentile(outside, 95)}
    result["samples_ms"] = [round(t, 3) for t in times]
    return result


def percentile(values: Sequence[float], share: float) -> float:
    """Percentile with linear interpolation, rounded to microseconds where the values are milliseconds."""
    return round(float(np.percentile(values, share)), 3)


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
    """What `threads=None` means to the runtime for this file; for one that is not there, too."""
    from edge_behavior.runtime.predictor import SMALL_BUNDLE

    if bundle.is_file() and bundle.stat().st_size < SMALL_BUNDLE:
        return 1
    return physical_cores()


def machine(threads: int) -> dict[str, Any]:
    """What the numbers were measured on."""
    import llama_cpp
    import psutil

    return {
        "system": platform.system(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "threads": threads,
        "python": platform.python_version(),
        "llama_cpp_python": llama_cpp.__version__,
        "llama_cpp_features": llama_cpp.llama_print_system_info().decode().strip().rstrip("|").strip(),
        "load_average": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({platform.machine()})"
    except OSError:
        pass
    return platform.processor() or platform.machine()
