"""What `--npu` asks for: chips, and how much is compared under emulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_behavior.bundle.npu_chips import CHIPS, LIBRARIES, Chip, chosen_chips
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.npu.package import PINNED

# `--npu list` names the chips instead of exporting.
LIST = "list"
# A window of 37 labels takes some 14 calls, and a call of SmolLM2-135M seconds.
DEFAULT_WINDOWS = 4
# Larger calls have not been compiled.
_LARGEST_SIZE = 32


@dataclass(frozen=True)
class NpuOptions:
    """What is compiled beside a LiteRT bundle.

    Attributes:
        chips: What for.
        windows: How many windows are compared under emulation.

    Raises:
        EdgebError: no window.
    """

    chips: tuple[Chip, ...]
    windows: int = DEFAULT_WINDOWS

    def __post_init__(self) -> None:
        if self.windows < 1:
            raise EdgebError(f"--npu-windows is {self.windows}", "use at least 1")

    @classmethod
    def parse(cls, names: str | None, windows: int | None) -> NpuOptions | None:
        """From the command line's values; None where no chip is asked for.

        Raises:
            EdgebError: an unknown chip, or windows without a chip.
        """
        if names is None:
            if windows is not None:
                raise EdgebError("--npu-windows without --npu", "name the chips by --npu, or leave it out")
            return None
        return cls(chosen_chips(names), DEFAULT_WINDOWS if windows is None else windows)


def call_size(sizes: Sequence[int]) -> int:
    """New tokens per call of the NPU: the largest of a bundle's sizes up to 32.

    Raises:
        EdgebError: there is none.
    """
    fitting = [size for size in sizes if size <= _LARGEST_SIZE]
    if not fitting:
        raise EdgebError(f"--npu needs one of the sizes to be at most {_LARGEST_SIZE}", f"add {_LARGEST_SIZE} to sizes")
    return max(fitting)


def chip_table() -> list[dict[str, Any]]:
    """What `--npu list` shows: every chip, and what it needs here and on the phone."""
    return [
        {
            "chip": chip.name,
            "sold_as": chip.sold_as,
            "architecture": chip.architecture,
            "compiler": PINNED,
            "libraries": list(chip.libraries),
            "libraries_of_all": list(LIBRARIES),
        }
        for chip in CHIPS
    ]
