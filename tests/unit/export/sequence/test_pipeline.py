"""From a comparison's folder to a bundle that predicts, with everything that other bundles have."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.baselines.sequence.fitting import FittedSequence
from edge_behavior.baselines.sequence.kept import DESCRIPTION, WEIGHTS, LabelSource, read_kept
from edge_behavior.baselines.sequence.system import SequenceSystem
from edge_behavior.baselines.system import Budget
from edge_behavior.bundle.bundle import read_population, verify_bundle
from edge_behavior.core.license import License
from edge_behavior.data.dataset import Dataset
from edge_behavior.data.importers.importer import import_log
from edge_behavior.data.importers.options import ImportOptions
from edge_behavior.data.simulator.simulator import simulate
from edge_behavior.data.windows import natural_windows
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.bundles import bundle_log_probs, evaluate_bundle
from edge_behavior.evaluation.protocols import WindowChoice
from edge_behavior.export.comparison import compared_fit
from edge_behavior.export.parity.gate import ParityError
from edge_behavior.export.profiles import ExportProfile, ParitySettings
from edge_behavior.export.sequence.pipeline import export_sequence
from edge_behavior.export.sequence.source import SequenceSource, sequence_source
from edge_behavior.runtime.prediction import PredictOptions
from edge_behavior.runtime.predictor import Predictor
from tests.command import invoked

LENGTH = 4
SMALL = SequenceConfig(hidden=16, layers=1, heads=2, epochs=1, least_steps=12, eval_steps=6, batch_size=16)
PROFILE = ExportProfile(parity=ParitySettings(windows=20, per_behavior=1))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("sequence")
    simulate(120, 6, 1, folder / "log.csv")
    import_log(folder / "log.csv", "csv", folder / "data", ImportOptions(source_name="synth"))
    return Dataset.open(folder / "data")


@pytest.fixture(scope="module")
def models(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, FittedSequence]:
    folder = tmp_path_factory.mktemp("fits")
    return {
        name: SequenceSystem(name, SMALL).fit(dataset, LENGTH, Budget(300, 20, 0, folder / name), 0.01)
        for name in ("sasrec", "bert4rec")
    }


@pytest.fixture
def comparison(models: dict[str, FittedSequence], tmp_path: Path) -> Path:
    folder = tmp_path / "comparison"
    for name, model in models.items():
        assert model.keep(folder / "models" / f"{name}-seed0")
    (folder / "compare.json").write_text(json.dumps({"systems": [*models, "alphafuse"]}), encoding="utf-8")
    return folder


def source_of(comparison: Path, system: str) -> SequenceSource:
    return sequence_source(compared_fit(comparison, system).folder)


@pytest.mark.parametrize("name", ["sasrec", "bert4rec"])
def test_a_bundle_says_what_the_fitted_model_says(
    name: str, models: dict[str, FittedSequence], comparison: Path, dataset: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / f"{name}.gguf"
    report = export_sequence(source_of(comparison, name), out, profile=PROFILE)
    manifest = verify_bundle(out)
    assert (report.bytes, report.architecture) == (out.stat().st_size, f"edgeb-{name}")
    assert (manifest.architecture, manifest.quantization) == (f"edgeb-{name}", "F32")
    assert manifest.training["parameters"] == report.parameters
    assert manifest.training["system"] == name
    assert (manifest.base_model.name, manifest.base_model.license) == (None, None)
    assert str(dataset.path) not in manifest.to_json()
    assert report.parity.last.total.flips == 0
    assert set(report.tensor_types or {}) == {"F32"}
    for fit in (report.habits, report.calibration, report.balance, report.population):
        assert fit.fitted, fit.reason
    assert read_population(out) is not None
    table = dataset.events("test")
    targets = natural_windows(table, LENGTH, limit=40)
    with Predictor.load(out) as predictor:
        found = bundle_log_probs(predictor, table, targets)
        np.testing.assert_allclose(found, models[name].log_probs(table, targets), atol=1e-5)
        event = table.event(int(targets[0]))
        history = table.history(int(targets[0]), 50)
        for source in ("model", "habits", "fused"):
            options = PredictOptions(source=source, balance="fitted", precision=None)
            answer = predictor.predict(history, event.time, event.place, None, options=options)
            assert answer.calibrated
            assert len(answer.ranked) == len(dataset.candidates)
    evaluated = evaluate_bundle(out, dataset.path, "natural", "test", WindowChoice(limit=30))
    assert {"bundle_model", "bundle_habits", "bundle_fused"} <= set(evaluated.results)


def test_the_license_of_the_language_model_behind_the_labels_travels(
    models: dict[str, FittedSequence], comparison: Path, tmp_path: Path
) -> None:
    stated = License.stated("llama3.2", author="Meta")
    fitted = models["sasrec"]
    helped = FittedSequence(
        *(fitted.model, fitted.rows, fitted.vocabulary, fitted.log, replace(fitted.origin, system="alphafuse")),
        LabelSource("meta-llama/Llama-3.2-1B", stated),
    )
    assert helped.keep(comparison / "models" / "alphafuse-seed0")
    out, off = tmp_path / "x.gguf", {"habits": "off", "calibrate": "off", "population": "off"}
    export_sequence(source_of(comparison, "alphafuse"), out, profile=PROFILE.model_copy(update=off))
    base = verify_bundle(out).base_model
    assert (base.name, base.license) == ("meta-llama/Llama-3.2-1B", stated)
    assert "Built with Llama" in invoked("inspect", out).stdout
    fields = GGUFReader(out).fields
    assert fields["general.license"].contents() == "llama3.2"
    assert fields["general.base_model.0.name"].contents() == "meta-llama/Llama-3.2-1B"
    # A model that was kept before this was noted says nothing of it.
    file = comparison / "models" / "alphafuse-seed0" / DESCRIPTION
    described = json.loads(file.read_text())
    del described["label_source"]
    file.write_text(json.dumps({**described, "schema_version": 1}))
    assert read_kept(file.parent).labels is None


def test_half_precision_is_smaller(comparison: Path, tmp_path: Path) -> None:
    profile = PROFILE.model_copy(update={"habits": "off", "calibrate": "off", "population": "off"})
    sizes = {}
    for quant in ("f32", "f16"):
        report = export_sequence(source_of(comparison, "sasrec"), tmp_path / f"{quant}.gguf", quant, profile)
        sizes[quant] = report.bytes
        assert not report.habits.fitted
    assert sizes["f16"] < sizes["f32"]
    with pytest.raises(EdgebError, match="already exists"):
        export_sequence(source_of(comparison, "sasrec"), tmp_path / "f32.gguf", "f32", profile)
    export_sequence(source_of(comparison, "sasrec"), tmp_path / "f32.gguf", "f32", profile, force=True)


def test_beyond_the_limits_nothing_is_written(comparison: Path, tmp_path: Path) -> None:
    strict = PROFILE.model_copy(update={"parity": ParitySettings(windows=20, per_behavior=1, max_kl=0.0)})
    with pytest.raises(ParityError, match="f16 changes the predictions: KL"):
        export_sequence(source_of(comparison, "sasrec"), tmp_path / "x.gguf", "f16", strict)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison"]


def test_other_mistakes_are_one_line(comparison: Path, tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(EdgebError, match=r"no weight format 'q4' .valid: f16, f32"):
        export_sequence(source_of(comparison, "sasrec"), tmp_path / "x.gguf", "q4", PROFILE)
    folder = comparison / "models" / "sasrec-seed0"
    described = json.loads((folder / DESCRIPTION).read_text())
    for change, message in (
        ({"schema_version": 3}, "written by a newer edgeb"),
        ({"label_source": {"name": 1, "license": None}}, "label_source"),
        ({"length": "x"}, "'length'"),
        ({"origin": {**described["origin"], "fingerprint": "x"}}, "has changed since"),
        ({"labels": described["labels"][1:], "counts": described["counts"][1:]}, "does not hold the model's weights"),
    ):
        (folder / DESCRIPTION).write_text(json.dumps({**described, **change}))
        with pytest.raises(EdgebError, match=message):
            export_sequence(source_of(comparison, "sasrec"), tmp_path / "x.gguf", "f32", PROFILE)
    (folder / DESCRIPTION).write_text(json.dumps(described))
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9])
    with pytest.raises(EdgebError, match="does not hold the model's weights"):
        export_sequence(source_of(comparison, "sasrec"), tmp_path / "x.gguf", "f32", PROFILE)
    assert not (tmp_path / "x.gguf").exists()


def test_without_its_dataset_nothing_is_fitted(comparison: Path, tmp_path: Path) -> None:
    folder = comparison / "models" / "sasrec-seed0"
    described = json.loads((folder / DESCRIPTION).read_text())
    described["origin"]["dataset"] = str(tmp_path / "gone")
    (folder / DESCRIPTION).write_text(json.dumps(described))
    source = source_of(comparison, "sasrec")
    report = export_sequence(source, tmp_path / "x.gguf", profile=PROFILE)
    assert not report.parity.held_out
    assert report.habits.reason == "the comparison's dataset is gone"
    with Predictor.load(tmp_path / "x.gguf") as predictor:
        assert predictor.manifest.default_source == "model"


def test_a_kept_model_is_replaced_whole(models: dict[str, FittedSequence], comparison: Path) -> None:
    folder = comparison / "models" / "sasrec-seed0"
    (folder / "left").write_text("of another fit")
    models["sasrec"].keep(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted([DESCRIPTION, WEIGHTS])
    kept = read_kept(folder)
    assert replace(kept, origin=kept.origin) == kept
    assert kept.log == models["sasrec"].log
    shutil.rmtree(folder)
