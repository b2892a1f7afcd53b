"""The command modules: what they print, what they pass on, what they remember. Engines are stand-ins made here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from typer.testing import CliRunner

from edge_behavior.bundle.manifest import BaseModelInfo, Manifest
from edge_behavior.cli import app
from edge_behavior.commands.open import open_predictor
from edge_behavior.commands.output import emit
from edge_behavior.core.balance import FittedBalance
from edge_behavior.core.calibration import Calibration, CalibrationSet
from edge_behavior.core.candidates import GROUPS, CandidateSet
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.calibration import CalibrationMetrics
from edge_behavior.evaluation.counters import COUNTERS
from edge_behavior.evaluation.habits import HistoryBin
from edge_behavior.evaluation.metrics import Metrics, Outcome, behavior_metrics
from edge_behavior.evaluation.protocols import WindowChoice
from edge_behavior.evaluation.results import (
    BundleEvaluation,
    EvaluatedDataset,
    Evaluation,
    MaskedDifference,
    RunMetrics,
)
from edge_behavior.export.fits import FitReport
from edge_behavior.export.parity.gate import (
    Accuracies,
    Difference,
    ParityError,
    ParityReport,
    Recovery,
    StageParity,
)
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.export.prune.check import Pruning
from edge_behavior.export.prune.vocabulary import PrunePlan
from edge_behavior.export.report import ExportReport
from edge_behavior.records.history import write_history
from edge_behavior.runtime.predictor import Predictor
from edge_behavior.train.methods import DEFAULT_METHOD
from edge_behavior.train.recipe import Recipe, load_recipe
from edge_behavior.util.workspace import recall, remember
from tests.command import invoked, live_in
from tests.extras import needs_torch

LABELS = ("Video", "Video call", "Mail", "買い物")
EOS = 256
EVENTS = [
    BehaviorEvent("home", datetime(2024, 5, 1, 8), "Video"),
    BehaviorEvent("work", datetime(2024, 5, 1, 9), "Mail"),
]


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    live_in(tmp_path, monkeypatch)


@pytest.fixture
def module(monkeypatch):
    """Puts a stand-in where a command would import an engine that needs torch."""

    def put(name: str, **content: object) -> None:
        made = ModuleType(name)
        made.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, made)

    return put


def run(*arguments: object) -> Any:
    """Invoke a command that succeeds."""
    result = invoked(*arguments)
    assert result.exit_code == 0, result.output
    return result


def document(*arguments: object) -> Any:
    """The one JSON document of a `--json` run."""
    return json.loads(run(*arguments, "--json").stdout)


class TestEmit:
    def test_json_is_the_only_thing_on_stdout(self, capsys):
        emit({"a": [1, None], "ü": "買い物"}, True, lambda: print("shown"))
        out, err = capsys.readouterr()
        assert json.loads(out) == {"a": [1, None], "ü": "買い物"}
        assert "買い物" in out
        assert err == ""

    def test_for_people_it_shows(self, capsys):
        emit({"a": 1}, False, lambda: print("bare"))
        emit({"a": 1}, False, lambda found: print(found["a"]))
        assert capsys.readouterr().out == "bare\n1\n"


@dataclass
class ByteModel:
    """A backend whose logits after some ids are a fixed random row."""

    n_vocab: int = 257
    held: list[int] = field(default_factory=list)
    closed: bool = False
    decode_seconds: float = 0.0
    capacity: int = 4096
    looked_at: set[int] = field(default_factory=set)

    def row(self, ids: list[int]) -> np.ndarray:
        seed = zlib.crc32(np.asarray(ids, dtype=np.int64).tobytes())
        return np.random.default_rng(seed).normal(0, 2, self.n_vocab).astype(np.float32)

    def tokenize(self, text: str) -> list[int]:
        return list(text.encode())

    def prefill(self, ids: list[int], trie: Any = None, nodes: Any = (), spare: Any = ()) -> tuple[np.ndarray, int]:
        self.held, self.looked_at = list(ids), set()
        return self.row(self.held), len(ids)

    def branch(self, trie: Any, nodes: Any) -> tuple[list[np.ndarray], int]:
        paths = [trie.ancestors(int(node)) for node in nodes]
        new = {node for path in paths for node in path} - self.looked_at
        self.looked_at |= new
        return [self.row(self.held + [int(trie.tokens[n]) for n in path]) for path in paths], len(new)

    def at_hand(self, trie: Any) -> set[int]:
        return self.looked_at

    def close(self) -> None:
        self.closed = True


MANIFEST = Manifest(
    created_with="edgeb test",
    candidates=CandidateSet.of(LABELS, [5, 3, 2, 1]),
    layout=PromptLayout(),
    bos_id=None,
    eos_id=EOS,
    architecture="qwen2",
    quantization="Q4_K_M",
    context_length=4096,
    base_model=BaseModelInfo("tiny", None, "00"),
)


class TestPredict:
    @pytest.fixture
    def model(self, monkeypatch) -> ByteModel:
        made = ByteModel()
        load = classmethod(lambda cls, path, threads, accelerator: cls(MANIFEST, made, None, accelerator))
        monkeypatch.setattr(Predictor, "load", load)
        return made

    @pytest.fixture
    def question(self, tmp_path) -> list[object]:
        write_history(tmp_path / "h.csv", EVENTS)
        return ["predict", "m.gguf", "--history", tmp_path / "h.csv", "--at", "2024-05-01T18:00", "--place", "home"]

    def test_json(self, model, question):
        found = document(*question, "--top", 0)
        assert set(found) == {
            *("predictions", "scoring", "source", "unexpanded", "tokens_evaluated", "latency_ms", "bundle"),
            *("calibrated", "balance", "accelerator", "skipped_events"),
        }
        assert (found["calibrated"], found["balance"]) == (False, 0)
        assert (found["scoring"], found["source"], found["bundle"]) == ("exact", "model", "m.gguf")
        assert found["unexpanded"] == 0
        assert found["latency_ms"] > 0
        assert model.closed
        encoder = PromptEncoder(model.tokenize, MANIFEST.layout, MANIFEST.candidates, None, EOS)
        prompt = encoder.prompt_ids(EVENTS, datetime(2024, 5, 1, 18), "home")
        assert found["tokens_evaluated"] == len(prompt) + len(encoder.trie.evaluated)
        logs = {}
        for label in LABELS:
            ids, total = list(prompt), 0.0
            for token in f" {label})\n".encode():
                row = model.row(ids).astype(np.float64)
                total += row[token] - np.log(np.exp(row).sum())
                ids.append(token)
            logs[label] = total
        mass = sum(np.exp(value) for value in logs.values())
        expected = sorted(((np.exp(value) / mass, label) for label, value in logs.items()), reverse=True)
        assert [p["behavior"] for p in found["predictions"]] == [label for _, label in expected]
        np.testing.assert_allclose(
            [p["probability"] for p in found["predictions"]], [value for value, _ in expected], rtol=1e-4
        )

    def test_masked_evaluates_less(self, model, question):
        exact, masked = document(*question), document(*question, "--scoring", "masked")
        assert masked["scoring"] == "masked"
        assert masked["tokens_evaluated"] < exact["tokens_evaluated"]

    @pytest.mark.parametrize(("top", "shown"), [(1, 1), (3, 3), (5, 4), (0, 4)])
    def test_top(self, model, question, top, shown):
        assert len(document(*question, "--top", top)["predictions"]) == shown

    def test_for_people(self, model, question):
        best = document(*question)["predictions"][0]
        out = run(*question).stdout
        assert best["behavior"] in out
        assert f"{best['probability']:.1%}" in out
        assert "exact scoring" in out

    def test_only_and_exclude(self, model, question):
        assert {
            p["behavior"] for p in document(*question, "--only", LABELS[0], "--only", LABELS[2])["predictions"]
        } == {
            LABELS[0],
            LABELS[2],
        }
        rest = document(*question, "--exclude", LABELS[0])["predictions"]
        assert LABELS[0] not in {p["behavior"] for p in rest}
        assert len(rest) == 3

    def test_sources(self, model, question):
        habits = document(*question, "--source", "habits")
        assert (habits["source"], habits["tokens_evaluated"]) == ("habits", 0)
        with pytest.raises(EdgebError, match="no weights to fuse"):
            run(*question, "--source", "fused")

    def test_the_best_costs_less_than_all(self, model, question):
        best, every = document(*question, "--top", 1), document(*question, "--top", 1, "--exhaustive")
        assert best["predictions"][0]["behavior"] == every["predictions"][0]["behavior"]
        assert best["tokens_evaluated"] <= every["tokens_evaluated"]
        assert every["unexpanded"] == 0

    @pytest.fixture
    def calibrated(self, model, monkeypatch) -> ByteModel:
        """The same model in a bundle that is calibrated."""
        own = Calibration(3.0, {"head": 0.0, "medium": 0.0, "tail": 0.0}, {0.8: 0.2}, {0.5: 0.01, 0.9: None})
        manifest = replace(MANIFEST, calibration=CalibrationSet({"model": own, "habits": own}))
        monkeypatch.setattr(
            Predictor, "load", classmethod(lambda cls, path, threads, accelerator: cls(manifest, model))
        )
        return model

    def test_calibrated_unless_raw(self, calibrated, question):
        shown, raw = document(*question, "--top", 0), document(*question, "--top", 0, "--raw")
        assert (shown["calibrated"], raw["calibrated"]) == (True, False)
        assert not {"suggest", "likely"} & set(shown)
        cooled = {p["behavior"]: p["probability"] ** (1 / 3) for p in raw["predictions"]}
        assert {p["behavior"]: p["probability"] for p in shown["predictions"]} == pytest.approx(
            {label: p / sum(cooled.values()) for label, p in cooled.items()}, rel=1e-4
        )

    def test_decisions(self, calibrated, question):
        found = document(*question, "--top", 0, "--precision", 0.5, "--coverage", 0.8)
        assert (found["suggest"], found["precision"], found["coverage"]) == (True, 0.5, 0.8)
        ranked = [p["behavior"] for p in found["predictions"] if p["probability"] >= 0.2]
        assert found["likely"] == ranked
        assert document(*question, "--precision", 0.9)["suggest"] is False
        with pytest.raises(EdgebError, match=r"not calibrated for a precision of 0\.8"):
            run(*question, "--precision", 0.8)

    def test_decisions_for_people(self, calibrated, question):
        found = document(*question, "--coverage", 0.8)
        out = run(*question, "--precision", 0.5, "--coverage", 0.8).stdout
        assert "suggest the first at precision 0.5" in out
        assert f"prediction set at coverage 0.8: {', '.join(found['likely'])}" in out
        assert out.count("✓") == len(found["likely"])
        assert "model, calibrated, exact scoring" in out
        out = run(*question, "--precision", 0.9, "--top", 1).stdout
        assert "stay silent at precision 0.9" in out
        assert "✓" not in out

    def test_balance(self, calibrated, question, monkeypatch):
        """Shares are 5, 3, 2 and 1 of 11, smoothed by one percent."""
        plain = document(*question, "--top", 0, "--raw")
        raised = document(*question, "--top", 0, "--balance", 0.5)
        assert (raised["balance"], raised["calibrated"]) == (0.5, False)
        share = {label: 0.99 * count / 11 + 0.0025 for label, count in zip(LABELS, (5, 3, 2, 1), strict=True)}
        weights = {p["behavior"]: p["probability"] / share[p["behavior"]] ** 0.5 for p in plain["predictions"]}
        assert {p["behavior"]: p["probability"] for p in raised["predictions"]} == pytest.approx(
            {label: weight / sum(weights.values()) for label, weight in weights.items()}, rel=1e-4
        )
        assert "model, balance 0.5, exact scoring" in run(*question, "--balance", 0.5).stdout
        with pytest.raises(EdgebError, match=r"not measured at balance 0\.5"):
            run(*question, "--balance", 0.5, "--precision", 0.5)
        with pytest.raises(EdgebError, match="the bundle has no fitted balance"):
            run(*question, "--balance", "fitted")
        for text in ("much", "2.5", "nan"):
            with pytest.raises(EdgebError, match=f"--balance is '?{text}"):
                run(*question, "--balance", text)
        held = CalibrationSet(dict.fromkeys(("model", "habits"), Calibration(2.0, coverage={0.8: 0.2})))
        manifest = replace(MANIFEST, calibration=held, balance=FittedBalance({"model": 0.5, "habits": 0.0}, held))
        monkeypatch.setattr(
            Predictor, "load", classmethod(lambda cls, path, threads, accelerator: cls(manifest, calibrated))
        )
        found = document(*question, "--balance", "fitted", "--coverage", 0.8)
        assert (found["balance"], found["calibrated"]) == (0.5, True)
        assert found["likely"]

    def test_a_place_is_needed_where_prompts_have_one(self, model, question):
        with pytest.raises(EdgebError, match="no place was given") as caught:
            document(*question[:-2])
        assert "--place" in caught.value.hint

    def test_without_places_none_is_needed_or_taken(self, model, question, tmp_path, monkeypatch):
        manifest = replace(MANIFEST, layout=PromptLayout(places=False))
        monkeypatch.setattr(
            Predictor, "load", classmethod(lambda cls, path, threads, accelerator: cls(manifest, model))
        )
        (tmp_path / "h.csv").write_text("timestamp,behavior\n2024-05-01T17:00," + LABELS[0] + "\n")
        assert len(document(*question[:-2], "--top", 0)["predictions"]) == 4
        write_history(tmp_path / "h.csv", EVENTS)
        with pytest.raises(EdgebError, match="'home' was given to a model without places"):
            document(*question)

    def test_an_empty_history(self, model, question, tmp_path):
        (tmp_path / "h.csv").write_text("timestamp,place,behavior\n")
        assert len(document(*question, "--top", 0)["predictions"]) == 4
        assert "has no events" in run(*question).stderr
        for text in ("", "[]", "timestamp,place\n"):
            (tmp_path / "h.csv").write_text(text)
            with pytest.raises(EdgebError):
                run(*question)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (["--at", "2024-04-29T08:30"], "before the last event"),
            (["--top", "-1"], "top_k is -1"),
        ],
    )
    def test_impossible_questions(self, model, question, change, message):
        with pytest.raises(EdgebError, match=message):
            run(*question, *change)
        assert model.closed

    def test_what_is_odd_about_a_history_is_told(self, model, question, tmp_path):
        rows = ["2024-05-01T08:00,home,Video", "2024-05-01T09:00,home,Vidoe", "2024-05-01T07:30,home,Video\u00a0call"]
        (tmp_path / "h.csv").write_text("\n".join(["timestamp,place,behavior", *rows]))
        found = run(*question, "--at", "2024-05-01T07:10", "--json")
        assert json.loads(found.stdout)["skipped_events"] == [{"line": 3, "behavior": "Vidoe"}]
        assert found.stderr.splitlines() == [
            f"note: {tmp_path / 'h.csv'}: 1 event is earlier than the one before it; kept in file order, "
            "because local clocks may go back",
            f"note: {tmp_path / 'h.csv'}: 1 event was skipped, not in the candidate set: 'Vidoe' (line 3)",
            "note: --at is 20 minutes before the last event: read as a clock set back",
        ]
        with pytest.raises(EdgebError, match=r"h\.csv:3: 'Vidoe' is not in the candidate set"):
            run(*question, "--unknown", "refuse")
        with pytest.raises(EdgebError, match="--unknown is 'drop'"):
            run(*question, "--unknown", "drop")

    def test_at_is_compared_to_the_minute(self, model, question, tmp_path):
        (tmp_path / "h.csv").write_text("timestamp,place,behavior\n2024-05-01T18:00:30,home,Video\n")
        assert run(*question).stderr == ""

    def test_labels_are_asked_for_however_they_are_written(self, model, question):
        found = document(*question, "--only", "\u200eVideo\u00a0 call", "--only", "\u202a買い物")
        assert {p["behavior"] for p in found["predictions"]} == {"Video call", "買い物"}

    def test_one_user_of_several(self, model, question, tmp_path):
        rows = ["a,2024-05-01T08:00,home,Video", "b,2024-04-01T08:00,home,Mail", "a,2024-05-01T09:00,home,Mail"]
        (tmp_path / "h.csv").write_text("\n".join(["user_id,timestamp,place,behavior", *rows]))
        with pytest.raises(EdgebError, match=r"h\.csv:3: a second user, 'b', after 'a'") as caught:
            run(*question)
        assert "--user" in caught.value.hint
        assert run(*question, "--user", "a").stderr == ""
        with pytest.raises(EdgebError, match="no event of user 'c'"):
            run(*question, "--user", "c")

    def test_no_history_is_said(self, model, question):
        without = [*question[:2], *question[4:]]
        assert document(*without, "--no-history", "--top", 0)["predictions"]
        with pytest.raises(EdgebError, match="no history given"):
            run(*without)
        with pytest.raises(EdgebError, match="both --history and --no-history"):
            run(*question, "--no-history")

    def test_a_behavior_outside_the_candidate_set(self, model, question, tmp_path):
        write_history(tmp_path / "h.csv", [BehaviorEvent("home", EVENTS[0].time, "Vidoe")])
        with pytest.raises(EdgebError, match=r"'Vidoe' \(line 2\)") as caught:
            run(*question)
        assert "did you mean 'Video'?" in caught.value.hint


def metrics(seed: int = 0) -> Metrics:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, 50)
    outcome = Outcome(rng.normal(size=(50, 4)), truth, rng.integers(0, 5, 50))
    return behavior_metrics(outcome, LABELS, ("head", "medium", "tail", "tail"), resamples=20)


FOUND = Evaluation(
    {
        "model": {"natural": metrics(1), "balanced": metrics(2)},
        "place_hour_backoff": {"natural": metrics(3), "balanced": metrics(4)},
        "untuned": {"natural": metrics(5), "balanced": metrics(6)},
    },
    "model",
    EvaluatedDataset("d", "f", True),
)
RESULTS = {
    "natural": metrics(1).to_dict(),
    "balanced": metrics(2).to_dict(),
    "baselines": {
        "place_hour_backoff": {"natural": metrics(3).to_dict(), "balanced": metrics(4).to_dict()},
        "untuned": {"natural": metrics(5).to_dict(), "balanced": metrics(6).to_dict()},
    },
    "dataset": {"path": "d", "fingerprint": "f", "own": True},
}


MEASURED = {
    "windows": 100,
    "ece": {"before": 0.21, "after": 0.04},
    "nll": {"before": 2.5, "after": 2.25},
    "tail_nll": {"before": 4.5, "after": 4.25},
    "accuracy": {"before": 0.4, "after": 0.4},
    "coverage": {"0.9": {"overall": 0.91, "head": 0.95, "medium": 0.9, "tail": None, "size": 3.21}},
    "precision": {
        "0.5": {"share": 0.6, "suggested": 60, "precision": 0.57},
        "0.9": {"share": 0.0, "suggested": 0, "precision": None},
    },
}
CALIBRATED = {
    "model": Calibration(1.5, {"head": 0.0, "medium": -0.1, "tail": 0.4}, {0.9: 0.05}, {0.5: 0.3, 0.9: None}).to_dict(),
    "habits": Calibration(1.0, dict.fromkeys(GROUPS, 0.0), {0.9: 0.05}, {0.5: 0.3, 0.9: None}).to_dict(),
    "measured": {"split": "validation", "windows": 800, "users": 40, "folds": 5, "model": MEASURED, "habits": MEASURED},
}

_RECALLS = {"accuracy": 0.47, "overall": 0.45, "head": 0.5, "medium": 0.4, "tail": None}
_CURVE = {
    "curve": {
        "balance": [0.0, 0.05, 0.25, 0.3, 0.5],
        "accuracy": [0.5, 0.5, 0.49, 0.48, 0.4],
        "overall": [0.4, 0.41, 0.44, 0.46, 0.45],
        "head": [0.6, 0.6, 0.6, 0.5, 0.4],
        "medium": [0.3, 0.3, 0.3, 0.4, 0.4],
        "tail": [None] * 5,
    },
    "cross_validated": _RECALLS,
}
BALANCED = {
    "fitted": {"model": 0.3, "habits": 0.0},
    "calibration": None,
    "measured": {"split": "validation", "windows": 300, "users": 20, "folds": 5, "model": _CURVE, "habits": _CURVE},
}


class TestEvaluate:
    @pytest.fixture
    def asked(self, module) -> dict[str, tuple[object, ...]]:
        """What was asked of the engine, by kind of model."""
        seen: dict[str, tuple[object, ...]] = {}

        def engine(kind: str) -> Any:
            def evaluate(*arguments: object) -> Evaluation:
                seen[kind] = arguments
                return FOUND

            return evaluate

        module("edge_behavior.train.evaluate_run", evaluate_run=engine("run"))
        module("edge_behavior.evaluation.bundles", evaluate_bundle=engine("bundle"))
        return seen

    def test_a_folder_is_a_run(self, asked, tmp_path):
        (tmp_path / "r").mkdir()
        assert document("evaluate", "r", "--data", "d", "--no-untuned") == json.loads(json.dumps(RESULTS))
        assert asked == {"run": (Path("r"), Path("d"), "both", "test", WindowChoice(20, 500, None, 0), ["b_tuning"])}

    def test_a_file_is_a_bundle(self, asked, tmp_path):
        (tmp_path / "m.gguf").write_bytes(b"x")
        flags = {"--protocol": "natural", "--split": "validation", "--per-user": 3, "--per-behavior": 4}
        flags |= {"--limit": 5, "--seed": 6}
        document("evaluate", "m.gguf", "--data", "d", *(word for pair in flags.items() for word in pair))
        choice = WindowChoice(per_user=3, per_behavior=4, limit=5, seed=6)
        words = (Path("m.gguf"), Path("d"), "natural", "validation", choice, open_predictor)
        assert asked == {"bundle": (*words, 0.0)}
        document("evaluate", "m.gguf", "--data", "d", "--balance", "fitted")
        assert asked["bundle"][-1] == "fitted"

    def test_a_run_has_no_balance(self, asked, tmp_path):
        (tmp_path / "r").mkdir()
        with pytest.raises(EdgebError, match="r is a run folder, and --balance is for bundles"):
            run("evaluate", "m.gguf", "r", "--data", "d", "--balance", 0.5)
        assert asked == {}

    def test_several_models_share_a_table(self, module, tmp_path):
        def run_of(path: Path, *arguments: object) -> Evaluation:
            assert arguments[-1] == ["untuned", "a_tuning", "b_tuning"]
            systems = ("untuned", "b_tuning") if path.name == "two" else ("untuned", "tuned")
            # The final model's numbers tell the runs apart.
            results = dict.fromkeys(systems, FOUND.results["untuned"]) | {systems[1]: FOUND.results["model"]}
            return replace(
                FOUND,
                results={**results, **counters},
                subject=systems[1],
                recorded=path.name == "two",
                untuned_sha256="the same",
            )

        def bundle_of(*_: object) -> Evaluation:
            return replace(
                FOUND, results={"bundle_habits": FOUND.results["model"], **counters}, subject="bundle_habits"
            )

        counters = dict.fromkeys(COUNTERS, FOUND.results["place_hour_backoff"])
        module("edge_behavior.train.evaluate_run", evaluate_run=run_of)
        module("edge_behavior.evaluation.bundles", evaluate_bundle=bundle_of)
        for name in ("two", "plain"):
            (tmp_path / name).mkdir()
        words = ("evaluate", "two", "plain", "m.gguf", "--data", "d")
        done = run(*words)
        shown = ("place+hour back-off", "untuned backbone", "two: after B-Tuning", "plain: plain fine-tuning")
        shown += ("m.gguf: habits",)
        assert sorted(shown, key=done.stdout.index) == list(shown)
        assert done.stdout.count("untuned backbone") == done.stdout.count("all systems") == 1
        assert done.stderr.count("metrics.json") == 1
        found = document(*words)
        assert set(found["systems"]) == {
            *COUNTERS,
            *("untuned", "two/b_tuning", "plain/tuned", "m.gguf/habits"),
        }
        natural = json.loads(json.dumps(RESULTS))["natural"]
        assert found["systems"]["m.gguf/habits"]["natural"] == found["systems"]["plain/tuned"]["natural"] == natural

    def test_the_last_dataset_is_the_default(self, asked, tmp_path):
        (tmp_path / "data").mkdir()
        remember("dataset", tmp_path / "data")
        document("evaluate", "m.gguf")
        assert asked["bundle"][1] == tmp_path / "data"

    def test_for_people_a_table_per_protocol(self, asked):
        out = run("evaluate", "m.gguf", "--data", "d").stdout
        for words in ("natural windows", "balanced windows", "place+hour back-off", "untuned", "model", "Prec_w"):
            assert words in out
        assert f"{metrics(1).overall:.3f}".lstrip("0") in out

    def test_a_bundles_sources_come_last_and_in_order(self, module):
        bins = [HistoryBin(5, 10, 50, 4, {"model": 0.1, "habits": 0.2})]
        systems = {"bundle_fused": 7, "bundle_habits": 1, "bundle_model": 8, "last_mode": 9}
        calibrated = CalibrationMetrics.from_dict(MEASURED)
        found = BundleEvaluation(
            results={name: {"natural": metrics(seed)} for name, seed in systems.items()},
            subject="bundle_habits",
            dataset=EvaluatedDataset("d", "f", False),
            source="habits",
            by_history={"natural": bins},
            masked_differs=MaskedDifference(0.025, 200),
            calibration={"natural": {"model": calibrated, "habits": calibrated}},
            balance={"model": 0.25, "habits": 0.0},
        )
        module("edge_behavior.evaluation.bundles", evaluate_bundle=lambda *arguments: found)
        done = run("evaluate", "m.gguf", "--data", "d", "--protocol", "natural")
        assert "d is not the dataset that m.gguf was trained on" in done.stderr
        out = done.stdout
        names = (
            "mode of last 20",
            "bundle: model",
            "bundle: habits",
            "bundle: both fused",
            "5–9",
            "calibration, natural",
            "balance between frequent and rare behaviors: model 0.25, habits 0",
            "predicts with habits",
        )
        assert [name for name in names if name in out] == list(names)
        assert sorted(names, key=out.index) == list(names)
        words = " ".join(out.split())
        assert "2.5% of 200 windows" in words
        assert "before → after .210 → .040 .210 → .040" in words
        assert "prediction set 0.9: covers / candidates .910 / 3.2" in words
        others = {name: {"natural": metrics(seed).to_dict()} for name, seed in systems.items() if seed != 1}
        expected = {
            "source": "habits",
            "balance": {"model": 0.25, "habits": 0.0},
            "accelerator": None,
            "natural": metrics(1).to_dict(),
            "baselines": others,
            "by_history": {
                "natural": [{"from": 5, "to": 10, "windows": 50, "users": 4, "accuracy": {"model": 0.1, "habits": 0.2}}]
            },
            "masked_differs": {"share": 0.025, "windows": 200},
            "calibration": {"natural": {"model": MEASURED, "habits": MEASURED}},
            "dataset": {"path": "d", "fingerprint": "f", "own": False},
        }
        assert document("evaluate", "m.gguf", "--data", "d") == json.loads(json.dumps(expected))


@needs_torch
class TestTrain:
    @pytest.fixture
    def asked(self, module, tmp_path, monkeypatch) -> list[tuple[Any, ...]]:
        seen: list[tuple[Any, ...]] = []
        models = {name: {"natural": metrics(1), "balanced": metrics(2)} for name in ("untuned", "a_tuning", "b_tuning")}
        found = RunMetrics(models, {"last_mode": FOUND.results["untuned"]}, 0.01, 0)

        def train(recipe: Recipe, dataset: Path, out: Path, resume: bool, began: Callable[[], None]) -> Any:
            began()
            seen.append((recipe, dataset, out, resume))
            out.mkdir(parents=True, exist_ok=True)
            return SimpleNamespace(path=out)

        module("edge_behavior.train.pipeline", train=train)
        module("edge_behavior.train.run.metrics", read_metrics=lambda made: found)
        module("edge_behavior.train.plan.plan", plan=self.plan)
        module("edge_behavior.train.first_look", first_look=lambda settings: None)
        (tmp_path / "data").mkdir()
        # These tests see which path was opened, not what it holds.
        monkeypatch.setattr(Dataset, "open", lambda path: path)
        return seen

    def test_flags(self, asked, tmp_path):
        made = document(
            "train", "--recipe", "tiny", "--data", "data", "--out", "r", "--set", "seed=5", "--set", "lora.rank=2"
        )
        assert asked == [(load_recipe("tiny", ["seed=5", "lora.rank=2"]), Path("data"), Path("r"), False)]
        assert made["run"] == "r"
        assert set(made["metrics"]) == {"models", "counters", "anchor_threshold", "seed"}
        assert recall("run") == tmp_path / "r"

    def test_bare(self, asked, tmp_path):
        remember("dataset", tmp_path / "data")
        document("train")
        recipe, data, out, resume = asked[0]
        assert (recipe, data, resume) == (load_recipe("qwen2-1.5b"), tmp_path / "data", False)
        assert (out.parent, out.name.endswith("-data")) == (Path("runs"), True)

    def test_a_recipe_file_names_the_run(self, asked, tmp_path):
        (tmp_path / "mine.yaml").write_text("seed: 3\n")
        document("train", "--recipe", "mine.yaml", "--data", "data")
        assert asked[0][0] == load_recipe("mine.yaml") == Recipe(name="mine", seed=3, method=asked[0][0].method)
        assert asked[0][2] == Path("runs/mine-data")

    def test_a_method_that_nobody_named_is_said(self, asked, tmp_path):
        said = f"method {DEFAULT_METHOD}, the default"
        assert said in run("train", "--recipe", "tiny", "--data", "data").stderr
        assert said in run("train", "--recipe", "tiny", "--data", "data", "--dry-run").stderr
        (tmp_path / "mine.yaml").write_text("method: plain\n")
        for words in (
            ("--recipe", "mine.yaml"),
            ("--recipe", "tiny", "--method", "plain"),
            ("--recipe", "tiny", "--set", "method=plain"),
        ):
            assert "the default" not in run("train", *words, "--data", "data").stderr
            assert asked[-1][0].method_title == "plain"
        assert asked[-2][0] == asked[-1][0]

    def test_a_resumed_run_says_no_default_and_may_be_asked_for_a_method(self, asked, tmp_path):
        recipe = load_recipe("tiny", ["method=two-stage"])
        (tmp_path / "r").mkdir()
        (tmp_path / "r" / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        words = ("train", "--resume", "--out", "r", "--data", "data")
        assert "the default" not in run(*words).stderr
        run(*words, "--method", "two-stage-v1")
        assert [found[0].method_title for found in asked] == ["two-stage", "two-stage-v1"]

    def test_resume_takes_the_runs_recipe(self, asked, tmp_path):
        recipe = load_recipe("tiny", ["seed=9"])
        (tmp_path / "r").mkdir()
        (tmp_path / "r" / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        document("train", "--resume", "--out", "r", "--data", "data")
        remember("run", tmp_path / "r")
        document("train", "--resume", "--data", "data")
        assert asked == [(recipe, Path("data"), Path("r"), True), (recipe, Path("data"), tmp_path / "r", True)]

    def test_for_people(self, asked):
        out = run("train", "--recipe", "tiny", "--data", "data", "--out", "r").stdout
        for words in (
            "natural windows",
            "balanced windows",
            "after B-Tuning",
            "mode of last 20",
            "report.html",
            "tail",
        ):
            assert words in out

    def plan(self, recipe: Recipe, dataset: Path, device_memory: str | None, processes: int | None) -> SimpleNamespace:
        need = {"weights": 3 * 2**30, "adapter": 2**28, "activations": 2**30, "logits": 2**29, "working": 0}
        stages = {"a_tuning": {**need, "total": sum(need.values())}, "scoring": {"scoring": 2**30, "total": 2**32}}
        memory = {"stages": stages, "available": 2**34, "device_name": "this CPU"}
        time = {"stages": {"a_tuning": 9000.0, "scoring": 42.0}, "total": 9042.0, "measured_on": "CPU, 2 threads"}
        refusal = EdgebError("training needs more", "set x=1") if device_memory == "1GiB" else None
        shown = {
            "recipe": recipe.name,
            "a_tuning_steps": 1234,
            "processes": processes,
            "memory": memory,
            "time": None if device_memory else time,
            "refusal": refusal and {"message": refusal.message, "hint": refusal.hint},
        }
        return SimpleNamespace(document=lambda: shown, refusal=refusal)

    def test_dry_run_trains_nothing(self, asked, tmp_path):
        words = ["train", "--recipe", "tiny", "--data", "data", "--out", "r", "--dry-run"]
        assert document(*words) == self.plan(load_recipe("tiny"), Path("data"), None, None).document()
        assert document(*words, "--processes", "4")["processes"] == 4
        out = run(*words).stdout
        for shown in ("1,234", "3.00", "4.75", "this CPU has 16.0 GiB", "2 h 30 min", "42 s", "CPU, 2 threads"):
            assert shown in out
        assert asked == []
        assert not (tmp_path / "r").exists()
        with pytest.raises(EdgebError, match="no run was given"):
            recall("run")

    def test_planning_for_another_device(self, asked):
        words = ["train", "--recipe", "tiny", "--data", "data", "--dry-run", "--device-memory"]
        assert "No time is given" in run(*words, "24GiB").stdout
        with pytest.raises(EdgebError, match="training needs more") as caught:
            run(*words, "1GiB")
        assert caught.value.hint == "set x=1"
        with pytest.raises(EdgebError, match="--device-memory is for planning"):
            run("train", "--recipe", "tiny", "--data", "data", "--device-memory", "24GiB")
        with pytest.raises(EdgebError, match="--processes is for planning"):
            run("train", "--recipe", "tiny", "--data", "data", "--processes", "2")
        assert asked == []


class Chosen(NamedTuple):
    """What was asked to be exported; a dataset called "other" is not the run's own."""

    path: Path
    stage: str
    data: Path | None

    @property
    def own_data(self) -> bool:
        return self.data != Path("other")


