"""What the phone's NPU code is held against on every machine: chips, `npu.json`, versions, known rows, call plans."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_behavior.bundle.litert_graph import LiteRtGraph
from edge_behavior.bundle.litert_probe import LiteRtProbe
from edge_behavior.bundle.manifest import Manifest
from edge_behavior.bundle.npu_chips import CHIPS, LIBRARIES
from edge_behavior.bundle.npu_folder import NPU_FILE, NpuContext, NpuFolder, check_run_time, npu_folder
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.litert.calls import planner_of
from edge_behavior.runtime.litert.probe import probe_plans
from edge_behavior.runtime.npu.signatures import npu_graph
from tests.bad_npu_folders import DAMAGES

SIZE = 8
# What a context's file holds in tests: nothing here reads more of it than its hash.
CONTENT = b"a context, compiled\n" * 7
_VERSIONS = {"ai_edge_litert": "2.3.0", "onnxruntime_qnn": "2.7.0", "qnn": "2.51.0"}
_PARITY = {"windows": 5, "known_rows_tolerance": 0.05}
_PROBE = LiteRtProbe(("gpu",), (3, 4), (0, 9), ((-0.5, -2.0), (-1.0, -3.0)), 0.25)
_RUN_TIMES = ("2.51.0", "2.51.1", "2.52", "3.0.0", "2.50.9", "2.51", "1.99.99", "2.51.0.260929181845")
_BAD_PROBES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda f: f.update(ids=[10]), "ids"),
    (lambda f: f.update(tokens=[]), "tokens"),
    (lambda f: f.update(log_probs=[[-1.0, -1.0]]), "log_probs"),
    (lambda f: f["log_probs"][0].append(-1.0), "log_probs"),
    (lambda f: f["log_probs"][0].__setitem__(0, 0.5), "log_probs"),
    (lambda f: f.update(accelerators=[1]), "accelerators"),
    (lambda f: f.update(tolerance=-1), "tolerance"),
    (lambda f: f.pop("tolerance"), "'tolerance' is missing"),
]


def folder_of(bundle_sha256: str, size: int = SIZE, content: bytes = CONTENT) -> NpuFolder:
    """Contexts for two chips, the first of them emulated."""
    hashed = hashlib.sha256(content).hexdigest()
    first = NpuContext(
        "sm8650", "v75", "v75.tflite", hashed, len(content), 20, 80, "qnn_partition_0", {"mask": "m"},
        {"logits": "l"}, 7, 1000, _PARITY,
    )  # fmt: skip
    second = replace(first, chip="sm8750", architecture="v79", file="v79.tflite", parity=None)
    return NpuFolder(bundle_sha256, "int8", size, _VERSIONS, (first, second))


def write_folder(bundle: Path, manifest: Manifest, size: int = SIZE) -> None:
    """Lay contexts beside a bundle that only say that they are some."""
    folder = npu_folder(bundle)
    folder.mkdir()
    (folder / NPU_FILE).write_text(folder_of(manifest.tensors_sha256, size).to_json(), encoding="utf-8")
    for context in folder_of(manifest.tensors_sha256).contexts:
        (folder / context.file).write_bytes(CONTENT)


def vectors() -> dict[str, Any]:
    """For `NpuCheck.kt`."""
    text, probe = folder_of("b" * 64).to_json(), json.dumps(_PROBE.to_dict())
    LiteRtProbe.from_dict(json.loads(probe), 10)
    return {
        "chips": [[chip.name, chip.architecture, [*LIBRARIES, *chip.libraries]] for chip in CHIPS],
        "folder": text,
        "content": CONTENT.decode(),
        "run_times": [[version, _runs_on(version)] for version in _RUN_TIMES],
        "bad_folders": [
            _refused(text, damage.edit, damage.on_phone or damage.message, NpuFolder.from_json) for damage in DAMAGES
        ],
        "probe": probe,
        "bad_probes": [
            _refused(probe, edit, reason, lambda changed, _: LiteRtProbe.from_dict(json.loads(changed), 10))
            for edit, reason in _BAD_PROBES
        ],
    }


def plans(graph: LiteRtGraph) -> dict[str, Any]:
    """Calls of one size, and those that check known rows."""
    planner = planner_of(npu_graph(graph, graph.sizes[-1]))
    return {
        "npu": [[count, _calls(planner.plan(count, count - 1))] for count in (1, 5, 33, 70)],
        "probes": [[count, [_calls(calls) for calls in probe_plans(graph, count)]] for count in (1, 7, 8)],
    }


def _calls(found: Any) -> list[list[Any]]:
    return [[call.size, call.first, call.start, call.stop] for call in found]


def _runs_on(version: str) -> bool:
    try:
        check_run_time(folder_of("b" * 64), version, Path("x"))
    except EdgebError:
        return False
    return True


def _refused(
    text: str, edit: Callable[[dict[str, Any]], object], reason: str, read: Callable[[str, str], object]
) -> list[str]:
    """A text that Python refuses, too, with a part of the phone's message."""
    fields = json.loads(text)
    edit(fields)
    changed = json.dumps(fields)
    try:
        read(changed, NPU_FILE)
    except EdgebError:
        return [changed, reason]
    raise AssertionError(f"was taken: {changed}")
