"""Checksums against hashlib, over block borders."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edge_behavior.util.checksums import file_sha256, folder_sha256


def test_a_file_of_several_blocks(tmp_path: Path) -> None:
    content, read = bytes(range(256)) * 10_000, []
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file", read.append) == hashlib.sha256(content).hexdigest()
    assert sum(read) == len(content)
    assert len(read) == 3


def test_a_folder_and_what_lies_below(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "deep").write_bytes(b"x")
    (tmp_path / "top").write_bytes(b"")
    assert folder_sha256(tmp_path) == {
        "a/b/deep": hashlib.sha256(b"x").hexdigest(),
        "top": hashlib.sha256(b"").hexdigest(),
    }
