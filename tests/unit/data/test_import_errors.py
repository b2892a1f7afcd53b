"""Bad logs: one line that names file, line and value, a hint, and nothing half-written."""

from __future__ import annotations

import errno
import gzip
import json
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge_behavior.data.importers import importer as importers
from edge_behavior.data.importers.importer import import_log
from edge_behavior.data.importers.options import ColumnMap, ImportOptions
from edge_behavior.errors import EdgebError

HEAD = "user_id,timestamp,place,behavior\n"


@pytest.fixture(autouse=True)
def nothing_half_written(tmp_path):
    before = set(tmp_path.iterdir())
    yield
    assert {p.name for p in set(tmp_path.iterdir()) - before if "data" in p.name} == set()


def refused(tmp_path: Path, text: str | bytes, format: str = "csv", **options: object) -> EdgebError:
    log = tmp_path / f"log.{format}"
    log.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(EdgebError) as caught:
        import_log(log, format, tmp_path / "data", ImportOptions(**options))  # type: ignore[arg-type]
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "log.csv is empty"),
        ("\n\n", "log.csv is empty"),
        (HEAD, "log.csv has no rows"),
        (HEAD.replace("behavior", "behaviour") + "u,2024-03-01,home,A\n", "no column 'behavior'"),
        (HEAD.replace("place", "user_id") + "u,2024-03-01,home,A\n", "two columns are called 'user_id'"),
        (HEAD.strip() + ",place\nu,2024-03-01,home,A,x\n", "two columns are called 'place'"),
        (HEAD + "u,2024-03-01,home,A\nu,yesterday,home,A\nu,now,home,A\n", "log.csv:3: 'yesterday' is not a time"),
        (HEAD + "u,2024-03-01,home,A\nu,,home,A\n", "log.csv:3: '' is not a time"),
        (HEAD + "u,2024-02-30,home,A\n", "log.csv:2: '2024-02-30' is not a time"),
        (HEAD + "u,0000-02-20,home,A\n", "log.csv:2: '0000-02-20' is not a time"),
        (HEAD + "u,1335890000,home,A\n", "log.csv:2: '1335890000' looks like seconds since 1970"),
        (HEAD + "u,2024-03-01T10:00:00Z,home,A\n", "carries a time zone"),
        (HEAD + "u,2024-03-01T10:00:00+02:00,home,A\n", "carries a time zone"),
        (HEAD + "u,2024-03-01,home,A\n ,2024-03-01,home,A\n", "log.csv:3: the user_id is empty"),
        (HEAD + "u,2024-03-01,home,A\nu,2024-03-01,home,\n", "log.csv:3: a behavior label is empty"),
        (HEAD + 'u,2024-03-01,home,A\nu,2024-03-01,"a\nb",B\n\nu,2024-03-01,home,  \n', "log.csv:6: a behavior label"),
        (HEAD + "u,2024-03-01,home,A\x07\n", "log.csv:2: behavior label 'A\\x07' holds the control character"),
        (HEAD + f"u,2024-03-01,home,{'A' * 201}\n", "has 201 characters"),
        (HEAD + "u,2024-03-01,home,Tv\nu,2024-03-02,home,TV\n", "log.csv:3: behavior 'TV' differs from 'Tv' only by"),
        (HEAD + "u,2024-03-01,home,TV \nu,2024-03-02,home,TV\n", "only 1 distinct behavior"),
        (HEAD + "u,2024-03-01,home,Read News\nu,2024-03-02,home,ReadNews\n", "only by case or space"),
        (HEAD + "u,2024-03-01,home,A\nu,2024-03-02,home,A\n", "only 1 distinct behavior"),
        (HEAD + "u,2024-03-01,home,A\nu,2024-03-02,home,B\n", "no user has at least 21 events"),
        (HEAD + "u,2024-03-01,home,A\nu,2024-03-02,home\n", "log.csv:3: 3 fields where 4 are expected"),
        (HEAD + "u,2024-03-01,home,A,b\n", "log.csv:2: 5 fields where 4 are expected"),
        (HEAD.encode() + "u,2024-03-01,home,Café\n".encode("latin-1"), "not UTF-8"),
        (gzip.compress(HEAD.encode() * 99, mtime=0)[:-20], "damaged gzip"),
    ],
)
def test_bad_csv(tmp_path, text, message):
    assert message in refused(tmp_path, text).message


