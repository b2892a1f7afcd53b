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
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.events import BehaviorEvent, clean_label, clean_place
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
from tests.android import gguf_cases, litert_cases
from tests.android.recorder import Recorder, event_row
from tests.label_sets import many_labels
from tests.unit.export.conftest import gemma3, gemma_tokenizer, llama, qwen3

SCHEMA = 1
# Beside the labels of other tests: other scripts, letters beyond 16 bits, what looks like structure.
LABELS = [*helpers.LABELS, "買い物", "Почта", "🎮 Game", "{context} {candidates}", "<|endoftext|>", "Naïve (a, b)"]
COUNTS = (900, 200, 30, 20, 10, 6, 4, 2, 1, 60, 45, 12, 3, 0, 8)
PLACES = [
    "DK", "home", "  a  b ", "", "Café Zürich", "Cafe\u0301", "東京 駅", "🎮🎮", "a(b)[c]{d}<e>", 'q"uo\'te',
    "tab\there\nline", "x" * 60, "é" * 47 + "🎮 b", "ａｂｃ", "½ ² Ⅳ", "-_.&/+", "<|endoftext|>", "<|im_start|>user",
    "null\x00byte",
    "مقهى", "ไทย กรุงเทพ", "𝟜𝟚 𐐷", "a\u200bb\u00a0c\u3000d", "a , b", "क्षेत्र", "word " * 20,
]  # fmt: skip
TEXTS = [
    *PLACES, "Task: Predict", " Video)\n", "<|endoftext|><|im_end|>", "\n\n  \t", "don't  we'll", "1234567890",
    "\u0007",
]  # fmt: skip
TIMES = [
    "1970-01-01T00:00", "1969-12-31T23:59", "2000-02-29T12:34", "2024-02-29T00:00", "2100-03-01T07:05",
    "1600-12-31T18:00",
    "2012-05-01T18:00", "2024-03-18T20:05", "0001-01-01T00:00", "9999-12-31T23:59",
]  # fmt: skip
# Behaviors as logs hold them: what nobody sees goes, what shapes a word or an emoji stays, what is no label is refused.
RAW_LABELS = [
    "Video", "  Watch   video ", "Cafe\u0301", "Weather\u00a0Check", "a\u202f\u2003 \u3000b\u1680",
    "\u200eWhatsApp\u200f", "\ufeffNews", "Short\u200bVideo", "\u202aMaps\u202c \u2067\u202bGo\u2069",
    "\u061cdata\u2060base soft\u00adware", "e\u200b\u0301", "می\u200cخواهم", "\u0d05\u0d35\u0d28\u0d4d\u200d",
    "👩\u200d💻 Code", "🏳\ufe0f\u200d🌈", "👋🏽 Chat", "1\ufe0f\u20e3", "\u200cMusic\u200d", "Music \u200d Box",
    "a\u200c\u200d\u200cb", "(\u200dx\u200d)", "\x1c\u2028a\x85\t", "=\u200d\u0338", "\u200e \u0301a", "x" * 200,
    "é" * 200, "e\u0301" * 200, "🎮" * 200, "x" * 201, "🎮" * 201, "", "\u00a0", "\u200b", "\u200d \u200c", "a\nb",
    "a\tb", "a\x00b", "a\u2028b", "a\u2061b", "a\U000e0062b", "a\ufff9b", "{context}", "<|im_end|>",
]  # fmt: skip
CROWDED = ["DK", "home", "Café Zürich", "東京 駅", "<|im_end|>"]
POPULATION_USERS = 60
# Minutes between events: which orders a local clock may give.
STEPS = [
    [], [30, 0, 45], [30, -55], [30, -190, 20], [-1560], [-1561], [5, -1561, 7], [-1, -1], [0, -5, 0, -4], [-1, 5, -1],
    [-5, 2, -5, -5], [-9, -9, -9, 4], [-700] * 9, [10, -14400],
]  # fmt: skip
BAD_TIMES = [
    "", "2024-02-30T00:00", "2100-02-29T00:00", "2024-13-01T00:00", "2024-01-01T24:00", "2024-01-01T10:00Z", "x",
]  # fmt: skip
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
    described = _described(recorder, manifest, brief=False)
    if tuple(labels) == tuple(LABELS):
        _calls(recorder, folder, full, long_window=context_length < 2048)
    else:
        _label_calls(recorder, labels)
    recorder.predictor.close()
    return {**described, "calls": recorder.calls}


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


