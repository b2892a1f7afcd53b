"""The gate as a step of the export: what passes, what is refused, what is tried for the tail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_behavior.bundle.bundle import verify_bundle
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf import format_search
from edge_behavior.export.gguf.format_search import AUTO_ORDER, COARSER
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.gguf.quantize import find_quant, quantize
from edge_behavior.export.parity import gate, scores
from edge_behavior.export.parity.gate import ParityError
from edge_behavior.export.profiles import ExportProfile, ParitySettings
from edge_behavior.export.source import ExportSource
from tests import helpers

USERS = [["Video", "Bar"] * 16, ["Bar", "Café", "Video Call"] * 10, ["Cafe Noir", "Video", "TV; Radio"] * 10]
# As counted among training users: two of them are rare.
COUNTS = [400, 4, 0, 300, 0, 200, 100, 0, 3]
TABLE = helpers.event_table(USERS, counts=COUNTS)
FEW: dict[str, Any] = {"windows": 12, "per_behavior": 3}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokens = helpers.tokenizer()
    return helpers.save(helpers.model(tokens, hidden=256), tokens, tmp_path_factory.mktemp("base"))


@pytest.fixture
def source(base: Path, monkeypatch: pytest.MonkeyPatch) -> ExportSource:
    made: Any = type("MadeUp", (Dataset,), {"events": lambda self, split: TABLE})
    monkeypatch.setattr(Dataset, "open", lambda path: made(path, {}, TABLE.candidates))
    return ExportSource(base, None, TABLE.candidates, PromptLayout(), data=Path("d"))


def profile(quant: str, recover: str = "off", **limits: Any) -> ExportProfile:
    parity = {**FEW, **limits}
    return helpers.profile(quant, parity=parity, recover={"mode": recover}, prune="off", habits="off")


def test_the_table_is_in_the_bundle(source: ExportSource, tmp_path: Path) -> None:
    report = export_gguf(source, tmp_path / "b.gguf", profile("q8", enforce=False)).to_dict()
    parity = verify_bundle(tmp_path / "b.gguf").parity
    assert parity == report["parity"]
    assert parity is not None
    # No adapter, nothing pruned.
    assert list(parity["stages"]) == ["convert", "quantize"]
    assert parity["held_out"]
    assert parity["stages"]["convert"]["mean_kl"] < 1e-4
    assert 0 < parity["stages"]["quantize"]["step"]["mean_kl"] < 0.1
    assert parity["reference"]["accuracy"] is not None
    assert parity["reference"]["tail"] is not None
    assert report["importance"]["prompts"] == 2
    # Seven matrices in each of two layers, and the output.
    assert report["importance"]["tensors"] == 15


def test_unquantized_files_have_nothing_to_weigh(source: ExportSource, tmp_path: Path) -> None:
    report = export_gguf(source, tmp_path / "b.gguf", profile("f32")).to_dict()
    assert report["importance"] == {"prompts": 0, "tensors": 0}
    stages = report["parity"]["stages"]
    assert stages["quantize"]["step"] == {"flips": 0, "mean_kl": 0, "max_kl": 0, "max_log_prob": 0}
    assert stages["convert"]["max_log_prob"] < 1e-2


def test_auto_takes_the_first_that_passes(source: ExportSource, tmp_path: Path) -> None:
    losses = {}
    for quant in ("q4", "q4_0", "q8", "f16"):
        report = export_gguf(source, tmp_path / "one.gguf", profile(quant, enforce=False), force=True).to_dict()
        losses[quant] = report["parity"]["stages"]["quantize"]["mean_kl"]
    assert losses["q4_0"] > losses["q8"] > losses["f16"]
    free = {"max_flips": 1.0, "max_accuracy_loss": 1.0, "max_tail_loss": 1.0}
    # Whether a 4-bit or the other is closer is chance in a model of random weights.
    enough = max(losses["q4_0"], losses["q4"]) * 1.01
    for limit, wanted in ((enough, "q4_0"), (losses["f16"] * 1.01, "f16")):
        report = export_gguf(
            source, tmp_path / "auto.gguf", profile("auto", max_kl=limit, **free), force=True
        ).to_dict()
        names = [] if wanted in COARSER.values() else list(AUTO_ORDER[: AUTO_ORDER.index(wanted)])
        assert list(report["parity"]["tried"]) == names
        assert all("KL" in why[0] for why in report["parity"]["tried"].values())
        found = verify_bundle(tmp_path / "auto.gguf").quantization
        assert found == report["quantization"] == find_quant(wanted).name


def test_auto_leaves_out_q5_where_it_has_as_many_bits_as_q4(source: ExportSource, tmp_path: Path) -> None:
    tokens = helpers.tokenizer()
    narrow = helpers.save(helpers.model(tokens, hidden=64), tokens, tmp_path / "narrow")
    free = {"max_flips": 1.0, "max_accuracy_loss": 1.0, "max_tail_loss": 1.0}
    with pytest.raises(ParityError) as caught:
        export_gguf(replace(source, base=narrow), tmp_path / "b.gguf", profile("auto", max_kl=0.0, **free))
    assert "F16" in str(caught.value)
    report = export_gguf(
        replace(source, base=narrow),
        tmp_path / "b.gguf",
        profile("auto", max_kl=caught.value.report.last.total.mean_kl * 1.01, **free),
    ).to_dict()
    assert list(report["parity"]["tried"]) == ["q4", "q8"]


def test_auto_says_why_it_keeps_the_finer_of_two_formats(
    source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, limit = format_search.parity_report, ["KL 1 (limit 0.5)"]

    def judged(by_stage: Any, samples: Any, settings: Any) -> Any:
        beyond = limit if compared[-1] == "q4_0" else []
        return replace(report(by_stage, samples, settings), exceeded=beyond)

    compared: list[str] = []

    def noted(src: Path, dst: Path, quant: str, *rest: Any, **options: Any) -> Any:
        compared.append(quant)
        return quantize(src, dst, quant, *rest, **options)

    monkeypatch.setattr(format_search, "parity_report", judged)
    monkeypatch.setattr(format_search, "quantize", noted)
    found = export_gguf(source, tmp_path / "b.gguf", profile("auto")).to_dict()
    assert compared == ["q4", "q4_0"]
    assert found["parity"]["tried"] == {"q4_0": limit}
    assert found["quantization"] == verify_bundle(tmp_path / "b.gguf").quantization == find_quant("q4").name


def test_auto_gives_up_a_format_once_it_is_certain_to_fail(
    source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "_ASKED", 4)
    monkeypatch.setattr(gate, "_FEWEST", 4)
    compared: dict[str, int] = {}

    def counted(by_stage: Any, samples: Any, settings: Any) -> Any:
        last = list(by_stage.values())[-1]
        compared[str(len(compared))] = int(gate.is_scored(last).sum())
        return gate.parity_report(by_stage, samples, settings)

    monkeypatch.setattr(format_search, "parity_report", counted)
    free = {"max_flips": 1.0, "max_accuracy_loss": 1.0, "max_tail_loss": 1.0}
    plain = export_gguf(source, tmp_path / "plain.gguf", profile("f16", enforce=False)).to_dict()
    limit = plain["parity"]["stages"]["quantize"]["mean_kl"] * 1.01
    compared.clear()
    report = export_gguf(source, tmp_path / "b.gguf", profile("auto", "auto", max_kl=limit, **free)).to_dict()
    windows = report["parity"]["windows"]
    assert windows > 4
    assert list(report["parity"]["tried"]) == list(AUTO_ORDER[:-1])
    *given_up, last = compared.values()
    assert last == windows
    assert max(given_up) < windows
    assert report["parity"]["recovery"] is None


def test_a_recovery_that_does_not_fit_the_time_is_not_begun(
    source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(format_search, "_recovery_seconds", lambda model, path: 1e6)
    with pytest.raises(ParityError, match="KL") as caught:
        export_gguf(source, tmp_path / "b.gguf", profile("q4_0", "auto", max_kl=1e-9))
    assert "raise `minutes`" in caught.value.report.recovery.skipped


def test_beyond_the_limits_nothing_is_written(source: ExportSource, tmp_path: Path) -> None:
    for quant in ("q4_0", "auto"):
        with pytest.raises(ParityError, match="KL") as caught:
            export_gguf(source, tmp_path / "b.gguf", profile(quant, max_kl=0.0, max_flips=1.0))
        assert caught.value.exit_code == 1
        assert caught.value.report.last.total.mean_kl > 0
        assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize("better", [True, False])
def test_recovery(better: bool, source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors are kept by what training users say; what is adopted is up to the tail of validation users."""
    monkeypatch.setattr(format_search, "tail_gain", lambda before, after, samples: better)
    limits = {"max_kl": 1e-9, "enforce": False}
    plain = export_gguf(source, tmp_path / "plain.gguf", profile("q4_0", **limits)).to_dict()
    report = export_gguf(source, tmp_path / "b.gguf", profile("q4_0", "auto", **limits)).to_dict()
    recovery = report["parity"]["recovery"]
    assert plain["parity"]["recovery"] is None
    assert recovery["adopted"] is better
    first, *others = recovery["trials"]
    assert {kind for trial in others for kind in trial["kept"]} >= {".attn_v.weight", ".ffn_down.weight"}
    assert all(trial["bytes"] >= first["bytes"] for trial in others)
    if not better:
        assert (recovery["kept"], report["bytes"]) == ([], pytest.approx(plain["bytes"], abs=4096))
        return
    assert recovery["kept"]
    assert plain["bytes"] < report["bytes"] < 1.26 * plain["bytes"]
    assert report["tensor_types"]["Q8_0"] > plain["tensor_types"].get("Q8_0", 0)
    assert recovery["before"] == plain["parity"]["stages"]["quantize"]
    assert report["parity"]["stages"]["quantize"]["mean_kl"] < recovery["before"]["mean_kl"]


def test_the_recovered_tail_must_be_measured(source: ExportSource, tmp_path: Path) -> None:
    """Without held-out windows nothing is adopted."""
    alone = ExportSource(source.base, None, source.candidates, source.layout)
    report = export_gguf(alone, tmp_path / "b.gguf", profile("q4_0", "auto", max_kl=1e-9, enforce=False)).to_dict()
    assert not report["parity"]["held_out"]
    assert report["parity"]["recovery"]["adopted"] is False
    assert report["parity"]["reference"]["tail"] is None


def test_prompts_that_do_not_fit(source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_behavior.export.context.context_needed", lambda manifest: 60)
    with pytest.raises(EdgebError, match="no prompt fits"):
        export_gguf(source, tmp_path / "b.gguf", profile("q8"))
    assert ParitySettings().enforce
