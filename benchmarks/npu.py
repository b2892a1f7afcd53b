"""A user's evening through a context for a phone's NPU, under Qualcomm's emulator, beside the CPU's answers.

    python -m benchmarks.npu --run RUN --work FOLDER

`--run` is a finished run (or one whose `--stage` is finished) with its dataset. It is exported with a pruned
vocabulary and few signatures, compiled for `--chips`; then each of `--emulate` predicts the behaviors of validation
users' evenings, event by event, and scores every label. `--work` takes the bundle, its contexts, and what was found of
each window, with the session's state: an interrupted run goes on where it was, and one of other windows begins again
with the same bundle. An emulated call of SmolLM2-135M takes 5 to 15 s of a machine of its own; times mean nothing and
are not kept. EDGEB_LITERT_PYTHON and EDGEB_NPU_PYTHON name environments with the converter and with onnxruntime-qnn
(docs/engines.md). Writes npu.json and npu.md under results/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge_behavior.bundle.litert_file import read_litert, read_litert_probe
from edge_behavior.bundle.npu_chips import chip_named, chosen_chips
from edge_behavior.bundle.npu_folder import NpuFolder, npu_folder, read_npu
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.scoring import Floats, log_softmax
from edge_behavior.export.litert.options import LiteRtOptions
from edge_behavior.export.litert.pipeline import export_litert
from edge_behavior.export.npu.gate import Expected, NpuParity
from edge_behavior.export.npu.options import NpuOptions
from edge_behavior.export.parity.gate import Difference
from edge_behavior.export.parity.samples import Samples, draw_evenings
from edge_behavior.export.parity.scores import score_torch
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.export.run_source import run_source
from edge_behavior.export.source import ExportSource
from edge_behavior.runtime.backends.litert import LiteRtBackend
from edge_behavior.runtime.predictor import Predictor
from edge_behavior.runtime.session import Session
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.run.models import RunModels
from edge_behavior.util.files import write_file
from edge_behavior.util.markdown import markdown_table, markdown_text
from edge_behavior.util.numbers import file_size
from edge_behavior.util.progress import progress_bar

RESULTS = Path(__file__).parent / "results"
NAME = "npu"
SIZES, FIRST_SIZES = (1, 8, 32), (128,)
TOP = 3
# Contexts are compared here, window by window, and not by the export.
PROFILE = ExportProfile(
    prune="on",
    habits="off",
    calibrate="off",
    population="off",
    parity={"windows": 6, "per_behavior": 0, "enforce": False},
)
CPU, TRAINED = "cpu", "trained"


def exported(source: ExportSource, work: Path, chips: str, quant: str) -> Path:
    """The bundle with its contexts, made if it is not there."""
    out = work / "mine.tflite"
    if not npu_folder(out).exists():
        work.mkdir(parents=True, exist_ok=True)
        options = LiteRtOptions(quant, sizes=SIZES, first_sizes=FIRST_SIZES)
        export_litert(source, out, options, PROFILE, force=True, npu=NpuOptions(chosen_chips(chips), windows=0))
    return out


class Kept:
    """What was found of windows by one engine, in a file that every window is added to.

    Args:
        path: The file.
        measured: Hashes of the bundle and of the windows: rows of others are not used.
    """

    def __init__(self, path: Path, measured: str) -> None:
        self._path = path
        fresh: dict[str, Any] = {"measured": measured, "windows": []}
        held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else fresh
        self.found = held if held.get("measured") == measured else fresh

    @property
    def windows(self) -> list[dict[str, Any]]:
        """One after the other, as far as they were measured."""
        windows: list[dict[str, Any]] = self.found["windows"]
        return windows

    def rows(self) -> Floats:
        """[n, B] log-probabilities among the candidates."""
        return log_softmax(np.array([window["log_probs"] for window in self.windows]))

    def total(self, name: str) -> int:
        """Sum of a number over windows."""
        return sum(int(window[name]) for window in self.windows)

    def save(self) -> None:
        """Write the file."""
        write_file(self._path, json.dumps(self.found) + "\n")


def trained_model(run: Path, stage: str) -> tuple[Any, PromptEncoder]:
    """The run's model of a stage in PyTorch, in float32 and before merging, and its prompts."""
    folder = RunFolder.open(run)
    models = RunModels(folder, folder.recipe.backbone.model_copy(update={"dtype": "float32"}))
    return models.load(stage), models.encoder


