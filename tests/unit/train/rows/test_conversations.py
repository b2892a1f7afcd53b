"""Conversation files that cannot be read are named, with the line, whatever is wrong with them."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from edge_behavior.errors import EdgebError
from edge_behavior.train.rows.conversations import read_conversations

LINE = '{"question": "How was the café?", "answer": "Full."}\n'


@pytest.mark.parametrize("name", ["talk.jsonl", "talk.jsonl.gz"])
def test_plain_and_packed_files_are_the_same(tmp_path: Path, name: str) -> None:
    content = (LINE * 3).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert read_conversations(tmp_path / name) == [[("user", "How was the café?"), ("assistant", "Full.")]] * 3


@pytest.mark.parametrize("wrong", [b'{"question": "caf\xe9", "answer": "x"}\n', b"\xff\xfe{\x00"])
def test_a_line_that_is_not_utf_8_is_named(tmp_path: Path, wrong: bytes) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_bytes((LINE * 6).encode() + wrong)
    with pytest.raises(EdgebError, match=r"a_tuning\.aux_path .*talk\.jsonl:7: not UTF-8") as caught:
        read_conversations(path)
    assert caught.value.hint


def packed(lines: int) -> bytes:
    """Many different lines, so that the packed file is several blocks long."""
    rng = random.Random(0)
    text = "".join(f'{{"question": "{rng.random()}", "answer": "{rng.random()}"}}\n' for _ in range(lines))
    return gzip.compress(text.encode())


@pytest.mark.parametrize("damage", ["cut", "checksum", "middle", "header"])
def test_a_damaged_gzip_is_named(tmp_path: Path, damage: str) -> None:
    path, content = tmp_path / "talk.jsonl.gz", bytearray(packed(3000))
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "checksum":
        content[-8] ^= 1
    elif damage == "middle":
        content[len(content) // 2 : len(content) // 2 + 40] = b"\xff" * 40
    else:
        content[:2] = b"no"
    path.write_bytes(bytes(content))
    with pytest.raises(EdgebError, match=r"talk\.jsonl\.gz") as caught:
        read_conversations(path)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    if damage == "cut":
        assert "truncated" in caught.value.message


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_file_holds_no_conversation(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "talk.jsonl").write_bytes(content)
    with pytest.raises(EdgebError, match="holds no conversation"):
        read_conversations(tmp_path / "talk.jsonl")
