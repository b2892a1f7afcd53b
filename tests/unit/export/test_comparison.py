"""Which system of a comparison is exported, from where, and why others are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_behavior.baselines.kept_adapter import DESCRIPTION, AdapterOrigin, keep_adapter, read_adapter
from edge_behavior.baselines.language.registry import RIVALS
from edge_behavior.baselines.sequence.kept import DESCRIPTION as SEQUENCE
from edge_behavior.errors import EdgebError
from edge_behavior.export import comparison as module
from edge_behavior.export.comparison import compared_fit
from edge_behavior.train.recipe import Recipe

ASKED = [*RIVALS, "habits", "markov_1", "sasrec", "bert4rec", "plain", "two_stage"]


class Saved:
    """Stands in for a PEFT model."""

    def save_pretrained(self, folder: str) -> None:
        (Path(folder) / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        (Path(folder) / "adapter_model.safetensors").write_bytes(b"weights")


def origin(seed: int = 0) -> AdapterOrigin:
    held = Recipe().model_dump()
    return AdapterOrigin("tallrec", seed, {"conversations": 8}, {name: held[name] for name in ("backbone", "a_tuning")})


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    """Holds sasrec with two seeds, tallrec, and the run of plain."""
    folder = tmp_path / "comparison"
    for seed in (1, 10):
        (folder / "models" / f"sasrec-seed{seed}").mkdir(parents=True)
        (folder / "models" / f"sasrec-seed{seed}" / SEQUENCE).write_text("{}")
    keep_adapter(folder / "models" / "tallrec-seed0", origin(), Saved())
    for run in ("backbone", "plain-seed0", "plain-targets-0a1b2c3d-seed0", "rate-plain-0.01"):
        (folder / "runs" / run).mkdir(parents=True)
        (folder / "runs" / run / "run.json").write_text("{}")
    # Begun, and nothing more.
    (folder / "runs" / "two_stage-seed0").mkdir()
    (folder / "compare.json").write_text(json.dumps({"systems": ASKED}))
    return folder


def test_a_fit_is_found_by_system_and_seed(comparison: Path) -> None:
    assert compared_fit(comparison, "sasrec").folder == comparison / "models" / "sasrec-seed1"
    assert compared_fit(comparison, "sasrec", 10).folder == comparison / "models" / "sasrec-seed10"
    assert compared_fit(comparison, "plain").folder == comparison / "runs" / "plain-seed0"
    assert compared_fit(comparison, "tallrec").folder == comparison / "models" / "tallrec-seed0"
    kinds = {name: compared_fit(comparison, name).is_sequence for name in ("sasrec", "plain", "tallrec")}
    assert kinds == {"sasrec": True, "plain": False, "tallrec": False}


def test_a_tuned_model_is_exported_as_its_run(comparison: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "run_source", lambda *asked: asked)
    run, data = comparison / "runs" / "plain-seed0", Path("data")
    assert compared_fit(comparison, "plain").language_source("a_tuning", data) == (run, "a_tuning", data)


@pytest.mark.parametrize(
    ("system", "message"),
    [
        (None, r"is a comparison, of which one system is exported .--system NAME: it holds plain, sasrec, tallrec.$"),
        ("habits", r"the system 'habits' cannot be exported: it is no model of its own .it holds plain, sasrec, tal"),
        ("markov_1", "the system 'markov_1' cannot be exported: it is no model of its own"),
        ("llm_esr", "the system 'llm_esr' cannot be exported: its two views of a sequence"),
        ("pituning", "the system 'pituning' cannot be exported: it is tuned to every user"),
        ("llara", "the system 'llara' cannot be exported: its prompts hold vectors"),
        ("collm", "the system 'collm' cannot be exported: its prompts hold vectors"),
        ("a_llmrec", "the system 'a_llmrec' cannot be exported: its prompts hold vectors"),
        ("alphafuse", r"holds no fitted 'alphafuse': it failed, or an older edgeb compared it .compare it in another"),
        ("bert4rec", "holds no fitted 'bert4rec': it failed"),
        ("two_stage", "holds no fitted 'two_stage': it failed"),
        ("sasrex", r"has no system 'sasrex' .did you mean 'sasrec'"),
    ],
)
def test_what_cannot_be_exported(comparison: Path, system: str | None, message: str) -> None:
    with pytest.raises(EdgebError, match=message) as caught:
        compared_fit(comparison, system)
    assert "\n" not in str(caught.value)


def test_other_mistakes_are_one_line(comparison: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgebError, match=r"has no model of 'sasrec' with seed 3 .seeds: 1, 10"):
        compared_fit(comparison, "sasrec", 3)
    with pytest.raises(EdgebError, match="is no comparison, and --system names a system of one"):
        compared_fit(tmp_path, "sasrec")
    with pytest.raises(EdgebError, match=r"sasrec-seed1 is part of a comparison .pass \S+ and --system.$"):
        module.run_source(comparison / "models" / "sasrec-seed1")
    (comparison / "compare.json").write_text(json.dumps({"systems": ["habits"]}))
    with pytest.raises(EdgebError, match="it holds none that can be"):
        compared_fit(comparison, None)
    with pytest.raises(EdgebError, match=r"no model of its own .compare sasrec, for example"):
        compared_fit(comparison, "habits")


def test_an_adapter_that_was_changed_or_cannot_be_read_is_refused(comparison: Path) -> None:
    fit = compared_fit(comparison, "tallrec")
    assert read_adapter(fit.folder) == origin()
    with pytest.raises(EdgebError, match=r"'tallrec' has no stages .leave --stage out"):
        fit.language_source("a_tuning")
    described = json.loads((fit.folder / DESCRIPTION).read_text())
    for change, message in (
        ({"schema_version": 2}, "written by a newer edgeb"),
        ({"seed": "x"}, "'seed'"),
        ({"files": {}}, "'adapter_config.json' is missing"),
        ({"files": {**described["files"], "adapter_model.safetensors": "0"}}, "safetensors has changed since"),
    ):
        (fit.folder / DESCRIPTION).write_text(json.dumps({**described, **change}))
        with pytest.raises(EdgebError, match=message):
            fit.language_source()
    (fit.folder / DESCRIPTION).write_text("{")
    with pytest.raises(EdgebError, match="is not JSON"):
        fit.language_source()
    (fit.folder / DESCRIPTION).write_text(json.dumps(described))
    (comparison / "runs" / "backbone" / "run.json").unlink()
    with pytest.raises(EdgebError, match="backbone is gone, the backbone of"):
        fit.language_source()
    (fit.folder / "adapter_config.json").unlink()
    with pytest.raises(EdgebError, match=r"cannot read .*adapter_config.json: No such file"):
        fit.language_source()


def test_another_fit_takes_the_place_of_one_whole(comparison: Path) -> None:
    folder = comparison / "models" / "tallrec-seed0"
    (folder / "left").write_text("of another fit")
    keep_adapter(folder, origin(3), Saved())
    assert read_adapter(folder).seed == 3
    assert not (folder / "left").exists()
