from __future__ import annotations

import ast
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.data.dataset import Dataset
from edge_behavior.data.info import LogFile, LogSource
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.counters import COUNTERS
from edge_behavior.evaluation.metrics import Metrics, Outcome, behavior_metrics
from edge_behavior.evaluation.results import RunMetrics
from edge_behavior.train.recipe import parse_recipe
from edge_behavior.train.report import plots
from edge_behavior.train.report.card import example_prompt, render_card, write_card
from edge_behavior.train.report.page import logged, render_report, tensorboard_scalars, write_report
from edge_behavior.train.run.folder import RunFolder, write_text
from edge_behavior.train.run.metrics import write_metrics
from edge_behavior.util.numbers import number
from tests.dataset_info import dataset_info

pytestmark = pytest.mark.usefixtures("drawn_plots")
EVIL = "<script>alert(1)</script>"
LABELS = ("Video", EVIL, '$x$ & "y" --> `z|`', "看漫画", "rare <b>")
COUNTS = (600, 200, 150, 40, 4)
SECTIONS = ["summary", "results", "stages", "backbone", "a-tuning", "b-tuning", "behaviors", "difficulty", "pairs"]
SECTIONS += ["data", "recipe", "provenance"]
VOID = {"meta", "br", "link", "img", "input", "hr"}

MakeRun = Callable[..., tuple[RunFolder, Dataset]]