def test_hints_name_the_nearest_column_and_the_flag(tmp_path):
    error = refused(tmp_path, HEAD.replace("behavior", "behaviour") + "u,2024-03-01,home,A\n")
    assert "did you mean 'behaviour'?" in error.message
    assert "--behavior-column" in error.hint


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["nonsense"], "no column 'user_id' (valid: nonsense)"),
        (["{nonsense"], "log.jsonl:1: not JSON"),
        (['{"user_id": "u"}'], "no column 'timestamp'"),
        (["", '{"user_id": "u", "timestamp": "2024-03-01", "place": "x", "behavior": "A"}', "", "[1]"], "log.jsonl:4"),
        (['{"user_id": "u", "timestamp": "2024-03-01", "place": "x", "behavior": "A"}', '{"user_id": '], "log.jsonl:2"),
        (["", '{"user_id": "u", "timestamp": "soon", "place": "x", "behavior": "A"}'], "log.jsonl:2: 'soon' is not"),
        (['{"user_id": "u", "timestamp": "2024-03-01", "place": "x", "behavior": null}'], "log.jsonl:1: a behavior"),
        (["[]"], "holds an empty list"),
        ([], "is empty"),
    ],
)
def test_bad_jsonl(tmp_path, lines, message):
    assert message in refused(tmp_path, "\n".join(lines), "jsonl").message


def test_bad_parquet(tmp_path):
    assert "not a Parquet file" in refused(tmp_path, HEAD, "parquet").message
    columns = {"user_id": ["u"], "timestamp": ["2024-03-01"], "place": ["x"], "behavior": ["A"]}

    def with_times(values: pa.Array) -> EdgebError:
        pq.write_table(pa.table({**columns, "timestamp": values}), tmp_path / "t.parquet")
        return refused(tmp_path, (tmp_path / "t.parquet").read_bytes(), "parquet")

    assert "carries a time zone" in with_times(pa.array([0], pa.timestamp("us", "UTC"))).message
    assert "holds BOOLEAN, not times" in with_times(pa.array([True])).message
    assert "row 1: '0' is not a time" in with_times(pa.array([0], pa.int64())).message
    assert "row 1: '' is not a time" in with_times(pa.array([None], pa.timestamp("us"))).message
    assert "row 1: 'then' is not a time" in with_times(pa.array(["then"])).message
    pq.write_table(pa.table({**columns, "behavior": [1.5]}), tmp_path / "t.parquet")
    assert "'behavior' holds DOUBLE" in refused(tmp_path, (tmp_path / "t.parquet").read_bytes(), "parquet").message


def test_too_few_users_to_split(tmp_path, make_rows, write_csv):
    log = write_csv(tmp_path / "log.csv", make_rows(users=2, events=30))
    with pytest.raises(EdgebError, match="only 2 users have at least 21 events") as caught:
        import_log(log, "csv", tmp_path / "data")
    assert "--min-events" in caught.value.hint


def test_too_many_labels_suggests_a_wrong_column(tmp_path, write_csv):
    rows = [("u", "2024-03-01", "home", f"label {i}") for i in range(33_000)]
    with pytest.raises(EdgebError, match="33000 distinct behaviors") as caught:
        import_log(write_csv(tmp_path / "log.csv", rows), "csv", tmp_path / "data")
    assert "--behavior-column" in caught.value.hint


def test_bad_options(tmp_path, make_rows, write_csv):
    log = write_csv(tmp_path / "log.csv", make_rows(users=3))
    for options, message in [
        ({"format": "cvs"}, "unknown format 'cvs'"),
        ({"source": tmp_path / "no.csv"}, "no log at"),
        ({"source": tmp_path}, "is a folder"),
        ({"format": "tsmc2014", "columns": ColumnMap()}, "do not apply to tsmc2014"),
        ({"min_events": 1}, "min-events is 1"),
        ({"seed": -1}, "seed is -1"),
        ({"format": "tsmc2014", "cell_degrees": 0.0}, "cell-degrees is 0.0"),
        ({"merge_seconds": -1}, "merge-seconds is -1"),
        ({"memory_limit": "lots"}, "memory-limit is 'lots'"),
        ({"memory_limit": "1KB"}, "memory-limit is '1KB'"),
        ({"memory_limit": "99999999999TB"}, "memory-limit is"),
        ({"merge_seconds": 99_999_999_999_999}, "merge-seconds is 99999999999999"),
        ({"min_events": 10**30}, "min-events is 1000"),
        ({"seed": 2**70}, "seed is 1180591620717411303424"),
        ({"format": "tsmc2014", "cell_degrees": float("nan")}, "cell-degrees is nan"),
        ({"format": "tsmc2014", "cell_degrees": float("inf")}, "cell-degrees is inf"),
        ({"timezone": "Berlin"}, "unknown time zone 'Berlin'"),
        ({"time_unit": "ms"}, "but the users' zone is not given"),
        ({"format": "tsmc2014", "timezone": "utc"}, "do not apply to tsmc2014"),
        ({"out": tmp_path / "what?"}, "its path contains a '?'"),
        ({"cell_degrees": 0.1}, "--cell-degrees does not apply to csv"),
        ({"format": "tsmc2014", "cell_degrees": 0.1, "places": False}, "--cell-degrees and --no-place exclude"),
    ]:
        defaults = {"source": log, "format": "csv", "out": tmp_path / "data"}
        arguments = {name: options.pop(name, default) for name, default in defaults.items()}
        with pytest.raises(EdgebError) as caught:
            import_log(**arguments, options=ImportOptions(**options))
        assert message in caught.value.message
        assert caught.value.hint


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "Permission denied")])
def test_a_failing_disk_is_an_error_of_the_environment(tmp_path, make_rows, write_csv, monkeypatch, number, words):
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, "Permission denied" if number == errno.EACCES else "No space left on device")

    monkeypatch.setattr(importers, "put_folder", fail)
    log = write_csv(tmp_path / "log.csv", make_rows(users=3))
    with pytest.raises(EdgebError, match=words):
        import_log(log, "csv", tmp_path / "data")


