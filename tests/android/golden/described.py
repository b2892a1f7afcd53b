"""What is known of a golden bundle before anything is asked of it: manifest, tokens, trie, prompts, population."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.population import PopulationTable
from tests.android.golden.recorder import Recorder, event_row
from tests.android.golden.texts import CROWDED, PLACES, TEXTS, diary


def described(recorder: Recorder, manifest: Manifest, brief: bool) -> dict[str, Any]:
    """A bundle's manifest and tokens; the phone's code makes no other than the recorded calls where `brief`."""
    ranker, labels = recorder.predictor._ranker, manifest.candidates.labels
    stated = manifest.base_model.license
    return {
        "file": recorder.path.name,
        "exact_math": recorder.exact_math,
        "brief": brief,
        "manifest": {
            "labels": list(labels), "counts": list(manifest.candidates.counts), "bos_id": manifest.bos_id,
            "eos_id": manifest.eos_id, "layout": manifest.layout.to_dict(), "static_prompt": manifest.static_prompt,
            "tensors_sha256": manifest.tensors_sha256, "tokenizer_sha256": manifest.tokenizer_sha256,
            "groups": list(manifest.candidates.groups()), "default_source": manifest.default_source,
            "license": None if stated is None else stated.lines,
            "license_texts": None if stated is None else dict(stated.texts),
        },
        "texts": [[text, ranker.backend.tokenize(text)] for text in TEXTS],
        "trie": _trie(ranker.encoder),
        "population": None if ranker.population is None else _asked_of(ranker.population),
        "prompts": [_prompt(ranker.encoder, labels, n, PLACES[3 + i]) for i, n in enumerate((0, 1, 4, 30))],
    }  # fmt: skip


def _trie(encoder: PromptEncoder) -> dict[str, list[int]]:
    names = ("tokens", "parents", "depths", "candidates", "leaves", "inner")
    return {name: getattr(encoder.trie, name).tolist() for name in names}


def _prompt(encoder: PromptEncoder, labels: Sequence[str], length: int, place: str) -> dict[str, Any]:
    history = diary(length, length, labels)
    when = history[-1].time + timedelta(hours=1) if history else datetime(2024, 3, 18, 20)
    prompt = encoder.layout.prompt(history, when, place, encoder.candidates.labels)
    return {
        "history": [event_row(e) for e in history],
        "when": when.isoformat(timespec="minutes"),
        "place": place,
        "segments": [*prompt.static, *prompt.body],
        "ids": encoder.prompt_ids(history, when, place),
    }


def _asked_of(table: PopulationTable) -> list[dict[str, Any]]:
    """Probabilities for some situations, as JSON has them."""
    size = len(table)
    found = []
    for i, place in enumerate([*CROWDED, *PLACES]):
        recent = [[], [0], [1, size - 1], [9, 9], [0, 9, 2], [9, 0], [size - 1, 1, 0, 2]][i % 7]
        when = datetime(2024, 3, 18) + timedelta(minutes=137 * i)
        asked = {"recent": recent, "when": when.isoformat(timespec="minutes"), "place": place}
        found.append({**asked, "probs": table.probs(recent, when, place).tolist()})
    return found
