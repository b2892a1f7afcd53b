"""The NPU's own process: one context binary in an ONNX EPContext node, run by onnxruntime-qnn.

It may run in an environment of its own, which has numpy, onnx, onnxruntime and onnxruntime-qnn: nothing else may be
imported here. Tensors lie in a file that both processes map; a line on standard input asks for a run, a line on
standard output answers.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROVIDER = "QNNExecutionProvider"
_DONE, _FAILED = "done", "failed "
# Of ONNX's operators of its own, which are Microsoft's.
_DOMAIN = "com.microsoft"
_OPSET, _IR = 17, 8


def write_model(task: Mapping[str, Any], folder: Path) -> Path:
    """Write the binary and an ONNX model that is nothing but its node; the model's path.

    Args:
        task: `file`, `offset` and `bytes` of the context binary, `graph`, its name in it, and `inputs` and `outputs`,
            each [[name, shape]] of float32 tensors.
        folder: Where to write.
    """
    import onnx
    from onnx import TensorProto, helper

    with Path(task["file"]).open("rb") as source:
        source.seek(task["offset"])
        (folder / "context.bin").write_bytes(source.read(task["bytes"]))
    tensors = {
        kind: [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in task[kind]]
        for kind in ("inputs", "outputs")
    }
    node = helper.make_node(
        "EPContext",
        [name for name, _ in task["inputs"]],
        [name for name, _ in task["outputs"]],
        name=task["graph"],
        domain=_DOMAIN,
        main_context=1,
        embed_mode=0,
        ep_cache_context="context.bin",
        source="QNNExecutionProvider",
    )
    graph = helper.make_graph([node], task["graph"], tensors["inputs"], tensors["outputs"])
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR)
    onnx.save(model, str(folder / "model.onnx"))
    return folder / "model.onnx"


def open_session(model: Path, task: Mapping[str, Any]) -> Any:
    """A session of the emulator, or of this machine's NPU, and of nothing else.

    Args:
        model: See `write_model`.
        task: `emulated`, and where it is so `soc`, Qualcomm's number of the chip, and `architecture`, that of its NPU's
            architecture: alone it does not suffice. The NPU itself knows both.

    Raises:
        RuntimeError: this machine has no NPU of Qualcomm's.
    """
    import onnxruntime
    import onnxruntime_qnn

    onnxruntime.set_default_logger_severity(4)
    onnxruntime.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER]
    settings = {"backend_path": onnxruntime_qnn.get_qnn_htp_path()}
    if task["emulated"]:
        settings |= {"htp_arch": str(task["architecture"]), "soc_model": str(task["soc"])}
    else:
        npu = onnxruntime.OrtHardwareDeviceType.NPU
        devices = [device for device in devices if device.device.type == npu]
        if not devices:
            raise RuntimeError("this machine has no NPU of Qualcomm's")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_provider_for_devices(devices[:1], settings)
    return onnxruntime.InferenceSession(str(model), sess_options=options)


def main() -> None:
    """Entry point: serve runs until standard input ends."""
    import numpy as np

    # What native code prints goes nowhere; answers keep a channel of their own.
    answers = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    task = json.loads(sys.argv[2])

    def answer(text: str) -> None:
        print(" ".join(text.split()), file=answers, flush=True)

    try:
        folder = Path(task["folder"])
        session = open_session(write_model(task, folder), task)
        # The binary is in memory now.
        (folder / "context.bin").unlink()
        shared = np.memmap(task["shared"], dtype=np.float32, mode="r+")
        arrays: dict[str, Any] = {}
        start = 0
        for name, shape in (*task["inputs"], *task["outputs"]):
            size = int(np.prod(shape))
            arrays[name] = shared[start : start + size].reshape(shape)
            start += size
        taken, given = ([name for name, _ in task[kind]] for kind in ("inputs", "outputs"))
    except Exception as error:
        answer(f"{_FAILED}{error}")
        return
    answer(_DONE)
    for _ in sys.stdin:
        try:
            found = session.run(given, {name: arrays[name] for name in taken})
            for name, value in zip(given, found, strict=True):
                arrays[name][...] = value
        except Exception as error:
            answer(f"{_FAILED}{error}")
            return
        answer(_DONE)
