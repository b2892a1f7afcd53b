"""What people in general do next: training users' counts per context, from wide contexts to narrow ones.

A context is the place, the hour, the last behavior or the last two, or several of these; `LEVELS` names the chain. A
count is kept only where enough different users stand behind it, bounded per user and rounded (`PopulationConfig`). The
table's file holds 64-bit hashes of contexts, and neither place names nor labels:

    "EDGEBPOP", then little-endian uint32: version, candidates B, places (0 or 1), contexts C, entries E
    uint64 [C]    keys of the contexts (`context_keys`), ascending
    uint32 [C+1]  where each context's entries begin
    uint16 [E]    candidate codes, ascending within a context
    uint16 [E]    counts, in units of `min_users`

Knows nothing of single users; `habits` puts one user's counts on top.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_behavior.core.candidates import CandidateSet, smoothed_shares
from edge_behavior.core.events import clean_place
from edge_behavior.core.fields import DAMAGED_HINT, is_number, is_whole, naming, read_fields
from edge_behavior.errors import EdgebError

MAGIC = b"EDGEBPOP"
VERSION = 1
# Labels are coded in 16 bits.
MOST_CANDIDATES = 1 << 16
_KINDS = ("<u8", "<u4", "<u2", "<u2")
_HEADER = struct.Struct("<8s5I")
# FNV-1a of 64 bits, and the finalizer of SplitMix64.
_FNV_START, _FNV_PRIME, _MASK = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1
_GAMMA, _MIX = np.uint64(0x9E3779B97F4A7C15), (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
# The hour of a context without one.
_NO_HOUR = 255
_LEAST_STRENGTH, _LARGEST = 1e-3, 1e9

Floats = NDArray[np.float64]
Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Level:
    """One kind of context.

    Attributes:
        number: Which one, from 1: part of a context's key.
        behaviors: How many of the last behaviors it names: 0, 1 or 2.
        hour: Whether it names the hour bucket.
        place: Whether it names the place; without places, the same level without.
    """

    number: int
    behaviors: int
    hour: bool
    place: bool


# Widest first. Chosen on validation users of three logs, with the strengths below (benchmarks/population.py).
LEVELS: Mapping[str, Level] = {
    "place": Level(1, 0, hour=False, place=True),
    "place_hour": Level(2, 0, hour=True, place=True),
    "last_place_hour": Level(3, 1, hour=True, place=True),
    "last_two": Level(4, 2, hour=False, place=False),
    "last_two_place_hour": Level(5, 2, hour=True, place=True),
}


@dataclass(frozen=True)
class PopulationConfig:
    """How the population is counted.

    The back-off strengths k say how many events the next wider level's distribution weighs. They are large, since a
    context's rare behaviors are not in the table.

    Attributes:
        min_users: Fewest different users behind a count; counts are rounded to multiples of it.
        per_user: Most that one user adds to one count.
        hour_bucket: Hours per bucket of the day; divides 24.
        k_place: Back-off of a place to the training shares.
        k_place_hour: Back-off of a place at an hour to the place.
        k_last_place_hour: Back-off of these after a behavior to the place at the hour.
        k_last_two: Back-off of two behaviors in sequence to the level before.
        k_last_two_place_hour: Back-off of these at a place and an hour to the two behaviors.
    """

    min_users: int = 5
    per_user: int = 4
    hour_bucket: int = 2
    k_place: float = 256.0
    k_place_hour: float = 1024.0
    k_last_place_hour: float = 128.0
    k_last_two: float = 512.0
    k_last_two_place_hour: float = 64.0

    def __post_init__(self) -> None:
        for name in ("min_users", "per_user"):
            if not is_whole(getattr(self, name), 1, MOST_CANDIDATES):
                raise EdgebError(f"population setting '{name}' is {str(getattr(self, name))[:40]}", "use 1 or more")
        if not is_whole(self.hour_bucket, 1, 25) or 24 % self.hour_bucket:
            raise EdgebError(f"population setting 'hour_bucket' is {str(self.hour_bucket)[:40]}", "use a divisor of 24")
        for level in LEVELS:
            if not is_number(getattr(self, f"k_{level}"), _LEAST_STRENGTH, _LARGEST):
                raise EdgebError(
                    f"population setting 'k_{level}' is {str(getattr(self, f'k_{level}'))[:40]}",
                    f"use a number of events from {_LEAST_STRENGTH:g} to {_LARGEST:g}",
                )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields that `from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object, where: str = "population") -> PopulationConfig:
        """Read strictly what `to_dict` gave.

        Raises:
            EdgebError: not an object, or a field that is missing, unknown or has a bad value.
        """
        found = read_fields(values, [f.name for f in fields(cls)], where)
        with naming(where):
            return cls(**found)


@dataclass(frozen=True)
class Situations:
    """Where n predictions stand, as columns.

    Attributes:
        known: int [n], how many behaviors were observed before; beyond two it makes no difference.
        last: int [n], code of the last one; not read where none is known.
        previous: int [n], code of the one before; not read where fewer than two are known.
        hour: int [n], hour of the day, 0 to 23.
        place: uint64 [n], `text_hash` of the cleaned place.
    """

    known: NDArray[np.integer[Any]]
    last: NDArray[np.integer[Any]]
    previous: NDArray[np.integer[Any]]
    hour: NDArray[np.integer[Any]]
    place: Hashes


@dataclass(frozen=True, eq=False)
class PopulationTable:
    """Counts per context, and the distribution they give. Immutable, so that threads may share it.

    Attributes:
        config: How it was counted, and how levels are mixed.
        candidates: Its labels, and the training counts that the widest level backs off to.
        places: Whether contexts name places.
        keys: uint64 [C], ascending.
        offsets: int64 [C+1], where each context's entries begin.
        codes: uint16 [E].
        units: uint16 [E], counts in units of `config.min_users`.

    Raises:
        EdgebError: lengths, order or values that no table has.
    """

    config: PopulationConfig
    candidates: CandidateSet
    places: bool
    keys: Hashes
    offsets: NDArray[np.int64]
    codes: NDArray[np.uint16]
    units: NDArray[np.uint16]
    _labels: Hashes = field(init=False, repr=False)
    _prior: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self)
        object.__setattr__(self, "_labels", label_hashes(self.candidates))
        object.__setattr__(self, "_prior", smoothed_shares(self.candidates.counts))
        for held in (self.keys, self.offsets, self.codes, self.units):
            held.flags.writeable = False

    def __len__(self) -> int:
        """Number of candidates B."""
        return len(self.candidates)

    @property
    def contexts(self) -> int:
        """Number of contexts C."""
        return len(self.keys)

    def probs(self, recent: Sequence[int], when: datetime, place: str) -> Floats:
        """Probabilities [B] of the next behavior: they sum to 1, none is 0.

        Args:
            recent: Codes of the behaviors observed last, oldest first: the last two are read; fewer if fewer are known.
            when: Local time.
            place: Compared once cleaned (`events.clean_place`); ignored without places.
        """
        last, previous = (int(recent[-i]) if len(recent) >= i else 0 for i in (1, 2))
        at = Situations(
            known=np.array([len(recent)]),
            last=np.array([last]),
            previous=np.array([previous]),
            hour=np.array([when.hour]),
            place=np.array([text_hash(clean_place(place)) if self.places else 0], dtype=np.uint64),
        )
        return np.asarray(self.probs_at(at)[0], dtype=np.float64)

    def log_probs(self, recent: Sequence[int], when: datetime, place: str) -> Floats:
        """Log-probabilities [B]; arguments as for `probs`."""
        return np.asarray(np.log(self.probs(recent, when, place)), dtype=np.float64)

    def probs_at(self, at: Situations) -> Floats:
        """Probabilities [n, B] in n situations at once.

        Each level mixes its counts c with the distribution q of the next wider one: (c + k·q) / (Σc + k). A level that
        needs more behaviors than are known, or that has no such context, leaves q as it is.
        """
        found = np.tile(self._prior, (len(at.known), 1))
        for name, level in levels_used(self.places).items():
            rows, contexts = self._hits(level, at)
            starts, sizes = self.offsets[contexts], np.diff(self.offsets)[contexts]
            which = np.repeat(np.arange(len(rows)), sizes)
            entries = np.repeat(starts - np.cumsum(sizes) + sizes, sizes) + np.arange(int(sizes.sum()))
            counts = self.units[entries].astype(np.float64) * self.config.min_users
            k = float(getattr(self.config, f"k_{name}"))
            mixed = found[rows] * k
            mixed[which, self.codes[entries]] += counts
            found[rows] = mixed / (np.bincount(which, counts, minlength=len(rows)) + k)[:, None]
        return found

    def to_bytes(self) -> bytes:
        """The file; equal tables give equal bytes."""
        head = _HEADER.pack(MAGIC, VERSION, len(self), int(self.places), len(self.keys), len(self.codes))
        columns: tuple[NDArray[Any], ...] = (self.keys, self.offsets, self.codes, self.units)
        return head + b"".join(held.astype(kind).tobytes() for held, kind in zip(columns, _KINDS, strict=True))

    @classmethod
    def from_bytes(
        cls, content: bytes, config: PopulationConfig, candidates: CandidateSet, places: bool, where: str = "population"
    ) -> PopulationTable:
        """Read strictly what `to_bytes` gave.

        Args:
            config: How it was counted.
            candidates: The bundle's.
            places: Whether the bundle knows places.
            where: The file, for error messages.

        Raises:
            EdgebError: no table of this version, of another bundle, or damaged.
        """
        if len(content) < _HEADER.size or content[: len(MAGIC)] != MAGIC:
            raise EdgebError(f"{where} is not a population's table", DAMAGED_HINT)
        _, version, size, has_places, contexts, entries = _HEADER.unpack_from(content)
        if version != VERSION:
            raise EdgebError(f"{where} has version {version}, this edgeb reads {VERSION}", "update edgeb")
        if size != len(candidates) or has_places != int(places):
            raise EdgebError(
                f"{where} is of {size} candidates {'with' if has_places else 'without'} places, the bundle of "
                f"{len(candidates)} {'with' if places else 'without'}",
                DAMAGED_HINT,
            )
        lengths = (8 * contexts, 4 * (contexts + 1), 2 * entries, 2 * entries)
        if _HEADER.size + sum(lengths) != len(content):
            raise EdgebError(f"{where} has {len(content)} bytes, not {_HEADER.size + sum(lengths)}", DAMAGED_HINT)
        at, columns = _HEADER.size, []
        for length, kind in zip(lengths, _KINDS, strict=True):
            columns.append(np.frombuffer(content, kind, length // int(kind[-1]), at))
            at += length
        keys, offsets, codes, units = columns
        with naming(where):
            return cls(
                config,
                candidates,
                places,
                keys.astype(np.uint64),
                offsets.astype(np.int64),
                codes.astype(np.uint16),
                units.astype(np.uint16),
            )

    def relabeled(self, candidates: CandidateSet) -> PopulationTable:
        """The same counts for another candidate list.

        Labels that stay keep their counts under their new codes; counts of the others go, and contexts that had no
        other counts. A new label has none: it gets what the levels back off to.
        """
        codes = {label: code for code, label in enumerate(candidates.labels)}
        new = np.array([codes.get(label, -1) for label in self.candidates.labels], dtype=np.int64)[self.codes]
        context = np.repeat(np.arange(self.contexts), np.diff(self.offsets))
        order = np.lexsort((new, context))
        order = order[new[order] >= 0]
        sizes = np.bincount(context[order], minlength=self.contexts)
        return PopulationTable(
            self.config,
            candidates,
            self.places,
            self.keys[sizes > 0],
            np.concatenate([[0], np.cumsum(sizes[sizes > 0])]).astype(np.int64),
            new[order].astype(np.uint16),
            self.units[order],
        )

    def _hits(self, level: Level, at: Situations) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which of the situations have a context of this level in the table, and where it stands."""
        rows = np.flatnonzero(at.known >= level.behaviors)
        if not len(self.keys):
            rows = rows[:0]
        wanted = context_keys(level, self.config.hour_bucket, self.places, self._labels, at, rows)
        places = np.minimum(np.searchsorted(self.keys, wanted), max(len(self.keys) - 1, 0))
        hit = self.keys[places] == wanted if len(rows) else np.zeros(0, dtype=np.bool_)
        return rows[hit], places[hit].astype(np.int64)


