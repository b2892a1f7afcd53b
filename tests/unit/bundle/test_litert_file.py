"""LiteRT bundles: what was written is read, stock readers open both halves, and nothing damaged is believed."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_behavior.bundle.bundle import (
    bundle_bytes,
    bundle_form,
    read_manifest,
    read_population,
    require_gguf,
    verify_bundle,
)
from edge_behavior.bundle.litert_file import (
    MANIFEST_ENTRY,
    TOKENIZER_ENTRY,
    read_litert,
    read_litert_entry,
    write_litert,
)
from edge_behavior.bundle.litert_graph import LiteRtGraph, SlidingWindow
from edge_behavior.bundle.manifest import SCHEMA_VERSION, BaseModelInfo, Manifest
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError

# As a flatbuffer begins: the root's offset and the identifier.
MODEL = b"\x1c\0\0\0TFL3" + bytes(range(256)) * 40
TOKENIZER = b"GGUF" + bytes(500)
MANIFEST = Manifest(
    created_with="edgeb test", candidates=CandidateSet.of(["Bar", "Café"], [3, 1]), layout=PromptLayout(), bos_id=None,
    eos_id=0, architecture="gemma3", quantization="int8", context_length=512,
    base_model=BaseModelInfo("x", None, "00"), training={"recipe": "tiny"},
)  # fmt: skip
GRAPH = LiteRtGraph(
    sizes=(1, 8), first_sizes=(8,), cache=512, layers=2, hidden=64, kv_heads=2, head_dim=4, vocabulary=600,
    rope=(1.0, 0.0009999999310821295), sliding=SlidingWindow(16, (1.0, 0.01)),
)  # fmt: skip


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "model.tflite").write_bytes(MODEL)
    out = tmp_path / "bundle.tflite"
    write_litert(tmp_path / "model.tflite", TOKENIZER, MANIFEST, GRAPH, out)
    return out


def test_round_trip(bundle: Path) -> None:
    seen: list[int] = []
    manifest = verify_bundle(bundle, seen.append)
    assert sum(seen) == len(MODEL)
    assert manifest == read_manifest(bundle)
    assert replace(manifest, tokenizer_sha256="", tensors_sha256="") == MANIFEST
    read = read_litert(bundle)
    assert (read.manifest, read.graph, read.model_bytes) == (manifest, GRAPH, len(MODEL))
    assert read_litert_entry(bundle, TOKENIZER_ENTRY) == TOKENIZER
    assert read_population(bundle) is None
    assert bundle_form(bundle) == "litert"
    assert bundle_bytes(bundle) == bundle.stat().st_size


def test_the_model_comes_first_and_the_rest_is_a_zip(bundle: Path) -> None:
    assert bundle.read_bytes()[: len(MODEL)] == MODEL
    with zipfile.ZipFile(bundle) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [MANIFEST_ENTRY, TOKENIZER_ENTRY]
        # Absolute offsets, which java.util.zip needs.
        assert archive.infolist()[0].header_offset == len(MODEL)
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_the_same_bundle_gives_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    write_litert(tmp_path / "model.tflite", TOKENIZER, MANIFEST, GRAPH, tmp_path / "again.tflite")
    assert (tmp_path / "again.tflite").read_bytes() == bundle.read_bytes()


def test_which_hash_a_change_changes(bundle: Path, tmp_path: Path) -> None:
    before = read_manifest(bundle)
    (tmp_path / "other.tflite").write_bytes(MODEL + b"\0")
    for model, tokenizer, graph in (
        ("other.tflite", TOKENIZER, GRAPH),
        ("model.tflite", TOKENIZER + b"\0", GRAPH),
        ("model.tflite", TOKENIZER, replace(GRAPH, rope=(1.0, 0.5))),
    ):
        after = write_litert(tmp_path / model, tokenizer, MANIFEST, graph, bundle)
        assert (after.tokenizer_sha256 != before.tokenizer_sha256) == (tokenizer != TOKENIZER)
        assert (after.tensors_sha256 != before.tensors_sha256) == (tokenizer == TOKENIZER)


def test_a_file_without_edgebs_manifest(tmp_path: Path) -> None:
    stock = tmp_path / "stock.tflite"
    stock.write_bytes(MODEL)
    with pytest.raises(EdgebError, match="a LiteRT file without edgeb's manifest, or cut short before it"):
        read_manifest(stock)
    with zipfile.ZipFile(stock, "a") as archive:
        archive.writestr("labels.txt", "of TFLite's own metadata")
    with pytest.raises(EdgebError, match=r"a LiteRT file without edgeb's manifest .export it"):
        read_manifest(stock)


@pytest.mark.parametrize("content", [b"", b"TFL3", b"GGUF" + bytes(100), b"PK\3\4" + bytes(100)])
def test_not_a_litert_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.tflite"
    path.write_bytes(content)
    with pytest.raises(EdgebError, match=r"x.tflite is not a LiteRT file"):
        read_manifest(path)
    with pytest.raises(EdgebError, match=r"x.tflite is not a LiteRT file"):
        write_litert(path, TOKENIZER, MANIFEST, GRAPH, tmp_path / "out.tflite")
    assert not (tmp_path / "out.tflite").exists()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(EdgebError, match=r"cannot read .*: No such file"):
        read_manifest(tmp_path / "none.tflite")


def test_a_file_of_another_name_is_known_by_its_bytes(bundle: Path) -> None:
    other = bundle.rename(bundle.with_suffix(".bin"))
    assert read_litert(other).graph == GRAPH
    assert bundle_form(other) == "litert"
    with pytest.raises(EdgebError, match="is a LiteRT file, and grammars are"):
        require_gguf(other, "grammars are llama.cpp's")


def test_every_shorter_file_is_refused(bundle: Path) -> None:
    content = bundle.read_bytes()
    archive = len(MODEL) + 100
    for end in [*range(0, len(MODEL), 997), *range(len(MODEL), len(content), 7), len(content) - 1]:
        bundle.write_bytes(content[:end])
        with pytest.raises(EdgebError) as caught:
            verify_bundle(bundle)
        if end > archive:
            assert "is cut short: it ends inside edgeb's archive" in caught.value.message


def _repacked(bundle: Path, change: Callable[[dict[str, Any]], object], **entries: bytes | None) -> None:
    """Write the archive again with an edited edgeb.json and other entries."""
    with zipfile.ZipFile(bundle) as archive:
        held: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    fields = json.loads(held[MANIFEST_ENTRY] or b"")
    change(fields)
    held |= {MANIFEST_ENTRY: json.dumps(fields).encode(), **entries}
    bundle.write_bytes(MODEL)
    with zipfile.ZipFile(bundle, "a") as archive:
        for name, content in held.items():
            if content is not None:
                archive.writestr(name, content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.update(schema_version=SCHEMA_VERSION + 1, more=1), "written by a newer edgeb"),
        (lambda f: f.update(schema_version=0), "'schema_version' is 0"),
        (lambda f: f.pop("graph"), "'graph' is missing"),
        (lambda f: f.update(extra=1), "unknown field 'extra'"),
        (lambda f: f.update(manifest=f["manifest"] + " "), "the manifest does not match its hash"),
        (lambda f: f.update(model_sha256="0" * 64), "the hashes do not match the manifest's"),
        (lambda f: f.update(model_sha256="x"), "a hash is 'x'"),
        (lambda f: f.update(model_bytes=len(MODEL) - 1), "does not begin where the model ends"),
        (lambda f: f.update(model_bytes=True), "field 'model_bytes' is True"),
        (lambda f: f["graph"].update(cache=256), "the hashes do not match the manifest's"),
        (lambda f: f["graph"].update(cache=0), "graph: field 'cache' is 0"),
        (lambda f: f["graph"].update(sizes=[8, 1]), "not ascending sizes"),
        (lambda f: f["graph"].update(sizes=[]), "'sizes' is"),
        (lambda f: f["graph"].update(first_sizes=[8, 4]), "first_sizes is .8, 4., not ascending"),
        (lambda f: f["graph"].update(rope=[1.0]), "graph.rope is"),
        (lambda f: f["graph"].update(rope=[1.0, -1.0]), "a frequency that is none"),
        (lambda f: f["graph"]["sliding"].update(window=0), "sliding: field 'window' is 0"),
        (lambda f: f["files"].pop(TOKENIZER_ENTRY), "'files' has no entry"),
        (lambda f: f["files"].update({"../x": "0" * 64}), "'files' has"),
        (lambda f: f["files"].update({"population.bin": "0" * 64}), "the archive holds"),
    ],
)
def test_an_edited_manifest_is_refused(bundle: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    _repacked(bundle, change)
    with pytest.raises(EdgebError, match=message) as caught:
        verify_bundle(bundle)
    assert str(bundle) in caught.value.message


def test_other_entries_are_refused(bundle: Path) -> None:
    _repacked(bundle, lambda fields: None, **{"more.txt": b"x"})
    with pytest.raises(EdgebError, match="the archive holds"):
        read_manifest(bundle)
    _repacked(bundle, lambda fields: None, **{"more.txt": None, TOKENIZER_ENTRY: None})
    with pytest.raises(EdgebError, match="the archive holds"):
        read_manifest(bundle)


def test_a_changed_model_and_a_changed_tokenizer(bundle: Path) -> None:
    content = bundle.read_bytes()
    bundle.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    with pytest.raises(EdgebError, match="the model does not match its hash"):
        verify_bundle(bundle)
    bundle.write_bytes(content)
    _repacked(bundle, lambda fields: None, **{TOKENIZER_ENTRY: TOKENIZER[:-1] + b"x"})
    with pytest.raises(EdgebError, match=r"tokenizer.gguf does not match its hash"):
        verify_bundle(bundle)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(data=st.data())
def test_damage_is_refused_or_harmless(bundle: Path, data: st.DataObject) -> None:
    whole, before = bundle.read_bytes(), read_litert(bundle)
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[at] ^= data.draw(st.integers(1, 255))
    bundle.write_bytes(damaged)
    try:
        verify_bundle(bundle)
        # Dates and flags of the archive decide nothing.
        assert at >= len(MODEL)
        assert read_litert(bundle) == before
        assert read_litert_entry(bundle, TOKENIZER_ENTRY) == TOKENIZER
    except EdgebError:
        pass
    finally:
        bundle.write_bytes(whole)
