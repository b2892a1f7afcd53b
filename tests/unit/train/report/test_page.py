from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.train.report import plots
from edge_behavior.train.report.card import render_card, write_card
from edge_behavior.train.report.page import logged, render_report, tensorboard_scalars, write_report
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.util.numbers import number
from tests.page import Page
from tests.unit.train.report.conftest import EVIL, LABELS, MakeRun

pytestmark = pytest.mark.usefixtures("drawn_plots")
SECTIONS = ["summary", "results", "stages", "backbone", "a-tuning", "b-tuning", "behaviors", "difficulty", "pairs"]
SECTIONS += ["data", "recipe", "provenance"]


@pytest.fixture(scope="module")
def default_run(make_run: MakeRun) -> tuple[RunFolder, Dataset]:
    """A stand-in, DPO, all groups measured, both documents written; not to be changed."""
    run, dataset = make_run()
    write_report(run, dataset)
    write_card(run, dataset)
    return run, dataset


@pytest.fixture(scope="module")
def default_text(default_run: tuple[RunFolder, Dataset]) -> str:
    return (default_run[0].path / "report.html").read_text(encoding="utf-8")


def test_page_is_whole_and_self_contained(default_text: str) -> None:
    page = Page(default_text)
    assert [i for i in page.ids if i in SECTIONS] == SECTIONS
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert "script" not in page.tags
    assert not [name for name in page.attributes if name.startswith("on")]
    assert not re.search(r"https?://|@import|url\((?!#)", default_text)


def test_nothing_else_is_left_in_the_folder(default_run: tuple[RunFolder, Dataset]) -> None:
    found = {p.name for p in default_run[0].path.iterdir()}
    assert found == {"run.json", "recipe.yaml", "metrics.json", "pairs.jsonl", "report.html", "README.md"}


def test_page_states_the_numbers(default_run: tuple[RunFolder, Dataset], default_text: str) -> None:
    metrics = json.loads((default_run[0].path / "metrics.json").read_text())
    page = Page(default_text)
    final = metrics["models"]["b_tuning"]
    for protocol in ("natural", "balanced"):
        for name in ("weighted_precision", "weighted_recall", "overall", "head", "medium", "tail"):
            assert number(final[protocol][name]) in page.text
    for stated in (
        "stand-in: a Qwen2-architecture model with 887 k parameters",
        "do not transfer",
        "4,321 windows, up to 200 per behavior",
        ".271",
        ".408 of the pool",
        "80 windows; the A-tuned model is wrong on .912",
        ".691 in the pool, .733 among the selected",
        "share .654 of the selected",
        "The weights of step 20 of 20 were kept: validation score .346, +.046",
        "20 of 80 pairs",
        "1 behaviors gave fewer than 20",
        "dpo_beta: 0.1",
        "started 2026-11-21 01:02 UTC",
        "229.7",  # seconds of all stages
        "loss was 2.978 nats per token; the run has no curve of it",
    ):
        assert stated in page.text, stated


def test_log_text_is_shown_literally(default_text: str) -> None:
    page = Page(default_text)
    for label in LABELS:
        assert label in page.text
    assert f"Tue 18, {EVIL};" in page.text  # the place of a pair
    assert "log <1>.csv" in page.text
    assert "b" in page.tags  # ours; the label's <b> is text


def test_changed_settings_are_stated(make_run: MakeRun) -> None:
    run, dataset = make_run()
    assert all("Changed during" not in text for text in (render_report(run, dataset), render_card(run, dataset)))
    entries = [
        ("a_tuning", True, {"a_tuning.epochs": [8, 2], "seed": [0, 1]}),
        ("b_tuning", False, {"b_tuning.micro_batch_size": [None, 2]}),
        (None, False, {"threads": [None, 1]}),
    ]
    run.update(changes=[{"when": "now", "during": d, "started_over": o, "fields": fields} for d, o, fields in entries])
    for text in (render_report(run, dataset), render_card(run, dataset).replace("\\", "")):
        assert "Changed during a_tuning, which started over: a_tuning.epochs from 8 to 2, seed from 0 to 1." in text
        assert "Changed during b_tuning: b_tuning.micro_batch_size from None to 2." in text
        assert "Changed after the last stage: threads from None to 1." in text


def test_b_tuning_switched_off(make_run: MakeRun) -> None:
    run, dataset = make_run(method="none")
    text = Page(render_report(run, dataset)).text
    assert "B-Tuning was switched off (b_tuning.method: none)" in text
    assert "No samples were selected" in text
    assert "so there are no pairs" in text
    assert "Reward margin" not in text


