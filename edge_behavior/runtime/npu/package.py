"""Qualcomm's libraries as the onnxruntime-qnn package brings them: where they are, and which version.

They may lie in an environment of their own: $EDGEB_NPU_PYTHON names its Python. Nothing of them is copied.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edge_behavior.errors import EdgebError

PYTHON_VARIABLE = "EDGEB_NPU_PYTHON"
# What the emulator's process imports. The version is the one that was tried.
_NEEDED = ("numpy", "onnx", "onnxruntime", "onnxruntime_qnn")
PINNED = "onnxruntime-qnn==2.7.0"
_ARM = ("aarch64", "arm64")
_HINT = (
    f"pip install 'edgeb[npu]', or {PINNED} and onnx, here or in an environment whose Python {PYTHON_VARIABLE} names"
)
_PROBE = """
import json, sys
from importlib.util import find_spec
found = {"missing": [name for name in sys.argv[1:] if find_spec(name) is None]}
if not found["missing"]:
    from onnxruntime_qnn import LIB_DIR_FULL_PATH, build_and_package_info as info
    found |= {"folder": LIB_DIR_FULL_PATH, "version": info.__version__, "qnn": info.qnn_version}
print(json.dumps(found))
"""
_LIBRARIES = {"linux": ("libQnnHtp.so", "libQnnSystem.so"), "win32": ("QnnHtp.dll", "QnnSystem.dll")}


@dataclass(frozen=True)
class NpuPackage:
    """onnxruntime-qnn as it is installed.

    Attributes:
        python: The Python that has it.
        folder: Qualcomm's libraries.
        version: The package's.
        qnn: The libraries'.
        emulates: Whether they emulate NPUs, as they do on x86-64, and do not run one.
    """

    python: str
    folder: Path
    version: str
    qnn: str
    emulates: bool = True


def find_package(emulates: bool = True) -> NpuPackage:
    """The package, in this environment or the one that $EDGEB_NPU_PYTHON names.

    Args:
        emulates: Whether its emulator, and compiler, is wanted, or what runs this machine's NPU.

    Raises:
        EdgebError: another machine than Linux on x86-64, or one that cannot have such an NPU; packages or libraries are
            missing, by name; the variable names no Python.
    """
    here, machine = sys.platform, platform.machine()
    if emulates and (here, machine) != ("linux", "x86_64"):
        raise EdgebError(
            f"NPU contexts are compiled and emulated on Linux on x86-64, this is {here} on {machine}",
            "use such a machine",
        )
    if not emulates and (here not in _LIBRARIES or machine.lower() not in _ARM):
        raise EdgebError(
            f"this machine has no NPU of Qualcomm's: it is {here} on {machine}",
            "use the CPU, or npu-emulated to see its answers",
        )
    python = os.environ.get(PYTHON_VARIABLE) or sys.executable
    try:
        done = subprocess.run([python, "-c", _PROBE, *_NEEDED], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
    except OSError:
        raise EdgebError(f"{PYTHON_VARIABLE} is {python}, which does not run", "name a Python executable") from None
    except (subprocess.CalledProcessError, ValueError, IndexError):
        raise EdgebError(f"onnxruntime-qnn of {python} does not load", _HINT) from None
    if found["missing"]:
        names = ", ".join(name.replace("_", "-") for name in found["missing"])
        raise EdgebError(f"the NPU needs {names}, not installed for {python}", _HINT)
    package = NpuPackage(python, Path(found["folder"]), found["version"], found["qnn"], emulates)
    lacking = [name for name in _LIBRARIES[here] if not (package.folder / name).is_file()]
    if lacking:
        raise EdgebError(f"onnxruntime-qnn {package.version} of {python} has no {', '.join(lacking)}", _HINT)
    return package