def _exported(folder: Path, bundle: Path) -> dict[str, Any]:
    """Three windows of a model as it was exported."""
    path = folder / f"exported-{bundle.name}"
    shutil.copyfile(bundle, path)
    manifest = verify_bundle(path)
    recorder = Recorder(path, exact_math=True)
    described = _described(recorder, manifest, brief=True)
    events = _diary(12, 4, manifest.candidates.labels)
    for i, place in enumerate(("home", "Café Zürich", "<|im_end|>"), 9):
        recorder.predict(events[:i], events[i].time, place, source="model")
    recorder.predictor.close()
    return {**described, "calls": recorder.calls}


def _described(recorder: Recorder, manifest: Manifest, brief: bool) -> dict[str, Any]:
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


def _diary(length: int, seed: int = 0, labels: Sequence[str] = LABELS) -> list[BehaviorEvent]:
    """Events in hostile places, too."""
    events = helpers.diary(length, seed, list(labels))
    for i in range(0, length, 3):
        events[i] = replace(events[i], place=PLACES[(7 * i + seed) % len(PLACES)])
    return events


def _prompt(encoder: PromptEncoder, labels: Sequence[str], length: int, place: str) -> dict[str, Any]:
    history = _diary(length, length, labels)
    when = history[-1].time + timedelta(hours=1) if history else datetime(2024, 3, 18, 20)
    prompt = encoder.layout.prompt(history, when, place, encoder.candidates.labels)
    return {
        "history": [event_row(e) for e in history],
        "when": when.isoformat(timespec="minutes"),
        "place": place,
        "segments": [*prompt.static, *prompt.body],
        "ids": encoder.prompt_ids(history, when, place),
    }


def _label_calls(made: Recorder, labels: Sequence[str]) -> None:
    events = _diary(22, 5, labels)
    when = events[-1].time + timedelta(minutes=30)
    for scoring in ("exact", "masked"):
        made.predict(events, when, "DK", scoring=scoring)
        made.predict(events, when, "home", scoring=scoring, top_k=5)
        made.predict(events, when, "home", scoring=scoring, only=labels[::2])
        made.predict(events, when, "home", scoring=scoring, exclude=labels[::3], top_k=7)


def _calls(made: Recorder, folder: Path, full: bool, long_window: bool) -> None:
    events = _diary(60, 3)
    when = events[24].time + timedelta(minutes=30)
    for scoring in ("exact", "masked"):
        made.predict(events[:25], when, "DK", scoring=scoring)
        made.predict(events[:25], when, "東京 駅", scoring=scoring, top_k=1)
        made.predict(events[:25], when, "DK", scoring=scoring, top_k=3)
        made.predict(events[:25], when, "DK", scoring=scoring, top_k=3, exhaustive=True)
        made.predict(events[:25], when, "DK", scoring=scoring, only=["Video", "買い物", "🎮 Game", "Café"])
        made.predict(events[:25], when, "DK", scoring=scoring, top_k=2, exclude=["Video", "Почта", "<|endoftext|>"])
    made.predict([], when, "a(b)[c]{d}<e>", top_k=4)
    made.predict(events[:25], when, "DK", only=[], error="no candidate is left")
    made.predict(events[:25], when, "DK", only=["Vide"], error="is not in the candidate set")
    made.predict(events[:25], when, "DK", top_k=0, error="is 0")
    made.predict(events[:25], events[24].time - timedelta(days=2), "DK", error="before the last event")
    made.predict(events[:25][::-1], when, "DK", error="the newest event comes first")
    west = [*events[:24], replace(events[24], time=events[23].time - timedelta(hours=3))]
    made.predict(west, west[24].time - timedelta(minutes=55), "DK", top_k=3)
    odd = [replace(event, behavior=f"\u200e{event.behavior} \u00a0") for event in events[:25]]
    made.predict(odd, when, "DK", only=["Video\u200b", "Cafe\u0301", "\u202a買い物"])
    made.misplaced(events[:25], when)
    if full:
        _full_calls(made, events[:25], when)
    else:
        made.predict(events[:25], when, "DK", source="fused", error="no weights")
        made.predict(events[:25], when, "DK", precision=0.5, error="not calibrated")
        made.predict(events[:25], when, "DK", source="habits")
        made.predict(events[:25], when, "DK", balance=0.25)
        made.predict(events[:25], when, "home", scoring="masked", balance=2.0, top_k=3)
        made.predict(events[:25], when, "DK", balance="fitted", error="no fitted balance")
        made.predict(events[:25], when, "DK", balance=2.5, error="balance is 2.5")
    _session_calls(made, folder, events, full, 20 if long_window else 3)


