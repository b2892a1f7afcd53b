"""The phone chips whose NPU edgeb compiles for, and what each needs on the phone. Knows no compiler and no file.

Qualcomm's NPU is called Hexagon, and its architectures are numbered: a compiled context runs on its own only. The
numbers of chips are those of Qualcomm's SDK.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_behavior.errors import EdgebError, nearest

ALL = "all"
# What every phone needs: LiteRT's library for this vendor, and Qualcomm's run time, no older than the compiler.
LIBRARIES = ("libLiteRtDispatch_Qualcomm.so", "libQnnHtp.so", "libQnnSystem.so")


@dataclass(frozen=True)
class Chip:
    """A chip that contexts are compiled for.

    Attributes:
        name: As Android's `Build.SOC_MODEL` gives it, in lower case.
        sold_as: Its name on the market.
        number: Qualcomm's number of it.
        architecture: That of its NPU, like "v75"; one context serves all chips of an architecture here.
    """

    name: str
    sold_as: str
    number: int
    architecture: str

    @property
    def libraries(self) -> tuple[str, ...]:
        """What the phone needs of Qualcomm's libraries beside `LIBRARIES`."""
        version = self.architecture.upper()
        return f"libQnnHtp{version}Stub.so", f"libQnnHtp{version}Skel.so"


# Each of another architecture: a second chip of one has not been tried with the first one's context.
CHIPS = (
    Chip("sm8450", "Snapdragon 8 Gen 1", 36, "v69"),
    Chip("sm8550", "Snapdragon 8 Gen 2", 43, "v73"),
    Chip("sm8650", "Snapdragon 8 Gen 3", 57, "v75"),
    Chip("sm8750", "Snapdragon 8 Elite", 69, "v79"),
    Chip("sm8850", "Snapdragon 8 Elite Gen 5", 87, "v81"),
)


def chosen_chips(names: str) -> tuple[Chip, ...]:
    """The chips of a comma-separated list, or all of them, in the table's order and each once.

    Raises:
        EdgebError: an unknown chip, or an empty list.
    """
    asked = [name.strip().lower() for name in names.split(",") if name.strip()]
    known = {chip.name: chip for chip in CHIPS}
    if not asked:
        raise EdgebError("--npu names no chip", f"use {ALL}, or some of {', '.join(known)}")
    for name in asked:
        if name not in known and name != ALL:
            raise EdgebError(f"there is no chip '{name[:40]}' to compile for", nearest(name, [*known, ALL]))
    return tuple(chip for chip in CHIPS if ALL in asked or chip.name in asked)


def chip_named(name: str) -> Chip:
    """A chip by its name.

    Raises:
        EdgebError: it is not in the table.
    """
    chip = next((chip for chip in CHIPS if chip.name == name.strip().lower()), None)
    if chip is None:
        raise EdgebError(f"there is no chip '{name[:40]}'", nearest(name, [chip.name for chip in CHIPS]))
    return chip