class TestExport:
    @pytest.fixture
    def asked(self, module) -> list[tuple[object, ...]]:
        seen: list[tuple[object, ...]] = []

        def export_gguf(source: object, out: Path, profile: Any, force: bool) -> ExportReport:
            seen.append((source, out, profile, force))
            out.write_bytes(b"x")
            pruning = Pruning(profile.prune, PrunePlan(np.arange(4736), 151_936, 4, 128, 4116, {}))
            if profile.prune == "auto":
                pruning = Pruning(profile.prune, None, "predictions change")
            habits = FitReport(profile.habits, reason="too few users")
            if profile.habits == "on":
                found = {name: {"accuracy": a} for name, a in (("model", 0.31), ("habits", 0.5), ("fused", 0.52))}
                habits = habits.done({"default": "fused", "measured": found})
            calibration = FitReport(profile.calibrate, reason="fewer users still")
            if profile.calibrate == "on":
                calibration = calibration.done(CALIBRATED)
            balance = FitReport(profile.calibrate, reason="no counts")
            if profile.calibrate == "on":
                balance = balance.done(BALANCED)
            population = FitReport(profile.population, reason="no five users")
            if profile.population == "on":
                dropped = {"last_two_place_hour": 12}
                population = population.done({"contexts": 2456, "users": 3502, "bytes": 62_308, "dropped": dropped})
            shares, moved = Accuracies(0.5, 0.6, None, 0.125), Difference(0.021, 0.0034, 0.01, 0.4)
            parity = ParityReport(
                windows=9,
                natural=9,
                balanced=0,
                held_out=True,
                reference=shares,
                stages={"quantize": StageParity(moved, shares, moved, 3)},
                limits={},
                exceeded=[] if profile.parity.enforce else ["KL 3"],
                tried={"q4_0": ["KL 2"]},
                recovery=Recovery((), (".attn_v.weight",)),
            )
            if out.name == "bad.gguf":
                raise ParityError("Q4_K_M", replace(parity, exceeded=["KL 5"]))
            return ExportReport(
                bundle=out,
                bytes=1_500_000,
                architecture="qwen2",
                quantization="Q4_K_M",
                parameters=1000,
                pruning=pruning,
                population=population,
                habits=habits,
                calibration=calibration,
                balance=balance,
                segments_checked=12,
                parity=parity,
                logit_difference={},
                logit_scale=1.0,
                seconds={},
                tensor_types={"Q4_K": 3, "F32": 2},
            )

        module("edge_behavior.export.gguf.pipeline", export_gguf=export_gguf)
        module("edge_behavior.export.run_source", run_source=Chosen)
        return seen

    def test_flags(self, asked, tmp_path):
        words = ["export", "runs/x", "--quant", "q8", "--out", "m.gguf", "--stage", "a_tuning", "--force"]
        words += ["--data", "d", "--prune", "on", "--extra-tokens", "5", "--no-habits", "--no-calibrate"]
        words += ["--no-population"]
        assert document(*words)["bundle"] == "m.gguf"
        source = (tmp_path / "runs" / "x", "a_tuning", Path("d"))
        (found,) = asked
        assert found == (source, Path("m.gguf"), found[2], True)
        assert found[2] == ExportProfile(
            quant="q8", prune="on", extra_tokens=5, habits="off", calibrate="off", population="off"
        )
        assert recall("bundle") == tmp_path / "m.gguf"

    def test_another_dataset_than_the_runs_is_said(self, asked, tmp_path):
        (tmp_path / "runs").mkdir()
        for data, said in (("other", True), ("d", False)):
            done = run("export", "runs/x", "--data", data)
            assert (f"{data} is not the dataset that" in done.stderr) is said

    def test_bare_takes_the_last_run(self, asked, tmp_path):
        (tmp_path / "runs" / "x").mkdir(parents=True)
        remember("run", tmp_path / "runs" / "x")
        document("export", "--quant", "q4")
        source = (tmp_path / "runs" / "x", "b_tuning", None)
        assert asked == [(source, tmp_path / "runs" / "x-q4.gguf", ExportProfile(), False)]

    def test_for_people(self, asked, tmp_path):
        (tmp_path / "runs").mkdir()
        out = run("export", "runs/x").stdout
        assert "1.5 MB" in out
        assert "3 Q4_K, 2 F32" in out
        assert "tokens kept" not in out
        assert "not q4_0: KL 2" in out
        assert "kept at 8 bits for the tail: attn_v" in out
        for cell in ("quantize", "2.1%", "0.0034", "0.125", "9 validation windows"):
            assert cell in out
        assert (
            "vocabulary: 4736 of 151936 tokens kept, 4 places covered"
            in run("export", "runs/x", "--prune", "on").stdout
        )

    def test_beyond_the_limits(self, asked, tmp_path):
        (tmp_path / "runs").mkdir()
        failed = CliRunner().invoke(app, ["export", "runs/x", "--out", "bad.gguf"])
        assert failed.stdout == ""
        assert "quantize" in failed.stderr
        assert isinstance(failed.exception, ParityError)
        assert (failed.exception.exit_code, failed.exception.hint[-12:]) == (1, "--allow-loss")
        assert failed.exception.message == "Q4_K_M changes the predictions: KL 5"
        accepted = run("export", "runs/x", "--allow-loss")
        assert "beyond the limits: KL 3" in accepted.stderr

    def test_profiles(self, asked, tmp_path):
        (tmp_path / "mine.yaml").write_text("quant: q5\nparity: {max_kl: 0.5}\n")
        document("export", "runs/x", "--profile", "mine.yaml", "--out", "a.gguf")
        document("export", "runs/x", "--profile", "phone-cpu", "--quant", "q8", "--out", "a.gguf")
        assert (asked[0][2].quant, asked[0][2].parity.max_kl) == ("q5", 0.5)
        assert asked[1][2] == ExportProfile(quant="q8")

    def test_the_population_is_shown(self, asked, tmp_path):
        (tmp_path / "runs").mkdir()
        out = " ".join(run("export", "runs/x", "--population").stdout.split())
        assert "population: 2,456 contexts of 3,502 users, 62.3 kB" in out
        assert "no room for contexts: 12 of last_two_place_hour" in out

    def test_fitted_habits_are_shown(self, asked, tmp_path):
        (tmp_path / "runs").mkdir()
        out = " ".join(run("export", "runs/x", "--habits").stdout.split())
        assert "predicts with fused; accuracy on validation windows: model 0.310, habits 0.500, fused 0.520" in out

    def test_the_calibration_of_the_default_is_shown(self, asked, tmp_path):
        (tmp_path / "runs").mkdir()
        out = " ".join(run("export", "runs/x", "--calibrate").stdout.split())
        assert "model: temperature 1.50, bias medium -0.10, tail +0.40; calibration error .210 → .040" in out
        assert "habits: temperature" not in out
        assert "800 validation windows of 40 users" in out

    def test_the_balance_of_the_default_is_shown(self, asked, tmp_path):
        (tmp_path / "runs").mkdir()
        out = run("export", "runs/x", "--calibrate").stdout
        for line in (
            "model: fitted balance 0.3: mean recall .400 → .450, accuracy .500 → .470, cross-validated",
            "  balance           0  0.25  0.3*   0.5",
            "  accuracy       .500  .490  .480  .400",
            "  mean recall    .400  .440  .460  .450",
            "    tail            –     –     –     –",
            "by 300 validation windows of 20 users, as they occur",
        ):
            assert line in out
        assert "habits: fitted" not in out

    def test_what_auto_left_undone_is_said_on_stderr(self, asked, tmp_path):
        (tmp_path / "runs").mkdir()
        err = run("export", "runs/x", "--json").stderr
        assert "edgeb: vocabulary not pruned: predictions change" in err
        assert "habits are not fitted: too few users" in err
        assert "calibration is not fitted: fewer users still" in err
        assert "balance is not fitted: no counts" in err
        assert "no table of the population: no five users" in err
        quiet = ("--prune", "off", "--no-habits", "--no-calibrate", "--no-population")
        assert run("export", "runs/x", *quiet).stderr == ""

    def test_unknown_format(self, asked):
        with pytest.raises(EdgebError, match="unknown format 'ggml'"):
            run("export", "runs/x", "--format", "ggml")
        assert asked == []