def test_a_full_disk_is_named_where_duckdb_meets_it_first(tmp_path, make_rows, write_csv, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise duckdb.IOException('IO Error: Could not write file "log.duckdb": No space left on device')

    monkeypatch.setattr(duckdb, "connect", full)
    with pytest.raises(EdgebError, match="the disk is full") as caught:
        import_log(write_csv(tmp_path / "log.csv", make_rows(users=3)), "csv", tmp_path / "data")
    assert "--out" in caught.value.hint
    assert "--memory-limit" not in caught.value.hint


@pytest.mark.parametrize("raised", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_nothing(tmp_path, make_rows, write_csv, monkeypatch, raised):
    def interrupt(*_: object) -> None:
        raise raised("Query interrupted")

    monkeypatch.setattr(importers, "write_dataset", interrupt)
    log = write_csv(tmp_path / "log.csv", make_rows(users=3))
    with pytest.raises(KeyboardInterrupt):
        import_log(log, "csv", tmp_path / "data")
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.csv"]


@pytest.mark.parametrize("taken", ["dataset", "file"])
def test_what_another_import_wrote_meanwhile_is_kept(tmp_path, make_rows, write_csv, monkeypatch, taken):
    log, out = write_csv(tmp_path / "log.csv", make_rows(users=3)), tmp_path / "result"
    written = importers.write_dataset

    def overtaken(*arguments: object) -> object:
        if taken == "dataset":
            out.mkdir()
            (out / "dataset.json").write_text("theirs")
        else:
            out.write_text("theirs")
        return written(*arguments)

    monkeypatch.setattr(importers, "write_dataset", overtaken)
    with pytest.raises(EdgebError, match="result was made by another process meanwhile, and is kept"):
        import_log(log, "csv", out)
    assert (out / "dataset.json" if taken == "dataset" else out).read_text() == "theirs"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["log.csv", "result"]


SLOW = """
import os, signal, sys, threading
from edge_behavior import cli
from edge_behavior.data.importers import importer

def endless(database, *_):
    threading.Timer(0.3, os.kill, (os.getpid(), signal.{name})).start()
    database.query("SELECT sum(range) FROM range(1000000000000)")

signal.signal(signal.SIGINT, signal.default_int_handler)
importer.write_dataset = endless
sys.argv = ["edgeb", "data", "import", sys.argv[1], "--format", "csv", "--out", sys.argv[2]]
cli.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_during_a_query_leaves_nothing(tmp_path, make_rows, write_csv, name, code):
    log = write_csv(tmp_path / "log.csv", make_rows(users=3))
    command = [sys.executable, "-c", SLOW.format(name=name), str(log), str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (code, "")
    assert len(done.stderr.splitlines()) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.csv"]


def test_mixed_json_values_become_text(tmp_path, make_rows):
    rows = make_rows(users=3, events=21)
    lines = [json.dumps({"user_id": int(u[1:]), "timestamp": t, "behavior": b, "place": None}) for u, t, _, b in rows]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    info = import_log(tmp_path / "log.jsonl", "jsonl", tmp_path / "result").to_dict()
    assert info["users"]["kept"] == 3
    assert info["place"]["count"] == 1
