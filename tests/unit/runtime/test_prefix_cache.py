"""The static prompt is evaluated once; damaged and foreign snapshots are noticed and made anew."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from edge_behavior.errors import EdgebError
from edge_behavior.runtime.predictor import Predictor
from edge_behavior.runtime.prefix_cache import KEPT_SNAPSHOTS
from edge_behavior.runtime.state_file import MAGIC, read_state, write_state
from tests import helpers


def opened(bundle: Path, folder: Path) -> Predictor:
    return Predictor.load(bundle, threads=1, exact_math=True, prefix_cache=folder)


def ask(predictor: Predictor) -> tuple[list[float], int]:
    events = helpers.diary(6)
    found = predictor.predict(events[:-1], events[-1].time, "DK", None)
    return [r.probability for r in found.ranked], found.tokens_evaluated


def test_a_snapshot_saves_the_static_part(any_bundle: Path, tmp_path: Path) -> None:
    with Predictor.load(any_bundle, threads=1, exact_math=True, prefix_cache=False) as predictor:
        expected, tokens = ask(predictor)
        static = len(predictor._ranker.encoder.static_ids)
    with opened(any_bundle, tmp_path) as predictor:
        assert ask(predictor) == (pytest.approx(expected, abs=1e-4), tokens - static)
    [file] = tmp_path.glob("*.state")
    before = file.stat().st_mtime_ns
    with opened(any_bundle, tmp_path) as predictor:
        assert predictor._ranker.backend.decode_seconds == 0, "evaluated although there is a snapshot"
        assert ask(predictor) == (pytest.approx(expected, abs=1e-4), tokens - static)
        assert predictor.warm(tmp_path)
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text", "foreign", "folder"])
def test_bad_snapshots_are_made_anew(damage: str, any_bundle: Path, tmp_path: Path) -> None:
    with opened(any_bundle, tmp_path) as predictor:
        expected = ask(predictor)
    [file] = tmp_path.glob("*.state")
    good = file.read_bytes()
    if damage == "flip":
        file.write_bytes(good[:-900] + bytes([good[-900] ^ 1]) + good[-899:])
    elif damage == "foreign":
        header, state = read_state(file)
        write_state(file, {**header, "model": "another"}, state)
    elif damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes({"cut": good[: len(good) // 2], "empty": b"", "text": b"hello"}[damage])
    with opened(any_bundle, tmp_path) as predictor:
        assert predictor._ranker.backend.decode_seconds > 0
        found, tokens = ask(predictor)
        assert (found, tokens) == (pytest.approx(expected[0], abs=1e-4), expected[1])
    if damage != "folder":
        assert file.read_bytes() == good


def test_state_of_another_size_is_not_taken(any_bundle: Path, tmp_path: Path) -> None:
    """Right hash, wrong content: the engine itself says no, or the length does."""
    with opened(any_bundle, tmp_path) as predictor:
        backend = predictor._ranker.backend
        state, held = backend.save_state(), list(backend.held)
        assert not backend.load_state(held[:-1], state)
        assert backend.held == []
        assert not backend.load_state(held, state[:-8])
        assert backend.load_state(held, state)
        assert ask(predictor)[0]


def test_a_folder_that_takes_no_snapshot(any_bundle: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with opened(any_bundle, blocked) as predictor:
        assert ask(predictor)[0]


def test_old_snapshots_go(any_bundle: Path, tmp_path: Path) -> None:
    for i in range(KEPT_SNAPSHOTS + 5):
        write_state(tmp_path / f"{i}.state", {}, b"")
    with opened(any_bundle, tmp_path) as predictor:
        assert ask(predictor)[0]
    assert len(list(tmp_path.iterdir())) == KEPT_SNAPSHOTS


@pytest.mark.parametrize("header", [b"hello", b"", b"\xff", b"[" * 100_000, b'{"kind": ' + b"9" * 5000 + b"}"])
def test_a_header_that_is_not_json(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.state"
    body = MAGIC + len(header).to_bytes(8, "little") + header
    path.write_bytes(body + hashlib.blake2b(body, digest_size=32).digest())
    with pytest.raises(EdgebError, match="not JSON"):
        read_state(path)


def test_every_changed_byte_of_a_state_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_state(path, {"a": [1, 2]}, b"blob")
    assert read_state(path) == ({"a": [1, 2]}, b"blob")
    good = path.read_bytes()
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ np.uint8(1 << at % 8)]) + good[at + 1 :])
        with pytest.raises(EdgebError):
            read_state(path)
        path.write_bytes(good[:at])
        with pytest.raises(EdgebError):
            read_state(path)
