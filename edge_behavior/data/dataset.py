"""The dataset folder: events in three Parquet files, users, places and dataset.json.

    events/{train,validation,test}.parquet   user int32, time timestamp[s], place int32, behavior int16; sorted
                                             (Parquet has no seconds: stored as milliseconds)
    users.parquet                            user, user_id, split, events; group where users are grouped
    places.parquet                           place, name, events; empty where the log has no places
    dataset.json                             source, options, counts, candidate set, checksums; see `info`

In a dataset split by time every user has events in all three splits, and `split` in users.parquet is null. A file holds
its own split's events only; `Dataset.events` prepends those of earlier splits as history.

Reads the format; importers write it. Knows nothing of prompts or models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.events import UNKNOWN_PLACE, BehaviorEvent
from edge_behavior.data.info import IMPORT_AGAIN, INFO_FILE, DatasetInfo, plain_json, read_info
from edge_behavior.errors import EdgebError, nearest

SPLITS = ("train", "validation", "test")
HISTORY_LENGTH = 20
EVENT_SCHEMA = pa.schema(
    [("user", pa.int32()), ("time", pa.timestamp("s")), ("place", pa.int32()), ("behavior", pa.int16())]
)


def event_file(folder: Path, split: str) -> Path:
    """The file of a split's events in a dataset folder."""
    return folder / "events" / f"{split}.parquet"


