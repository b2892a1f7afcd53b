"""Which part of the machine evaluates a LiteRT bundle: what can be asked for, and of which bundles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from edge_behavior.bundle.bundle import bundle_form
from edge_behavior.bundle.npu_chips import Chip, chip_named
from edge_behavior.errors import EdgebError, nearest

Accelerator = Literal["cpu", "gpu", "npu", "npu-emulated"]
ACCELERATORS: tuple[Accelerator, ...] = get_args(Accelerator)
CPU: Accelerator = "cpu"
NPU: Accelerator = "npu"
NPU_EMULATED: Accelerator = "npu-emulated"
NPUS = (NPU, NPU_EMULATED)
_WORDS: Mapping[str, str] = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU", "npu-emulated": "emulated NPU"}


def in_words(accelerator: str) -> str:
    """An accelerator for messages: "the …"."""
    return _WORDS[accelerator]


def require_timed(accelerator: object) -> None:
    """Refuse to take the time of an emulator.

    Raises:
        EdgebError: saying so.
    """
    if accelerator == NPU_EMULATED:
        raise EdgebError("times of an emulated NPU say nothing of a phone", "bench the CPU, or evaluate on the NPU")


def chosen_accelerator(bundle: Path, asked: object) -> Accelerator | None:
    """The accelerator that a bundle is opened on; None for bundles of other formats, which have no choice.

    Args:
        bundle: The bundle.
        asked: One of ACCELERATORS; None for the CPU.

    Raises:
        EdgebError: an unknown accelerator, or one that is asked for with a bundle of another format.
    """
    known = next((name for name in ACCELERATORS if name == asked), None)
    if asked is not None and known is None:
        raise EdgebError(f"there is no accelerator '{str(asked)[:40]}'", nearest(str(asked), ACCELERATORS))
    if bundle_form(bundle) == "litert":
        return known or CPU
    if known is not None:
        raise EdgebError(
            f"{bundle} is not a LiteRT file, and accelerators are LiteRT's",
            "leave the accelerator out, or pass a language model's bundle exported with --format litert",
        )
    return None


def check_chip(accelerator: Accelerator | None, chip: str | None) -> Chip | None:
    """The chip whose context is asked for; None where none is.

    Raises:
        EdgebError: it is unknown, or what evaluates is no NPU.
    """
    if chip is None:
        return None
    if accelerator not in NPUS:
        raise EdgebError(
            f"a chip is an NPU's, and the {in_words(accelerator or CPU)} is to evaluate", "leave the chip out"
        )
    return chip_named(chip)
