"""Checks the files of a dataset folder against the checksums in its dataset.json.

`Dataset.open` compares counts; this reads every event once. Knows nothing of runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from edge_behavior.data.dataset import EVENT_SCHEMA, SPLITS, Dataset, digest_texts, event_file
from edge_behavior.data.info import IMPORT_AGAIN
from edge_behavior.errors import EdgebError

_BATCH = 1 << 18


def verify(dataset: Dataset, advance: Callable[[int], None] = lambda events: None) -> None:
    """Compare every column with its checksum in dataset.json, reading the events in batches.

    Args:
        dataset: An opened folder.
        advance: Called with the number of events that were read since the last call.

    Raises:
        EdgebError: naming the file and column that changed, or the file that cannot be read.
    """
    content = dataset.info.content
    for split in SPLITS:
        file = event_file(dataset.path, split)
        digests = {name: hashlib.sha256() for name in EVENT_SCHEMA.names}
        try:
            with pq.ParquetFile(file) as source:
                for batch in source.iter_batches(_BATCH, columns=EVENT_SCHEMA.names):
                    for field in EVENT_SCHEMA:
                        digests[field.name].update(_bytes(batch.column(field.name), field))
                    advance(batch.num_rows)
        except (OSError, KeyError, pa.ArrowException) as error:
            raise EdgebError(f"{file} cannot be read: {str(error.args[0]).splitlines()[0]}", IMPORT_AGAIN) from None
        for name, digest in digests.items():
            if digest.hexdigest() != content.events(split).get(name):
                raise _changed(f"{file}, column {name},")
    if digest_texts(dataset.places) != content.places:
        raise _changed(f"{dataset.path / 'places.parquet'}")
    if content.groups is not None and digest_texts(dataset.group_names) != content.groups:
        raise _changed(f"{dataset.path / 'users.parquet'}, column group,")


def _bytes(column: Any, field: Any) -> bytes:
    """A column as the import hashed it: little-endian integers, times as seconds."""
    values = column.cast(field.type)
    values = values.cast(pa.int64()) if pa.types.is_timestamp(field.type) else values
    found = np.ascontiguousarray(values.to_numpy(zero_copy_only=False))
    return found.astype(found.dtype.newbyteorder("<"), copy=False).tobytes()


def _changed(what: str) -> EdgebError:
    return EdgebError(
        f"{what} has changed since the log was imported: its checksum differs from dataset.json", IMPORT_AGAIN
    )
