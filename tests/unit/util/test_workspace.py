"""What was made last: remembered per kind, missed with a hint, and never a reason to fail."""

from __future__ import annotations

import json
import os

import pytest

from edge_behavior.errors import EdgebError
from edge_behavior.util.workspace import home, recall, remember

KINDS = ("dataset", "run", "bundle")


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEB_HOME", str(tmp_path / "home"))


def test_each_kind_has_its_own_last(tmp_path):
    for kind in KINDS:
        for name in ("first", "second"):
            (tmp_path / f"{kind}-{name}").mkdir()
            remember(kind, tmp_path / f"{kind}-{name}")
    assert [recall(kind) for kind in KINDS] == [tmp_path / f"{kind}-second" for kind in KINDS]


def test_a_relative_path_is_found_from_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "a" / "run").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    remember("run", (tmp_path / "a" / "run").relative_to(tmp_path / "a"))
    monkeypatch.chdir(tmp_path / "b")
    assert recall("run") == tmp_path / "a" / "run"


def test_it_is_one_small_json_file(tmp_path):
    (tmp_path / "ünicode").mkdir()
    remember("run", tmp_path / "ünicode")
    assert [path.name for path in home().iterdir()] == ["last.json"]
    assert json.loads((home() / "last.json").read_text(encoding="utf-8")) == {"run": str(tmp_path / "ünicode")}
    assert recall("run") == tmp_path / "ünicode"


@pytest.mark.parametrize(
    ("kind", "command"), [("dataset", "edgeb data import"), ("run", "edgeb train"), ("bundle", "edgeb export")]
)
def test_nothing_made_before(kind, command):
    with pytest.raises(EdgebError, match=f"no {kind} was given and none was made before") as caught:
        recall(kind)
    assert command in caught.value.hint


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_one_is_gone(tmp_path, kind):
    (tmp_path / "it").mkdir()
    remember(kind, tmp_path / "it")
    (tmp_path / "it").rmdir()
    with pytest.raises(EdgebError, match=f"the last {kind}, .*it, is gone") as caught:
        recall(kind)
    assert caught.value.hint


@pytest.mark.parametrize("content", ["", "{", "[]", '"run"', "null", "\udcff"])
def test_a_damaged_file_is_forgotten_and_replaced(tmp_path, content):
    home().mkdir()
    (home() / "last.json").write_bytes(os.fsencode(content))
    with pytest.raises(EdgebError, match="none was made before"):
        recall("run")
    remember("run", tmp_path)
    assert recall("run") == tmp_path


class TestUnwritableHome:
    def test_below_a_file(self, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("x")
        monkeypatch.setenv("EDGEB_HOME", str(tmp_path / "file" / "home"))
        remember("run", tmp_path)
        with pytest.raises(EdgebError, match="none was made before"):
            recall("run")

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
    def test_without_permission(self, tmp_path):
        home().mkdir()
        home().chmod(0o500)
        remember("run", tmp_path)
        home().chmod(0o700)
        assert list(home().iterdir()) == []

    def test_disk_full(self, tmp_path, monkeypatch):
        remember("run", tmp_path)

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("pathlib.Path.write_bytes", full)
        remember("run", tmp_path / "other")
        monkeypatch.undo()
        monkeypatch.setenv("EDGEB_HOME", str(tmp_path / "home"))
        assert recall("run") == tmp_path


def test_where_home_is(tmp_path, monkeypatch):
    assert home() == tmp_path / "home"
    monkeypatch.delenv("EDGEB_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert home() == tmp_path / "cache" / "edgeb"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert home() == tmp_path / "me" / ".cache" / "edgeb"
