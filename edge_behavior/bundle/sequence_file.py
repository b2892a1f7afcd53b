"""A sequence model as a GGUF file: SASRec or BERT4Rec over events, under an architecture name of its own.

    general.architecture         edgeb-sasrec or edgeb-bert4rec, NAME below
    NAME.vocab_size              candidates B
    NAME.context_length          past events L that it sees
    NAME.embedding_length        width d
    NAME.block_count             blocks
    NAME.attention.head_count    heads
    NAME.hour_bucket             hours per bucket of the day; 0 for a model that sees behaviors only
    tokenizer.ggml.model         edgeb-events
    tokenizer.ggml.tokens        the labels: code = row of token_embd.weight, which has one more for start or mask
    tokenizer.edgeb.places       bytes: a little-endian 64-bit hash (`population.text_hash`) per known place

Tensors are F32 or F16. Knows nothing of manifests, and computes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.bundle.gguf_header import GgufFile, MetadataEntry, TensorTable
from edge_behavior.bundle.manifest import Manifest
from edge_behavior.errors import EdgebError

SASREC, BERT4REC = "edgeb-sasrec", "edgeb-bert4rec"
ARCHITECTURES = (SASREC, BERT4REC)
TOKENIZER, KEY_TOKENIZER = "edgeb-events", "tokenizer.ggml.model"
KEY_ARCHITECTURE, KEY_LABELS, KEY_PLACES = "general.architecture", "tokenizer.ggml.tokens", "tokenizer.edgeb.places"
# Fields of `SequenceShape` and the ends of their keys.
SIZES = {
    "candidates": "vocab_size",
    "length": "context_length",
    "width": "embedding_length",
    "blocks": "block_count",
    "heads": "attention.head_count",
    "hour_bucket": "hour_bucket",
}
# Kinds of context, in the order of their numbers' columns, and how many days there are.
CONTEXTS, DAYS = ("hour", "weekday", "place"), 7
_DTYPES: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 1: np.dtype("<f2")}
_MOST = 1 << 20
_HINT = "copy or export it again"


@dataclass(frozen=True)
class SequenceShape:
    """What decides the tensors of a sequence model.

    Attributes:
        architecture: One of ARCHITECTURES.
        candidates: B.
        length: L, past events.
        width: d.
        blocks: Blocks.
        heads: Attention heads; divide d.
        hour_bucket: Hours per bucket, a divisor of 24; 0 for a model that sees behaviors only.
        places: Known places; others share one embedding.
    """

    architecture: str
    candidates: int
    length: int
    width: int
    blocks: int
    heads: int
    hour_bucket: int
    places: int

    @property
    def contexts(self) -> tuple[int, int, int]:
        """Numbers of hour bucket, weekday and place, 0 for none included; of places, 1 is any that is not known."""
        return 24 // self.hour_bucket + 1, DAYS + 1, self.places + 2

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(map(prod, self.tensors().values()))

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Shape by name, in the order of the file; matrices are [out, in]."""
        d, is_sasrec = self.width, self.architecture == SASREC
        found: dict[str, tuple[int, ...]] = {
            "token_embd.weight": (self.candidates + 1, d),
            "position_embd.weight": (self.length + 1, d),
        }
        for seen in (("event", "target") if is_sasrec else ("event",)) if self.hour_bucket else ():
            for kind, size in zip(CONTEXTS, self.contexts, strict=True):
                found[f"{seen}_{kind}.weight"] = (size, d)
        inner = d if is_sasrec else 4 * d
        matrices = {"attn_qkv": (3 * d, d), "attn_output": (d, d), "ffn_up": (inner, d), "ffn_down": (d, inner)}
        for block in range(self.blocks):
            for name, shape in matrices.items():
                found[f"blk.{block}.{name}.weight"], found[f"blk.{block}.{name}.bias"] = shape, shape[:1]
            for name in ("attn_norm", "ffn_norm"):
                found[f"blk.{block}.{name}.weight"] = found[f"blk.{block}.{name}.bias"] = (d,)
        norm = "output_norm" if is_sasrec else "token_embd_norm"
        found[f"{norm}.weight"] = found[f"{norm}.bias"] = (d,)
        if not is_sasrec:
            found |= {"output_map.weight": (d, d), "output_map.bias": (d,), "output.bias": (self.candidates,)}
        return found


@dataclass(frozen=True)
class SequenceFile:
    """A sequence model as it was read.

    Attributes:
        shape: Its sizes.
        labels: [B] by code.
        places: [P] hashes of the known places, by number.
        tensors: By name, as `SequenceShape.tensors` has them.
    """

    shape: SequenceShape
    labels: tuple[str, ...]
    places: NDArray[np.uint64]
    tensors: dict[str, NDArray[np.float64]]

    def check(self, manifest: Manifest, path: Path) -> None:
        """Compare with the manifest of the bundle: another model's would give answers, and wrong ones.

        Raises:
            EdgebError: a field is not this model's.
        """
        layout, shape = manifest.layout, self.shape
        found = {
            "architecture": manifest.architecture == shape.architecture,
            "candidates.labels": tuple(manifest.candidates.labels) == self.labels,
            "bos_id": manifest.bos_id == shape.candidates,
            "layout.name": layout.name == "stream",
            "layout.chat": layout.chat is None,
            "layout.history_length": layout.history_length <= shape.length,
        }
        wrong = next((name for name, fits in found.items() if not fits), None)
        if wrong is not None:
            raise EdgebError(f"{path}: manifest field '{wrong}' is not the model's", "export the bundle again")


