"""Golden vectors for the phone's code: tiny bundles made on the spot, and what Python says about them.

    python -m tests.android.goldens FOLDER [BUNDLE…]

writes bundles, damaged bundles and golden.json into a folder; `android_demo/conformance` reproduces all of it. Calls of
a bundle are written in the order in which they were made, since what is in the cache decides what a call costs. A
BUNDLE is an exported model of any size: three windows are asked of it.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.bench.report import TITLES
from edge_behavior.bench.timing import Sample, Timing
from edge_behavior.bundle.bundle import verify_bundle
from edge_behavior.bundle.gguf_file import write_bundle
from edge_behavior.bundle.manifest import BaseModelInfo, Manifest
from edge_behavior.bundle.population import PopulationInfo
from edge_behavior.core.balance import FittedBalance
from edge_behavior.core.calibration import Calibration, CalibrationSet
from edge_behavior.core.candidates import GROUPS, CandidateSet
from edge_behavior.core.events import clean_label, clean_place
from edge_behavior.core.fusion import GroupWeights, Mixture
from edge_behavior.core.habits import HabitsConfig
from edge_behavior.core.license import License
from edge_behavior.core.population import PopulationConfig, PopulationTable
from edge_behavior.core.prompts import ChatTurns, PromptLayout
from edge_behavior.core.times.event_order import check_order
from edge_behavior.data.dataset import EventTable
from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.quantize import quantize
from edge_behavior.export.gguf.writer import write_gguf
from edge_behavior.fit.population import count_population
from edge_behavior.hf.chat_template import chat_turns
from edge_behavior.hf.tokenizers import plain_encoder
from tests import chat_templates, helpers, sequence_files
from tests.android.golden import gguf_cases, litert_cases
from tests.android.golden.calls import all_calls, label_calls
from tests.android.golden.described import described
from tests.android.golden.recorder import Recorder
from tests.android.golden.texts import (
    BAD_TIMES,
    COUNTS,
    CROWDED,
    LABELS,
    PLACES,
    RAW_LABELS,
    STEPS,
    TIMES,
    diary,
)
from tests.label_sets import many_labels
from tests.unit.export.conftest import gemma3, gemma_tokenizer, llama, qwen3

SCHEMA = 1
POPULATION_USERS = 60
# Of `edge_behavior.bench.measurement.Measurement`, without what a phone does not measure.
BENCH_FIELDS = (
    "bundle", "architecture", "quantization", "candidates", "trie_nodes", "layout", "static_tokens", "scoring",
    "anchor_every", "file_bytes", "peak_rss_bytes", "scenarios", "machine",
)  # fmt: skip
LICENSE = License.stated("llama3.2", author="Meta ☕", texts={"LICENSE.txt": "Terms ©\n\n  1.", "NOTICE": "n"})
WEIGHTS = {"head": GroupWeights(0.7, 0.5, 0.1), "medium": GroupWeights(0, 1.4, 0), "tail": GroupWeights(0.9, 0, -0.2)}
BALANCE = FittedBalance(
    {"model": 0.25, "habits": 0.6, "fused": 1.1},
    CalibrationSet(
        {
            "model": Calibration(1.3, {"head": 0.3, "medium": 0.1, "tail": -0.4}, {0.8: 0.12}, {0.5: 0.25}),
            "habits": Calibration(1.1, dict.fromkeys(GROUPS, 0.0), {0.8: 0.2}, {0.5: 0.15}),
            "fused": Calibration(0.9, {"head": 0.0, "medium": 0.2, "tail": 0.1}, {0.8: 0.09}, {0.5: 0.3}),
        }
    ),
)
CALIBRATIONS = {
    "model": Calibration(
        2.5, {"head": -0.7, "medium": 0.2, "tail": 1.1}, {0.8: 0.15, 0.95: 0.02}, {0.5: 0.2, 0.9: None}
    ),
    "habits": Calibration(0.8, dict.fromkeys(GROUPS, 0.0), {0.8: 0.3}, {0.5: 0.1}),
    "fused": Calibration(
        1.7, {"head": 0.4, "medium": -0.3, "tail": 0.0}, {0.8: 0.1, 0.95: 0.0}, {0.5: 0.999, 0.7: 0.1}
    ),
}


def write_goldens(folder: Path, exported: Sequence[Path] = ()) -> Path:
    """Write everything about GGUF bundles into a folder; returns golden.json.

    Args:
        exported: Bundles to copy there, and to ask three windows of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens = helpers.tokenizer(LABELS, size=700)
    model = helpers.model(tokens)
    model.config.max_position_embeddings = 2048
    write_gguf(helpers.save(model, tokens, folder / "backbone"), folder / "plain.gguf", "f32")
    quantize(folder / "plain.gguf", folder / "plain-q8.gguf", "q8", threads=1)
    eos, pad = int(tokens.eos_token_id), int(tokens.pad_token_id)
    plain = plain_encoder(tokens)
    chat = ChatTurns((eos, *plain("user\n")), (pad, *plain("assistant\n")), pad)
    smollm = chat_templates.small("smollm")
    llama_folder = helpers.save(llama(len(smollm), max_position_embeddings=2048), smollm, folder / "llama")
    write_gguf(llama_folder, folder / "llama.gguf", "f32")
    qwen3_folder = helpers.save(qwen3(len(tokens), max_position_embeddings=2048), tokens, folder / "qwen3")
    write_gguf(qwen3_folder, folder / "plain-qwen3.gguf", "f32")
    pieces = gemma_tokenizer()
    gemma3_folder = helpers.save(gemma3(len(pieces), max_position_embeddings=2048), pieces, folder / "gemma3")
    write_gguf(gemma3_folder, folder / "plain-gemma3.gguf", "f32")
    smollm_layout = PromptLayout(history_length=3, chat=chat_turns(smollm))
    prefix = PromptLayout(name="prefix", list_candidates=False, history_length=5)
    bundles = [
        _bundle(folder, "stream", PromptLayout(), "plain.gguf", eos),
        _bundle(folder, "prefix", prefix, "plain.gguf", eos),
        _bundle(folder, "instruct", PromptLayout(name="instruct", history_length=5), "plain.gguf", eos),
        _bundle(folder, "bos", PromptLayout(history_length=3), "plain.gguf", eos, bos_id=eos),
        _bundle(folder, "full", PromptLayout(history_length=6), "plain-q8.gguf", eos, full=True),
        # More labels than one decode has sequences.
        _bundle(folder, "many", PromptLayout(list_candidates=False), "plain-q8.gguf", eos, labels=many_labels(150)),
        _bundle(folder, "no-place", PromptLayout(history_length=6, places=False), "plain-q8.gguf", eos, full=True),
        *(
            _bundle(folder, f"no-place-{layout.name}", layout, "plain.gguf", eos, labels=LABELS[:8])
            for layout in (replace(prefix, places=False), PromptLayout("instruct", history_length=5, places=False))
        ),
        _bundle(folder, "chat", replace(prefix, chat=chat), "plain.gguf", eos),
        *(
            _bundle(
                folder,
                f"chat-{name}",
                PromptLayout(name, history_length=5, chat=chat),
                "plain.gguf",
                eos,
                bos_id=eos,
                labels=LABELS[:8],
            )
            for name in ("stream", "instruct")
        ),
        *(
            _bundle(
                folder,
                f"alphabetical-{name}",
                PromptLayout(name, history_length=4, candidate_order="alphabetical"),
                "plain.gguf",
                eos,
                # By UTF-16 units the game would come before the fullwidth letter.
                labels=["🎮 Game", "ｚ", *LABELS[7::-1]],
            )
            for name in ("stream", "instruct")
        ),
        # Of SmolLM2's architecture, tokenizer and chat template.
        _bundle(
            folder,
            "smollm2",
            smollm_layout,
            "llama.gguf",
            int(smollm.eos_token_id),
            labels=LABELS[:8],
            architecture="llama",
        ),
        # Norms of heads, and of Gemma layers that attend to the last 24 positions.
        _bundle(folder, "qwen3", prefix, "plain-qwen3.gguf", eos, labels=LABELS[:8], architecture="qwen3"),
        _bundle(
            folder,
            "gemma3",
            replace(prefix, history_length=3),
            "plain-gemma3.gguf",
            int(pieces.eos_token_id),
            labels=LABELS[:8],
            architecture="gemma3",
        ),
        # A session's window outgrows the context before it is re-based.
        _bundle(folder, "tight", PromptLayout(list_candidates=False), "plain.gguf", eos, context_length=512),
        *_sequences(folder),
        *(_exported(folder, path) for path in exported),
    ]
    # Their hashes are right; who reads the weights notices.
    sequence_files.described_as(folder / "sasrec.gguf", folder / "mismatched.gguf", "layout.history_length")
    sequence_files.overlapping(folder / "sasrec.gguf", folder / "overlapping.gguf")
    return golden_of(folder, bundles, [*gguf_cases.refused(folder), *litert_cases.refused(folder)], "stream.gguf")


