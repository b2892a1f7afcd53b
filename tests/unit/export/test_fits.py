"""Habits and calibration as a step of the export: fitted where they can be, refused where asked for and they cannot."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edge_behavior.bundle.bundle import read_manifest, verify_bundle
from edge_behavior.cli import app
from edge_behavior.core.candidates import GROUPS
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.show import show_report
from edge_behavior.export.source import ExportSource
from edge_behavior.fit import mixture as heldout
from edge_behavior.fit.balance import fit_balance
from edge_behavior.fit.calibrate import TooFewToCalibrateError
from edge_behavior.fit.mixture import TooFewUsersError
from edge_behavior.fit.population import count_population
from edge_behavior.runtime.prediction import Prediction
from edge_behavior.runtime.predictor import PredictOptions, Predictor
from tests import helpers

# Everyone goes back and forth, so that habits know what comes next and a random model does not.
USERS = [["Video", "Bar"] * 16, ["Bar", "Café"] * 15, ["Cafe Noir", "Video"] * 14]
TABLE = helpers.event_table(USERS)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokens = helpers.tokenizer()
    return helpers.save(helpers.model(tokens), tokens, tmp_path_factory.mktemp("base"))


@pytest.fixture
def source(base: Path, monkeypatch: pytest.MonkeyPatch) -> ExportSource:
    made: Any = type("MadeUp", (Dataset,), {"events": lambda self, split: {"train": TABLE, "validation": TABLE}[split]})
    monkeypatch.setattr(heldout.Dataset, "open", lambda path: made(path, {}, TABLE.candidates))
    return ExportSource(base, None, TABLE.candidates, PromptLayout(), data=Path("d"))


def test_the_bundle_carries_what_was_fitted_with_it(source: ExportSource, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    report = export_gguf(source, out, helpers.profile("f16", prune="off")).to_dict()
    assert list(tmp_path.iterdir()) == [out]
    manifest = verify_bundle(out)
    assert manifest.habits is not None
    assert json.loads(json.dumps(report["habits"])) == {
        "mode": "auto",
        "fitted": True,
        "reason": "",
        "default": manifest.habits.default,
        "measured": manifest.habits.measured,
    }
    assert report["habits"]["measured"]["windows"] == sum(len(user) - 20 for user in USERS)
    assert manifest.habits.default != "model"
    again = heldout.fit_habits(heldout.score_held_out(out, Path("d"))).to_dict()
    assert again["fusion"].keys() == manifest.habits.weights.keys()
    for group in GROUPS:
        assert again["fusion"][group] == pytest.approx(asdict(manifest.habits.weights[group]), abs=1e-3)
    with Predictor.load(out, threads=1, prefix_cache=False) as predictor:
        user = helpers.event_table(USERS).history(30, 100)
        event = TABLE.event(30)
        asked = {
            s: predictor.predict(user, event.time, event.place, None, options=PredictOptions(source=s))
            for s in ("model", "habits", "fused")
        }
        free = predictor.predict(user, event.time, event.place, None)
    assert free.source == manifest.habits.default
    assert asked["habits"].ranked[0].behavior == "Video"
    assert {s: p.source for s, p in asked.items()} == {s: s for s in asked}


def test_without_a_dataset(source: ExportSource, tmp_path: Path) -> None:
    alone = replace(source, data=None, data_note="the run's dataset is gone")
    report = export_gguf(alone, tmp_path / "m.gguf", helpers.profile("f16")).to_dict()
    for key in ("population", "habits", "calibration", "balance"):
        assert report[key] == {"mode": "auto", "fitted": False, "reason": "the run's dataset is gone"}
    assert read_manifest(tmp_path / "m.gguf").habits is None
    with pytest.raises(EdgebError, match="habits cannot be fitted: the run's dataset is gone") as caught:
        export_gguf(alone, tmp_path / "n.gguf", helpers.profile("f16", habits="on"))
    assert "--data" in caught.value.hint
    assert not (tmp_path / "n.gguf").exists()


def test_not_wanted(source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heldout, "score_held_out", lambda *_, **__: pytest.fail("was scored"))
    report = export_gguf(
        source,
        tmp_path / "m.gguf",
        helpers.profile("f16", prune="off", habits="off", calibrate="off", population="off"),
    ).to_dict()
    for key in ("population", "habits", "calibration", "balance"):
        assert report[key] == {"mode": "off", "fitted": False, "reason": "not asked for"}
    manifest = read_manifest(tmp_path / "m.gguf")
    fitted = (manifest.habits, manifest.calibration, manifest.balance, manifest.population)
    assert fitted == (None, None, None, None)


def test_too_few_users(source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> dict[str, Any]:
        raise TooFewUsersError("1 of d's validation users", "import more")

    monkeypatch.setattr(heldout, "score_held_out", refuse)
    report = export_gguf(source, tmp_path / "m.gguf", helpers.profile("f16", prune="off", calibrate="off")).to_dict()
    assert report["habits"]["reason"] == "1 of d's validation users"
    assert report["calibration"]["reason"] == "not asked for"
    for wanted in ({"habits": "on"}, {"calibrate": "on", "habits": "off"}):
        with pytest.raises(TooFewUsersError):
            export_gguf(source, tmp_path / "n.gguf", helpers.profile("f16", prune="off", **wanted))
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_unknown_mode(source: ExportSource, tmp_path: Path) -> None:
    with pytest.raises(EdgebError, match="unknown habits mode 'onn'"):
        export_gguf(source, tmp_path / "m.gguf", helpers.profile("f16", habits="onn"))
    with pytest.raises(EdgebError, match="unknown calibration mode 'onn'"):
        export_gguf(source, tmp_path / "m.gguf", helpers.profile("f16", calibrate="onn"))
    with pytest.raises(EdgebError, match="unknown population mode 'onn'"):
        export_gguf(source, tmp_path / "m.gguf", helpers.profile("f16", population="onn"))


def test_too_few_users_for_a_population(source: ExportSource, tmp_path: Path) -> None:
    few = helpers.profile("f16", prune="off", habits="off", calibrate="off")
    report = export_gguf(source, tmp_path / "m.gguf", few).to_dict()
    assert report["population"]["reason"] == "no behavior has 5 of the 3 training users in one context"
    assert read_manifest(tmp_path / "m.gguf").population is None
    with pytest.raises(EdgebError, match="d: no behavior has 5") as caught:
        export_gguf(source, tmp_path / "n.gguf", few.model_copy(update={"population": "on"}))
    assert "--no-population" in caught.value.hint
    assert not (tmp_path / "n.gguf").exists()


class TestCalibration:
    """More users, since three are too few."""

    TABLE = helpers.event_table([["Video", "Bar"] * 16, ["Bar", "Café"] * 15, ["Cafe Noir", "Video", "Bar"] * 11] * 4)

    @pytest.fixture
    def many(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> ExportSource:
        table = self.TABLE
        made: Any = type(
            "MadeUp", (Dataset,), {"events": lambda self, split: {"train": table, "validation": table}[split]}
        )
        monkeypatch.setattr(heldout.Dataset, "open", lambda path: made(path, {}, table.candidates))
        return ExportSource(base, None, table.candidates, PromptLayout(), data=Path("d"))

    def ask(self, path: Path, source: str, **wanted: Any) -> Prediction:
        event = self.TABLE.event(30)
        with Predictor.load(path, threads=1, prefix_cache=False) as predictor:
            return predictor.predict(
                self.TABLE.history(30, 100),
                event.time,
                event.place,
                None,
                options=PredictOptions(source=source, **wanted),
            )

    def test_the_bundle_carries_it(self, many: ExportSource, tmp_path: Path) -> None:
        out = tmp_path / "m.gguf"
        report = export_gguf(many, out, helpers.profile("f16", prune="off")).to_dict()
        assert list(tmp_path.iterdir()) == [out]
        manifest = verify_bundle(out)
        assert manifest.calibration is not None
        found = json.loads(json.dumps(report["calibration"]))
        assert found == {"mode": "auto", "fitted": True, "reason": "", **manifest.calibration.to_dict()}
        assert found["measured"]["windows"] == sum(
            min(20, n - 20) for n in self.TABLE.user_offsets[1:] - self.TABLE.user_offsets[:-1]
        )
        assert set(found) == {"mode", "fitted", "reason", "model", "habits", "fused", "measured"}
        for source in ("model", "habits", "fused"):
            prediction = self.ask(out, source, precision=0.5, coverage=0.9)
            assert prediction.calibrated
            assert prediction.suggest in (True, False)
            assert prediction.likely
            assert prediction.likely[0] == prediction.ranked[0].behavior

    def test_the_bundle_carries_the_balance_and_its_own_calibration(self, many: ExportSource, tmp_path: Path) -> None:
        out = tmp_path / "m.gguf"
        report = export_gguf(many, out, helpers.profile("f16", prune="off")).to_dict()
        held = read_manifest(out).balance
        assert held is not None
        assert held.calibration is not None
        found = json.loads(json.dumps(report["balance"]))
        assert found == {"mode": "auto", "fitted": True, "reason": "", **held.to_dict()}
        assert list(held.fitted) == ["model", "habits", "fused"]
        scores = heldout.score_held_out(out, Path("d"))
        again = fit_balance(scores, many.candidates.counts)
        assert again.fitted == held.fitted
        assert json.loads(json.dumps(again.to_dict())) == held.measured
        for source, balance in held.fitted.items():
            prediction = self.ask(out, source, balance="fitted", precision=0.5, coverage=0.9)
            assert (prediction.balance, prediction.calibrated) == (balance, True)
            assert not self.ask(out, source, balance=1.99).calibrated

    def test_nothing_to_balance_by(self, many: ExportSource, tmp_path: Path) -> None:
        unknown = replace(many, candidates=replace(many.candidates, counts=(0,) * len(many.candidates)))
        report = export_gguf(unknown, tmp_path / "m.gguf", helpers.profile("f16", prune="off")).to_dict()
        assert report["calibration"]["fitted"]
        assert report["balance"] == {"mode": "auto", "fitted": False, "reason": "the training counts are unknown"}
        assert read_manifest(tmp_path / "m.gguf").balance is None

    def test_a_new_user_is_answered_from_the_population(self, many: ExportSource, tmp_path: Path) -> None:
        out = tmp_path / "m.gguf"
        report = export_gguf(many, out, helpers.profile("f16", prune="off")).to_dict()
        expected = count_population(self.TABLE)
        info = verify_bundle(out).population
        assert info is not None
        assert report["population"] == {
            "mode": "auto",
            "fitted": True,
            "reason": "",
            "contexts": info.contexts,
            "users": 12,
            "bytes": info.bytes,
            "dropped": {},
        }
        assert info.sha256 == hashlib.sha256(expected.table.to_bytes()).hexdigest()
        event = self.TABLE.event(30)
        with Predictor.load(out, threads=1, prefix_cache=False) as predictor:
            asked = PredictOptions(source="habits", calibrated=False)
            found = predictor.predict([], event.time, event.place, None, options=asked)
            session = predictor.session().predict(event.time, event.place, None, options=asked)
        labels = self.TABLE.candidates.labels
        probs = expected.table.probs([], event.time, event.place)
        assert {r.behavior: r.probability for r in found.ranked} == pytest.approx(dict(zip(labels, probs, strict=True)))
        assert session.ranked == found.ranked

    def test_report_and_inspect_name_its_size(
        self, many: ExportSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "m.gguf"
        profile = helpers.profile("f16", prune="off", habits="off", calibrate="off", population_bytes=100)
        report = export_gguf(many, out, profile)
        info = verify_bundle(out).population
        assert info is not None
        assert info.bytes <= 100
        dropped = report.population.values["dropped"]
        assert len(dropped) > 1
        capsys.readouterr()
        show_report(report)
        said = " ".join(capsys.readouterr().out.split())
        assert f"population: {info.contexts} contexts of 12 users, {info.bytes / 1000:.1f} kB; no room" in said
        assert f"no room for contexts: {', '.join(f'{lost} of {level}' for level, lost in dropped.items())}" in said
        shown = CliRunner().invoke(app, ["inspect", str(out)])
        assert shown.exit_code == 0
        assert f"{info.contexts} contexts of 12 users" in shown.stdout
        assert "every count stands on" in shown.stdout

    def test_without_habits_there_is_no_fusion_to_calibrate(self, many: ExportSource, tmp_path: Path) -> None:
        report = export_gguf(many, tmp_path / "m.gguf", helpers.profile("f16", prune="off", habits="off")).to_dict()
        assert not report["habits"]["fitted"]
        assert report["calibration"]["fitted"]
        assert "fused" not in report["calibration"]
        assert set(report["balance"]["calibration"]) == {"model", "habits", "measured"}
        assert self.ask(tmp_path / "m.gguf", "model").calibrated
        assert self.ask(tmp_path / "m.gguf", "habits").calibrated

    def test_habits_alone(self, many: ExportSource, tmp_path: Path) -> None:
        report = export_gguf(many, tmp_path / "m.gguf", helpers.profile("f16", prune="off", calibrate="off")).to_dict()
        assert report["habits"]["fitted"]
        assert read_manifest(tmp_path / "m.gguf").calibration is None
        assert not self.ask(tmp_path / "m.gguf", "fused").calibrated

    def test_three_users_are_too_few(self, source: ExportSource, tmp_path: Path) -> None:
        report = export_gguf(source, tmp_path / "m.gguf", helpers.profile("f16", prune="off")).to_dict()
        assert report["habits"]["fitted"]
        assert report["calibration"]["reason"].endswith(
            "validation windows of 3 users are too few, 100 of 10 are needed"
        )
        assert report["balance"] == report["calibration"]
        with pytest.raises(TooFewToCalibrateError):
            export_gguf(source, tmp_path / "n.gguf", helpers.profile("f16", prune="off", calibrate="on"))
        assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]

    def test_without_a_dataset(self, source: ExportSource, tmp_path: Path) -> None:
        alone = replace(source, data=None, data_note="the run's dataset is gone")
        with pytest.raises(EdgebError, match="calibration cannot be fitted: the run's dataset is gone"):
            export_gguf(alone, tmp_path / "n.gguf", helpers.profile("f16", calibrate="on"))
