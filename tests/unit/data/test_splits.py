"""Splits by time, groups and logs without places: no window knows the future, nobody is torn apart, nothing is lost."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.core.events import UNKNOWN_PLACE
from edge_behavior.data.dataset import SPLITS, Dataset
from edge_behavior.data.describe import describe
from edge_behavior.data.importers.importer import import_log
from edge_behavior.data.importers.options import ColumnMap, ImportOptions
from edge_behavior.data.importers.split import split_time, split_users
from edge_behavior.data.info import SCHEMA_VERSION
from edge_behavior.data.verify import verify
from edge_behavior.data.windows import FEW_USERS, eligible, natural_windows
from edge_behavior.errors import EdgebError

WriteCsv = Callable[..., Path]
HEADER = ("user_id", "timestamp", "place", "behavior")
counts_of_users = st.lists(st.integers(3, 60), min_size=1, max_size=25)


def log_of(sizes: list[int], hours: list[int] | None = None) -> list[tuple[str, str, str, str]]:
    """Rows of users with so many events each; `hours` between events repeats."""
    steps = hours or [7]
    rows = []
    for user, size in enumerate(sizes):
        hour = 0
        for i in range(size):
            hour += steps[i % len(steps)]
            time = datetime(2024, 1, 1) + timedelta(hours=hour)
            # Each in a place of its own, so that none is a duplicate.
            rows.append((f"u{user:02d}", time.isoformat(), f"p{i}", f"B{(i * i + user) % 4}"))
    return rows


class TestSplitBounds:
    @given(counts=counts_of_users)
    def test_by_time_every_user_is_in_every_split_in_order(self, counts: list[int]) -> None:
        bounds = split_time(np.array(counts), "log", 3)
        for user, count in enumerate(counts):
            held = bounds.of(np.full(count, user), np.arange(count)).tolist()
            assert held == sorted(held)
            sizes = [held.count(split) for split in range(3)]
            assert sizes[1] == sizes[2] == max(1, round(count / 10))
            assert sizes[0] >= 1
        assert bounds.names() == [None] * len(counts)

    @given(counts=st.lists(st.integers(1, 60), min_size=3, max_size=25), seed=st.integers(0, 9), data=st.data())
    def test_by_users_a_group_is_in_one_split(self, counts: list[int], seed: int, data: st.DataObject) -> None:
        groups = data.draw(st.lists(st.sampled_from("abcdefgh"), min_size=len(counts), max_size=len(counts)))
        if len(set(groups)) < 3:
            with pytest.raises(EdgebError, match="at least 2 events"):
                split_users(np.array(counts), groups, seed, "log", 2)
            return
        bounds = split_users(np.array(counts), groups, seed, "log", 2)
        named = bounds.names()
        assert None not in named
        assert {len({n for n, g in zip(named, groups, strict=True) if g == group}) for group in groups} == {1}
        assert set(named) == set(SPLITS)
        for user, (count, name) in enumerate(zip(counts, named, strict=True)):
            assert set(bounds.of(np.full(count, user), np.arange(count)).tolist()) == {SPLITS.index(str(name))}

    @given(counts=counts_of_users, length=st.integers(0, 30))
    def test_sizes_add_up(self, counts: list[int], length: int) -> None:
        bounds = split_time(np.array(counts), "log", 3)
        sizes = [bounds.sizes(i, length) for i in range(3)]
        assert sum(split.events for split in sizes) == sum(counts)
        assert sum(split.windows for split in sizes) == sum(max(0, n - length) for n in counts)

    def test_too_few_are_told_of_the_way_out(self) -> None:
        with pytest.raises(EdgebError, match="log: only 1 user has at least 21 events") as caught:
            split_users(np.array([99]), ["a"], 0, "log", 21)
        assert "--split time" in str(caught.value.hint)
        with pytest.raises(EdgebError, match="only 4 users have at least 21 events, in 2 groups") as caught:
            split_users(np.array([30] * 4), ["x", "x", "y", "y"], 0, "log", 21)
        assert "needs three groups" in str(caught.value.hint)
        with pytest.raises(EdgebError, match="no user has at least 21 events"):
            split_time(np.array([], dtype=np.int64), "log", 21)


class TestByTime:
    @settings(max_examples=25, deadline=None)
    @given(
        sizes=st.lists(st.integers(3, 70), min_size=1, max_size=6),
        hours=st.lists(st.integers(0, 30), min_size=1, max_size=5),
        length=st.integers(1, 25),
    )
    def test_windows_know_the_past_only(
        self, tmp_path_factory: Any, write_csv: WriteCsv, sizes: list[int], hours: list[int], length: int
    ) -> None:
        folder = tmp_path_factory.mktemp("time")
        rows = log_of(sizes, hours)
        info = import_log(
            write_csv(folder / "log.csv", rows), "csv", folder / "d", ImportOptions(split="time", min_events=3)
        ).to_dict()
        dataset = Dataset.open(folder / "d")
        by_user = {user: [r[1:] for r in rows if r[0] == user] for user, *_ in rows}
        ids = pq.read_table(folder / "d" / "users.parquet").column("user_id").to_pylist()
        seen: list[tuple[str, int]] = []
        for split in SPLITS:
            table = dataset.events(split)
            assert table.first_targets is not None
            assert len(table.users) == len(sizes)
            for row, user in enumerate(table.users.tolist()):
                first, stop = int(table.user_offsets[row]), int(table.user_offsets[row + 1])
                start = int(table.target_starts[row])
                # The whole past, then the part: what a plain reading of the log gives up to the part's end.
                plain = by_user[ids[user]]
                held = [(e.time, e.place, e.behavior) for e in table.between(first, stop)]
                assert held == [(datetime.fromisoformat(t), p, b) for t, p, b in plain[: len(held)]]
                seen += [(ids[user], i) for i in range(start - first, stop - first)]
            for target in eligible(table, length).tolist():
                user = int(table.user_of(target))
                assert target >= table.target_starts[user]
                assert target - length >= table.user_offsets[user]
                assert all(e.time <= table.event(target).time for e in table.history(target, length))
        # Every event is a target of exactly one part, and of a later one than all before it.
        assert Counter(seen) == Counter((user, i) for user, events in by_user.items() for i in range(len(events)))
        windows = sum(part["windows"] for part in info["splits"].values())
        assert windows == sum(max(0, n - 20) for n in sizes)
        verify(dataset)

    def test_one_person_is_enough(self, tmp_path: Path, write_csv: WriteCsv) -> None:
        log = write_csv(tmp_path / "log.csv", log_of([100]))
        info = import_log(log, "csv", tmp_path / "d", ImportOptions(split="time")).to_dict()
        assert {s: p["events"] for s, p in info["splits"].items()} == {"train": 80, "validation": 10, "test": 10}
        dataset = Dataset.open(tmp_path / "d")
        assert (dataset.split, info["schema_version"], info["options"]["split"]) == ("time", SCHEMA_VERSION, "time")
        assert len(eligible(dataset.events("test"))) == 10
        assert describe(dataset).to_dict()["split"].startswith("by time")

    def test_counts_are_of_training_events(self, tmp_path: Path, write_csv: WriteCsv) -> None:
        rows = log_of([50, 40])
        import_log(write_csv(tmp_path / "log.csv", rows), "csv", tmp_path / "d", ImportOptions(split="time"))
        training = Counter(r[3] for i, r in enumerate(rows) if i < 40 or 50 <= i < 50 + 32)
        candidates = Dataset.open(tmp_path / "d").candidates
        assert dict(zip(candidates.labels, candidates.counts, strict=True)) == training

    def test_short_users_are_skipped_and_counted(self, tmp_path: Path, write_csv: WriteCsv) -> None:
        info = import_log(
            write_csv(tmp_path / "l.csv", log_of([30, 5])), "csv", tmp_path / "d", ImportOptions(split="time")
        ).to_dict()
        assert info["users"] == {"read": 2, "skipped": 1, "kept": 1}
        assert info["rows"]["dropped"]["short_user"] == 5

    def test_few_people_give_as_many_windows_as_ten(self, tmp_path: Path, write_csv: WriteCsv) -> None:
        import_log(
            write_csv(tmp_path / "l.csv", log_of([600, 600])), "csv", tmp_path / "d", ImportOptions(split="time")
        )
        table = Dataset.open(tmp_path / "d").events("test")
        assert len(natural_windows(table, 20, per_user=4)) == FEW_USERS * 4
        assert len(natural_windows(replace(table, first_targets=None), 20, per_user=4)) == 8

    @pytest.mark.parametrize(
        ("options", "message"), [({"min_events": 2}, "min-events is 2"), ({"split": "tme"}, "tme")]
    )
    def test_options_are_checked(
        self, tmp_path: Path, write_csv: WriteCsv, options: dict[str, Any], message: str
    ) -> None:
        log = write_csv(tmp_path / "log.csv", log_of([30]))
        with pytest.raises(EdgebError, match=message) as caught:
            import_log(log, "csv", tmp_path / "d", ImportOptions(**{"split": "time", **options}))
        assert caught.value.hint
        assert not (tmp_path / "d").exists()

    def test_the_fingerprint_is_of_the_split(self, tmp_path: Path, write_csv: WriteCsv) -> None:
        log = write_csv(tmp_path / "log.csv", log_of([40, 40, 40]))
        prints = set()
        for name, options in (("u", {}), ("t", {"split": "time"}), ("n", {"places": False})):
            import_log(log, "csv", tmp_path / name, ImportOptions(**options))  # type: ignore[arg-type]
            prints.add(Dataset.open(tmp_path / name).fingerprint)
        assert len(prints) == 3


class TestGroups:
    def grouped(self, write_csv: WriteCsv, path: Path, groups: list[str]) -> Path:
        rows = [(*row, groups[int(row[0][1:])]) for row in log_of([30] * len(groups))]
        return write_csv(path, rows, (*HEADER, "household"))

    def test_a_household_stays_together(self, tmp_path: Path, write_csv: WriteCsv) -> None:
        groups = [f"h{i // 3}" for i in range(12)]
        log = self.grouped(write_csv, tmp_path / "log.csv", groups)
        info = import_log(log, "csv", tmp_path / "d", ImportOptions(columns=ColumnMap(group="household"))).to_dict()
        users = pq.read_table(tmp_path / "d" / "users.parquet").to_pylist()
        assert [u["group"] for u in users] == groups
        parts = {group: {u["split"] for u in users if u["group"] == group} for group in groups}
        assert all(len(held) == 1 for held in parts.values())
        assert {next(iter(held)) for held in parts.values()} == set(SPLITS)
        assert info["options"]["group_column"] == "household"
        assert info["users"]["groups"] == 4
        dataset = Dataset.open(tmp_path / "d")
        table = dataset.events("train")
        assert table.groups is not None
        assert [groups[u] for u in table.users] == [f"h{g}" for g in table.groups]
        assert "household" in describe(dataset).to_dict()["split"]
        assert describe(dataset).resampling == "1 group"

    def test_containers_agree(self, tmp_path: Path, write_csv: WriteCsv) -> None:
        log = self.grouped(write_csv, tmp_path / "log.csv", list("aabbccdd"))
        names, *rows = [line.split(",") for line in log.read_text().splitlines()]
        (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
        columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
        pq.write_table(pa.table(columns), tmp_path / "log.parquet")
        prints = set()
        for format in ("csv", "jsonl", "parquet"):
            import_log(
                tmp_path / f"log.{format}",
                format,
                tmp_path / format,
                ImportOptions(columns=ColumnMap(group="household")),
            )
            prints.add(Dataset.open(tmp_path / format).fingerprint)
        assert len(prints) == 1

    @pytest.mark.parametrize(
        ("line", "group", "message"),
        [
            (33, "", "log.csv:33: the household is empty"),
            (33, "N/A", "log.csv:33: the household 'N/A' reads as a missing value"),
            (95, "null", "log.csv:95: the household 'null' reads as a missing value"),
            (95, "z", "log.csv:95: user 'u03' is in household 'z' here"),
        ],
    )
    def test_no_group_or_two_are_refused_with_their_line(
        self, tmp_path: Path, write_csv: WriteCsv, line: int, group: str, message: str
    ) -> None:
        log = self.grouped(write_csv, tmp_path / "log.csv", list("aabbcc"))
        lines = log.read_text().splitlines()
        lines[line - 1] = lines[line - 1].rpartition(",")[0] + f",{group}"
        log.write_text("\n".join(lines) + "\n")
        with pytest.raises(EdgebError, match=message) as caught:
            import_log(log, "csv", tmp_path / "d", ImportOptions(columns=ColumnMap(group="household")))
        assert caught.value.hint
        assert not (tmp_path / "d").exists()

    def test_a_missing_column_is_named(self, tmp_path: Path, write_csv: WriteCsv) -> None:
        log = write_csv(tmp_path / "log.csv", log_of([30] * 3))
        with pytest.raises(EdgebError, match="no column 'household'") as caught:
            import_log(log, "csv", tmp_path / "d", ImportOptions(columns=ColumnMap(group="household")))
        assert caught.value.hint == "name it with --group-column"

    def test_a_changed_group_is_found(self, tmp_path: Path, write_csv: WriteCsv) -> None:
        log = self.grouped(write_csv, tmp_path / "log.csv", list("aabbcc"))
        import_log(log, "csv", tmp_path / "d", ImportOptions(columns=ColumnMap(group="household")))
        users = pq.read_table(tmp_path / "d" / "users.parquet")
        changed = users.set_column(users.column_names.index("group"), "group", pa.array(list("aabbbc")))
        pq.write_table(changed, tmp_path / "d" / "users.parquet")
        with pytest.raises(EdgebError, match="column group, has changed"):
            verify(Dataset.open(tmp_path / "d"))


class TestNoPlace:
    def test_no_column_is_looked_for(self, tmp_path: Path, write_csv: WriteCsv) -> None:
        rows = log_of([30] * 4)
        short = write_csv(
            tmp_path / "short.csv", [(u, t, b) for u, t, _, b in rows], ("user_id", "timestamp", "behavior")
        )
        info = import_log(short, "csv", tmp_path / "short", ImportOptions(places=False)).to_dict()
        assert info["place"] == {"kind": "none", "count": 0}
        assert info["options"]["columns"] == {"user": "user_id", "time": "timestamp", "behavior": "behavior"}
        # A place column that is there is not read.
        import_log(write_csv(tmp_path / "long.csv", rows), "csv", tmp_path / "long", ImportOptions(places=False))
        opened = [Dataset.open(tmp_path / name) for name in ("short", "long")]
        assert opened[0].fingerprint == opened[1].fingerprint
        for dataset in opened:
            verify(dataset)
            assert (dataset.has_places, dataset.places) == (False, [])
            assert {e.place for e in dataset.events("train").between(0, 30)} == {UNKNOWN_PLACE}

    @pytest.mark.parametrize("format", ["jsonl", "parquet"])
    def test_other_containers(self, tmp_path: Path, write_csv: WriteCsv, format: str) -> None:
        rows = [(user, time, behavior) for user, time, _, behavior in log_of([30] * 3)]
        names = ("user_id", "timestamp", "behavior")
        log = tmp_path / f"log.{format}"
        if format == "parquet":
            pq.write_table(pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), log)
        else:
            log.write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
        assert import_log(log, format, tmp_path / "d", ImportOptions(places=False)).to_dict()["rows"]["read"] == 90

    def test_a_published_log_without_its_places(self, tmp_path: Path) -> None:
        rows = []
        for user in range(3):
            for i in range(25):
                when = f"Sun Apr {1 + i:02d} 18:20:29 +0000 2012"
                rows.append(f"{user}\tv\tc\tKind {i % 3}\t{40 + i / 100}\t-74.0\t-240\t{when}")
        (tmp_path / "t.txt").write_text("\n".join(rows) + "\n")
        info = import_log(tmp_path / "t.txt", "tsmc2014", tmp_path / "d", ImportOptions(places=False)).to_dict()
        assert info["place"] == {"kind": "none", "count": 0}

    def test_a_missing_place_names_the_way_out(self, tmp_path: Path, write_csv: WriteCsv) -> None:
        log = write_csv(tmp_path / "l.csv", [("u", "2024-01-01", "x")], ("user_id", "timestamp", "behavior"))
        with pytest.raises(EdgebError, match="no column 'place'") as caught:
            import_log(log, "csv", tmp_path / "d")
        assert "--no-place" in str(caught.value.hint)


def test_plain_datasets_stay_what_they_were(tmp_path: Path, write_csv: WriteCsv) -> None:
    """An edgeb that knows one split only reads what has that one, and refuses what it would misread."""
    log = write_csv(tmp_path / "log.csv", log_of([30] * 4))
    info = import_log(log, "csv", tmp_path / "d").to_dict()
    assert info["schema_version"] == 1
    assert not {"split", "group_column"} & set(info["options"])
    assert pq.read_schema(tmp_path / "d" / "users.parquet").names == ["user", "user_id", "split", "events"]
    assert Dataset.open(tmp_path / "d").events("test").first_targets is None
    for name, options in (("t", {"split": "time"}), ("n", {"places": False})):
        assert import_log(log, "csv", tmp_path / name, ImportOptions(**options)).to_dict()["schema_version"] == 2  # type: ignore[arg-type]
    shutil.rmtree(tmp_path / "t")