def test_b_tuning_by_sft(make_run: MakeRun) -> None:
    run, dataset = make_run(method="sft")
    text = Page(render_report(run, dataset)).text
    assert "supervised, on the selected samples" in text
    assert "Reward margin" not in text
    assert text.count("Loss on the supervised tokens") == 2


def test_nothing_gained_group_without_windows_and_no_pairs(make_run: MakeRun) -> None:
    run, dataset = make_run(best_step=0, missing=(4,))  # the only tail behavior
    (run.path / "pairs.jsonl").unlink()
    text = Page(render_report(run, dataset)).text
    assert "mean recall of tail behaviors, balanced – untuned –" in text
    assert "The run folder holds no pairs.jsonl" in text
    assert "No step beat the A-tuned weights, which were kept" in text
    assert "kept: 0" in text


def test_pretrained_backbone_has_no_standin_note(make_run: MakeRun) -> None:
    run, dataset = make_run(backbone={"path": "Qwen/Qwen2-1.5B", "revision": "abc"})
    text = Page(render_report(run, dataset)).text
    assert "The backbone is Qwen/Qwen2-1.5B, revision abc." in text
    assert "stand-in" not in text
    assert "nothing was trained here before A-Tuning" in text
    card = render_card(run, dataset)
    assert 'base = "Qwen/Qwen2-1.5B"' in card
    assert 'revision="abc"' in card
    assert "stand-in" not in card


def test_pretraining_curve_from_tensorboard(make_run: MakeRun) -> None:
    run, dataset = make_run()
    write_events(run.path / "logs" / "backbone" / "runs" / "x", [(1, 7.0), (2, 6.5), (3, math.nan)])
    assert tensorboard_scalars(run.path / "logs", "train/loss") == ([1.0, 2.0], [7.0, 6.5])
    assert tensorboard_scalars(run.path / "logs", "train/other") == ([], [])
    assert "Training loss of the stand-in on generated text" in Page(render_report(run, dataset)).text


def write_events(folder: Path, points: list[tuple[int, float]]) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))
    for step, value in points:
        summary = Summary(value=[Summary.Value(tag="train/loss", simple_value=value)])
        writer.add_event(Event(step=step, wall_time=float(step), summary=summary))
    writer.close()


def test_logged_leaves_out_what_is_not_finite() -> None:
    log = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": math.nan}, {"step": 3}, {"step": 4, "loss": None}]
    assert logged(log, "loss") == ([1.0], [2.0])


def test_damaged_pairs_name_the_line(make_run: MakeRun) -> None:
    run, dataset = make_run()
    with (run.path / "pairs.jsonl").open("a") as file:
        file.write("{half")
    with pytest.raises(EdgebError, match=r"pairs\.jsonl:81"):
        write_report(run, dataset)
    assert not (run.path / "report.html").exists()


def test_missing_metrics(make_run: MakeRun) -> None:
    run, dataset = make_run()
    (run.path / "metrics.json").unlink()
    for write in (write_report, write_card):
        with pytest.raises(EdgebError, match=r"metrics\.json"):
            write(run, dataset)


def test_many_labels_all_appear() -> None:
    labels = [f"Behavior {i:03d}" for i in range(199)]
    counts, groups = list(range(1000, 801, -1)), ["tail"] * 199
    recalls: dict[str, list[float | None]] = {"untuned": [None] * 199, "a_tuning": [0.5] * 199}
    for panels in (plots.share_panels(labels, counts, groups, 0.01), plots.recall_panels(labels, recalls)):
        assert len(panels) == 4
        text = "".join(panels)
        assert [text.count(f">{label}<") for label in labels] == [1] * 199


def test_plots_use_the_colors_of_the_page_and_repeat_exactly() -> None:
    def draw() -> str:
        estimates = [plots.Estimate(0.2, (0.1, 0.3)), plots.Estimate(None), plots.Estimate(0.4)]
        values = dict.fromkeys(("head", "medium", "tail", "overall"), estimates)
        return plots.group_effects("t", ["a", "b", "c"], values, dict.fromkeys(values, plots.Estimate(None)))

    svg = draw()
    css = (Path(plots.__file__).parent / "templates" / "report.css").read_text()
    used = set(re.findall(r"var\(--(\w+)\)", svg))
    assert {"head", "medium", "tail", "overall", "ink", "grid"} <= used
    assert all(css.count(f"--{name}:") >= 2 for name in used)  # light and dark
    assert not re.search(r"#0a0b|font-family|<style|xmlns", svg)
    assert draw() == svg


def test_import_needs_no_torch() -> None:
    code = "import sys, edge_behavior.train.report.page, edge_behavior.train.report.card; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
