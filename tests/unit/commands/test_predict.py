"""`edgeb predict`: what it prints, what it passes on. The engine is a stand-in made here."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from edge_behavior.core.balance import FittedBalance
from edge_behavior.core.calibration import Calibration, CalibrationSet
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.records.history import write_history
from edge_behavior.runtime.predictor import Predictor
from tests.unit.commands.conftest import EOS, EVENTS, LABELS, MANIFEST, document, run


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


class TestPredict:
    @pytest.fixture
    def model(self, monkeypatch) -> ByteModel:
        made = ByteModel()
        load = classmethod(lambda cls, path, threads, accelerator, chip: cls(MANIFEST, made, None, accelerator))
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
            Predictor, "load", classmethod(lambda cls, path, threads, accelerator, chip: cls(manifest, model))
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
            Predictor, "load", classmethod(lambda cls, path, threads, accelerator, chip: cls(manifest, calibrated))
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
            Predictor, "load", classmethod(lambda cls, path, threads, accelerator, chip: cls(manifest, model))
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