class TestInspect:
    @pytest.fixture(autouse=True)
    def bundle(self, monkeypatch):
        monkeypatch.setattr("edge_behavior.bundle.bundle.verify_bundle", lambda path: MANIFEST)

    def test_json_is_the_manifest(self):
        found = document("inspect", "m.gguf")
        assert Manifest.from_json(json.dumps(found)) == MANIFEST

    def test_for_people(self):
        out = run("inspect", "m.gguf").stdout
        for words in ("hashes verified", "qwen2", "Q4_K_M", "買い物", "history_length: 20"):
            assert words in out

    def test_a_calibration_is_a_few_lines(self, monkeypatch):
        manifest = replace(MANIFEST, calibration=CalibrationSet.from_dict(CALIBRATED, ("model", "habits")))
        monkeypatch.setattr("edge_behavior.bundle.bundle.verify_bundle", lambda path: manifest)
        out = " ".join(run("inspect", "m.gguf").stdout.replace("│", " ").split())
        for words in (
            "model: temperature 1.50, bias medium -0.10, tail +0.40; calibration error .210 → .040",
            "prediction sets 0.9: cover .910 with 3.2 candidates",
            "suggest 0.5/0.9: right .570/– in 60%/0% of windows",
            "habits: temperature 1.00, bias none",
        ):
            assert words in out
        assert "'coverage'" not in out
        assert document("inspect", "m.gguf")["calibration"] == CALIBRATED

    def test_a_balance_is_a_few_lines(self, monkeypatch):
        held = FittedBalance.from_dict(BALANCED, ("model", "habits"))
        for balance, words in (
            (held, ("model: fitted balance 0.3: mean", "habits: fitted balance 0: no other finds more", "0.3*")),
            (FittedBalance(held.fitted), ("model: fitted balance 0.3", "habits: fitted balance 0")),
        ):
            manifest = replace(MANIFEST, balance=balance)
            monkeypatch.setattr("edge_behavior.bundle.bundle.verify_bundle", lambda path, made=manifest: made)
            out = " ".join(run("inspect", "m.gguf").stdout.replace("│", " ").split())
            assert [word for word in words if word in out] == list(words)
            assert "'fitted'" not in out
            assert document("inspect", "m.gguf")["balance"] == balance.to_dict()


