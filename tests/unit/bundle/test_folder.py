"""Folder bundles: what was written is read, and nothing else is."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_behavior.bundle.bundle import bundle_bytes, read_manifest, require_gguf, verify_bundle
from edge_behavior.bundle.folder import MANIFEST_FILE, write_folder_manifest
from edge_behavior.bundle.manifest import SCHEMA_VERSION, BaseModelInfo, Manifest
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError

FILES = {
    "genai_config.json": b'{"model": {}}',
    "model.onnx": b"graph",
    "model.onnx.data": bytes(range(256)) * 40,
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{ }",
    "special_tokens_map.json": b"[]",
    "chat_template.jinja": b"{{ x }}",
}
MANIFEST = Manifest(
    created_with="edgeb test", candidates=CandidateSet.of(["Bar", "Café"], [3, 1]), layout=PromptLayout(), bos_id=None,
    eos_id=0, architecture="qwen2", quantization="INT4 block 32", context_length=512,
    base_model=BaseModelInfo("x", None, "00"), training={"recipe": "tiny"},
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "bundle"
    made.mkdir()
    for name, content in FILES.items():
        (made / name).write_bytes(content)
    write_folder_manifest(made, MANIFEST)
    return made


def test_round_trip(folder: Path) -> None:
    seen: list[int] = []
    manifest = verify_bundle(folder, seen.append)
    assert sum(seen) == sum(len(content) for content in FILES.values())
    assert manifest == read_manifest(folder)
    assert replace(manifest, tokenizer_sha256="", tensors_sha256="") == MANIFEST
    fields = json.loads((folder / MANIFEST_FILE).read_text())
    assert fields["schema_version"] == SCHEMA_VERSION
    assert fields["files"] == {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    assert bundle_bytes(folder) == sum(file.stat().st_size for file in folder.iterdir())
    assert sorted(file.name for file in folder.iterdir()) == sorted([*FILES, MANIFEST_FILE])


@pytest.mark.parametrize(
    "name",
    [
        ".DS_Store", "._model.onnx", ".localized", "Icon\r", "Thumbs.db", "thumbs.db", "ehthumbs_vista.db",
        "desktop.ini",
        "Desktop.ini", ".directory", ".nfs000000000123abcd00000001", ".fuse_hidden0000000a00000001", ".smbdelete1AAA",
        "genai_config.json~", ".genai_config.json.swp", ".#model.onnx", "#model.onnx#",
    ],
)  # fmt: skip
def test_what_file_managers_and_editors_leave_is_passed_over(folder: Path, name: str) -> None:
    before, size = verify_bundle(folder), bundle_bytes(folder)
    (folder / name).write_bytes(b"x")
    assert verify_bundle(folder) == before
    assert bundle_bytes(folder) == size
    assert write_folder_manifest(folder, MANIFEST) == before
    assert name not in (folder / MANIFEST_FILE).read_text()
    assert (folder / name).read_bytes() == b"x"


def test_what_a_killed_writer_left_is_passed_over_and_then_removed(folder: Path) -> None:
    left = folder / f".{MANIFEST_FILE}.0123abcd.edgeb-partial"
    left.write_bytes(b"half")
    verify_bundle(folder)
    write_folder_manifest(folder, MANIFEST)
    assert not left.exists()


@pytest.mark.parametrize("name", ["@eaDir", "__MACOSX", ".Spotlight-V100", ".Trash-1000", ".AppleDouble"])
def test_folders_of_file_managers_are_passed_over(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "x").write_bytes(b"x")
    assert verify_bundle(folder) == read_manifest(folder)


@pytest.mark.parametrize(
    "name", ["DS_Store", ".hidden", "model.onnx.bak", "notes.txt", ".nfsx", "Thumbs.db.onnx", "Icon"]
)
def test_other_files_are_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    with pytest.raises(EdgebError, match="does not belong to the bundle"):
        read_manifest(folder)


def test_which_hash_a_file_changes(folder: Path) -> None:
    before = read_manifest(folder)
    for name in FILES:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        after = write_folder_manifest(folder, before)
        (folder / name).write_bytes(content)
        tokenizer = name.startswith(("tokenizer", "special_tokens", "chat_template"))
        assert (after.tokenizer_sha256 != before.tokenizer_sha256) == tokenizer, name
        assert (after.tensors_sha256 != before.tensors_sha256) == (not tokenizer), name
    assert write_folder_manifest(folder, MANIFEST) == before, "the same files give the same hashes"


@pytest.mark.parametrize("name", FILES)
def test_every_changed_file_is_noticed(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    for changed in (content[:-1], content + b"\0", bytes([content[0] ^ 1]) + content[1:]):
        (folder / name).write_bytes(changed)
        with pytest.raises(EdgebError, match=f"{name} does not match its hash"):
            verify_bundle(folder)


def _remove(folder: Path) -> None:
    (folder / "model.onnx.data").unlink()


def _add(folder: Path) -> None:
    (folder / "custom_ops.so").write_bytes(b"\x7fELF")


def _add_folder(folder: Path) -> None:
    (folder / "more").mkdir()


def _link(folder: Path) -> None:
    (folder / "model.onnx").rename(folder.parent / "model.onnx")
    (folder / "model.onnx").symlink_to(folder.parent / "model.onnx")


def _link_out(folder: Path) -> None:
    (folder / "passwd").symlink_to("/etc/passwd")


def _link_manifest(folder: Path) -> None:
    (folder / MANIFEST_FILE).rename(folder.parent / "m.json")
    (folder / MANIFEST_FILE).symlink_to(folder.parent / "m.json")


def _pipe(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_remove, "model.onnx.data is missing"),
        (_add, "custom_ops.so does not belong to the bundle"),
        (_add_folder, "more is not a file"),
        (_link, "model.onnx is a link"),
        (_link_out, "passwd is a link"),
        (_link_manifest, "edgeb.json is a link"),
        (_pipe, "tokenizer.json is not a file"),
    ],
)
def test_foreign_and_missing_files(folder: Path, change: Callable[[Path], None], message: str) -> None:
    change(folder)
    for reader in (read_manifest, verify_bundle):
        with pytest.raises(EdgebError, match=message) as error:
            reader(folder)
        assert error.value.hint
        assert "\n" not in str(error.value)


def _edit(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda fields: fields.update(changes)


def _files(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda fields: fields["files"].update(changes)


def _manifest(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """Another manifest with its own honest hash."""

    def edit(fields: dict[str, Any]) -> None:
        inner = json.loads(fields["manifest"]) | changes
        fields["manifest"] = json.dumps(inner)
        fields["manifest_sha256"] = hashlib.sha256(fields["manifest"].encode()).hexdigest()

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_edit(schema_version=2), r"written by a newer edgeb .schema 2, this one reads 1. .update edgeb"),
        (_edit(schema_version=0), "'schema_version' is 0"),
        (_edit(schema_version=True), "'schema_version' is True"),
        (_edit(schema_version="1"), "'schema_version' is '1'"),
        (lambda fields: fields.pop("files"), "field 'files' is missing"),
        (lambda fields: fields.pop("schema_version"), "'schema_version' is None"),
        (_edit(extra=1), "unknown field 'extra'"),
        (_edit(manifest={}), "field 'manifest' is {}, not str"),
        (_edit(files=[]), r"field 'files' is \[\], not an object"),
        (_edit(manifest="{}"), "the manifest does not match its hash"),
        (_edit(manifest="\ud800"), "the manifest does not match its hash"),
        (_edit(manifest_sha256="0" * 64), "the manifest does not match its hash"),
        (_manifest(eos_id="0"), "manifest: field 'eos_id' is '0'"),
        (_manifest(schema_version=2), "written by a newer edgeb"),
        (_manifest(tensors_sha256="0" * 64), "the files' hashes do not match the manifest's"),
        (_manifest(tokenizer_sha256=""), "the files' hashes do not match the manifest's"),
        (_files(**{"model.onnx": "0" * 64}), "the files' hashes do not match the manifest's"),
        (_files(**{"model.onnx": "abc"}), "the hash of 'model.onnx' is 'abc'"),
        (_files(**{"model.onnx": 1}), "the hash of 'model.onnx' is 1"),
        (_files(**{"../secret": "0" * 64}), r"'../secret' in 'files' is not a file name"),
        (_files(**{"/etc/passwd": "0" * 64}), r"'/etc/passwd' in 'files' is not a file name"),
        (_files(**{"a\\b": "0" * 64}), "is not a file name"),
        (_files(**{"": "0" * 64}), "'' in 'files' is not a file name"),
        (_files(**{"..": "0" * 64}), r"'\.\.' in 'files' is not a file name"),
        (_files(**{"\ud800": "0" * 64}), "is not a file name"),
        (_files(**{MANIFEST_FILE: "0" * 64}), "'edgeb.json' in 'files' is not a file name"),
    ],
)
def test_edited_manifests(folder: Path, edit: Callable[[dict[str, Any]], object], message: str) -> None:
    fields = json.loads((folder / MANIFEST_FILE).read_text())
    edit(fields)
    (folder / MANIFEST_FILE).write_text(json.dumps(fields))
    for reader in (read_manifest, verify_bundle):
        with pytest.raises(EdgebError, match=message) as error:
            reader(folder)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is not JSON"), (b"\xff", "is not JSON"), (b"[" * 100_000, "is not JSON"), (b"[]", "is not a JSON object")],
)
def test_no_json(folder: Path, content: bytes, message: str) -> None:
    (folder / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(EdgebError, match=message):
        read_manifest(folder)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 4000), raw=st.binary(min_size=1, max_size=12))
def test_a_damaged_manifest_never_gets_through(folder: Path, at: int, raw: bytes) -> None:
    whole = (folder / MANIFEST_FILE).read_bytes()
    content = bytearray(whole)
    content[at : at + len(raw)] = raw
    (folder / MANIFEST_FILE).write_bytes(content)
    try:
        found = read_manifest(folder)
    except EdgebError:
        pass
    else:
        assert replace(found, tokenizer_sha256="", tensors_sha256="") == MANIFEST, "only spaces can be changed"
    finally:
        (folder / MANIFEST_FILE).write_bytes(whole)


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(EdgebError, match=r"is a folder without edgeb.json, not an edgeb bundle"):
        verify_bundle(tmp_path)


def test_what_needs_a_file_says_so(folder: Path) -> None:
    require_gguf(folder / "model.onnx", "")
    with pytest.raises(EdgebError, match=r"is a folder, and bench measures llama.cpp .pass a bundle exported with"):
        require_gguf(folder, "bench measures llama.cpp")