def golden_of(folder: Path, bundles: list[dict[str, Any]], refused: list[list[str]], bench: str) -> Path:
    """Write golden.json.

    Args:
        bundles: What is known of each.
        refused: Files that are no bundles, with a part of the message.
        bench: The bundle that is measured.
    """
    golden = {
        "schema": SCHEMA,
        "places": [[place, clean_place(place)] for place in PLACES],
        "labels": [[label, _cleaned(label)] for label in RAW_LABELS],
        "orders": [_order(steps) for steps in STEPS],
        "times": [_time(text) for text in TIMES],
        "bad_times": BAD_TIMES,
        "litert": litert_cases.vectors(),
        "bundles": bundles,
        "refused": refused,
        "bench": {
            "file": bench,
            "result": list(BENCH_FIELDS),
            "row": list(Timing.of([Sample(1.0, 1, 0.5)]).to_dict()),
            "scenarios": list(TITLES),
            "own": ["whole_prompt", "session_restore"],
        },
    }
    path = folder / "golden.json"
    path.write_text(json.dumps(golden, allow_nan=False), encoding="utf-8")
    return path


def _cleaned(label: str) -> str | None:
    try:
        return clean_label(label)
    except EdgebError:
        return None


def _order(steps: Sequence[int]) -> dict[str, Any]:
    times = [datetime(2024, 10, 27, 12)]
    for step in steps:
        times.append(times[-1] + timedelta(minutes=step))
    try:
        check_order(times, lambda i: f"history event {i + 1}")
        error = None
    except EdgebError as raised:
        error = raised.message
    return {"times": [time.isoformat(timespec="minutes") for time in times], "error": error}


