"""The Tsinghua App-Usage layout: four text files, apps merged to categories, stations to their dominant type."""

from __future__ import annotations

import gzip
import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from edge_behavior.data.dataset import SPLITS, Dataset
from edge_behavior.data.importers.importer import import_log
from edge_behavior.data.importers.options import ImportOptions
from edge_behavior.errors import EdgebError

POI = "BaseID\tMedical care\tResidence\tOther\n0\t1\t9\t2\n1\t4\t4\t1\n2\t0\t0\t0\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "app usage"
    root.mkdir()
    lines = []
    for user in range(3):
        for i in range(23):
            time = datetime(2016, 4, 20) + timedelta(minutes=10 * i, seconds=user)
            lines.append(f"{user} {time:%Y%m%d%H%M%S} {i % 4} {i % 5} {1000 + i}")
        lines.append(lines[-1][:-4] + "77")  # the same app again, other traffic
        lines.append(f"{user} {time + timedelta(seconds=40):%Y%m%d%H%M%S} {22 % 4} {22 % 5} 5")
    (root / "App_usage_trace.txt").write_text("\n".join(lines) + "\n")
    (root / "App2Category.txt").write_text("0\t10\n1\t11\n2\t10\n3\t12\n")
    (root / "Categorys.txt").write_text("10\tGames\n11\tSocial Networking\n12\tTravel & Navigation\n")
    (root / "base_poi.txt").write_text(POI)
    return root


def import_folder(folder: Path, out: str = "data", **options: int) -> tuple[dict, Dataset]:
    info = import_log(folder, "app-usage", folder.parent / out, ImportOptions(**options)).to_dict()
    return info, Dataset.open(folder.parent / out)


def test_apps_become_categories_and_stations_their_main_type(folder):
    # Per user 25 rows: 4 of app 4, which has no category, 1 duplicate and 1 repeat within a minute (app 2).
    info, dataset = import_folder(folder, min_events=19)
    assert info["rows"] == {
        "read": 75,
        "dropped": {"no_category": 12, "duplicate": 3, "repeat": 3, "short_user": 0},
    }
    assert sorted(dataset.candidates.labels) == ["Games", "Social Networking", "Travel & Navigation"]
    # Station 0: Residence; 1: a tie, the first column; 2: no points; 3: not in the table.
    assert set(dataset.places) == {"Residence", "Medical care", "unknown"}
    table = dataset.events("train")
    first = table.event(0)
    assert (first.behavior, first.place, first.time.replace(second=0)) == ("Games", "Residence", datetime(2016, 4, 20))
    assert sum(len(dataset.events(split)) for split in SPLITS) == 57
    assert [file["name"] for file in info["source"]["files"]] == [
        "App_usage_trace.txt", "App2Category.txt", "Categorys.txt", "base_poi.txt"
    ]  # fmt: skip


def test_repeats_can_be_kept(folder):
    info, _ = import_folder(folder, min_events=19, merge_seconds=0)
    assert "repeat" not in info["rows"]["dropped"]
    assert sum(part["events"] for part in info["splits"].values()) == 60


def test_variants_of_the_files_read_the_same(folder):
    _, plain = import_folder(folder, min_events=19)
    trace = folder / "App_usage_trace.txt"
    (folder / "App_Usage_Trace.txt.gz").write_bytes(gzip.compress(trace.read_bytes()))
    trace.unlink()
    (folder / "base_poi.txt").rename(folder / "Base_poi.txt")
    (folder / "App2Category.txt").write_text("0 10\n1 11\n2 10\n3 12\n")
    (folder / "Categorys.txt").write_text(
        "Category ID\tEnglish Name\n10\tGames\t游戏\n11\tSocial Networking\t\n12\tTravel & Navigation\n"
    )
    _, variant = import_folder(folder, "variant", min_events=19)
    assert plain.fingerprint == variant.fingerprint
    import_log(folder / "App_Usage_Trace.txt.gz", "app-usage", folder.parent / "by file", ImportOptions(min_events=19))
    assert Dataset.open(folder.parent / "by file").fingerprint == plain.fingerprint


def test_without_points_of_interest_a_place_is_the_station(folder):
    (folder / "base_poi.txt").unlink()
    info, dataset = import_folder(folder, min_events=19)
    assert set(dataset.places) == {"A", "B", "C", "D"}
    assert info["place"]["kind"] == "station"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("App2Category.txt", None, "no App2Category.txt in"),
        ("Categorys.txt", None, "no Categorys.txt in"),
        ("App_usage_trace.txt", None, "no App_usage_trace.txt in"),
        ("App_usage_trace.txt", "0,1,2\n", "1 columns where the trace has 5"),
        (
            "App_usage_trace.txt",
            "0 20160420000000 1 1 5\n0 yesterday 1 1 5\n",
            "App_usage_trace.txt:2: 'yesterday' is not",
        ),
        ("App_usage_trace.txt", "0 20160420000000 1 1 5\n0 20160420000001 1 1\n", "App_usage_trace.txt:2: 4 fields"),
        ("App_usage_trace.txt", "", "is empty"),
        ("App2Category.txt", "0\t99\n", "no app of"),
        ("App2Category.txt", "lonely\n", "App2Category.txt:1: one column"),
        ("Categorys.txt", "no\tnumbers\n", "names no category"),
        ("Categorys.txt", "10\tGames\n11\tgames\n12\tx\n", "only by case or space"),
        ("base_poi.txt", "BaseID\tA\tB\n0\t1\n", "base_poi.txt:2: expected a number for each of 2 types"),
        ("base_poi.txt", "BaseID\tA\tB\n0\t1\tx\n", "base_poi.txt:2: expected a number"),
        ("base_poi.txt", "BaseID\tA\tB\n0\t1\tnan\n", "base_poi.txt:2: expected a number"),
        ("Categorys.txt", "10\tGames\n11\tNULL\n12\tx\n", "App_usage_trace.txt:2: behavior 'NULL' reads as a missing"),
        ("App_usage_trace.txt", "0 20160420000000 1 1 5\nNULL 20160420000001 1 1 5\n", "_trace.txt:2: the user 'NULL'"),
    ],
)
def test_bad_files_are_named(folder, name, content, message):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(EdgebError) as caught:
        import_folder(folder, min_events=19)
    assert message in caught.value.message
    assert not (folder.parent / "data").exists()


def test_the_folder_may_be_called_anything(folder):
    _, plain = import_folder(folder, min_events=19)
    odd = folder.rename(Path(os.fsdecode(os.fsencode(folder.parent) + b"/apps \xfc [1]?")))
    info, dataset = import_folder(odd, "again", min_events=19)
    assert dataset.fingerprint == plain.fingerprint
    assert info["source"]["name"] == "apps \\xfc [1]?"
    assert info["source"]["files"][0]["name"] == "App_usage_trace.txt"
    with pytest.raises(EdgebError, match="is not UTF-8") as caught:
        import_log(odd / "App_usage_trace.txt", "app-usage", folder.parent / "more")
    str(caught.value).encode()