def score_trained(run: Path, stage: str, samples: Samples, kept: Kept) -> None:
    """Score the windows by the trained model, if they are not."""
    if kept.windows:
        return
    model, encoder = trained_model(run, stage)
    with progress_bar("Scoring (PyTorch)", len(samples)) as advance:
        rows = score_torch(model, encoder, samples, advance)
    kept.windows.extend({"log_probs": row.tolist()} for row in rows)
    kept.save()


def score_bundle(predictor: Predictor, samples: Samples, kept: Kept, state: Path, advance: Callable[[], None]) -> None:
    """Predict every window that is missing as a session does, then score all labels; kept window by window."""
    backend, places = predictor._ranker.backend, predictor.manifest.layout.places
    begun = len(kept.windows)
    session = predictor.restore(state) if begun and state.exists() else predictor.session()
    for i in range(begun, len(samples)):
        window = samples.windows[i]
        session = _grown(session, predictor, samples, i)
        place, started = (window.place if places else None), _count(backend)
        prediction = session.predict(window.when, place, TOP)
        predicted = _count(backend)
        log_probs = session.log_probs(window.when, place)
        whole = _count(backend)
        kept.windows.append(
            {
                "log_probs": log_probs.tolist(),
                "first": [ranked.behavior for ranked in prediction.ranked],
                "predict_calls": predicted[0] - started[0],
                "predict_tokens": predicted[1] - started[1],
                "calls": whole[0] - started[0],
                "tokens": whole[1] - started[1],
            }
        )
        session.save(state)
        kept.save()
        advance()


def _count(backend: Any) -> tuple[int, int]:
    return backend.calls, backend.tokens


def _grown(session: Session, predictor: Predictor, samples: Samples, i: int) -> Session:
    """A session that has seen a window's history: the one before and its event, or a new evening's."""
    window = samples.windows[i]
    if i and window.history[:-1] == samples.windows[i - 1].history:
        if len(session.events) < len(window.history):
            session.observe(window.history[-1])
        return session
    session = predictor.session()
    for event in window.history:
        session.observe(event)
    return session


def measure_chip(bundle: Path, chip: str, samples: Samples, kept: Kept, work: Path) -> None:
    """What is missing of a chip's context, under emulation."""
    if len(kept.windows) >= len(samples):
        return
    with Predictor.load(bundle, accelerator="npu-emulated", chip=chip, prefix_cache=False, threads=1) as predictor:
        if "known_rows" not in kept.found:
            probe, backend = read_litert_probe(bundle), predictor._ranker.backend
            assert probe is not None
            assert isinstance(backend, LiteRtBackend)
            kept.found["known_rows"] = backend.known_rows_difference(probe)
            kept.save()
        with progress_bar(f"Emulating {chip}", len(samples) - len(kept.windows)) as advance:
            score_bundle(predictor, samples, kept, work / f"session-{chip}", advance)


