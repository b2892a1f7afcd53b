"""What this machine has: packages by extra, llama.cpp's build, accelerators, memory and disk."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edge_behavior import __version__
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.npu.package import find_package
from edge_behavior.util.cpus import allowed_cpus, physical_cores

_PACKAGES = {
    "runtime": ("llama-cpp-python", "numpy"),
    "data": ("duckdb", "pyarrow", "matplotlib"),
    "train": ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "scikit-learn"),
    "export": ("gguf", "torch", "transformers", "peft"),
    "onnx": ("onnxruntime-genai", "onnx", "onnx-ir", "tokenizers"),
    "litert": ("ai-edge-litert",),
}


def examine() -> dict[str, str]:
    """One line per part; a missing package is named with the extra that brings it."""
    import psutil

    found = {
        "edgeb": __version__,
        "python": platform.python_version(),
        "cores": f"{psutil.cpu_count(logical=False)} physical, {os.cpu_count()} logical",
        "threads": f"up to {allowed_cpus()}, {physical_cores()} by default: affinity and quota of this process",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "free disk here": f"{shutil.disk_usage(Path.cwd()).free / 2**30:.0f} GiB",
    }
    for part, packages in _PACKAGES.items():
        versions = {name: _version(name) for name in packages}
        missing = [name for name, found_version in versions.items() if found_version is None]
        listed = ", ".join(f"{name} {v}" for name, v in versions.items() if v is not None)
        if missing:
            listed += f"; missing {', '.join(missing)}: pip install 'edgeb[{part}]'"
        found[part] = listed
    found |= _llama()
    found["accelerator"] = _accelerator()
    found["npu"] = _npu()
    return found


def _npu() -> str:
    """Whether contexts for NPUs can be compiled and emulated here, or be run."""
    emulates = platform.machine().lower() in ("x86_64", "amd64")
    try:
        package = find_package(emulates)
    except EdgebError as error:
        return f"{error.message} ({error.hint})"
    what = "compiles for NPUs and emulates them" if emulates else "runs this machine's, if it has one"
    return f"onnxruntime-qnn {package.version} (QNN {package.qnn}) {what}"


def _llama() -> dict[str, str]:
    """Where llama.cpp's library lies and whether AMX works with it, which is tried out where it was not yet."""
    try:
        from edge_behavior.runtime.llama import build as llama_build
    # Raised by llama-cpp-python without its library, or with one built for another machine.
    except (ImportError, OSError, RuntimeError) as error:
        return {"llama.cpp": f"cannot be loaded: {error}"}
    files, verdict = llama_build.library_files(), llama_build.verdict()
    folder = ", ".join(sorted({str(path.parent) for path in files})) or "in the package"
    cpu = "has it" if llama_build.amx_flags() else "has none"
    built = "is built with it" if llama_build.has_amx_code() else "is built without it"
    if verdict.extra_buffers:
        judged = "tried, works" if verdict.outcome == llama_build.WORKS else "nothing to try"
    elif verdict.outcome == llama_build.UNUSABLE:
        judged = f"{verdict.fault}, so it is not used; to mend it: {llama_build.REBUILD}"
    else:
        judged = f"{verdict.fault}, so {llama_build.REMEDY}"
    return {"llama.cpp": folder, "AMX": f"the CPU {cpu}, llama.cpp {built}: {judged}"}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _accelerator() -> str:
    if _version("torch") is None:
        return "unknown without torch"
    import torch

    if not torch.cuda.is_available():
        return "none: training runs on the CPU, which is enough for the recipes smollm2-135m and tiny"
    properties = torch.cuda.get_device_properties(0)
    bf16 = "with" if torch.cuda.is_bf16_supported(including_emulation=False) else "without"
    return (
        f"{torch.cuda.device_count()} x {properties.name}, {properties.total_memory / 2**30:.0f} GiB, {bf16} bfloat16"
    )
