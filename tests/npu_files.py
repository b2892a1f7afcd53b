"""NPU contexts for tests: what is needed for real ones, and stand-ins that PyTorch runs.

A stand-in's context is the stand-in for a LiteRT model (`litert_files`) that it was compiled from, so that everything
but Qualcomm's compiler and emulator is tested on every machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.typing import NDArray

from edge_behavior.bundle.litert_graph import step_name
from edge_behavior.bundle.npu_chips import Chip
from edge_behavior.bundle.npu_folder import NpuContext
from edge_behavior.errors import EdgebError
from edge_behavior.export.litert.graph import load_decoder
from edge_behavior.export.litert.worker import check_packages
from edge_behavior.export.npu import pipeline
from edge_behavior.export.npu.compiler import check_compiler
from edge_behavior.runtime.npu import signatures
from edge_behavior.runtime.npu.child import NpuRunError
from edge_behavior.runtime.npu.package import NpuPackage, find_package
from edge_behavior.util.checksums import file_sha256
from tests.litert_files import InTorch, stood_in

PACKAGE = NpuPackage("python", Path("nowhere"), "2.7.0", "2.51.0")


def require_npu() -> None:
    """Skip without what compiles and emulates, naming what is missing."""
    if find_spec("ai_edge_litert") is None:
        pytest.skip("ai-edge-litert is not installed: pip install 'edgeb[litert]'")
    try:
        check_packages()
        check_compiler()
        find_package()
    except EdgebError as error:
        pytest.skip(str(error))


class StandInNpu:
    """Compiles and emulates stand-ins.

    Attributes:
        compiled: Chips, in order.
        refused: Names of chips whose context the emulator does not take.
        noise: Added to logits in turn, up and down.
    """

    def __init__(self) -> None:
        self.compiled: list[str] = []
        self.refused: set[str] = set()
        self.noise = 0.0

    def compile(self, model: Path, chip: Chip, out: Path, package: NpuPackage) -> NpuContext:
        """In `compile_model`'s place."""
        assert package == PACKAGE
        self.compiled.append(chip.name)
        shutil.copy(model, out)
        layers = range(len(load_decoder(stood_in(model)).sliding))
        cache = [f"{part}_{i}" for i in layers for part in "kv"]
        names: tuple[list[str], list[str]] = (
            ["embeddings", "cos", "sin", "mask", *cache],
            ["logits", *(f"new_{name}" for name in cache)],
        )
        inputs, outputs = ({name: f"tensor_{name}" for name in some} for some in names)
        size = out.stat().st_size
        return NpuContext(
            chip.name, chip.architecture, out.name, file_sha256(out), size, 1, size - 1, "graph", inputs, outputs, 9, 8
        )

    def child(self, package: NpuPackage, file: Path, context: NpuContext) -> _Emulator:
        """In `NpuChild`'s place."""
        return _Emulator(self, file, context)


class _Emulator:
    def __init__(self, npu: StandInNpu, file: Path, context: NpuContext) -> None:
        self._npu, self._file, self._context = npu, file, context

    def bind(self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
        if self._context.chip in self._npu.refused:
            raise NpuRunError("it does not run")
        size = outputs["logits"].shape[1]
        run = InTorch(load_decoder(stood_in(self._file))).bind(step_name(size), inputs, outputs)

        def noisy() -> None:
            run()
            torch.from_numpy(outputs["logits"])[..., ::2] += self._npu.noise

        return noisy

    def close(self) -> None:
        pass


def stand_in_npu(patch: pytest.MonkeyPatch) -> StandInNpu:
    """Have exports compile, and backends emulate, stand-ins."""
    npu = StandInNpu()
    for module in (pipeline, signatures):
        patch.setattr(module, "find_package", lambda emulates=True: replace(PACKAGE, emulates=emulates))
    patch.setattr(pipeline, "check_compiler", lambda: None)
    patch.setattr(pipeline, "compile_model", npu.compile)
    patch.setattr(signatures, "NpuChild", npu.child)
    return npu