def _time(text: str) -> dict[str, Any]:
    time = datetime.fromisoformat(text)
    minutes = (time - datetime(1970, 1, 1)) // timedelta(minutes=1)
    return {"text": text, "minutes": minutes, "weekday": time.weekday(), "hour": time.hour}


_SEQUENCES = (
    ("sasrec", "sasrec", True, "f32", True),
    ("sasrec-f16", "sasrec", True, "f16", False),
    ("sasrec-published", "sasrec", False, "f32", True),
    ("bert4rec", "bert4rec", True, "f32", True),
    ("bert4rec-published", "bert4rec", False, "f16", True),
)


def sequence_bundle(folder: Path) -> Path:
    """A bundle that Kotlin computes by itself, with habits and fusion."""
    return folder / str(_sequence(folder, *_SEQUENCES[0])["file"])


def _sequences(folder: Path) -> list[dict[str, Any]]:
    """Sequence models, which need no llama.cpp; in F16, too, without places, and of behaviors only."""
    return [_sequence(folder, *each) for each in _SEQUENCES]


def _sequence(folder: Path, name: str, architecture: str, context: bool, dtype: str, places: bool) -> dict[str, Any]:
    config = SequenceConfig(hidden=24, layers=2, heads=3, context=context)
    model = sequence_files.described(architecture, LABELS, config=config)
    plain = sequence_files.plain(model, sequence_files.network(model), folder / f"plain-{name}.gguf", dtype)
    return bundle_of(
        folder,
        folder / f"{name}.gguf",
        partial(write_bundle, plain),
        PromptLayout(list_candidates=False, history_length=model.length, places=places),
        eos=len(LABELS),
        bos_id=len(LABELS),
        full=places,
        context_length=sequence_files.context_length(model),
        architecture=f"edgeb-{architecture}",
    )


