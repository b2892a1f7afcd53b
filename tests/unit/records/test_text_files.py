"""What a file is, is read off its first bytes; a byte that is no text is named with its line."""

from __future__ import annotations

import gzip
import os
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_behavior.errors import EdgebError
from edge_behavior.records.text_files import detect

TEXT = "timestamp,place,behavior\r\n2024-03-18T07:05,Zürich,日本語\r\n"
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")


def read(path: Path) -> str:
    with detect(path).open() as file:
        return file.read()


def put(folder: Path, content: bytes, name: str = "log.csv") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["log", "log.csv", "log.csv.gz", "log.parquet"])
def test_content_decides(tmp_path, encoding, packed, name):
    content = TEXT.encode(encoding)
    assert read(put(tmp_path, gzip.compress(content) if packed else content, name)) == TEXT


def test_utf16_big_endian_with_a_mark(tmp_path):
    assert read(put(tmp_path, b"\xfe\xff" + TEXT.encode("utf-16-be"))) == TEXT


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ENCODINGS), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff")))
def test_any_text_is_read_back(encoding, text):
    text = "timestamp,place,behavior\n" + text
    with tempfile.TemporaryDirectory() as folder:
        assert read(put(Path(folder), text.encode(encoding))) == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PAR1\x15\x00", "is a Parquet file"),
        (b"PK\x03\x04\x14\x00", "is a zip archive or an Excel workbook"),
        (b"SQLite format 3\0", "is an SQLite database"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an old Office document"),
        (b"BZh91AY&SY", "is compressed with bzip2"),
        (b"\x28\xb5\x2f\xfd\x04", "is compressed with zstd"),
        (gzip.compress(gzip.compress(b"a,b\n", mtime=0), mtime=0), "is compressed with gzip twice"),
        (TEXT.encode("utf-32"), "is UTF-32 text"),
        (b"\n<!DOCTYPE html><html>", "is a web page or XML"),
        ("\ufeff<?xml version='1.0'?>".encode(), "is a web page or XML"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, content, message):
    with pytest.raises(EdgebError, match=message) as caught:
        detect(put(tmp_path, content))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\nc,d\xe9e\n", r"log\.csv:2: byte 4 of the line, 0xE9, is not UTF-8 text"),
        (b"a,b\n" * 9000 + b"x\x80", r"log\.csv:9001: byte 2 of the line, 0x80"),
        (gzip.compress(b"a,b\n\xff\n", mtime=0), r"log\.csv:2: byte 1 of the line, 0xFF"),
        (b"a,b\nx\xc3", r"log\.csv:2: byte 2 of the line, 0xC3"),
        ("a,b\n1,2\n".encode("utf-16") + b"x", "UTF-16 text with a damaged character"),
        (gzip.compress(TEXT.encode() * 999)[:-30], "damaged gzip file"),
        (b"\x1f\x8bnothing", "damaged gzip file"),
    ],
)
def test_damage_is_named(tmp_path, content, message):
    with pytest.raises(EdgebError, match=message) as caught:
        read(put(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(EdgebError, match=r"cannot read .*absent: No such file"):
        detect(tmp_path / "absent")
    with pytest.raises(EdgebError, match=r"cannot read .*directory"):
        detect(tmp_path)


def test_a_pipe_is_read_once(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(gzip.compress(TEXT.encode()),))
    writer.start()
    found = detect(pipe)
    writer.join()
    for _ in range(2):
        with found.open() as file:
            assert file.read() == TEXT