def levels_used(places: bool) -> dict[str, Level]:
    """The levels, widest first; without places, all but the one that names nothing else."""
    return {name: level for name, level in LEVELS.items() if places or level.hour or level.behaviors}


@lru_cache(maxsize=65_536)
def text_hash(text: str) -> int:
    """FNV-1a of 64 bits over a text's UTF-8."""
    found = _FNV_START
    for byte in text.encode():
        found = (found ^ byte) * _FNV_PRIME & _MASK
    return found


def label_hashes(candidates: CandidateSet) -> Hashes:
    """`text_hash` [B] of every label: contexts are of labels, not of codes, so that a new list can keep them."""
    if len(candidates) > MOST_CANDIDATES:
        raise EdgebError(f"{len(candidates)} candidates are too many for a population's table", "leave it out")
    return np.array([text_hash(label) for label in candidates.labels], dtype=np.uint64)


def context_keys(
    level: Level, hour_bucket: int, places: bool, labels: Hashes, at: Situations, rows: ArrayLike
) -> Hashes:
    """Keys [m] of a level's contexts in some situations.

    h = 0; for each of four 64-bit words w: h = mix(h xor w), where mix adds 0x9E3779B97F4A7C15 and applies the
    finalizer of SplitMix64. The words: 256 · level number + hour bucket (255 where the level names none); the hash of
    the last label, that of the one before, that of the place (0 where the level does not name it).

    Args:
        level: Which one.
        hour_bucket: Hours per bucket.
        places: Whether places are known.
        labels: [B] from `label_hashes`.
        at: The situations.
        rows: [m] which of them; each knows as many behaviors as the level names.
    """
    rows = np.asarray(rows, dtype=np.int64)
    none = np.zeros(len(rows), dtype=np.uint64)
    hour = (at.hour[rows] // hour_bucket).astype(np.uint64) if level.hour else none + np.uint64(_NO_HOUR)
    key = _mixed(hour + np.uint64(256 * level.number))
    for word in (
        labels[at.last[rows]] if level.behaviors >= 1 else none,
        labels[at.previous[rows]] if level.behaviors == 2 else none,
        at.place[rows] if level.place and places else none,
    ):
        key = _mixed(key ^ word)
    return key


def _mixed(values: Hashes) -> Hashes:
    first, second = _MIX
    z = values + _GAMMA
    z = (z ^ (z >> np.uint64(30))) * first
    z = (z ^ (z >> np.uint64(27))) * second
    return np.asarray(z ^ (z >> np.uint64(31)), dtype=np.uint64)


def _check(table: PopulationTable) -> None:
    """Refuse columns that no table has."""
    sizes = np.diff(table.offsets)
    entries = len(table.codes)
    begins = np.zeros(max(entries, 1), dtype=np.bool_)
    fits = len(table.offsets) == len(table.keys) + 1 and len(table.units) == entries
    fits = fits and table.offsets[0] == 0 and table.offsets[-1] == entries and bool((sizes > 0).all())
    if not fits:
        raise EdgebError("the entries of the contexts overlap or leave gaps", DAMAGED_HINT)
    if not (table.keys[1:] > table.keys[:-1]).all():
        raise EdgebError("the contexts are not in order", DAMAGED_HINT)
    begins[table.offsets[:-1]] = True
    if not ((table.codes[1:] > table.codes[:-1]) | begins[1:entries]).all():
        raise EdgebError("the candidates of a context are not in order", DAMAGED_HINT)
    if entries and (int(table.codes.max()) >= len(table.candidates) or not table.units.all()):
        raise EdgebError("a count is 0, or of no candidate", DAMAGED_HINT)
