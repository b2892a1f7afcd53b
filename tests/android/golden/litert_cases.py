"""What the phone's LiteRT code is held against without LiteRT: call plans, masks, rotations, numbers, and files."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_behavior.bundle.litert_file import MANIFEST_ENTRY, TOKENIZER_ENTRY, write_litert
from edge_behavior.bundle.litert_graph import LiteRtGraph, SlidingWindow
from edge_behavior.bundle.manifest import BaseModelInfo, Manifest
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.runtime.litert.calls import planner_of
from edge_behavior.runtime.litert.inputs import Tokens, rotations, window_reach, write_first_mask, write_mask
from tests.android.golden import npu_cases
from tests.android.golden.refusals import listed

GRAPH = LiteRtGraph(
    sizes=(1, 4, 8, 32), first_sizes=(8, 48), cache=40, layers=2, hidden=64, kv_heads=2, head_dim=4, vocabulary=600,
    rope=(1.0, 0.0009999999310821295), sliding=SlidingWindow(16, (1.0, 0.01)),
)  # fmt: skip
_GRAPHS = [
    GRAPH,
    replace(GRAPH, first_sizes=(), sliding=None),
    replace(GRAPH, sizes=(8, 128), first_sizes=(128, 256), cache=768, hidden=576, layers=30, vocabulary=49_152),
    replace(GRAPH, sizes=(1,), first_sizes=(1,), rope=(0.25, 1e-7)),
]
_NUMBERS = [0.0, 1.0, 0.1, 1 / 3, 2e-5, 1e-4, 9.999e-5, 0.0009999999310821295, 7.5, 10.0, 1e15, 1e16, 123456789.125,
            5e-324, 1.7976931348623157e308, 2.0**-24, 0.31622776601683794, -2.5,
            9007199254740993.0, 2.0**-44, *(float(np.float32(10_000 ** (-i / 8))) for i in range(8))]  # fmt: skip
_MODEL = b"\x1c\0\0\0TFL3" + bytes(range(256)) * 40
_TOKENIZER = b"GGUF" + bytes(500)


def vectors() -> dict[str, Any]:
    """For `LiteRtVectors.kt`."""
    return {
        "numbers": [[number, repr(number)] for number in _NUMBERS],
        "graphs": [_graph(graph) for graph in _GRAPHS],
        "masks": [_mask(seed) for seed in range(12)],
        "first_masks": [_first_mask(size, window) for size, window in ((1, None), (6, None), (6, 2), (6, 1), (3, 9))],
        "rotations": _rotations(),
        "accelerators": npu_cases.vectors(),
    }


def _graph(graph: LiteRtGraph) -> dict[str, Any]:
    planner = planner_of(graph)
    asked = [
        (count, beginning)
        for count in (1, 2, 3, 5, 9, 17, 33, 70, 150, 400)
        for beginning in {0, count // 2, count - 1}
    ]
    plans = [
        [count, beginning, [[c.size, c.first, c.start, c.stop] for c in planner.plan(count, beginning)]]
        for count, beginning in sorted(asked)
    ]
    return {
        "graph": graph.to_dict(), "canonical": json.dumps(graph.to_dict(), sort_keys=True), "plans": plans,
        **npu_cases.plans(graph),
    }  # fmt: skip


def _mask(seed: int) -> dict[str, Any]:
    """A call with some prompt tokens and some that see slots of their own choice, in any order."""
    rng = np.random.default_rng(seed)
    cache, size = 24, int(rng.choice([4, 8]))
    start, prompt = int(rng.integers(0, 8)), int(rng.integers(0, size // 2 + 1))
    end, count = start + prompt, size if seed % 3 else size - 1
    slots = np.concatenate([np.arange(start, end), end + rng.permutation(cache - end)[: count - prompt]])
    first = np.where(np.arange(count) < prompt, start + np.arange(count) + 1, end)
    others = [[] if i < prompt else sorted({int(slots[i]), *_some(rng, slots[prompt:i])}) for i in range(count)]
    visible = np.arange(cache) < first[:, None]
    for row, seen in enumerate(others):
        visible[row, seen] = True
    held = rng.integers(0, 20, cache).astype(np.int32)
    positions = np.where(np.arange(count) < prompt, start + np.arange(count), end + 1).astype(np.int32)
    held[slots] = positions
    window = None if seed % 2 else 5
    mask = np.zeros((size, cache + size), dtype=np.float32)
    tokens = Tokens(np.zeros(count, np.int32), positions, slots.astype(np.int32), visible)
    write_mask(mask, tokens, None if window is None else window_reach(positions, held, window))
    return {
        "size": size, "cache": cache, "positions": positions.tolist(), "slots": slots.tolist(),
        "first": first.tolist(), "others": others, "held": held.tolist(), "window": window,
        "seen": [np.flatnonzero(row == 0).tolist() for row in mask],
    }  # fmt: skip


def _first_mask(size: int, window: int | None) -> dict[str, Any]:
    mask = np.zeros((size, size), dtype=np.float32)
    write_first_mask(mask, window)
    return {"size": size, "window": window, "seen": [np.flatnonzero(row == 0).tolist() for row in mask]}


def _some(rng: np.random.Generator, slots: np.ndarray) -> list[int]:
    return [int(slot) for slot in slots if rng.random() < 0.5]


def _rotations() -> dict[str, Any]:
    cosines, sines = rotations(GRAPH.rope, 2048)
    at = [0, 1, 7, 1023, 2047]
    return {
        "rope": list(GRAPH.rope), "positions": at,
        "cosines": cosines[at].tolist(), "sines": sines[at].tolist(),
    }  # fmt: skip


def refused(folder: Path) -> list[list[str]]:
    """Files that no bundle may be taken for, with a part of the message; `good.tflite` beside them is one.

    Their model is none: such a file can be read and verified, and nothing else.
    """
    good, model = folder / "good.tflite", folder / "good.model"
    model.write_bytes(_MODEL)
    manifest = Manifest(
        created_with="edgeb test", candidates=CandidateSet.of(["Bar", "Café"], [3, 1]), layout=PromptLayout(),
        bos_id=None, eos_id=0, architecture="gemma3", quantization="int8", context_length=40,
        base_model=BaseModelInfo("x", None, "00"),
    )  # fmt: skip
    write_litert(model, _TOKENIZER, manifest, GRAPH, good)
    content = good.read_bytes()
    with zipfile.ZipFile(good) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    edits: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
        "newer": (lambda f: f.update(schema_version=2, more=1), "newer edgeb"),
        "no-graph": (lambda f: f.pop("graph"), "'graph' is missing"),
        "extra": (lambda f: f.update(extra=1), "unknown field 'extra'"),
        "manifest": (lambda f: f.update(manifest=f["manifest"] + " "), "the manifest does not match its hash"),
        "hash": (lambda f: f.update(model_sha256="0" * 64), "the hashes do not match the manifest's"),
        "no-hash": (lambda f: f.update(model_sha256="x"), "a hash is 'x'"),
        "length": (lambda f: f.update(model_bytes=len(_MODEL) - 1), "does not begin where the model ends"),
        "cache": (lambda f: f["graph"].update(cache=256), "the hashes do not match the manifest's"),
        "no-cache": (lambda f: f["graph"].update(cache=0), "graph: field 'cache' is 0"),
        "sizes": (lambda f: f["graph"].update(sizes=[8, 1]), "not ascending sizes"),
        "no-sizes": (lambda f: f["graph"].update(sizes=[]), "'sizes' is empty"),
        "firsts": (lambda f: f["graph"].update(first_sizes=[8, 8]), "first_sizes is"),
        "rope": (lambda f: f["graph"].update(rope=[1.0]), "frequenc"),
        "frequency": (lambda f: f["graph"].update(rope=[1.0, -1.0]), "frequenc"),
        "window": (lambda f: f["graph"]["sliding"].update(window=0), "sliding: field 'window' is 0"),
        "huge": (lambda f: f["graph"].update(vocabulary=2_000_000_000), "too large|do not match"),
        "no-files": (lambda f: f["files"].pop(TOKENIZER_ENTRY), "'files' has"),
        "files": (lambda f: f["files"].update({"../x": "0" * 64}), "'files' has"),
        "population": (lambda f: f["files"].update({"population.bin": "0" * 64}), "the archive holds"),
    }
    made = {
        "stock": (_MODEL, "without edgeb's manifest, or cut short before it"),
        "other-archive": (_packed({"labels.txt": b"of TFLite's own metadata"}), "without edgeb's manifest"),
        "cut": (content[:-1], "is cut short: it ends inside edgeb's archive"),
        "cut-deep": (content[: len(_MODEL) + 100], "is cut short: it ends inside edgeb's archive"),
        "more": (_packed({**held, "more.txt": b"x"}), "the archive holds"),
        "twice": (_packed(held, again=MANIFEST_ENTRY), "is damaged"),
        "compressed": (_packed(held, zipfile.ZIP_DEFLATED), "is damaged"),
        "model": (_changed(content, 100), "the model does not match its hash"),
        "tokenizer": (
            _packed({**held, TOKENIZER_ENTRY: held[TOKENIZER_ENTRY] + b"x"}),
            "tokenizer.gguf does not match its hash",
        ),
        "crc": (_changed(content, content.index(held[TOKENIZER_ENTRY]) + 8), "is damaged|does not match its hash"),
        **{name: (_packed(held, change=change), reason) for name, (change, reason) in edits.items()},
    }
    return listed(folder, {f"bad-{name}.tflite": case for name, case in made.items()})


def _changed(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def _packed(
    entries: dict[str, bytes],
    method: int = zipfile.ZIP_STORED,
    change: Callable[[dict[str, Any]], object] | None = None,
    again: str | None = None,
) -> bytes:
    """The model with an archive behind it, in memory."""
    out = io.BytesIO()
    out.write(_MODEL)
    if change is not None:
        fields = json.loads(entries[MANIFEST_ENTRY])
        change(fields)
        entries = {**entries, MANIFEST_ENTRY: json.dumps(fields).encode()}
    with zipfile.ZipFile(out, "a", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in [*entries.items(), *([(again, entries[again])] if again else [])]:
            archive.writestr(name, content)
    return out.getvalue()