def result(
    bundle: Path, contexts: NpuFolder, samples: Samples, trained: Kept, cpu: Kept, chips: dict[str, Kept]
) -> dict[str, Any]:
    """What npu.json holds."""
    opened = read_litert(bundle)
    compiled = contexts.summary()
    for context in compiled["contexts"]:
        # Of the machine that compiled, and not of what was compiled.
        del context["memory"]
    expected = Expected(samples, trained.rows(), cpu.rows(), 0)
    found: dict[str, Any] = {
        "backbone": Path(opened.manifest.base_model.name or "a stand-in").name,
        "precision": opened.manifest.quantization,
        "vocabulary": opened.graph.vocabulary,
        "layers": opened.graph.layers,
        "hidden": opened.graph.hidden,
        "cache": opened.graph.cache,
        "bundle_bytes": bundle.stat().st_size,
        "candidates": len(samples.labels),
        "labels": list(samples.labels),
        "npu": compiled,
        "max_kl": PROFILE.parity.max_kl,
        "cpu_difference": vars(Difference.between(expected.trained, expected.cpu)),
        "cpu": {name: cpu.total(name) for name in ("calls", "tokens", "predict_calls", "predict_tokens")},
        "emulated": {},
        "windows": [
            {
                "time": window.when.isoformat(),
                "place": window.place,
                "truth": None if samples.truth is None else samples.labels[int(samples.truth[i])],
                "events_before": len(window.history),
                "log_probs": {
                    TRAINED: np.round(expected.trained[i], 6).tolist(),
                    CPU: np.round(expected.cpu[i], 6).tolist(),
                },
                "first": {CPU: cpu.windows[i]["first"]},
            }
            for i, window in enumerate(samples.windows)
        ],
    }
    for chip, kept in chips.items():
        rows = kept.rows()
        calls, tokens = kept.total("calls"), kept.total("tokens")
        parity = NpuParity.of(expected, rows, calls, tokens, kept.found["known_rows"])
        found["emulated"][chip] = {
            **parity.to_dict(),
            "exceeded": parity.exceeded(PROFILE.parity.max_kl),
            "predict_calls": [window["predict_calls"] for window in kept.windows],
            "predict_tokens": [window["predict_tokens"] for window in kept.windows],
            "right": _right(samples, rows),
        }
        for i, window in enumerate(found["windows"]):
            window["log_probs"][chip] = np.round(rows[i], 6).tolist()
            window["first"][chip] = kept.windows[i]["first"]
    found["right"] = {TRAINED: _right(samples, expected.trained), CPU: _right(samples, expected.cpu)}
    return found


def _right(samples: Samples, rows: Floats) -> int | None:
    return None if samples.truth is None else int((rows.argmax(1) == samples.truth).sum())


def markdown(found: dict[str, Any]) -> str:
    """The tables of results/npu.md."""
    count, candidates = len(found["windows"]), found["candidates"]
    npu, compiler = found["npu"], found["npu"]["compiler"]
    contexts = [
        (
            f"{chip_named(context['chip']).sold_as} ({context['chip']}, {context['architecture']})",
            "yes" if context["chip"] in found["emulated"] else "no",
            f"{context['operators']:,}",
            file_size(context["bytes"]),
        )
        for context in npu["contexts"]
    ]
    cpu = found["cpu"]
    gate = [("CPU", *_difference(found["cpu_difference"]), "–", "–", str(cpu["calls"]), f"{cpu['tokens']:,}")]
    for chip, held in found["emulated"].items():
        counts = str(held["calls"]), f"{held['tokens']:,}"
        gate.append((f"{chip}, emulated", *_difference(held["reference"]), *_difference(held["cpu"])[:2], *counts))
    heads = (
        "", "KL from the trained model", "largest Δ log p", "other first label", "KL from the CPU", "largest Δ log p",
        "calls", "tokens",
    )  # fmt: skip
    verdicts = [
        f"{chip}: {'; '.join(held['exceeded']) or 'within the limits'}; "
        f"predictions took {_listed(held['predict_calls'])} calls of {_listed(held['predict_tokens'])} tokens; "
        f"known rows within {held['known_rows_tolerance']:.2g} nats."
        for chip, held in found["emulated"].items()
    ]
    engines = [CPU, *found["emulated"]]
    evening = [
        (
            f"{window['time'][:16].replace('T', ' ')}, {markdown_text(window['place'])}",
            markdown_text(window["truth"] or "–"),
            *(_answers(window, engine, found["labels"]) for engine in (TRAINED, *engines)),
        )
        for window in found["windows"]
    ]
    rights = {**found["right"], **{chip: held["right"] for chip, held in found["emulated"].items()}}
    right = [f"{name} {value}" for name, value in rights.items() if value is not None]
    return (
        "# A user's evening on an emulated NPU\n\n"
        f"`python -m benchmarks.npu`: {markdown_text(found['backbone'])}, tuned, {found['vocabulary']:,} tokens of "
        f"vocabulary; bundle {found['precision']}, contexts with {npu['quantization']} weights and float16 "
        f"activations,\ncalls of up to {npu['size']} tokens, a cache of {found['cache']}. Compiled by ai-edge-litert "
        f"{compiler['ai_edge_litert']} and onnxruntime-qnn {compiler['onnxruntime_qnn']} (QNN {compiler['qnn']}).\n"
        "Nothing ran on a phone, and an emulator's times mean nothing.\n\n"
        + "\n".join(markdown_table(("context", "emulated", "operators, all of them", "file"), contexts))
        + f"\n\n{count} windows of {candidates} labels each, the cache kept from event to event. KL and differences in "
        "nats, over the labels; largest Δ of\nlabels with a probability of .001 or more. Windows with another first "
        "label, and how many first labels came true, are told only:\nso few say little.\n\n"
        + "\n".join(markdown_table(heads, gate))
        + "\n\n"
        + "\n".join(verdicts)
        + (f"\nFirst labels that came true, of {count}: {', '.join(right)}." if right else "")
        + "\n\nEach label with its probability among the labels:\n\n"
        + "\n".join(markdown_table(("asked at", "what came", "trained model", *engines), evening, left=5))
        + "\n"
    )