class TestDoctor:
    @pytest.fixture(autouse=True)
    def no_accelerator(self, monkeypatch):
        monkeypatch.setattr("edge_behavior.bench.doctor._accelerator", lambda: "none")

    def test_json_names_what_is_installed(self):
        found = document("doctor")
        assert {"edgeb", "python", "cores", "memory", "runtime", "data", "train", "export", "accelerator"} <= set(found)
        assert f"numpy {np.__version__}" in found["runtime"]
        assert found["python"] == ".".join(map(str, sys.version_info[:3]))

    @needs_torch
    def test_a_missing_package_is_named_with_its_extra(self, monkeypatch):
        from edge_behavior.bench import doctor

        known = doctor._version
        monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("duckdb", "trl") else known(name))
        found = document("doctor")
        assert "missing duckdb: pip install 'edgeb[data]'" in found["data"]
        assert "missing trl: pip install 'edgeb[train]'" in found["train"]
        assert "missing" not in found["runtime"]

    def test_for_people(self):
        assert "edgeb doctor" in run("doctor").stdout

    @pytest.mark.parametrize(
        ("verdict", "words"),
        [
            (("not needed", "this CPU has no AMX"), "nothing to try"),
            (("works", "tried"), "tried, works"),
            (("crashes", "SIGSEGV"), "crashes on this CPU's AMX units (SIGSEGV), so models are loaded without"),
            (("wrong", "50% off"), "computes wrong numbers on this CPU's AMX units (50% off), so models"),
            (("untried", "it took longer than 60 s"), "could not be tried (it took longer than 60 s), so models"),
            (("unusable", "SIGILL"), "crashes on this CPU (SIGILL), so it is not used"),
        ],
    )
    def test_the_verdict_on_llama_cpp(self, monkeypatch, verdict, words):
        from edge_behavior.runtime.llama import build as llama_build

        monkeypatch.setattr(llama_build, "verdict", lambda: llama_build.Verdict(*verdict))
        monkeypatch.setattr(llama_build, "amx_flags", lambda: ("amx_int8", "amx_tile"))
        found = document("doctor")
        assert found["AMX"].startswith("the CPU has it, llama.cpp is built with")
        assert words in found["AMX"]
        assert (llama_build.REBUILD in found["AMX"]) is (verdict[0] not in ("not needed", "works"))
        assert "llama_cpp" in found["llama.cpp"]

    def test_a_library_that_cannot_be_loaded(self, tmp_path):
        """It is not there, or was built for another machine."""
        code = "from edge_behavior.bench import doctor; print(doctor._llama())"
        (tmp_path / "libllama.so").write_bytes(b"no library")
        for folder in (tmp_path, tmp_path / "none"):
            environment = {**os.environ, "LLAMA_CPP_LIB_PATH": str(folder)}
            command = [sys.executable, "-c", code]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
            assert "'llama.cpp': 'cannot be loaded: " in done.stdout.replace('"', "'")
