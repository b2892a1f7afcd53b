"""Logs that are no plain file with a plain name: pipes, links, paths of any bytes."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edge_behavior.data.dataset import Dataset
from edge_behavior.data.importers.importer import import_log
from edge_behavior.errors import EdgebError

COMMAND = [sys.executable, "-m", "edge_behavior", "data", "import"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory, make_rows, write_csv):
    folder = tmp_path_factory.mktemp("plain")
    log = write_csv(folder / "log.csv", make_rows(users=3))
    import_log(log, "csv", folder / "data")
    return log, Dataset.open(folder / "data").fingerprint


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_named_pipe_is_read_once(tmp_path, plain, pack):
    log, fingerprint = plain
    content = pack(log.read_bytes())
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,), daemon=True)
    writer.start()
    info = import_log(tmp_path / "pipe", "csv", tmp_path / "data").to_dict()
    writer.join(10)
    assert Dataset.open(tmp_path / "data").fingerprint == fingerprint
    sha = hashlib.sha256(content).hexdigest()
    assert info["source"] == {
        "name": "pipe", "format": "csv", "files": [{"name": "pipe", "sha256": sha, "bytes": len(content)}]
    }  # fmt: skip


def test_standard_input_is_a_pipe(tmp_path, plain):
    log, fingerprint = plain
    command = [*COMMAND, "/dev/stdin", "--format", "csv", "--out", str(tmp_path / "data"), "--json"]
    environment = {**os.environ, "EDGEB_HOME": str(tmp_path / "home")}
    with subprocess.Popen(["cat", str(log)], stdout=subprocess.PIPE) as cat:
        done = subprocess.run(command, stdin=cat.stdout, capture_output=True, env=environment, check=True)
    assert json.loads(done.stdout)["source"]["name"] == "stdin"
    assert Dataset.open(tmp_path / "data").fingerprint == fingerprint


def test_errors_name_the_pipe_and_its_line(tmp_path, plain):
    log, _ = plain
    os.mkfifo(tmp_path / "pipe")
    content = log.read_bytes().replace(b"2024-", b"soon-", 1)
    threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,), daemon=True).start()
    with pytest.raises(EdgebError) as caught:
        import_log(tmp_path / "pipe", "csv", tmp_path / "data")
    assert caught.value.message.startswith(f"{tmp_path / 'pipe'}:2: 'soon-")
    assert ".partial" not in str(caught.value)


def test_a_writer_does_not_wait_for_an_import_that_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    opened = threading.Event()

    def write() -> None:
        with (tmp_path / "pipe").open("wb", buffering=0):
            opened.set()

    threading.Thread(target=write, daemon=True).start()
    while not opened.is_set():  # each refusal lets a writer go that waits by then
        with pytest.raises(EdgebError, match="unknown format"):
            import_log(tmp_path / "pipe", "cvs", tmp_path / "data")


def test_an_empty_device_is_an_empty_log(tmp_path):
    with pytest.raises(EdgebError, match="/dev/null is empty"):
        import_log(Path("/dev/null"), "csv", tmp_path / "data")


NAMES = [
    b"alt\xfc.csv",
    b"\xff\xfe",
    b"a?b*c[1].csv",
    b'it\'s "one".csv',
    b"two\nlines.csv",
    b"back\\slash",
    b" x ",
    b"{a,b}",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_log_may_be_called_anything(tmp_path, plain, name):
    log, fingerprint = plain
    path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
    path.write_bytes(log.read_bytes())
    info = import_log(path, "csv", tmp_path / "data").to_dict()
    assert Dataset.open(tmp_path / "data").fingerprint == fingerprint
    assert info["source"]["name"] == name.decode("utf-8", "backslashreplace")
    path.write_bytes(log.read_bytes().replace(b"2024-", b"soon-", 1))
    with pytest.raises(EdgebError, match="'soon-") as caught:
        import_log(path, "csv", tmp_path / "more")
    str(caught.value).encode()
    assert ".partial" not in str(caught.value)


@pytest.mark.parametrize("name", [b"alt\xfc", b"what?", b"back\\slash"])
def test_an_output_that_duckdb_cannot_work_in_is_refused_at_once(tmp_path, plain, name):
    out = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))) / "data"
    with pytest.raises(EdgebError) as caught:
        import_log(plain[0], "csv", out)
    str(caught.value).encode()
    assert caught.value.hint == "choose another --out"
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_its_file(tmp_path, plain):
    log, fingerprint = plain
    (tmp_path / "link").symlink_to(log)
    info = import_log(tmp_path / "link", "csv", tmp_path / "data").to_dict()
    assert info["source"]["name"] == "log.csv"
    assert Dataset.open(tmp_path / "data").fingerprint == fingerprint