class Page(HTMLParser):
    """Checks nesting and gathers what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            self.attributes.append(name)
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href", "action", "data", "poster", "srcset"):
                self.links.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def make_metrics(labels: tuple[str, ...], groups: tuple[str, ...], missing: set[int], seed: int) -> Metrics:
    rng = np.random.default_rng(seed)
    truth = rng.choice([i for i in range(len(labels)) if i not in missing], size=200)
    scores = rng.normal(size=(200, len(labels)))
    scores[np.arange(200), truth] += 1.0
    return behavior_metrics(Outcome(scores, truth.astype(np.int64), np.arange(200) // 10), labels, groups, resamples=50)


@pytest.fixture(scope="module")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    def make(
        labels: tuple[str, ...] = LABELS,
        counts: tuple[int, ...] = COUNTS,
        method: str = "dpo",
        best_step: int = 20,
        missing: tuple[int, ...] = (),
        backbone: dict[str, Any] | None = None,
    ) -> tuple[RunFolder, Dataset]:
        candidates = CandidateSet(labels, counts)
        groups = candidates.groups()
        folder = tmp_path_factory.mktemp("run")
        data, out = folder / "data", folder / "my run"
        data.mkdir()
        out.mkdir()
        pq.write_table(pa.table({"place": [0, 1], "name": ["home", EVIL], "events": [5, 4]}), data / "places.parquet")
        source = LogSource("log <1>.csv", "csv", (LogFile("log <1>.csv", "ab12", 9),))
        info = dataset_info(candidates, source=source)
        dataset = Dataset(data, info, candidates)
        standin = backbone is None
        recipe = parse_recipe({"name": "tiny", "backbone": backbone or {}, "b_tuning": {"method": method}}, "test")
        run = RunFolder(out)
        run.update(
            edgeb="0.1.0",
            created="2026-11-21T01:02:03+00:00",
            backbone={"path": recipe.backbone.path or "backbone", "standin": standin},
            dataset={"path": "data", "fingerprint": dataset.fingerprint},
            candidates=[{"label": x, "count": n} for x, n in zip(labels, counts, strict=True)],
            layout=recipe.layout.layout(True, None).to_dict(),
        )
        write_text(out / "recipe.yaml", recipe.to_yaml())
        protocols = ("natural", "balanced")
        names = ("untuned", "a_tuning", "b_tuning")
        models = {
            n: {p: make_metrics(labels, groups, set(missing), 10 * i + j) for j, p in enumerate(protocols)}
            for i, n in enumerate(names)
        }
        counters = {
            n: {p: make_metrics(labels, groups, set(missing), 100 + i) for p in protocols}
            for i, n in enumerate(COUNTERS)
        }
        write_metrics(run, RunMetrics(models, counters, 0.01, 7))
        made = {"parameters": 886_784, "pretrain_tokens": 59_392, "pretrain_loss": 2.978, "seconds": 57.9}
        run.finish("backbone", made if standin else {"seconds": 0.1})
        log: list[dict[str, Any]] = [{"loss": 3.0 / s, "step": s} for s in range(1, 21)]
        log += [{"eval_loss": 2.0, "step": 10}, {"eval_loss": 1.5, "step": 20}, {"train_loss": 2.2, "step": 20}]
        sizes = {
            "sequences_per_epoch": 80,
            "targets_per_epoch": 1513,
            "conversations_per_epoch": 4,
            "tokens_per_epoch": 19294,
            "conversations_loss_share": 0.0213,
        }
        tuned = {
            "steps": 20,
            "train_loss": 2.2,
            "best_validation_loss": 1.5,
            "best_step": 20,
            "log": log,
            "seconds": 26.6,
        }
        run.finish("a_tuning", {"method": "sft", **sizes, **tuned})
        if method == "none":
            run.finish("b_tuning", {"method": "none", "seconds": 0.1})
        else:
            finish_b_tuning(run, labels, method, best_step, log)
        run.finish("evaluation", {"seconds": 42.9})
        return run, dataset

    return make


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


def finish_b_tuning(
    run: RunFolder, labels: tuple[str, ...], method: str, best_step: int, log: list[dict[str, Any]]
) -> None:
    selected = {label: (20 if i + 1 < len(labels) else 0) for i, label in enumerate(labels)}
    rng = np.random.default_rng(0)
    lines = [
        json.dumps(
            {
                "target": k,
                "time": "2024-03-05T18:30",
                "place": EVIL,
                "history": [labels[0]] * 20,
                "chosen": labels[i],
                "rejected": labels[(i + 1) % len(labels)],
                "probability": float(rng.random()),
                "difficulty": float(rng.random()),
            }
        )
        for i in range(len(labels) - 1)
        for k in range(20)
    ]
    write_text(run.path / "pairs.jsonl", "\n".join(lines) + "\n")
    reward = [
        {"loss": 0.69 - s / 100, "rewards/margins": s / 10, "rewards/accuracies": 0.8, "step": s} for s in range(1, 21)
    ]
    score = {0: 0.30, 10: 0.29, 20: 0.28} if best_step == 0 else {0: 0.30, 10: 0.31, 20: 0.3456}
    summary = {
        "pool": 4321,
        "pool_per_behavior": {label: 5 * n for label, n in selected.items()},
        "pool_accuracy": 0.271,
        "within_category_mistakes": 0.408,
        "selected": len(lines),
        "selected_per_behavior": selected,
        "without_sample": [labels[-1]],
        "selected_wrong": 0.912,
        "mean_difficulty": {"intended": 0.691, "as-printed": 0.782},
        "mean_selected_difficulty": 0.733,
        "shared_by_both_rules": 0.654,
        "steps": 20,
        "train_loss": 0.66,
        "log": reward if method == "dpo" else log,
        "method": method,
        "best_step": best_step,
        "validation": [{"step": float(s), "accuracy": v, "overall": v, "score": v} for s, v in score.items()],
        "seconds": 102.3,
    }
    run.finish("b_tuning", summary)


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


def test_card_front_matter_and_code(default_run: tuple[RunFolder, Dataset]) -> None:
    run, dataset = default_run
    card = (run.path / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "peft"
    assert front["base_model"] == "backbone"
    assert front["pipeline_tag"] == "text-generation"
    assert front["license"] == "unknown"
    assert front["tags"][-2:] == ["sft", "dpo"]
    blocks = re.findall(r"^```python\n(.*?)^```", card, flags=re.DOTALL | re.MULTILINE)
    trees = [ast.parse(block) for block in blocks]
    assert len(trees) == 2
    assigned = {
        node.targets[0].id: node.value
        for node in trees[0].body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert ast.literal_eval(assigned["prompt"]) == example_prompt(run, dataset).text
    assert ast.literal_eval(assigned["base"]) == "backbone"
    assert "numbers do not transfer to a pretrained one" in card
    assert "| after B-Tuning |" in card


def test_card_imports_what_exists(default_run: tuple[RunFolder, Dataset]) -> None:
    card = (default_run[0].path / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^from (edge_behavior\.[\w.]+) import (\w+)$", card, flags=re.MULTILINE)
    assert len(found) == 5
    package = Path(plots.__file__).parents[3]
    for module, name in found:
        # Read, not imported: one of them needs torch.
        tree = ast.parse((package / Path(*module.split("."))).with_suffix(".py").read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}, module


def test_card_shows_log_text_literally(default_run: tuple[RunFolder, Dataset]) -> None:
    run, dataset = default_run
    prose = re.sub(r"^(`{3,}).*?^\1", "", render_card(run, dataset), flags=re.DOTALL | re.MULTILINE)
    assert "&lt;script&gt;alert(1)" in prose
    assert EVIL not in prose
    assert "\\`z\\|\\`" in prose


def test_card_states_the_license_of_a_local_base(make_run: MakeRun, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    run, dataset = make_run(backbone={"path": str(base)})
    card = base / "README.md"
    for text, expected in (
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ("---\nlicense: [a\n---\n", "unknown"),
        ("no front matter", "unknown"),
    ):
        card.write_text(text)
        assert yaml.safe_load(render_card(run, dataset).split("---\n")[1])["license"] == expected
    assert "The backbone states no license" in render_card(run, dataset)
    card.write_text("---\nlicense: llama3.2\n---\n")
    assert "\n\nBuilt with Llama\n\nLlama 3.2 is licensed under the" in render_card(run, dataset)


def test_card_of_a_run_without_b_tuning(make_run: MakeRun) -> None:
    run, dataset = make_run(method="none")
    card = render_card(run, dataset)
    assert "B-Tuning: switched off in this run." in card
    assert "dpo" not in yaml.safe_load(card.split("---\n")[1])["tags"]


def test_import_needs_no_torch() -> None:
    code = "import sys, edge_behavior.train.report.page, edge_behavior.train.report.card; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
