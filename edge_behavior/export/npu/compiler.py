"""Compile a `.tflite` for a chip by LiteRT's plug-in for Qualcomm's compiler, and read what came of it.

LiteRT's own tool does it, in a process of its own: the compiler's gigabytes come back. The plug-in is ai-edge-litert's,
Qualcomm's libraries are onnxruntime-qnn's. Knows nothing of bundles.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edge_behavior.bundle.npu_chips import Chip
from edge_behavior.bundle.npu_folder import NpuContext
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.npu.package import NpuPackage
from edge_behavior.util.checksums import file_sha256
from edge_behavior.util.numbers import file_size

_TOOL, _PLUGIN = "tools/apply_plugin_main", "vendors/qualcomm/compiler/libLiteRtCompilerPlugin_Qualcomm.so"
# The plug-in is linked to a library that the package lacks, and that nothing here calls: another takes its name.
_ABSENT, _IN_ITS_PLACE = "libQnnLpai.so", "libQnnSystem.so"
_DISPATCH = b"DISPATCH_OP"
_STATISTICS = re.compile(r"Partitioned subgraph<\d+>, selected (\d+) ops, from a total of (\d+) ops")
_PEAK = re.compile(r"VmHWM:\s*(\d+) kB")
_ASKED_EVERY = 0.1
_LOGGED = re.compile(r"^(?:ERROR: \[|.*\[\s*ERROR\s*\])")
# Memory to keep for the compiler: so much, and so many bytes per byte of the model. A guess from above: models of 135
# million weights were seen to take 1 to 5 GB, and it was not noted at which precision.
_BASE_BYTES, _BYTES_PER_BYTE = 400 << 20, 9.0


def check_compiler() -> Path:
    """LiteRT's folder, with tool and plug-in.

    Raises:
        EdgebError: ai-edge-litert is not installed, or comes without them on this platform.
    """
    found = find_spec("ai_edge_litert")
    if found is None or found.origin is None:
        raise EdgebError("--npu needs ai-edge-litert, not installed", "pip install 'edgeb[litert]'")
    folder = Path(found.origin).parent
    for name in (_TOOL, _PLUGIN):
        if not (folder / name).is_file():
            raise EdgebError(f"ai-edge-litert has no {name} on this platform", "use its wheel for Linux on x86-64")
    return folder


def memory_needed(model_bytes: float) -> int:
    """Bytes of memory to keep for compiling a model of a size."""
    return _BASE_BYTES + int(_BYTES_PER_BYTE * model_bytes)


def check_memory(model_bytes: float) -> None:
    """Refuse to compile what will not fit.

    Raises:
        EdgebError: too little memory is free.
    """
    import psutil

    needed, free = memory_needed(model_bytes), int(psutil.virtual_memory().available)
    if free < needed:
        raise EdgebError(
            f"compiling for the NPU needs {file_size(needed)} of memory, {file_size(free)} are free",
            "close other programs, or use a machine with more memory",
        )


def compile_model(model: Path, chip: Chip, out: Path, package: NpuPackage) -> NpuContext:
    """Compile a model with one signature.

    Args:
        model: A `.tflite` without other signatures.
        chip: What for.
        out: The file to write.
        package: Qualcomm's libraries.

    Raises:
        EdgebError: the compiler fails, with its last message, or leaves operators to the CPU, named.
    """
    folder = check_compiler()
    command = [
        str(folder / _TOOL),
        "--cmd=apply",
        f"--model={model}",
        f"--o={out}",
        "--soc_manufacturer=Qualcomm",
        f"--soc_model={chip.name.upper()}",
        f"--libs={(folder / _PLUGIN).parent}",
        "--qualcomm_log_level=error",
        "--err=--",
    ]
    with tempfile.TemporaryDirectory(prefix="edgeb-npu-") as links:
        (Path(links) / _ABSENT).symlink_to(package.folder / _IN_ITS_PLACE)
        paths = [links, str(package.folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(paths)}
        log = Path(links) / "log"
        with log.open("w") as said:
            child = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=environment)
            memory = _wait(child)
        content = log.read_text(errors="replace")
    if child.returncode or not out.is_file():
        raise EdgebError(
            f"the compiler for {chip.name} failed: {_reason(content, child.returncode)}",
            "report this, or leave the chip out",
        )
    taken = [int(selected) for selected, _ in _STATISTICS.findall(content)]
    return read_compiled(out, chip, sum(taken), memory)


def _wait(child: subprocess.Popen[bytes]) -> int:
    """Wait for a child; most bytes of memory that it was seen to hold, at least 1.

    Asked while it runs: what the system counts for a child that has ended begins with its parent's.
    """
    status, most = Path(f"/proc/{child.pid}/status"), 1
    try:
        while child.poll() is None:
            with suppress(OSError):
                found = _PEAK.search(status.read_text())
                most = max(most, int(found[1]) << 10 if found else 0)
            with suppress(subprocess.TimeoutExpired):
                child.wait(_ASKED_EVERY)
    except BaseException:
        child.kill()
        child.wait()
        raise
    return most


def read_compiled(file: Path, chip: Chip, operators: int, memory: int) -> NpuContext:
    """What the compiler wrote.

    Args:
        file: The compiled `.tflite`.
        chip: What for.
        operators: How many operators the compiler took.
        memory: Most bytes that it held.

    Raises:
        EdgebError: operators were left to the CPU, by name, or there are several partitions.
    """
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.Model.GetRootAsModel(file.read_bytes(), 0)
    signature = model.SignatureDefs(0)
    graph = model.Subgraphs(signature.SubgraphIndex())
    codes = [model.OperatorCodes(graph.Operators(i).OpcodeIndex()) for i in range(graph.OperatorsLength())]
    dispatched = [i for i, code in enumerate(codes) if code.CustomCode() == _DISPATCH]
    left = Counter(_operator_name(schema, code) for code in codes if code.CustomCode() != _DISPATCH)
    if left or len(dispatched) != 1:
        names = ", ".join(f"{name} ({count})" if count > 1 else name for name, count in left.most_common(6))
        raise EdgebError(
            f"the NPU of {chip.name} does not take all of the graph: "
            + (f"left to the CPU are {names}" if left else f"it falls into {len(dispatched)} parts"),
            "use another --quant, or leave the chip out",
        )
    from flatbuffers import flexbuffers

    node = graph.Operators(dispatched[0])
    options: Any = flexbuffers.Loads(bytes(node.CustomOptionsAsNumpy()))
    taken = _names(signature.Inputs, signature.InputsLength())
    given = _names(signature.Outputs, signature.OutputsLength())
    return NpuContext(
        chip=chip.name,
        architecture=chip.architecture,
        file=file.name,
        sha256=file_sha256(file),
        bytes=file.stat().st_size,
        context_offset=int(options["bytecode_offset"]),
        context_bytes=int(options["bytecode_size"]),
        graph=str(options["name"]),
        inputs={taken[i]: _tensor_name(graph, i) for i in node.InputsAsNumpy().tolist()},
        outputs={given[i]: _tensor_name(graph, i) for i in node.OutputsAsNumpy().tolist()},
        operators=operators,
        memory=memory,
    )


def _names(tensor_at: Callable[[int], Any], count: int) -> dict[int, str]:
    """A signature's names of tensors, by their numbers."""
    return {tensor.TensorIndex(): tensor.Name().decode() for tensor in map(tensor_at, range(count))}


def _tensor_name(graph: Any, index: int) -> str:
    """A tensor's name in the binary, where only letters, digits and underscores are left of it."""
    return re.sub(r"[^a-zA-Z0-9_]+", "_", graph.Tensors(index).Name().decode())


def _operator_name(schema: Any, code: Any) -> str:
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    custom: bytes | None = code.CustomCode()
    # Files written before there were more than 127 operators have the other field alone.
    return custom.decode() if custom else names.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "?")


def _reason(log: str, code: int) -> str:
    """The last error in a log, or how the tool ended."""
    errors = [line.strip() for line in log.splitlines() if _LOGGED.match(line)]
    return errors[-1][:300] if errors else f"it ended with code {code}"
