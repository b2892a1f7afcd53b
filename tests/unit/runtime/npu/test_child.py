"""The emulator's process from outside, with a small program in its place, and where its packages are looked for."""

from __future__ import annotations

import json
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_behavior.bundle.npu_folder import NpuContext
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.npu import package
from edge_behavior.runtime.npu.child import NpuChild, NpuRunError
from edge_behavior.runtime.npu.package import NpuPackage, find_package
from edge_behavior.runtime.npu.process import PROVIDER, open_session

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
    1000,
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
def made(tmp_path: Path) -> Iterator[NpuChild]:
    emulator = NpuChild(HERE, tmp_path / "v75.tflite", CONTEXT, PROGRAM)
    yield emulator
    emulator.close()


def arrays() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    inputs = {name: np.zeros((1, 2, 3), np.float32) for name in ("x", "y", "not taken")}
    return inputs, {"sum": np.zeros((1, 2, 3), np.float32)}


def test_runs_read_and_write_the_arrays(made: NpuChild) -> None:
    inputs, outputs = arrays()
    run = made.bind(inputs, outputs)
    for step in range(3):
        inputs["x"][...] = np.arange(6).reshape(1, 2, 3)
        inputs["y"][...] = step
        run()
        np.testing.assert_array_equal(outputs["sum"], inputs["x"] + step)


def test_nothing_is_left(made: NpuChild) -> None:
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
def test_a_child_that_ends(made: NpuChild, value: float, message: str) -> None:
    inputs, outputs = arrays()
    run = made.bind(inputs, outputs)
    inputs["x"][...] = value
    with pytest.raises(NpuRunError, match=f"the NPU's emulator does not run v75.tflite .v75.: {message}") as error:
        run()
    assert "\n" not in str(error.value)
    with pytest.raises(NpuRunError, match="has ended"):
        run()


def test_a_child_that_never_begins(tmp_path: Path) -> None:
    emulator = NpuChild(HERE, tmp_path / "v75.tflite", CONTEXT, "raise MemoryError('no room')")
    with pytest.raises(NpuRunError, match="MemoryError: no room"):
        emulator.bind(*arrays())


def test_no_room_on_the_disk(made: NpuChild, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=80 + 3 * 24 - 1))
    with pytest.raises(EdgebError, match=r"the NPU needs 0\.2 kB of .*, 0\.2 kB are free") as error:
        made.bind(*arrays())
    assert "TMPDIR" in error.value.hint
    assert made._child is None
    monkeypatch.undo()
    made.bind(*arrays())


def test_other_tensors(made: NpuChild) -> None:
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
        # Those of a Snapdragon laptop.
        monkeypatch.setattr(sys, "platform", "win32")
        monkeypatch.setattr(platform, "machine", lambda: "ARM64")
        with pytest.raises(EdgebError, match=r"has no QnnHtp\.dll, QnnSystem\.dll"):
            find_package(emulates=False)
        for name in ("QnnHtp.dll", "QnnSystem.dll"):
            (tmp_path / name).touch()
        assert find_package(emulates=False) == NpuPackage(
            str(tmp_path / "python"), tmp_path, "2.7.0", "2.51.0", emulates=False
        )

    def test_another_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(platform, "machine", lambda: "arm64")
        with pytest.raises(EdgebError, match="this is linux on arm64"):
            find_package()
        for system, machine in (("linux", "x86_64"), ("darwin", "arm64")):
            monkeypatch.setattr(sys, "platform", system)
            monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
            with pytest.raises(EdgebError, match=f"no NPU of Qualcomm's: it is {system} on {machine}"):
                find_package(emulates=False)


class TestSession:
    """What the child asks of onnxruntime, with a small module in its place."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        asked: dict[str, Any] = {"entries": {}}

        class Options:
            def add_session_config_entry(self, name: str, value: str) -> None:
                asked["entries"][name] = value

            def add_provider_for_devices(self, devices: list[Any], settings: dict[str, str]) -> None:
                asked["devices"], asked["settings"] = devices, settings

        kinds = SimpleNamespace(CPU=0, NPU=2)
        asked["machine"] = [SimpleNamespace(ep_name=PROVIDER, device=SimpleNamespace(type=kinds.CPU))]
        fake = ModuleType("onnxruntime")
        vars(fake).update(
            OrtHardwareDeviceType=kinds,
            SessionOptions=Options,
            InferenceSession=lambda path, sess_options: path,
            get_ep_devices=lambda: [SimpleNamespace(ep_name="CPUExecutionProvider"), *asked["machine"]],
            register_execution_provider_library=lambda name, path: asked.update(library=(name, path)),
            set_default_logger_severity=lambda level: None,
        )
        libraries = ModuleType("onnxruntime_qnn")
        vars(libraries).update(get_library_path=lambda: "provider", get_qnn_htp_path=lambda: "htp")
        monkeypatch.setitem(sys.modules, "onnxruntime", fake)
        monkeypatch.setitem(sys.modules, "onnxruntime_qnn", libraries)
        return asked

    def test_emulated(self, asked: dict[str, Any]) -> None:
        open_session(Path("model.onnx"), {"emulated": True, "soc": 57, "architecture": 75})
        assert asked["library"] == (PROVIDER, "provider")
        assert asked["settings"] == {"backend_path": "htp", "htp_arch": "75", "soc_model": "57"}
        assert asked["entries"] == {"session.disable_cpu_ep_fallback": "1"}

    def test_the_machines_own(self, asked: dict[str, Any]) -> None:
        """The NPU knows what it is; without one nothing else takes its place."""
        task = {"emulated": False, "soc": 57, "architecture": 75}
        with pytest.raises(RuntimeError, match="this machine has no NPU of Qualcomm's"):
            open_session(Path("model.onnx"), task)
        npu = SimpleNamespace(ep_name=PROVIDER, device=SimpleNamespace(type=2))
        asked["machine"].append(npu)
        open_session(Path("model.onnx"), task)
        assert (asked["devices"], asked["settings"]) == ([npu], {"backend_path": "htp"})
        assert asked["entries"] == {"session.disable_cpu_ep_fallback": "1"}