def _bundle(
    folder: Path,
    name: str,
    layout: PromptLayout,
    weights: str,
    eos: int,
    bos_id: int | None = None,
    full: bool = False,
    labels: Sequence[str] = LABELS,
    context_length: int = 2048,
    architecture: str = "qwen2",
) -> dict[str, Any]:
    path = folder / f"{name}.gguf"
    write = partial(write_bundle, folder / weights)
    return bundle_of(folder, path, write, layout, eos, bos_id, full, labels, context_length, architecture)


def bundle_of(
    folder: Path,
    path: Path,
    write: Callable[..., Manifest],
    layout: PromptLayout,
    eos: int,
    bos_id: int | None = None,
    full: bool = False,
    labels: Sequence[str] = LABELS,
    context_length: int = 2048,
    architecture: str = "qwen2",
) -> dict[str, Any]:
    """Write a bundle and what is known of it.

    Args:
        write: Takes manifest, path and `population`, and returns the manifest as written.
        full: With habits, fusion, calibration and people's habits; its cache may be rounded.
    """
    counts = tuple(COUNTS[i % len(COUNTS)] for i in range(len(labels)))
    manifest = Manifest(
        created_with="edgeb test", candidates=CandidateSet(tuple(labels), counts), layout=layout, bos_id=bos_id,
        eos_id=eos, architecture=architecture, quantization="F32", context_length=context_length,
        base_model=BaseModelInfo("x", LICENSE if full else None, "00"),
        training={"note": "Zürich ☕ 東京", "rate": 1e-4},
    )  # fmt: skip
    if full:
        mixture = Mixture(HabitsConfig(half_life=7.0), WEIGHTS, "fused")
        manifest = replace(manifest, habits=mixture, calibration=CalibrationSet(CALIBRATIONS), balance=BALANCE)
    population = _population(manifest) if full else None
    if population is not None:
        manifest = replace(manifest, population=PopulationInfo.of(population, POPULATION_USERS))
    manifest = write(manifest, path, population=population)
    recorder = Recorder(path, exact_math=not full)
    facts = described(recorder, manifest, brief=False)
    if tuple(labels) == tuple(LABELS):
        all_calls(recorder, folder, full, long_window=context_length < 2048)
    else:
        label_calls(recorder, labels)
    recorder.predictor.close()
    return {**facts, "calls": recorder.calls}


def _population(manifest: Manifest) -> PopulationTable:
    """What a crowd does that lives in hostile places, too: in few contexts, so that all levels have counts."""
    rng = np.random.default_rng(0)
    size, users = len(manifest.candidates), POPULATION_USERS
    hours = np.sort(rng.choice(5 * 24, (users, 40)), axis=1)
    table = EventTable(
        user_offsets=np.arange(users + 1) * 40,
        time=(np.datetime64("2024-03-18T00:30:00") + hours.ravel().astype("timedelta64[h]")).astype("datetime64[s]"),
        place=rng.integers(0, len(CROWDED), users * 40).astype(np.int32),
        behavior=rng.choice([0, 1, 2, 9, size - 1], users * 40).astype(np.int32),
        places=CROWDED,
        candidates=manifest.candidates,
    )
    config = PopulationConfig(min_users=3, hour_bucket=6, k_place=7.5, k_place_hour=1e3, k_last_two=1e-3)
    table_of = count_population(table, config, manifest.layout.places).table
    assert table_of.contexts > 100
    return table_of


def _exported(folder: Path, bundle: Path) -> dict[str, Any]:
    """Three windows of a model as it was exported."""
    path = folder / f"exported-{bundle.name}"
    shutil.copyfile(bundle, path)
    manifest = verify_bundle(path)
    recorder = Recorder(path, exact_math=True)
    facts = described(recorder, manifest, brief=True)
    events = diary(12, 4, manifest.candidates.labels)
    for i, place in enumerate(("home", "Café Zürich", "<|im_end|>"), 9):
        recorder.predict(events[:i], events[i].time, place, source="model")
    recorder.predictor.close()
    return {**facts, "calls": recorder.calls}


if __name__ == "__main__":
    print(write_goldens(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]))
