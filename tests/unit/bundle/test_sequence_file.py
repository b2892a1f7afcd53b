"""The file of a sequence model: what is written is read, by stock readers, too; what is damaged is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.bundle.bundle import bundle_form, read_manifest, require_gguf, verify_bundle
from edge_behavior.bundle.gguf_file import KEY_VERSION
from edge_behavior.bundle.gguf_header import GgufFile
from edge_behavior.bundle.sequence_file import is_sequence, read_sequence
from edge_behavior.core.population import text_hash
from edge_behavior.errors import EdgebError
from edge_behavior.export.sequence.writer import shape_of, write_sequence
from edge_behavior.runtime.predictor import Predictor
from tests import helpers, sequence_files

CONFIG = SequenceConfig(hidden=8, layers=1, heads=2)


@pytest.fixture(scope="module", params=sequence_files.NAMES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = sequence_files.described(request.param, config=CONFIG)
    return sequence_files.bundle(model, sequence_files.network(model), tmp_path_factory.mktemp("b") / "s.gguf")


def test_what_is_written_is_read(made: Path) -> None:
    name = read_manifest(made).architecture.removeprefix("edgeb-")
    model = sequence_files.described(name, config=CONFIG)
    found = read_sequence(made)
    assert found.shape == shape_of(model)
    assert found.labels == tuple(helpers.LABELS)
    assert found.places.tolist() == [text_hash(place) for place in sequence_files.PLACES]
    weights = sequence_files.arrays(sequence_files.network(model))
    assert sum(held.size for held in weights.values()) == found.shape.parameters
    np.testing.assert_array_equal(found.tensors["token_embd.weight"], weights["items.weight"])
    assert bundle_form(made) == "sequence"
    with pytest.raises(EdgebError, match=r"is a sequence model, and x \(pass a language model's bundle\)"):
        require_gguf(made, "x")


def test_no_place_is_named(made: Path) -> None:
    content = made.read_bytes()
    for place in sequence_files.PLACES:
        assert place == "unknown" or place.encode() not in content


def test_stock_gguf_reads_it(made: Path) -> None:
    from gguf import GGUFReader

    reader, own = GGUFReader(made), read_sequence(made)
    assert str(reader.get_field("general.architecture").contents()) == own.shape.architecture  # type: ignore[union-attr]
    assert {tensor.name for tensor in reader.tensors} == set(own.tensors)
    for tensor in reader.tensors:
        np.testing.assert_array_equal(tensor.data, own.tensors[tensor.name].astype(np.float32))


def test_every_flipped_bit_and_every_cut_is_noticed(made: Path, tmp_path: Path) -> None:
    content, bad = made.read_bytes(), tmp_path / "bad.gguf"
    rng = np.random.default_rng(0)
    for at in sorted({*range(0, 64), *rng.integers(0, len(content), 150).tolist(), len(content) - 1}):
        bad.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        with pytest.raises(EdgebError):
            Predictor.load(bad, prefix_cache=False)
    for end in sorted({0, 3, 4, *rng.integers(5, len(content), 60).tolist(), len(content) - 1}):
        bad.write_bytes(content[:end])
        with pytest.raises(EdgebError):
            Predictor.load(bad, prefix_cache=False)
        # Nor does the weights' own reader take it for whole, but for the padding behind the last tensor.
        if end < len(content) - 32:
            with pytest.raises(EdgebError):
                read_sequence(bad)
        assert not is_sequence(bad) or end > 100


def test_a_newer_schema_is_refused(made: Path, tmp_path: Path) -> None:
    content, newer = bytearray(made.read_bytes()), tmp_path / "newer.gguf"
    at = content.index(KEY_VERSION.encode()) + len(KEY_VERSION) + 4
    content[at : at + 4] = (2).to_bytes(4, "little")
    newer.write_bytes(content)
    with pytest.raises(EdgebError, match="written by a newer edgeb"):
        verify_bundle(newer)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("embedding_length", 0, "embedding_length' is 0"),
        ("embedding_length", 12, "the tensor 'token_embd.weight' has shape"),
        ("attention.head_count", 3, "a width of 8 has 3 heads"),
        ("block_count", 2, "the tensor 'blk.1"),
        ("block_count", 1 << 20, "1048576 blocks have no more than"),
        ("vocab_size", 5, "does not list 5 labels"),
        ("context_length", 1 << 21, "context_length' is 2097152"),
        ("hour_bucket", 7, "hour_bucket is 7"),
        ("hour_bucket", 0, "is not of this model"),
    ],
)
def test_sizes_that_no_model_has(made: Path, tmp_path: Path, key: str, value: int, message: str) -> None:
    """Behind the hashes, as in a file that somebody made: without verification."""
    content, bad = bytearray(made.read_bytes()), tmp_path / "bad.gguf"
    with GgufFile(made) as file:
        entry = next(e for e in file.metadata() if e.key.startswith("edgeb-") and e.key.endswith(f".{key}"))
    content[entry.value : entry.value + 4] = struct.pack("<I", value)
    bad.write_bytes(content)
    with pytest.raises(EdgebError, match=message):
        read_sequence(bad)


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    model = sequence_files.described(config=CONFIG)
    weights = sequence_files.arrays(sequence_files.network(model))
    for value, dtype, message in (
        (np.nan, "f32", "holds values that are not finite"),
        (1e6, "f16", "does not fit f16 .export with --quant f32"),
    ):
        weights["positions.weight"] = np.full_like(weights["positions.weight"], value)
        with pytest.raises(EdgebError, match=message):
            write_sequence(model, weights, tmp_path / "bad.gguf", dtype)
    good = sequence_files.plain(model, sequence_files.network(model), tmp_path / "good.gguf")
    content = bytearray(good.read_bytes())
    content[-4:] = struct.pack("<f", np.inf)
    good.write_bytes(content)
    # The padding behind the last tensor is no weight.
    with GgufFile(good) as file:
        table = file.tensor_table()
        last = max(table.tensors, key=lambda tensor: tensor.offset)
        at = table.data_start + last.offset
    content[at : at + 4] = struct.pack("<f", np.inf)
    good.write_bytes(content)
    with pytest.raises(EdgebError, match="not finite"):
        read_sequence(good)


def test_tensors_that_share_bytes(made: Path, tmp_path: Path) -> None:
    bad = sequence_files.overlapping(made, tmp_path / "bad.gguf")
    with pytest.raises(EdgebError, match=r"bad\.gguf is damaged: its tensors overlap"):
        Predictor.load(bad, prefix_cache=False)


@pytest.mark.parametrize("field", sequence_files.OTHERS)
def test_a_manifest_of_another_model(made: Path, tmp_path: Path, field: str) -> None:
    bad = sequence_files.described_as(made, tmp_path / "bad.gguf", field)
    with pytest.raises(EdgebError, match=rf"bad\.gguf: manifest field '{field}' is not the model's"):
        Predictor.load(bad, prefix_cache=False)


def test_what_is_no_sequence_model(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for path in (tmp_path / "none", tmp_path / "text", tmp_path):
        assert not is_sequence(path)
