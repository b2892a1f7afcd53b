"""The emulator's process from outside, with a small program in its place, and where its packages are looked for."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_behavior.bundle.npu_folder import NpuContext
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.npu import package
from edge_behavior.runtime.npu.emulator import Emulator, EmulatorError
from edge_behavior.runtime.npu.package import NpuPackage, find_package

CONTEXT = NpuContext(
    "sm8650",
    "v75",
    "v75.tflite",
    "a" * 64,
    100,
    20,
    80,
    "g",
    {"x": "tensor_x", "y": "tensor_y"},
    {"sum": "tensor_sum"},
    7,
)
# Adds; ends without a word, or with one, where the sum is negative or infinite.
PROGRAM = """
import json, sys
import numpy as np
task = json.loads(sys.argv[2])
assert (task["soc"], task["architecture"], task["offset"], task["bytes"], task["graph"]) == (57, 75, 20, 80, "g")
(x, shape), (y, _), (out, _) = *task["inputs"], *task["outputs"]
assert (x, y, out) == ("tensor_x", "tensor_y", "tensor_sum")
size = int(np.prod(shape))
shared = np.memmap(task["shared"], dtype=np.float32, mode="r+")
print("done", flush=True)
for _ in sys.stdin:
    found = shared[:size] + shared[size:2 * size]
    if found.sum() < 0:
        raise SystemExit("the program is tired")
    if not np.isfinite(found).all():
        print("failed no such number", flush=True)
        break
    shared[2 * size:] = found
    print("done", flush=True)
"""
HERE = NpuPackage(sys.executable, Path("nowhere"), "2.7.0", "2.51.0")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Emulator]:
    emulator = Emulator(HERE, tmp_path / "v75.tflite", CONTEXT, PROGRAM)
    yield emulator
    emulator.close()


def arrays() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    inputs = {name: np.zeros((1, 2, 3), np.float32) for name in ("x", "y", "not taken")}
    return inputs, {"sum": np.zeros((1, 2, 3), np.float32)}


def test_runs_read_and_write_the_arrays(made: Emulator) -> None:
    inputs, outputs = arrays()
    run = made.bind(inputs, outputs)
    for step in range(3):
        inputs["x"][...] = np.arange(6).reshape(1, 2, 3)
        inputs["y"][...] = step
        run()
        np.testing.assert_array_equal(outputs["sum"], inputs["x"] + step)


def test_nothing_is_left(made: Emulator) -> None:
    made.bind(*arrays())
    assert made._folder is not None
    folder, child = Path(made._folder.name), made._child
    assert child is not None
    assert folder.is_dir()
    made.close()
    made.close()
    assert not folder.exists()
    assert child.returncode is not None


@pytest.mark.parametrize(("value", "message"), [(-1.0, "the program is tired"), (np.inf, "no such number")])
def test_a_child_that_ends(made: Emulator, value: float, message: str) -> None:
    inputs, outputs = arrays()
    run = made.bind(inputs, outputs)
    inputs["x"][...] = value
    with pytest.raises(EmulatorError, match=f"does not run v75.tflite .v75.: {message}") as error:
        run()
    assert "\n" not in str(error.value)
    with pytest.raises(EmulatorError, match="has ended"):
        run()


def test_a_child_that_never_begins(tmp_path: Path) -> None:
    emulator = Emulator(HERE, tmp_path / "v75.tflite", CONTEXT, "raise MemoryError('no room')")
    with pytest.raises(EmulatorError, match="MemoryError: no room"):
        emulator.bind(*arrays())


def test_other_tensors(made: Emulator) -> None:
    inputs, outputs = arrays()
    del inputs["y"]
    with pytest.raises(EdgebError, match="the context's tensors are not the bundle's"):
        made.bind(inputs, outputs)


class TestPackage:
    @pytest.fixture(autouse=True)
    def on_linux(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")

    def test_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(package.PYTHON_VARIABLE, raising=False)
        monkeypatch.setattr(package, "_NEEDED", ("numpy", "no_such_package", "nor_this"))
        with pytest.raises(EdgebError, match="the NPU needs no-such-package, nor-this, not installed") as error:
            find_package()
        assert "onnxruntime-qnn==2.7.0" in error.value.hint

    def test_no_python(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv(package.PYTHON_VARIABLE, str(tmp_path / "python"))
        with pytest.raises(EdgebError, match=r"EDGEB_NPU_PYTHON is .*python, which does not run"):
            find_package()
        (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "python").chmod(0o755)
        with pytest.raises(EdgebError, match=r"onnxruntime-qnn of .*python does not load"):
            find_package()

    def test_without_its_libraries(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """As wheels of other platforms."""
        found = json.dumps({"missing": [], "folder": str(tmp_path), "version": "2.7.0", "qnn": "2.51.0"})
        (tmp_path / "python").write_text(f"#!/bin/sh\necho '{found}'\n")
        (tmp_path / "python").chmod(0o755)
        monkeypatch.setenv(package.PYTHON_VARIABLE, str(tmp_path / "python"))
        with pytest.raises(EdgebError, match=r"has no libQnnHtp\.so, libQnnSystem\.so"):
            find_package()
        for name in ("libQnnHtp.so", "libQnnSystem.so"):
            (tmp_path / name).touch()
        assert find_package() == NpuPackage(str(tmp_path / "python"), tmp_path, "2.7.0", "2.51.0")

    def test_another_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(platform, "machine", lambda: "arm64")
        with pytest.raises(EdgebError, match="this is linux on arm64"):
            find_package()