def digest_texts(texts: Sequence[str]) -> str:
    """SHA-256 (hex) of a list of names, as dataset.json records it."""
    return hashlib.sha256(json.dumps(list(texts), ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True)
class EventTable:
    """The events of some users as columns, grouped by user and sorted by time.

    Attributes:
        user_offsets: int64 [U+1]; user u owns the events user_offsets[u] to user_offsets[u+1].
        time: datetime64[s] [N], local.
        place: int32 [N], index into `places`.
        behavior: int32 [N], index into the candidate set.
        places: Place names.
        candidates: The dataset's candidate set.
        users: int32 [U], the number of each user in users.parquet; 0 … U-1 when not given.
        first_targets: int64 [U], in a dataset split by time: position of each user's first event of this split; those
            before it are history only. None where all of a user's events are in one split.
        groups: int32 [U], number of each user's group; None where users are not grouped.
    """

    user_offsets: NDArray[np.int64]
    time: NDArray[np.datetime64]
    place: NDArray[np.int32]
    behavior: NDArray[np.int32]
    places: list[str]
    candidates: CandidateSet
    users: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    first_targets: NDArray[np.int64] | None = None
    groups: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        if len(self.users) != len(self.user_offsets) - 1:
            object.__setattr__(self, "users", np.arange(len(self.user_offsets) - 1, dtype=np.int32))

    def __len__(self) -> int:
        return len(self.time)

    @property
    def target_starts(self) -> NDArray[np.int64]:
        """int64 [U], position of each user's first event that may be a target."""
        return self.user_offsets[:-1] if self.first_targets is None else self.first_targets

    def event(self, index: int) -> BehaviorEvent:
        """The event at a position."""
        time: datetime = self.time[index].astype("datetime64[s]").item()
        return BehaviorEvent(
            self.places[int(self.place[index])], time, self.candidates.labels[int(self.behavior[index])]
        )

    def between(self, start: int, stop: int) -> list[BehaviorEvent]:
        """The events at positions `start` to `stop`, exclusive."""
        cut, labels = slice(start, stop), self.candidates.labels
        times: list[datetime] = self.time[cut].astype("datetime64[s]").tolist()
        columns = zip(self.place[cut].tolist(), times, self.behavior[cut].tolist(), strict=True)
        return [BehaviorEvent(self.places[place], time, labels[behavior]) for place, time, behavior in columns]

    def history(self, target: int, length: int = HISTORY_LENGTH) -> list[BehaviorEvent]:
        """The same user's last events before `target`, oldest first; at most `length`, fewer at the user's start."""
        user = int(np.searchsorted(self.user_offsets, target, side="right")) - 1
        start = max(int(self.user_offsets[user]), target - length)
        return self.between(start, target)

    def user_of(self, targets: ArrayLike) -> NDArray[np.int64]:
        """Which user of this table (0 … U-1) each event belongs to, shape of `targets`."""
        return np.asarray(np.searchsorted(self.user_offsets, targets, side="right") - 1, dtype=np.int64)


@dataclass(frozen=True)
class Dataset:
    """An opened dataset folder.

    Attributes:
        path: The folder.
        info: What dataset.json says.
        candidates: All labels, with their training counts.
    """

    path: Path
    info: DatasetInfo
    candidates: CandidateSet

    @classmethod
    def open(cls, path: Path) -> Dataset:
        """Open a folder written by `edgeb data import` or `edgeb data synth`.

        Raises:
            EdgebError: not a dataset folder, one of a newer version, or a file of it is missing, damaged or of another
                dataset.
        """
        info = read_info(path)
        for split in SPLITS:
            if split not in info.splits:
                raise EdgebError(f"{path / INFO_FILE} lacks 'splits.{split}'", IMPORT_AGAIN)
            rows, expected = _count_rows(event_file(path, split)), info.splits[split].events
            if rows != expected:
                raise EdgebError(f"{event_file(path, split)} has {rows} events, not {expected}", IMPORT_AGAIN)
        for name, expected in (("users", info.users.kept), ("places", info.place.count)):
            rows = _count_rows(path / f"{name}.parquet")
            if rows != expected:
                raise EdgebError(f"{path / name}.parquet has {rows} rows, not {expected}", IMPORT_AGAIN)
        return cls(path, info, info.candidates)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the content: events, users, places, split and candidate set.

        Two imports with equal events agree, whatever the source file was called or how its rows were ordered.
        """
        info = self.info
        held = {"schema_version": info.schema_version, "candidates": self.candidates, "content": info.content}
        text = json.dumps(plain_json(held), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def split(self) -> str:
        """How the events were split: by `users`, or by `time` within every user."""
        return self.info.options.split

    @property
    def has_places(self) -> bool:
        """Whether events have a place; without, every event's is `UNKNOWN_PLACE`."""
        return self.info.has_places

    @property
    def groups(self) -> NDArray[np.int32] | None:
        """int32 [users], number of each user's group; None where users are not grouped."""
        names = self.group_names
        return np.unique(np.array(names, dtype=object), return_inverse=True)[1].astype(np.int32) if names else None

    @property
    def group_names(self) -> list[str]:
        """The group of every user, in the order of their numbers; empty where users are not grouped."""
        if self.info.options.group_column is None:
            return []
        return [str(name) for name in _read(self.path / "users.parquet", ["group"]).column("group").to_pylist()]

    @property
    def places(self) -> list[str]:
        """Place names, in the order of their numbers; none where events have no place."""
        return [str(name) for name in _read(self.path / "places.parquet", ["name"]).column("name").to_pylist()]

    def events(self, split: str) -> EventTable:
        """Load a split into memory: 16 bytes per event.

        In a dataset split by time the earlier splits come along, as history of its targets.

        Args:
            split: `train`, `validation` or `test`.

        Raises:
            EdgebError: no such split, or its file is damaged.
        """
        if split not in SPLITS:
            raise EdgebError(f"unknown split '{split}'", nearest(split, SPLITS))
        places = self.places if self.has_places else [UNKNOWN_PLACE]
        by_time = self.split == "time"
        wanted = SPLITS[: SPLITS.index(split) + 1] if by_time else (split,)
        columns: dict[str, list[NDArray[Any]]] = {name: [] for name in EVENT_SCHEMA.names}
        for wanted_split in wanted:
            file = event_file(self.path, wanted_split)
            for name, held in columns.items():
                held.append(_column(file, name))
            for name, limit in (("behavior", len(self.candidates)), ("place", len(places))):
                values = columns[name][-1]
                if len(values) and not (values.min() >= 0 and values.max() < limit):
                    raise EdgebError(f"{file} holds a {name} number outside 0…{limit - 1}", IMPORT_AGAIN)
        own = len(columns["user"][-1])
        if len(wanted) == 1:
            user, time, place, behavior = (held[0] for held in columns.values())
            is_own = None
        else:
            joined = [np.concatenate(held) for held in columns.values()]
            # Stable: a user's splits stay in the order they were read in, which is that of time.
            order = np.argsort(joined[0], kind="stable")
            user, time, place, behavior = (values[order] for values in joined)
            is_own = order >= len(order) - own
        codes, starts = _runs(user)
        groups = self.groups
        return EventTable(
            user_offsets=starts,
            time=time.astype("datetime64[s]", copy=False),
            place=place.astype(np.int32, copy=False),
            behavior=behavior.astype(np.int32),
            places=places,
            candidates=self.candidates,
            users=codes.astype(np.int32, copy=False),
            first_targets=_first_targets(starts, is_own) if by_time else None,
            groups=None if groups is None else groups[codes],
        )


def _count_rows(file: Path) -> int:
    try:
        return int(pq.read_metadata(file).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(file, error) from None


def _read(file: Path, columns: Sequence[str]) -> pa.Table:
    try:
        return pq.read_table(file, columns=list(columns))
    except (OSError, pa.ArrowException) as error:
        raise _damaged(file, error) from None


def _damaged(file: Path, error: Exception) -> EdgebError:
    what = "is missing" if isinstance(error, FileNotFoundError) else "is damaged or cut short"
    return EdgebError(f"{file} {what}", IMPORT_AGAIN)


def _column(file: Path, name: str) -> NDArray[Any]:
    return np.asarray(_read(file, [name]).column(name).to_numpy())


def _first_targets(starts: NDArray[np.int64], is_own: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    """[U] where each user's own events begin, which come last; `is_own` is None where all are."""
    if is_own is None:
        return starts[:-1]
    total = np.concatenate([[0], np.cumsum(is_own)])
    return np.asarray(starts[1:] - (total[starts[1:]] - total[starts[:-1]]), dtype=np.int64)


def _runs(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Values of consecutive equal runs [R] and their bounds [R+1]."""
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    bounds = np.concatenate([[0], changes, [len(values)]]).astype(np.int64)
    return values[bounds[:-1]], bounds
