"""Count the population's table from training events, and its distribution at the windows of a dataset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.events import clean_place
from edge_behavior.core.population import (
    Hashes,
    Level,
    PopulationConfig,
    PopulationTable,
    Situations,
    context_keys,
    label_hashes,
    levels_used,
    text_hash,
)
from edge_behavior.data.dataset import EventTable

# A bundle of a small model has a few megabytes itself.
MAX_BYTES = 4 << 20
_MOST_UNITS = (1 << 16) - 1
_CONTEXT_BYTES, _ENTRY_BYTES = 12, 4
_WINDOWS_AT_ONCE = 4096

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CountedPopulation:
    """A population's table, and what it was counted from.

    Attributes:
        table: The table.
        users: Users whose events were counted.
        dropped: Contexts per level that the size had no room for; levels that lost none are left out.
    """

    table: PopulationTable
    users: int
    dropped: dict[str, int]


def count_population(
    events: EventTable, config: PopulationConfig | None = None, places: bool = True, max_bytes: int = MAX_BYTES
) -> CountedPopulation:
    """Count training events per context.

    A count is kept where at least `config.min_users` different users did that behavior in that context. Nothing else
    enters the table: no total includes what was left out. The narrowest contexts, and of a level the rarest, are
    dropped first where the table would be larger than `max_bytes`.

    Args:
        events: The training events, and no others.
        config: How to count; None for the defaults.
        places: Whether the bundle knows places.
        max_bytes: Of the file.
    """
    config = config or PopulationConfig()
    at, labels = situations(events, np.arange(len(events)), places), label_hashes(events.candidates)
    room = max_bytes - len(_table(events, config, places, []).to_bytes())
    kept, dropped = [], {}
    for name, level in levels_used(places).items():
        counted = _count(events, level, config, places, labels, at)
        fits = _fitting(counted, room)
        if not fits.all():
            dropped[name] = int((~fits).sum())
            counted = counted.take(fits)
        # What a level leaves over after its first context without room is not for narrower ones.
        room = room - counted.bytes if fits.all() else 0
        kept.append(counted)
    return CountedPopulation(
        _table(events, config, places, kept), int((np.diff(events.user_offsets) > 0).sum()), dropped
    )


def population_log_probs(table: PopulationTable, events: EventTable, targets: Ints, known: int | None = None) -> Floats:
    """[n, B] log-probabilities of the population at windows.

    Args:
        table: The population.
        events: Users from their first event on, with the table's candidates.
        targets: [n], in any order.
        known: Of the events before a target, only this many count as seen; None for all.
    """
    found = np.empty((len(targets), len(table)))
    for start in range(0, len(targets), _WINDOWS_AT_ONCE):
        part = targets[start : start + _WINDOWS_AT_ONCE]
        found[start : start + len(part)] = np.log(table.probs_at(situations(events, part, table.places, known)))
    return found


def situations(events: EventTable, targets: Ints, places: bool, known: int | None = None) -> Situations:
    """Where the user stands just before each target; arguments as for `population_log_probs`."""
    at = np.asarray(targets, dtype=np.int64)
    before = at - events.user_offsets[events.user_of(at)]
    hashes = np.array([text_hash(clean_place(name)) for name in events.places], dtype=np.uint64)
    return Situations(
        known=(before if known is None else np.minimum(before, known)).astype(np.int32),
        last=events.behavior[np.maximum(at - 1, 0)],
        previous=events.behavior[np.maximum(at - 2, 0)],
        hour=(events.time[at].astype("datetime64[h]").astype(np.int64) % 24).astype(np.int8),
        place=hashes[events.place[at]] if places else np.zeros(len(at), dtype=np.uint64),
    )


@dataclass(frozen=True)
class _Counted:
    """The contexts of one level, by ascending key, and their entries."""

    keys: Hashes
    sizes: Ints
    codes: NDArray[np.uint16]
    units: NDArray[np.uint16]

    @property
    def bytes(self) -> int:
        return _CONTEXT_BYTES * len(self.keys) + _ENTRY_BYTES * len(self.codes)

    @property
    def contexts(self) -> Ints:
        """[E] the context of every entry."""
        return np.repeat(np.arange(len(self.keys)), self.sizes)

    def take(self, which: NDArray[np.bool_]) -> _Counted:
        """Some of the contexts."""
        entries = np.repeat(which, self.sizes)
        return _Counted(self.keys[which], self.sizes[which], self.codes[entries], self.units[entries])


def _count(
    events: EventTable, level: Level, config: PopulationConfig, places: bool, labels: Hashes, at: Situations
) -> _Counted:
    rows = np.flatnonzero(at.known >= level.behaviors)
    keys, context = np.unique(context_keys(level, config.hour_bucket, places, labels, at, rows), return_inverse=True)
    size = len(events.candidates)
    cell = context.reshape(-1) * size + events.behavior[rows]
    # Stable, so that a user's events in a cell stay together: rows are in the order of users.
    order = np.argsort(cell, kind="stable")
    cell, user = cell[order], events.user_of(rows[order])
    per_user = _runs(cell, user)
    counts = np.minimum(np.diff(np.append(per_user, len(cell))), config.per_user)
    cells = cell[per_user]
    starts = _runs(cells, cells)
    users = np.diff(np.append(starts, len(cells)))
    totals = np.add.reduceat(counts, starts) if len(starts) else counts
    safe = users >= config.min_users
    cells, totals = cells[starts][safe], totals[safe]
    # To the nearest multiple of min_users: what a wider context has more than a narrower one is then not one person's.
    units = (2 * totals + config.min_users) // (2 * config.min_users)
    present, sizes = np.unique(cells // size, return_counts=True)
    codes, units = (cells % size).astype(np.uint16), _fit_units(units, sizes)
    return _Counted(keys[present], sizes.astype(np.int64), codes, units)


def _runs(cells: Ints, users: Ints) -> Ints:
    """Where each run of equal (cell, user) begins."""
    if not len(cells):
        return np.zeros(0, dtype=np.int64)
    changes = (cells[1:] != cells[:-1]) | (users[1:] != users[:-1])
    return np.concatenate([[0], np.flatnonzero(changes) + 1]).astype(np.int64)


def _fit_units(units: Ints, sizes: Ints) -> NDArray[np.uint16]:
    """Counts in 16 bits; a context with a larger one is scaled down as a whole."""
    if not len(units):
        return np.zeros(0, dtype=np.uint16)
    largest = np.maximum.reduceat(units, np.cumsum(sizes) - sizes)
    scale = np.repeat(np.maximum(largest / _MOST_UNITS, 1.0), sizes)
    return np.asarray(np.maximum(np.floor(units / scale), 1), dtype=np.uint16)


def _fitting(counted: _Counted, room: int) -> NDArray[np.bool_]:
    """[C] the most frequent contexts, as many as fit into `room` bytes."""
    totals = np.bincount(counted.contexts, counted.units, minlength=len(counted.keys))
    order = np.lexsort((counted.keys, -totals))
    fits = np.zeros(len(order), dtype=np.bool_)
    fits[order] = np.cumsum(_CONTEXT_BYTES + _ENTRY_BYTES * counted.sizes[order]) <= room
    return fits


def _table(events: EventTable, config: PopulationConfig, places: bool, levels: list[_Counted]) -> PopulationTable:
    """One table of all levels."""
    keys = np.concatenate([np.zeros(0, dtype=np.uint64), *(level.keys for level in levels)])
    order = np.argsort(keys)
    sizes = np.concatenate([np.zeros(0, dtype=np.int64), *(level.sizes for level in levels)])
    starts = (np.cumsum(sizes) - sizes)[order]
    sizes = sizes[order]
    ends = np.cumsum(sizes)
    entries = np.repeat(starts - ends + sizes, sizes) + np.arange(int(sizes.sum()))
    none = np.zeros(0, dtype=np.uint16)
    codes = np.concatenate([none, *(level.codes for level in levels)])[entries]
    units = np.concatenate([none, *(level.units for level in levels)])[entries]
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    return PopulationTable(config, events.candidates, places, keys[order], offsets, codes, units)
