"""How a LiteRT file is built: weight format, sizes of the signatures, length of the cache, form of the norms.

Read from profiles (flag > profile > default), or given directly. Knows no converter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import ConfigDict, Field, StrictInt
from pydantic.dataclasses import dataclass as checked_dataclass

from edge_behavior.errors import EdgebError, nearest
from edge_behavior.export.profiles import parse_profile

AUTO = "auto"
# edgeb's name of a weight format, and the manifest's.
PRECISIONS = {"q4": "int4", "q8": "int8", "f32": "f32"}
# What `auto` tries, by falling compression.
AUTO_ORDER = ("q4", "q8")
# The forms of RMSNorm, and the accelerators that take each; the CPU takes either.
NORMS = {"apart": ("gpu",), "composite": ("npu",)}
_LARGEST_SIZE = 1024
# YAML has lists.
Sizes = Annotated[tuple[StrictInt, ...], Field(strict=False)]


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class LiteRtOptions:
    """How the model is built.

    Attributes:
        quant: q8 (8 bits per channel), q4 (4 bits in blocks of 32, embedding and head 8 bits), f32, or auto: the
            smallest of the quantized ones within the limits.
        sizes: New tokens of the signatures. A call costs its signature's size, however few tokens it is given.
        first_sizes: Those of the signatures for the beginning of a prompt, which need no cache.
        norm: "apart": RMSNorm in simple operators, which the CPU and the GPU take; or "composite": one operator, which
            the NPU needs and the CPU takes.
        context_length: Slots of the cache; by default what the prompts that are compared need, an eighth more, and the
            label trie. All are attended to in every call, full or empty.

    Raises:
        EdgebError: a value that is unknown, or does not go with another.
    """

    quant: str = "q8"
    sizes: Sizes = (1, 8, 16, 24, 32, 64, 128)
    first_sizes: Sizes = (128, 256)
    norm: str = "apart"
    context_length: int | None = None

    def __post_init__(self) -> None:
        if self.quant != AUTO and self.quant not in PRECISIONS:
            raise EdgebError(f"LiteRT export has no weight format '{self.quant}'", nearest(self.quant, known_quants()))
        for name, sizes in (("sizes", self.sizes), ("first_sizes", self.first_sizes)):
            if list(sizes) != sorted(set(sizes)) or not all(0 < size <= _LARGEST_SIZE for size in sizes):
                raise EdgebError(f"{name} are {list(sizes)}", f"use ascending numbers up to {_LARGEST_SIZE}")
        if 1 not in self.sizes:
            raise EdgebError(f"sizes are {list(self.sizes)}, without 1", "single tokens need a signature: add 1")
        if self.norm not in NORMS:
            raise EdgebError(f"there is no norm '{self.norm}'", nearest(self.norm, NORMS))
        if self.context_length is not None and self.context_length < 1:
            raise EdgebError(f"the context length is {self.context_length}", "use at least 1 position")

    @property
    def tried(self) -> tuple[str, ...]:
        """Weight formats to try, in order."""
        return AUTO_ORDER if self.quant == AUTO else (self.quant,)


def known_quants() -> tuple[str, ...]:
    """What `--quant` takes."""
    return (*PRECISIONS, AUTO)


def litert_options(profile: str | None, flags: Mapping[str, Any]) -> LiteRtOptions:
    """The options of a profile, or the defaults, with flags in their place.

    Args:
        profile: A shipped profile's name or a YAML file; None for the defaults.
        flags: Fields of `LiteRtOptions`.

    Raises:
        EdgebError: see `profiles.parse_profile`; or options that do not go together.
    """
    return replace(LiteRtOptions() if profile is None else parse_profile(LiteRtOptions, profile, "litert"), **flags)
