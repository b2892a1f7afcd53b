"""Conversion and quantization in a process of their own: their gigabytes come back, and their prints stay unseen.

`python -m edge_behavior.export.litert.worker TASK` does one task; TASK is JSON. The packages are large and change fast:
a crash of their native code ends the child, not the export.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edge_behavior.bundle.litert_graph import LiteRtGraph
from edge_behavior.errors import EdgebError

# Modules that the runtime and the export need, by package.
_NEEDED = {"ai_edge_litert": "ai-edge-litert", "litert_torch": "litert-torch", "ai_edge_quantizer": "ai-edge-quantizer"}
_ANSWER = "edgeb:"


def check_packages() -> None:
    """Refuse to start without the packages that convert, quantize and run; imports none of them.

    Raises:
        EdgebError: naming what is missing.
    """
    missing = [package for module, package in _NEEDED.items() if find_spec(module) is None]
    if missing:
        raise EdgebError(
            f"LiteRT export needs {', '.join(missing)}, not installed", "pip install 'edgeb[export,litert-export]'"
        )


def convert_apart(model_dir: Path, graph: LiteRtGraph, out: Path) -> None:
    """`convert.convert` in a child process.

    Raises:
        EdgebError: it failed, with its reason.
    """
    _run({"task": "convert", "model_dir": str(model_dir), "graph": graph.to_dict(), "out": str(out)})


def quantize_apart(source: Path, out: Path, quant: str) -> dict[str, int]:
    """`quantize.quantize` in a child process; with f32 the file is left alone.

    Returns:
        How many weights of the file have each type.

    Raises:
        EdgebError: it failed, with its reason.
    """
    types: dict[str, int] = _run({"task": "quantize", "source": str(source), "out": str(out), "quant": quant})["types"]
    return types


def _run(task: Mapping[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "edge_behavior.export.litert.worker", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(_ANSWER)]
    answer = json.loads(lines[-1].removeprefix(_ANSWER)) if lines else {}
    if "error" in answer:
        raise EdgebError(answer["error"], answer["hint"])
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines()
        reason = f"it ended with code {done.returncode}" if not said else said[-1]
        raise EdgebError(
            f"LiteRT's converter failed ({task['task']}): {reason[:300]}", "report this, or export with --format gguf"
        )
    return dict(answer)


def _convert(task: Mapping[str, Any]) -> dict[str, Any]:
    from edge_behavior.export.litert.convert import convert

    graph = LiteRtGraph.from_dict(task["graph"])
    convert(Path(task["model_dir"]), graph, Path(task["out"]))
    return {}


def _quantize(task: Mapping[str, Any]) -> dict[str, Any]:
    from edge_behavior.export.litert.quantize import quantize, weight_types

    source, out = Path(task["source"]), Path(task["out"])
    if task["quant"] != "f32":
        quantize(source, out, task["quant"])
    return {"types": weight_types(source if task["quant"] == "f32" else out)}


def main() -> None:
    """Entry point of the child process."""
    task = json.loads(sys.argv[1])
    try:
        answer = {"convert": _convert, "quantize": _quantize}[task["task"]](task)
    except EdgebError as error:
        answer = {"error": error.message, "hint": error.hint}
    print(f"{_ANSWER}{json.dumps(answer)}", flush=True)


if __name__ == "__main__":
    main()
