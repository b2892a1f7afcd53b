"""What this machine can do at best: bytes read and numbers multiplied per second, by PyTorch's own kernels.

- `read`: a float32 array of 256 MB, far beyond any cache, is summed (`torch.sum`) and multiplied with a vector
  (`torch.mv`); bytes of the array over the least time of either.
- `float32`, `bfloat16`: `torch.mm` of square matrices, 1,024 and 2,048 wide. `int8`: `torch._int_mm`, int8 times int8
  into int32, of the same. Multiply-adds over the least time of either size.

The least of several times, since a peak is asked for; in this process, with as many threads as the bundles had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from time import perf_counter
from typing import Any

_ARRAY = 1 << 26
_WIDTHS = (1024, 2048)
_TRIES = 7
FLOAT_TYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class MachineLimits:
    """Measured peaks.

    Attributes:
        read_bytes: Bytes read from memory per second.
        multiply_adds: Multiply-adds per second by type: float32, bfloat16, int8.
        threads: CPU threads.
        torch: PyTorch's version.
    """

    read_bytes: float
    multiply_adds: Mapping[str, float]
    threads: int
    torch: str

    def peak(self, floats: bool) -> float:
        """Multiply-adds per second of the fastest type, of floats only where weights are floats."""
        return max(value for name, value in self.multiply_adds.items() if not floats or name in FLOAT_TYPES)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "multiply_adds": dict(self.multiply_adds)}


def why_no_limits() -> str | None:
    """Why they cannot be measured here; None if they can."""
    return None if find_spec("torch") is not None else "torch is not installed: pip install 'edgeb[train]'"


def measure_limits(threads: int, array: int = _ARRAY, widths: tuple[int, ...] = _WIDTHS) -> MachineLimits:
    """Measure them, which takes seconds, and leaves PyTorch's number of threads as it was.

    Args:
        threads: CPU threads.
        array: Numbers in the array that is read.
        widths: Rows and columns of the matrices.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        read = torch.ones(array)
        square, vector = read.view(-1, 1 << 10), torch.ones(1 << 10)
        seconds = min(_least(lambda: read.sum()), _least(lambda: torch.mv(square, vector)))
        peaks = {"float32": 0.0, "bfloat16": 0.0, "int8": 0.0}
        for width in widths:
            floats = torch.ones((width, width))
            halves, bytes_ = floats.to(torch.bfloat16), floats.to(torch.int8)
            works: dict[str, Callable[[], Any]] = {
                "float32": partial(torch.mm, floats, floats),
                "bfloat16": partial(torch.mm, halves, halves),
                "int8": partial(torch._int_mm, bytes_, bytes_),
            }
            for name, work in works.items():
                peaks[name] = max(peaks[name], width**3 / _least(work))
        return MachineLimits(read.nbytes / seconds, peaks, threads, torch.__version__)
    finally:
        torch.set_num_threads(before)


def _least(work: Callable[[], Any]) -> float:
    """The least of several times, seconds; the first is left out."""
    work()
    times = []
    for _ in range(_TRIES):
        started = perf_counter()
        work()
        times.append(perf_counter() - started)
    return min(times)
