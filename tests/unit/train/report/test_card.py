from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from edge_behavior.data.dataset import Dataset
from edge_behavior.train import report
from edge_behavior.train.report.card import example_prompt, render_card, write_card
from edge_behavior.train.run.folder import RunFolder
from tests.unit.train.report.conftest import EVIL, MakeRun


@pytest.fixture(scope="module")
def carded(make_run: MakeRun) -> tuple[RunFolder, Dataset]:
    """As `make_run` makes it, with its card; not to be changed."""
    run, dataset = make_run()
    write_card(run, dataset)
    return run, dataset


def test_card_front_matter_and_code(carded: tuple[RunFolder, Dataset]) -> None:
    run, dataset = carded
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


def test_card_imports_what_exists(carded: tuple[RunFolder, Dataset]) -> None:
    card = (carded[0].path / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^from (edge_behavior\.[\w.]+) import (\w+)$", card, flags=re.MULTILINE)
    assert len(found) == 5
    package = Path(report.__file__).parents[3]
    for module, name in found:
        # Read, not imported: one of them needs torch.
        tree = ast.parse((package / Path(*module.split("."))).with_suffix(".py").read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}, module


def test_card_shows_log_text_literally(carded: tuple[RunFolder, Dataset]) -> None:
    run, dataset = carded
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
