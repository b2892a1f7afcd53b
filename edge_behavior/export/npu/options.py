"""What `--npu` asks for: chips, and how much is compared under emulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_behavior.bundle.npu_chips import CHIPS, LIBRARIES, Chip, chosen_chips
from edge_behavior.errors import EdgebError, nearest
from edge_behavior.runtime.npu.package import PINNED

# `--npu list` names the chips instead of exporting.
LIST = "list"
# Weight formats of contexts, and the folder's names for them; activations are float16.
QUANTS = {"q8": "int8", "f16": "f16"}
# Larger calls have not been compiled.
_LARGEST_SIZE = 32


@dataclass(frozen=True)
class NpuOptions:
    """What is compiled beside a LiteRT bundle.

    Attributes:
        chips: What for.
        windows: How many windows are compared under emulation; None for one user's evening, 0 for none.
        quant: Weight format of the contexts, of `QUANTS`; None for 8 bits, or f16 where the bundle has f32.

    Raises:
        EdgebError: a negative number of windows, or an unknown format.
    """

    chips: tuple[Chip, ...]
    windows: int | None = None
    quant: str | None = None

    def __post_init__(self) -> None:
        if self.windows is not None and self.windows < 0:
            raise EdgebError(f"--npu-windows is {self.windows}", "use 0 or more")
        if self.quant == "q4":
            # Tried: in blocks of 32 it fails, with a scale per row it leaves every matrix to the CPU.
            raise EdgebError("LiteRT's plug-in for Qualcomm's compiler takes no 4-bit weights", "use q8 or f16")
        if self.quant is not None and self.quant not in QUANTS:
            raise EdgebError(f"NPU contexts have no weight format '{self.quant[:40]}'", nearest(self.quant, QUANTS))

    @classmethod
    def parse(cls, names: str | None, windows: int | None, quant: str | None = None) -> NpuOptions | None:
        """From the command line's values; None where no chip is asked for.

        Raises:
            EdgebError: an unknown chip or format, or the other values without a chip.
        """
        if names is None:
            for flag, value in (("windows", windows), ("quant", quant)):
                if value is not None:
                    raise EdgebError(f"--npu-{flag} without --npu", "name the chips by --npu, or leave it out")
            return None
        return cls(chosen_chips(names), windows, quant)

    def quant_for(self, bundle: str) -> str:
        """The contexts' weight format beside a bundle of one."""
        return self.quant or ("f16" if bundle == "f32" else "q8")


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
