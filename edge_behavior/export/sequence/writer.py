"""Write a sequence model as a GGUF file; `bundle.sequence_file` describes it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.baselines.sequence.kept import KeptModel
from edge_behavior.bundle.manifest import BaseModelInfo
from edge_behavior.bundle.sequence_file import (
    ARCHITECTURES,
    CONTEXTS,
    KEY_LABELS,
    KEY_PLACES,
    KEY_TOKENIZER,
    SASREC,
    SIZES,
    TOKENIZER,
    SequenceShape,
)
from edge_behavior.core.events import clean_place
from edge_behavior.core.population import text_hash
from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.writer import write_origin

DTYPES: dict[str, np.dtype[Any]] = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16)}
_FILE_TYPES = {"f32": 0, "f16": 1}
# In PyTorch, by name in the file.
_SASREC = {
    "attn_qkv.weight": "attention.in_proj_weight", "attn_qkv.bias": "attention.in_proj_bias",
    "attn_output": "attention.out_proj", "ffn_up": "inner", "ffn_down": "outer", "attn_norm": "query_norm",
    "ffn_norm": "feed_norm",
}  # fmt: skip
_BERT4REC = {
    "attn_qkv.weight": "self_attn.in_proj_weight", "attn_qkv.bias": "self_attn.in_proj_bias",
    "attn_output": "self_attn.out_proj", "ffn_up": "linear1", "ffn_down": "linear2", "attn_norm": "norm1",
    "ffn_norm": "norm2",
}  # fmt: skip
_OTHERS = {
    "token_embd": "items", "position_embd": "positions", "output_norm": "norm", "token_embd_norm": "norm",
    "output_map": "projection", "output.bias": "bias",
}  # fmt: skip


def shape_of(model: KeptModel) -> SequenceShape:
    """Sizes of a fitted model."""
    config, (sasrec, bert4rec) = model.config, ARCHITECTURES
    return SequenceShape(
        architecture={"sasrec": sasrec, "bert4rec": bert4rec}[model.architecture],
        candidates=len(model.log.candidates),
        length=model.length,
        width=config.hidden,
        blocks=config.layers,
        heads=config.heads,
        hour_bucket=model.vocabulary.hour_bucket if config.context else 0,
        places=len(model.vocabulary.places) if config.context else 0,
    )


def base_model(model: KeptModel) -> BaseModelInfo:
    """The language model that vectors of labels were computed with; its weights are not in the file."""
    source = model.labels
    return BaseModelInfo(None, None, None) if source is None else BaseModelInfo(source.name, source.license, None)


def place_hashes(model: KeptModel) -> NDArray[np.uint64]:
    """[P] hashes of the places that the model knows, by number: a bundle names none."""
    names = model.vocabulary.places if model.config.context else ()
    return np.array([text_hash(clean_place(name)) for name in names], dtype=np.uint64)


def write_sequence(model: KeptModel, weights: Mapping[str, NDArray[np.float32]], out: Path, dtype: str) -> None:
    """Write the file, directly.

    Args:
        model: The fitted model.
        weights: By PyTorch's names.
        out: The file.
        dtype: "f32" or "f16" for matrices; vectors are always f32.

    Raises:
        EdgebError: weights that are not finite or do not fit f16.
    """
    from gguf import GGUFWriter

    shape = shape_of(model)
    with ExitStack() as stack:
        writer = GGUFWriter(str(out), shape.architecture)
        stack.callback(writer.close)
        writer.add_type("model")
        writer.add_file_type(_FILE_TYPES[dtype])
        write_origin(writer, base_model(model))
        for name, end in SIZES.items():
            writer.add_uint32(f"{shape.architecture}.{end}", getattr(shape, name))
        writer.add_string(KEY_TOKENIZER, TOKENIZER)
        writer.add_array(KEY_LABELS, list(model.log.candidates.labels))
        hashes = place_hashes(model)
        if len(hashes):
            writer.add_array(KEY_PLACES, hashes.astype("<u8").tobytes())
        for name, size in shape.tensors().items():
            source = _source(name, shape)
            held = weights[source].astype(np.float64).reshape(size)
            with np.errstate(over="ignore"):
                stored = held.astype(np.float32 if held.ndim == 1 else DTYPES[dtype])
            if not np.isfinite(stored).all():
                if np.isfinite(held).all():
                    raise EdgebError(f"the tensor '{source}' does not fit f16", "export with --quant f32")
                raise EdgebError(f"the tensor '{source}' holds values that are not finite", "fit the system again")
            writer.add_tensor(name, stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def _source(name: str, shape: SequenceShape) -> str:
    """PyTorch's name of a tensor."""
    if name in _OTHERS:
        return _OTHERS[name]
    for seen in ("event", "target"):
        for number, kind in enumerate(CONTEXTS):
            if name == f"{seen}_{kind}.weight":
                return f"{seen}_context.kinds.{number}.weight"
    stem, _, end = name.rpartition(".")
    if stem in _OTHERS:
        return f"{_OTHERS[stem]}.{end}"
    _, block, inner = stem.split(".")
    names = _SASREC if shape.architecture == SASREC else _BERT4REC
    own = names.get(f"{inner}.{end}")
    return f"blocks.{block}.{own or f'{names[inner]}.{end}'}"
