"""Quantize a GGUF file with llama.cpp's own quantizer.

Knows edgeb's names of weight formats and llama.cpp's numbers for them; knows nothing of bundles.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from edge_behavior.bundle.gguf_header import GgufFile
from edge_behavior.errors import EdgebError, nearest
from edge_behavior.runtime.llama.log import captured_log
from edge_behavior.util.cpus import allowed_cpus, chosen_threads
from edge_behavior.util.progress import progress_bar

_COUNTER = re.compile(r"^\s*\[\s*(\d+)\s*/\s*(\d+)\s*\]")


@dataclass(frozen=True)
class Quant:
    """A weight format: llama.cpp's name and number for it, and the approximate bytes per weight."""

    name: str
    ftype: int
    bytes_per_weight: float


# q4 keeps some tensors at 6 bits, which small models need; rows not divisible by 256 fall back to 5 and 8 bits.
QUANTS = {
    "q4": Quant("Q4_K_M", llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M, 0.75),
    "q4_0": Quant("Q4_0", llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, 0.70),
    "q5": Quant("Q5_K_M", llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M, 0.85),
    "q8": Quant("Q8_0", llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, 1.1),
    "f16": Quant("F16", llama_cpp.LLAMA_FTYPE_MOSTLY_F16, 2.0),
    "f32": Quant("F32", llama_cpp.LLAMA_FTYPE_ALL_F32, 4.0),
}
# Formats that conversion writes directly, and their bytes per weight.
UNQUANTIZED = {"f16": 2.0, "f32": 4.0}


def find_quant(name: str) -> Quant:
    """The weight format of a name.

    Raises:
        EdgebError: unknown name; the hint gives the nearest.
    """
    if name not in QUANTS:
        raise EdgebError(f"unknown quantization '{name}'", nearest(name, [*QUANTS, "auto"]))
    return QUANTS[name]


def quantize(
    src_gguf: Path,
    dst_gguf: Path,
    quant: str,
    imatrix: Mapping[str, NDArray[np.float32]] | None = None,
    threads: int | None = None,
    kept: Sequence[str] = (),
) -> dict[str, int]:
    """Write a quantized copy of an f16 or f32 GGUF.

    Args:
        src_gguf: The unquantized file.
        dst_gguf: File to write, directly.
        quant: A key of `QUANTS`.
        imatrix: Importance per tensor name: mean squared input of each column, shape [columns].
        threads: CPU threads; by default all that this process may use.
        kept: Tensors that stay at 8 bits: names, or parts of names like `.attn_v.weight`.

    Returns:
        How many tensors got each type, like {"Q4_K": 12, "F32": 9}.

    Raises:
        EdgebError: unknown name, source and destination are one file, or llama.cpp failed (its message is passed on).
    """
    if dst_gguf.exists() and dst_gguf.samefile(src_gguf):
        raise EdgebError(f"{src_gguf} cannot be quantized in place", "choose another output name")
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = find_quant(quant).ftype
    options.nthread = chosen_threads(threads, allowed_cpus())
    rows = _imatrix_rows(imatrix or {})
    if imatrix:
        options.imatrix = rows
    overrides = _kept_tensors(kept)
    if kept:
        options.tt_overrides = overrides
    with GgufFile(src_gguf) as source:
        total = source.n_tensors
    with progress_bar("Quantizing", total) as advance:

        def watch(line: str) -> None:
            if _COUNTER.match(line):
                advance(1)

        with captured_log(watch) as errors:
            status = llama_cpp.llama_model_quantize(os.fsencode(src_gguf), os.fsencode(dst_gguf), ctypes.byref(options))
    if status != 0:
        reason = errors[0] if errors else f"status {status}"
        raise EdgebError(f"llama.cpp could not quantize to {quant}: {reason}", "check the free disk space")
    return tensor_types(dst_gguf)


def tensor_types(path: Path) -> dict[str, int]:
    """How many tensors of a GGUF have each type."""
    from gguf import GGMLQuantizationType

    with GgufFile(path) as file:
        return dict(Counter(GGMLQuantizationType(tensor.kind).name for tensor in file.tensor_table().tensors))


def _kept_tensors(kept: Sequence[str]) -> ctypes.Array[llama_cpp.llama_model_tensor_override]:
    # llama.cpp searches the pattern in the name, and reads up to an entry without a pattern.
    rows = (llama_cpp.llama_model_tensor_override * (len(kept) + 1))()
    for row, name in zip(rows, kept, strict=False):
        row.pattern = re.escape(name).encode()
        row.type = llama_cpp.GGML_TYPE_Q8_0
    return rows


def _imatrix_rows(imatrix: Mapping[str, NDArray[np.float32]]) -> ctypes.Array[llama_cpp.llama_model_imatrix_data]:
    # llama.cpp reads up to an entry without a name.
    rows = (llama_cpp.llama_model_imatrix_data * (len(imatrix) + 1))()
    for row, (name, values) in zip(rows, imatrix.items(), strict=False):
        data = np.ascontiguousarray(values, dtype=np.float32)
        row.name = name.encode()
        row.data = (ctypes.c_float * data.size)(*data.tolist())
        row.size = data.size
    return rows
