"""Conversion and quantization in a process of their own: their gigabytes come back, and their prints stay unseen.

The packages are large and change fast: a crash of their native code ends the child, not the export. Where their
versions do not go with the others of this environment, $EDGEB_LITERT_PYTHON names the Python of one that has them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edge_behavior.bundle.litert_graph import LiteRtGraph
from edge_behavior.errors import EdgebError

PYTHON_VARIABLE = "EDGEB_LITERT_PYTHON"
_RUNTIME, _CONVERTERS = "ai_edge_litert", ("litert_torch", "ai_edge_quantizer")
_ANSWER = "edgeb:"
# Last on the path: the packages of the child's own environment come first.
_CHILD = "import sys; sys.path.append(sys.argv[1]); from edge_behavior.export.litert.worker import main; main()"
_PROBE = "import sys; from importlib.util import find_spec; print(*[m for m in sys.argv[1:] if find_spec(m) is None])"


def check_packages() -> None:
    """Refuse to start without the packages that convert, quantize and run; imports none of them.

    Raises:
        EdgebError: naming what is missing; or $EDGEB_LITERT_PYTHON is no Python.
    """
    missing = [name for name in (_RUNTIME, *_CONVERTERS) if find_spec(name) is None]
    other = os.environ.get(PYTHON_VARIABLE)
    if other and set(missing) & set(_CONVERTERS):
        missing = [name for name in missing if name == _RUNTIME] + _missing_in(other)
    if missing:
        names = ", ".join(name.replace("_", "-") for name in missing)
        raise EdgebError(
            f"LiteRT export needs {names}, not installed",
            f"pip install 'edgeb[export,litert-export]', here or in an environment that {PYTHON_VARIABLE} names",
        )


def _missing_in(python: str) -> list[str]:
    try:
        done = subprocess.run([python, "-c", _PROBE, *_CONVERTERS], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise EdgebError(f"{PYTHON_VARIABLE} is {python}, which does not run", "name a Python executable") from None
    return done.stdout.split()


def convert_apart(model_dir: Path, graph: LiteRtGraph, out: Path, norm: str = "apart", embeddings: bool = True) -> None:
    """`convert.convert` in a child process.

    Raises:
        EdgebError: it failed, with its reason.
    """
    task = {"task": "convert", "model_dir": str(model_dir), "graph": graph.to_dict(), "out": str(out), "norm": norm}
    _run({**task, "embeddings": embeddings})


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
    package = str(Path(__file__).resolve().parents[3])
    own = all(find_spec(name) for name in _CONVERTERS)
    python = sys.executable if own else os.environ.get(PYTHON_VARIABLE, sys.executable)
    command = [python, "-c", _CHILD, package, json.dumps(task)]
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
    convert(Path(task["model_dir"]), graph, Path(task["out"]), task["norm"], task["embeddings"])
    return {}


def _quantize(task: Mapping[str, Any]) -> dict[str, Any]:
    from edge_behavior.export.litert.quantize import quantize, weight_types

    source, out = Path(task["source"]), Path(task["out"])
    if task["quant"] != "f32":
        quantize(source, out, task["quant"])
    return {"types": weight_types(source if task["quant"] == "f32" else out)}


def main() -> None:
    """Entry point of the child process."""
    task = json.loads(sys.argv[2])
    try:
        answer = {"convert": _convert, "quantize": _quantize}[task["task"]](task)
    except EdgebError as error:
        answer = {"error": error.message, "hint": error.hint}
    print(f"{_ANSWER}{json.dumps(answer)}", flush=True)
