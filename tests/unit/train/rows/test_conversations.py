"""Conversation files that cannot be read are named, with the line, whatever is wrong with them."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from edge_behavior.errors import EdgebError
from edge_behavior.train.rows.conversations import Conversations, read_conversations
from tests import helpers


@pytest.fixture(scope="module")
def tokens() -> Any:
    return helpers.tokenizer()


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


ASKED, ANSWERED = "Where to?", "To Zürich."
TURNS = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}]
FORMS: dict[str, dict[str, Any]] = {
    "sharegpt": {"id": "1", "conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": ANSWERED}]},
    "messages": {"messages": TURNS},
    "lmsys": {"conversation_id": "1", "model": "m", "conversation": TURNS, "turn": 1},
    "alpaca": {"instruction": ASKED, "input": "", "output": ANSWERED},
    "question": {"question": ASKED, "answer": ANSWERED},
    "problem": {"problem": ASKED, "solution": ANSWERED},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", ["lines", "array", "pretty array", "packed array"])
def test_every_form_is_read_from_lines_and_from_an_array(tmp_path: Path, form: str, shape: str) -> None:
    path = tmp_path / ("talk.json.gz" if shape.startswith("packed") else "talk.json")
    records = [FORMS[form]] * 2
    content = (
        "\n".join(json.dumps(record) for record in records)
        if shape == "lines"
        else json.dumps(records, indent=2 if shape.startswith("pretty") else None)
    ).encode()
    path.write_bytes(gzip.compress(content) if shape.startswith("packed") else content)
    assert read_conversations(path) == [[("user", ASKED), ("assistant", ANSWERED)]] * 2


def test_alpaca_input_follows_the_instruction(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    path.write_text(json.dumps([{"instruction": "Translate.", "input": "Guten Tag", "output": "Good day"}]))
    assert read_conversations(path) == [[("user", "Translate.\n\nGuten Tag"), ("assistant", "Good day")]]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('[{"question": "a", "answer": "b"}, {"text": "c"}]', r"talk\.json: record 2: not a conversation"),
        ('[{"question": "a", "answer": "b"},', r"talk\.json: not a JSON array"),
        ("[]", "holds no conversation"),
        ("[1]", "record 1: not a conversation"),
        ('{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', r"talk\.json:1: not a conversation"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', r"talk\.json:1: not a conversation"),
        ('{"question": "a", "answer": null}', r"talk\.json:1: not a conversation"),
    ],
)
def test_a_record_of_no_known_form_is_named(tmp_path: Path, content: str, named: str) -> None:
    (tmp_path / "talk.json").write_text(content)
    with pytest.raises(EdgebError, match=named) as caught:
        read_conversations(tmp_path / "talk.json")
    assert caught.value.hint


def test_few_conversations_repeat(tokens: Any) -> None:
    talk = [[("user", f"number {i}"), ("assistant", f"it is {i}")] for i in range(3)]
    held = Conversations(talk, tokens)
    rows = [tuple(row["input_ids"]) for row in held.sample(8, 1000, seed=0)]
    assert len(rows) == 8
    assert len(set(rows)) == 3
    assert max(rows.count(row) for row in rows) - min(rows.count(row) for row in rows) == 1
    assert len(held.sample(8, 1, seed=0)) == 0