def _full_calls(made: Recorder, history: list[BehaviorEvent], when: datetime) -> None:
    # A user of whom nothing is known, and little: what people in general do.
    for known in (0, 1, 2):
        for place in CROWDED[:3]:
            made.predict(history[:known], when, place, source="habits", calibrated=False)
            made.predict(history[:known], when, place, top_k=3)
    for source in ("model", "habits", "fused"):
        for calibrated in (True, False):
            made.predict(history, when, "DK", source=source, calibrated=calibrated)
            made.predict(history, when, "home", source=source, calibrated=calibrated, top_k=2)
        made.predict(history, when, "DK", source=source, only=["Video", "Bar", "買い物"])
        made.predict(history, when, "DK", source=source, precision=0.5, top_k=1)
        made.predict(history, when, "DK", source=source, coverage=0.8, top_k=1)
        made.predict(history, when, "DK", source=source, precision=0.5, coverage=0.8, top_k=2)
        for balance in (0.4, "fitted", 2.0):
            made.predict(history, when, "DK", source=source, balance=balance)
            made.predict(history, when, "home", source=source, balance=balance, top_k=2)
            made.predict(history, when, "DK", source=source, balance=balance, only=["Video", "Bar", "🎮 Game"])
            made.predict(history, when, "DK", source=source, balance=balance, calibrated=False, top_k=3)
            made.predict(history, when, "DK", source=source, balance=balance, scoring="masked", top_k=3)
        made.predict(history, when, "DK", source=source, balance="fitted", precision=0.5, coverage=0.8, top_k=1)
        made.predict(history, when, "DK", source=source, balance=0.4, coverage=0.8, error="not measured at balance 0.4")
    made.predict(history, when, "DK", source="model", precision=0.9, top_k=1)
    made.predict(history, when, "DK", precision=0.7, coverage=0.95, top_k=3)
    made.predict(history, when, "DK", coverage=0.5, error="not calibrated for a coverage")
    made.predict(history, when, "DK", coverage=0.8, calibrated=False, error="measured on calibrated values")
    made.predict(history, when, "DK", coverage=0.8, exclude=["Bar"], error="over all candidates")
    made.predict(history, when, "DK", coverage=0.8, scoring="masked", error="under exact scoring")


def _session_calls(made: Recorder, folder: Path, events: list[BehaviorEvent], full: bool, anchor_every: int) -> None:
    made.start(anchor_every)
    for i, event in enumerate(events[:36]):
        made.observe(event)
        if i % 3 == 2:
            made.ask(event.time + timedelta(minutes=20), PLACES[i % len(PLACES)], top_k=2 + i % 3)
        if i % 8 == 4:
            made.prepare()
    made.observe(replace(events[36], behavior="Nap"), "is not in the candidate set")
    early = events[35].time - timedelta(days=2)
    made.observe(replace(events[36], time=early), "before the last event")
    made.ask(early, "DK", error="before the last event")
    made.ask(events[35].time, "DK", scoring="masked")
    made.save("used", folder)
    made.observe(events[36])
    made.ask(events[36].time, "home", top_k=None, exhaustive=True)
    made.save("behind", folder)
    made.reopen()
    made.restore("behind", folder)
    made.ask(events[36].time, "home")
    made.restore("used", folder)
    made.ask(events[36].time, "home")
    for event in events[36:40]:
        made.observe(event)
    made.observe(replace(events[40], time=events[39].time - timedelta(minutes=55), behavior="\u200fVideo\u00a0"))
    made.ask(events[39].time - timedelta(hours=3), "home", exclude=["Video\ufeff"])
    made.ask(events[39].time + timedelta(minutes=1), "Café Zürich")
    if full:
        made.ask(events[39].time + timedelta(minutes=1), "Café Zürich", source="habits", top_k=None)
        made.ask(events[39].time + timedelta(minutes=1), "Café Zürich", balance="fitted", coverage=0.8)
        made.ask(events[39].time + timedelta(minutes=2), "DK", source="model", balance=1.0)


if __name__ == "__main__":
    print(write_goldens(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]))