def is_sequence(path: Path) -> bool:
    """Whether a path is a GGUF file of a sequence model; false for what cannot be read."""
    try:
        with GgufFile(path) as file:
            entry = next((e for e in file.metadata() if e.key == KEY_ARCHITECTURE), None)
            return entry is not None and file.value(entry) in ARCHITECTURES
    except EdgebError:
        return False


def read_sequence(path: Path) -> SequenceFile:
    """Read sizes, labels and all weights.

    Raises:
        EdgebError: not a sequence model, of another architecture, cut short, or with sizes, names or values that no
            such model has.
    """
    with GgufFile(path) as file:
        entries = {entry.key: entry for entry in file.metadata()}
        shape = _shape(file, entries)
        labels = file.value(entries[KEY_LABELS])
        if not isinstance(labels, list) or len(labels) != shape.candidates or not all(map(_is_text, labels)):
            raise _damaged(path, f"'{KEY_LABELS}' does not list {shape.candidates} labels")
        hashes = file.raw(entries[KEY_PLACES]) if KEY_PLACES in entries else b""
        table = file.tensor_table()
        tensors = _tensors(file, table, shape)
    return SequenceFile(shape, tuple(map(str, labels)), np.frombuffer(hashes, "<u8").astype(np.uint64), tensors)


def _shape(file: GgufFile, entries: dict[str, MetadataEntry]) -> SequenceShape:
    def value(key: str) -> object:
        if key not in entries:
            raise _damaged(file.path, f"the metadata key '{key}' is missing")
        return file.value(entries[key])

    architecture = value(KEY_ARCHITECTURE)
    if architecture not in ARCHITECTURES:
        raise EdgebError(f"{file.path} is no sequence model, but '{architecture}'", "pass one that edgeb exported")
    if value(KEY_TOKENIZER) != TOKENIZER or KEY_LABELS not in entries:
        raise _damaged(file.path, f"its tokenizer is not '{TOKENIZER}'")
    sizes = {}
    for name, end in SIZES.items():
        found = value(f"{architecture}.{end}")
        if not isinstance(found, int) or isinstance(found, bool) or not (name != "hour_bucket") <= found <= _MOST:
            raise _damaged(file.path, f"'{architecture}.{end}' is {str(found)[:40]}")
        sizes[name] = found
    if sizes["width"] % sizes["heads"]:
        raise _damaged(file.path, f"a width of {sizes['width']} has {sizes['heads']} heads")
    if sizes["hour_bucket"] and 24 % sizes["hour_bucket"]:
        raise _damaged(file.path, f"hour_bucket is {sizes['hour_bucket']}")
    places = 0
    if KEY_PLACES in entries:
        size = len(file.raw(entries[KEY_PLACES]))
        if size % 8:
            raise _damaged(file.path, f"'{KEY_PLACES}' has {size} bytes")
        places = size // 8
    return SequenceShape(str(architecture), places=places, **sizes)


def _tensors(file: GgufFile, table: TensorTable, shape: SequenceShape) -> dict[str, NDArray[np.float64]]:
    known = {tensor.name: tensor for tensor in table.tensors}
    # The number of blocks is not believed before the names are there.
    if shape.blocks > len(known):
        raise _damaged(file.path, f"{shape.blocks} blocks have no more than {len(known)} tensors")
    wanted, found, all_bytes = shape.tensors(), dict[str, NDArray[np.float64]](), 0
    odd = sorted(known.keys() ^ wanted.keys())
    if odd:
        raise _damaged(file.path, f"the tensor '{odd[0]}' is {'missing' if odd[0] in wanted else 'not of this model'}")
    for name, size in wanted.items():
        tensor = known[name]
        if tensor.shape != size[::-1] or tensor.kind not in _DTYPES:
            raise _damaged(file.path, f"the tensor '{name}' has shape {tensor.shape} and type {tensor.kind}")
        length = tensor.elements * _DTYPES[tensor.kind].itemsize
        if table.data_start + tensor.offset + length > file.size:
            raise EdgebError(f"{file.path} is cut short: it ends inside the tensor '{name}'", _HINT)
        all_bytes += length
    # Tensors that share bytes would make large arrays of a small file.
    if all_bytes > file.size - table.data_start:
        raise _damaged(file.path, "its tensors overlap")
    for name, size in wanted.items():
        tensor, kind = known[name], _DTYPES[known[name].kind]
        start = table.data_start + tensor.offset
        held = np.frombuffer(file.bytes[start : start + tensor.elements * kind.itemsize], kind)
        # A signaling NaN would warn here; it is refused below.
        with np.errstate(invalid="ignore"):
            found[name] = held.reshape(size).astype(np.float64)
        if not np.isfinite(found[name]).all():
            raise _damaged(file.path, f"the tensor '{name}' holds a value that is not finite")
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _damaged(path: Path, what: str) -> EdgebError:
    return EdgebError(f"{path} is damaged: {what}", _HINT)
