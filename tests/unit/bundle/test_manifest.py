"""Bundle files: what is written is what is read, and nothing damaged is believed."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_behavior.bundle.bundle import read_manifest, verify_bundle
from edge_behavior.bundle.gguf_file import write_bundle
from edge_behavior.bundle.manifest import BaseModelInfo, Manifest
from edge_behavior.core.balance import FittedBalance
from edge_behavior.core.calibration import Calibration, CalibrationSet
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.license import License
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError

RAW = Calibration()
LABELS = ("Check email", "Listen to music", "Café visit", "買い物")


def manifest(**changes: Any) -> Manifest:
    base = Manifest(
        created_with="edgeb 0.1.0",
        candidates=CandidateSet(LABELS, (500, 30, 2, 0)),
        layout=PromptLayout("stream", history_length=12),
        bos_id=None,
        eos_id=7,
        architecture="qwen2",
        quantization="Q4_K_M",
        context_length=512,
        base_model=BaseModelInfo("tiny", License.stated("llama3.2", texts={"LICENSE": "Terms."}), "ab" * 32),
        training={"recipe": "tiny", "a_tuning": {"lr": 1e-4}},
        evaluation={"overall": 0.25},
    )
    return replace(base, **changes)


def write_plain(path: Path, alignment: int | None = None) -> Path:
    """A GGUF without a manifest, written by the gguf package."""
    writer = gguf.GGUFWriter(str(path), "qwen2")
    if alignment:
        writer.add_custom_alignment(alignment)
    writer.add_block_count(1)
    writer.add_rope_freq_base(1e6)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"tok{i}" for i in range(40)])
    writer.add_token_types([1] * 40)
    writer.add_add_bos_token(False)
    rng = np.random.default_rng(0)
    writer.add_tensor("token_embd.weight", rng.normal(size=(10, 8)).astype(np.float16))
    writer.add_tensor("output_norm.weight", rng.normal(size=5).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_plain(tmp_path / "plain.gguf")


@pytest.fixture
def bundle(plain: Path, tmp_path: Path) -> Path:
    write_bundle(plain, manifest(), tmp_path / "bundle.gguf")
    return tmp_path / "bundle.gguf"


@pytest.mark.parametrize("alignment", [None, 64])
def test_bundle_is_the_same_gguf_plus_manifest(tmp_path: Path, alignment: int | None) -> None:
    plain = write_plain(tmp_path / "plain.gguf", alignment)
    written = write_bundle(plain, manifest(), tmp_path / "bundle.gguf")
    before, after = gguf.GGUFReader(plain), gguf.GGUFReader(tmp_path / "bundle.gguf")
    for a, b in zip(before.tensors, after.tensors, strict=True):
        assert (a.name, list(a.shape), a.tensor_type) == (b.name, list(b.shape), b.tensor_type)
        np.testing.assert_array_equal(a.data, b.data)
    keys = list(after.fields)
    assert set(before.fields) < set(keys)
    assert after.fields["edgeb.candidates"].contents() == list(LABELS)
    assert after.fields["edgeb.schema_version"].contents() == 1
    assert json.loads(after.fields["edgeb.manifest"].contents())["static_prompt"] == manifest().static_prompt
    assert keys.index("general.architecture") < keys.index("edgeb.manifest") < keys.index("tokenizer.ggml.tokens")
    assert read_manifest(tmp_path / "bundle.gguf") == verify_bundle(tmp_path / "bundle.gguf") == written


def test_rewriting_replaces_the_manifest(bundle: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.gguf"
    write_bundle(bundle, manifest(training={}), again)
    assert verify_bundle(again) == replace(read_manifest(bundle), training={})
    assert list(gguf.GGUFReader(again).fields).count("edgeb.manifest") == 1


def test_reading_does_not_need_the_vocabulary(bundle: Path) -> None:
    content = bundle.read_bytes()
    bundle.write_bytes(content[: content.index(b"tokenizer.ggml.tokens") + 40])
    assert read_manifest(bundle).candidates.labels == LABELS
    with pytest.raises(EdgebError, match="cut short"):
        verify_bundle(bundle)


def test_every_changed_byte_is_noticed(bundle: Path) -> None:
    content = bundle.read_bytes()
    # All of the fixed head, then a stride that visits every section.
    for at in [*range(24), *range(24, len(content), 5), len(content) - 1]:
        damaged = bytearray(content)
        damaged[at] ^= 1 << (at % 8)
        bundle.write_bytes(damaged)
        with pytest.raises(EdgebError):
            verify_bundle(bundle)


def test_every_truncation_is_noticed(bundle: Path) -> None:
    content = bundle.read_bytes()
    for length in [*range(0, len(content), 37), len(content) - 1]:
        bundle.write_bytes(content[:length])
        with pytest.raises(EdgebError):
            verify_bundle(bundle)
    bundle.write_bytes(content + b"\0")
    with pytest.raises(EdgebError, match="tensors do not match"):
        verify_bundle(bundle)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 4000), raw=st.binary(min_size=1, max_size=12))
def test_a_damaged_header_never_crashes_the_reader(bundle: Path, at: int, raw: bytes) -> None:
    content = bytearray((bundle.parent / "bundle.gguf").read_bytes())
    content[at : at + len(raw)] = raw
    path = bundle.parent / "damaged.gguf"
    path.write_bytes(content)
    for reader in (read_manifest, verify_bundle):
        with suppress(EdgebError):
            reader(path)


def test_files_that_are_no_bundle(plain: Path, tmp_path: Path) -> None:
    cases = {
        "cannot read .*: No such file": tmp_path / "absent.gguf",
        "is a folder": tmp_path,
        "is an empty file": _file(tmp_path / "empty", b""),
        "is not a GGUF file": _file(tmp_path / "text", b"user_id,timestamp\n"),
        "GGUF version 1": _file(tmp_path / "v1", b"GGUF" + struct.pack("<I", 1) + bytes(16)),
        "GGUF version 50331648": _file(tmp_path / "big-endian", b"GGUF" + struct.pack(">I", 3) + bytes(16)),
        "is cut short": _file(tmp_path / "head", b"GGUF" + struct.pack("<IQ", 3, 1)),
        "is a GGUF but not an edgeb bundle .export it with edgeb export": plain,
    }
    for message, path in cases.items():
        for reader in (read_manifest, verify_bundle):
            with pytest.raises(EdgebError, match=message):
                reader(path)


@pytest.mark.parametrize(
    "entry",
    [
        struct.pack("<Q", 1 << 60),  # a key longer than the file
        struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 8, 1 << 60),  # an endless array of strings
        struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 4, 1 << 60),  # an endless array of numbers
        struct.pack("<Q", 1) + b"a" + struct.pack("<IQ", 8, 1 << 63),  # an endless string
        struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 9, 1),  # an array of arrays
        struct.pack("<Q", 1) + b"a" + struct.pack("<IQ", 99, 1),  # an unknown type
        struct.pack("<Q", 1) + b"\xff" + struct.pack("<IQ", 4, 1),  # a key that is no text
    ],
)
def test_hostile_lengths_are_refused(tmp_path: Path, entry: bytes) -> None:
    path = _file(tmp_path / "x", b"GGUF" + struct.pack("<IQQ", 3, 1 << 62, 1 << 62) + entry + bytes(64))
    with pytest.raises(EdgebError, match=r"damaged|cut short"):
        read_manifest(path)


def test_newer_schema_is_refused_before_its_fields_are_judged() -> None:
    fields = json.loads(manifest().to_json())
    fields |= {"schema_version": 2, "field_of_the_future": 1}
    with pytest.raises(EdgebError, match=r"newer edgeb.*update edgeb"):
        Manifest.from_json(json.dumps(fields), "x.gguf")


def _without(fields: dict[str, Any]) -> None:
    del fields["eos_id"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without, "x: manifest: field 'eos_id' is missing"),
        (lambda f: f.update(extra=1), "x: manifest: unknown field 'extra'"),
        (lambda f: f.update(balance=None), "x: manifest: field 'balance' is None, not an object"),
        (lambda f: f.update(eos_id="7"), "'eos_id' is '7', not int"),
        (lambda f: f.update(eos_id=True), "'eos_id' is True, not int"),
        (lambda f: f.update(bos_id=1.5), "'bos_id' is 1.5, not int or null"),
        (lambda f: f.update(schema_version="1"), "'schema_version' is '1'"),
        (lambda f: f.update(schema_version=0), "'schema_version' is 0"),
        (lambda f: f["candidates"].pop("counts"), "x: manifest.candidates: field 'counts' is missing"),
        (lambda f: f["candidates"]["labels"].__setitem__(1, 5), r"x: manifest\.candidates\.labels\[1\] is 5, not str"),
        (lambda f: f["candidates"]["counts"].pop(), "3 counts for 4 labels"),
        (lambda f: f["candidates"]["labels"].__setitem__(1, "Check  email"), "stray space"),
        (lambda f: f["layout"].update(colour="red"), "unknown field 'colour'"),
        (lambda f: f["layout"].update(history_length="20"), "manifest.layout: field 'history_length' is '20', not int"),
        (lambda f: f["layout"].update(list_candidates=1), "'list_candidates' is 1, not bool"),
        (lambda f: f["layout"].pop("role"), "x: manifest.layout: field 'role' is missing"),
        (lambda f: f["base_model"].pop("license"), "x: manifest.base_model: field 'license' is missing"),
        (lambda f: f["base_model"].update(license="mit"), "'license' is 'mit', not an object or null"),
        (lambda f: f["base_model"]["license"].pop("link"), "x: manifest.base_model.license: field 'link' is missing"),
        (lambda f: f["base_model"]["license"].update(id="\x1b"), "is no line of a license"),
        (lambda f: f.update(static_prompt="Guess."), "words the prompt differently from edgeb 0.1.0"),
    ],
)
def test_manifest_fields_are_strict(change: Any, message: str) -> None:
    fields = json.loads(manifest().to_json())
    change(fields)
    with pytest.raises(EdgebError, match=message):
        Manifest.from_json(json.dumps(fields), "x")


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000])
def test_manifest_that_is_no_object(text: str) -> None:
    with pytest.raises(EdgebError, match="manifest"):
        Manifest.from_json(text)


@given(
    labels=st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8), min_size=2, max_size=5),
    bos=st.none() | st.integers(0, 200_000),
    training=st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.floats(allow_nan=False) | st.text()),
)
@settings(max_examples=60, deadline=None)
def test_manifest_round_trip(labels: list[str], bos: int | None, training: dict[str, Any]) -> None:
    try:
        candidates = CandidateSet.of(labels, range(len(labels)))
    except EdgebError:
        return
    finite = {k: v for k, v in training.items() if v not in (float("inf"), float("-inf"))}
    original = manifest(candidates=candidates, bos_id=bos, training=finite)
    assert Manifest.from_json(original.to_json()) == original
    assert original.to_json().isascii()


def test_what_was_not_balanced_says_nothing_of_it() -> None:
    assert "balance" not in json.loads(manifest().to_json())
    held = FittedBalance({"model": 0.25, "habits": 0.0}, CalibrationSet({"model": Calibration(2.0), "habits": RAW}))
    for balance in (held, FittedBalance(held.fitted)):
        written = manifest(balance=balance)
        assert Manifest.from_json(written.to_json()) == written


def test_a_balance_and_its_calibration() -> None:
    """At 0 the bundle's own, at the fitted τ the balance's, elsewhere none."""
    own, other = Calibration(3.0), Calibration(2.0)
    plain = manifest(calibration=CalibrationSet({"model": own, "habits": own}))
    held = CalibrationSet({"model": other, "habits": other})
    fitted = replace(plain, balance=FittedBalance({"model": 0.25, "habits": 0.0}, held))
    asked = [(source, t) for source in ("model", "habits") for t in (0.0, 0.25)]
    assert [fitted.calibration_at(*one) for one in asked] == [own, other, own, None]
    assert [plain.calibration_at(*one) for one in asked] == [own, None, own, None]
    assert [fitted.balance_of(source, "fitted") for source in ("model", "habits")] == [0.25, 0.0]
    assert plain.balance_of("model", 0.7) == 0.7
    with pytest.raises(EdgebError, match="no fitted balance"):
        plain.balance_of("model", "fitted")


def test_undefined_metrics_become_null() -> None:
    written = json.loads(manifest(evaluation={"tail": float("nan"), "all": [1.0, float("inf")]}).to_json())
    assert written["evaluation"] == {"tail": None, "all": [1.0, None]}
    with pytest.raises(EdgebError, match="cannot be written as JSON"):
        manifest(training={"x": object()}).to_json()


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
