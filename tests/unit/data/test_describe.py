"""Descriptions: numbers that add up, a table for people, a PNG that is one."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import pytest

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.data.dataset import Dataset
from edge_behavior.data.describe import COLORS, describe, import_tables, plot_distribution, tables
from edge_behavior.data.importers.importer import import_log
from edge_behavior.errors import EdgebError
from edge_behavior.util.terminal import open_console


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, make_rows, write_csv) -> Dataset:
    folder = tmp_path_factory.mktemp("describe")
    rows = make_rows(users=12, events=30, behaviors=3)
    rows += [("u03", "2024-02-01T00:00:00", "home", "[bold]Rare[/bold]"), ("short", "2024-02-02", "home", "Behavior 1")]
    import_log(write_csv(folder / "log.csv", rows), "csv", folder / "data")
    return Dataset.open(folder / "data")


def printed(renderable: object) -> str:
    out = io.StringIO()
    open_console(file=out).print(renderable)
    return out.getvalue()


def test_numbers_add_up(dataset):
    found = describe(dataset).to_dict()
    assert json.loads(json.dumps(found)) == found
    assert found["events"] == 12 * 30 + 1 == found["rows"]["read"] - found["rows"]["dropped"]["short_user"]
    train = found["splits"]["train"]["events"]
    assert sum(row["training_events"] for row in found["behaviors"]) == train
    assert sum(row["share"] for row in found["behaviors"]) == pytest.approx(1.0)
    assert sum(group["behaviors"] for group in found["groups"].values()) == 4
    assert sum(group["share"] for group in found["groups"].values()) == pytest.approx(1.0)
    assert found["span"]["start"] == "2024-02-01T00:00:00"
    assert found["span"]["days"] > 28
    assert (found["events_per_user"]["min"], found["events_per_user"]["max"]) == (30, 31)


def test_the_threshold_moves_labels_between_groups(dataset):
    rare = next(row for row in describe(dataset).to_dict()["behaviors"] if "Rare" in row["behavior"])
    assert rare["group"] == "tail"
    if rare["training_events"]:
        low = describe(dataset, anchor=0.001).to_dict()
        assert next(row for row in low["behaviors"] if "Rare" in row["behavior"])["group"] == "medium"
    with pytest.raises(EdgebError, match=r"threshold is 0\.5"):
        describe(dataset, anchor=0.5)


def test_tables_show_every_fact_and_no_markup(dataset):
    text = printed(tables(describe(dataset)))
    for fact in ("log.csv (csv)", "rows read", "362", "events of skipped users", "validation", "Behavior 0", "windows"):
        assert fact in text
    assert "[bold]Rare[/bold]" in text
    assert "… and 3 more" in printed(tables(describe(dataset), top=1))
    assert "fewer than 21 events" in printed(import_tables(dataset.info))


def with_labels(dataset: Dataset, labels: list[str], counts: list[int]) -> Dataset:
    return replace(dataset, candidates=CandidateSet(tuple(labels), tuple(counts)))


@pytest.mark.parametrize("labels", [37, 199])
def test_the_plot_is_a_picture_with_three_colors(dataset, tmp_path: Path, labels):
    names = [f"Behavior ${i}$ {'long name ' * (i % 7)}".strip() for i in range(labels)]
    many = with_labels(dataset, names, [int(1e6 / (i + 1) ** 2) for i in range(labels)])
    plot_distribution(many, tmp_path / "plot.png")
    image = matplotlib.image.imread(tmp_path / "plot.png")
    assert max(image.shape) < 8000
    pixels = {tuple(p) for p in (image[::3, ::3, :3].reshape(-1, 3) * 255).round().astype(int).tolist()}
    for color in COLORS.values():
        assert tuple(int(color[i : i + 2], 16) for i in (1, 3, 5)) in pixels
    assert [p.name for p in tmp_path.iterdir()] == ["plot.png"]


def test_a_plot_of_too_many_labels_is_cut(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("edge_behavior.data.describe._MAX_PLOTTED", 30)
    names = [f"Behavior {i}" for i in range(60)]
    plot_distribution(with_labels(dataset, names, [60 - i for i in range(60)]), tmp_path / "cut.png")
    plot_distribution(with_labels(dataset, names[:30], [60 - i for i in range(30)]), tmp_path / "whole.png")
    sizes = [matplotlib.image.imread(tmp_path / name).shape for name in ("cut.png", "whole.png")]
    assert sizes[0] == sizes[1]


def test_a_plot_without_training_counts_is_still_a_plot(dataset, tmp_path):
    plot_distribution(with_labels(dataset, ["A", "B"], [0, 0]), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    with pytest.raises(EdgebError, match="cannot write"):
        plot_distribution(dataset, tmp_path / "no" / "plot.png")