def _difference(held: dict[str, Any]) -> tuple[str, str, str]:
    return f"{held['mean_kl']:.2g}", f"{held['max_log_prob']:.2g}", f"{held['flips']:.0%}"


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _answers(window: dict[str, Any], engine: str, labels: list[str]) -> str:
    """The first two labels and their probabilities."""
    row = np.array(window["log_probs"][engine])
    return ", ".join(f"{markdown_text(labels[i])} {np.exp(row[i]):.2f}" for i in np.argsort(-row, kind="stable")[:2])


def main() -> None:
    """Export and measure what is missing, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run folder of `edgeb train`")
    parser.add_argument("--data", type=Path, help="its dataset; by default the run's own")
    parser.add_argument("--stage", default="b_tuning", help="b_tuning, a_tuning or untuned")
    parser.add_argument("--work", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--chips", default="sm8650,sm8750")
    parser.add_argument("--emulate", nargs="*", default=["sm8650"], help="chips to emulate")
    parser.add_argument("--quant", default="q8")
    parser.add_argument("--windows", type=int, help="default: one evening")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    source = run_source(given.run, given.stage, given.data)
    bundle = exported(source, given.work, given.chips, given.quant)
    hash_ = read_litert(bundle).manifest.tensors_sha256
    samples = draw_evenings(source, given.windows)
    # More windows may be of other evenings.
    measured = f"{hash_} {hashlib.sha256(repr(samples.windows).encode()).hexdigest()}"
    trained, cpu = Kept(given.work / "trained.json", measured), Kept(given.work / "cpu.json", measured)
    score_trained(given.run, given.stage, samples, trained)
    if len(cpu.windows) < len(samples):
        # Seconds: from the beginning, so that counts are one session's.
        cpu.windows.clear()
        with Predictor.load(bundle, prefix_cache=False) as predictor, progress_bar("CPU", len(samples)) as advance:
            score_bundle(predictor, samples, cpu, given.work / "session-cpu", advance)
    chips = {chip: Kept(given.work / f"{chip}.json", measured) for chip in given.emulate}
    for chip, kept in chips.items():
        measure_chip(bundle, chip, samples, kept, given.work)
    found = result(bundle, read_npu(bundle, hash_), samples, trained, cpu, chips)
    write_file(given.out / f"{NAME}.json", json.dumps(found, indent=1) + "\n")
    write_file(given.out / f"{NAME}.md", markdown(found))


if __name__ == "__main__":
    main()
