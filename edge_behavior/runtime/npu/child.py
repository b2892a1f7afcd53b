"""A compiled NPU context run by Qualcomm's libraries in a child process: a function over arrays of the host.

They run it on the chip's NPU, or emulate it. The child is a process of its own since the libraries may lie in another
environment, and since a crash of theirs must not be ours. Tensors go through a mapped file. Times of the emulator say
nothing of a phone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bundle.npu_chips import chip_named
from edge_behavior.bundle.npu_folder import NpuContext
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.npu.package import NpuPackage
from edge_behavior.util.numbers import file_size

# Last on the path: the packages of the child's own environment come first.
_CHILD = "import sys; sys.path.append(sys.argv[1]); from edge_behavior.runtime.npu.process import main; main()"
_LOG = "log"
_Arrays = Mapping[str, NDArray[Any]]


class NpuRunError(EdgebError):
    """The NPU, or its emulator, does not take a context, or ended."""


class NpuChild:
    """An NPU with one context.

    Args:
        package: Where Qualcomm's libraries are, and whether they emulate.
        file: The context's `.tflite`, verified.
        context: What it says of itself.
        program: What the child is told to run; only tests replace it.
    """

    def __init__(self, package: NpuPackage, file: Path, context: NpuContext, program: str = _CHILD) -> None:
        self._package, self._file, self._context, self._program = package, file, context, program
        self._name = "NPU's emulator" if package.emulates else "NPU"
        self._child: subprocess.Popen[str] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def bind(self, inputs: _Arrays, outputs: _Arrays) -> Callable[[], None]:
        """Start the child; a function that runs the context once, reading and writing these arrays.

        Args:
            inputs: Float32 arrays by the signature's names; those that the context does not take are left out.
            outputs: Likewise, all of them.

        Raises:
            NpuRunError: it does not take the context, in its own words. The function raises it where a run fails.
            EdgebError: other tensors than the context's.
        """
        context = self._context
        if not set(context.inputs) <= set(inputs) or set(context.outputs) != set(outputs):
            raise EdgebError(f"{self._file}: the context's tensors are not the bundle's", "export it again with --npu")
        taken, given = [inputs[name] for name in context.inputs], [outputs[name] for name in context.outputs]
        mapped = self._start(taken, given)
        first, last = mapped[: len(taken)], mapped[len(taken) :]

        def run() -> None:
            for target, source in zip(first, taken, strict=True):
                target[...] = source
            self._ask()
            for target, source in zip(given, last, strict=True):
                target[...] = source

        return run

    def close(self) -> None:
        """End the child and remove what it wrote."""
        child, self._child = self._child, None
        if child is not None:
            assert child.stdin is not None
            assert child.stdout is not None
            child.kill()
            child.wait()
            child.stdin.close()
            child.stdout.close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _start(self, taken: list[NDArray[Any]], given: list[NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Start the child; the mapped arrays, in order."""
        self.close()
        context, chip = self._context, chip_named(self._context.chip)
        self._folder = tempfile.TemporaryDirectory(prefix="edgeb-npu-", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        arrays = [*taken, *given]
        _require_room(folder, context.context_bytes + sum(array.nbytes for array in arrays))
        shared = np.memmap(folder / "shared", dtype=np.float32, mode="w+", shape=(sum(a.size for a in arrays),))
        ends = np.cumsum([array.size for array in arrays]).tolist()
        mapped = [shared[end - a.size : end].reshape(a.shape) for end, a in zip(ends, arrays, strict=True)]
        task = {
            "file": str(self._file.resolve()),
            "offset": context.context_offset,
            "bytes": context.context_bytes,
            "graph": context.graph,
            "inputs": _shapes(context.inputs, taken),
            "outputs": _shapes(context.outputs, given),
            "soc": chip.number,
            "architecture": int(chip.architecture.removeprefix("v")),
            "emulated": self._package.emulates,
            "folder": str(folder),
            "shared": str(folder / "shared"),
        }
        package = str(Path(__file__).resolve().parents[3])
        with (folder / _LOG).open("w") as log:
            self._child = subprocess.Popen(
                [self._package.python, "-c", self._program, package, json.dumps(task)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                errors="replace",
            )
        self._answer()
        return mapped

    def _ask(self) -> None:
        if self._child is None:
            raise NpuRunError(f"the {self._name} has ended", "load the bundle again")
        assert self._child.stdin is not None
        try:
            self._child.stdin.write("run\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            # What the child has to say follows.
            pass
        self._answer()

    def _answer(self) -> None:
        """Wait for the child.

        Raises:
            NpuRunError: it failed, or is gone.
        """
        assert self._child is not None
        assert self._child.stdout is not None
        assert self._folder is not None
        line = self._child.stdout.readline().strip()
        if line == "done":
            return
        reason = line.removeprefix("failed ")
        if not line:
            said = (Path(self._folder.name) / _LOG).read_text(errors="replace").strip().splitlines()
            reason = said[-1] if said else f"it ended with code {self._child.wait()}"
        self.close()
        raise NpuRunError(
            f"the {self._name} does not run {self._file.name} ({self._context.architecture}): {reason[:300]}",
            "export it again with --npu, or for another chip",
        )


def _require_room(folder: Path, needed: int) -> None:
    """Refuse to begin what will not fit: writing a mapped file beyond the disk's end ends the process.

    Raises:
        EdgebError: too little space.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise EdgebError(
            f"the NPU needs {file_size(needed)} of {folder.parent}, {file_size(free)} are free",
            "free some space, or have TMPDIR name another folder",
        )


def _shapes(names: Mapping[str, str], arrays: list[NDArray[Any]]) -> list[tuple[str, list[int]]]:
    return [(name, list(array.shape)) for name, array in zip(names.values(), arrays, strict=True)]
