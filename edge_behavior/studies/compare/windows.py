"""The windows of a comparison: drawn once from the test and validation users, and what is kept of them.

What is kept tells nothing of a person: codes of behaviors, how many events came before, and a salted code of the user
or group, so that anyone can recompute every number and its interval. Where the windows are in the log is drawn again
from the dataset by the same seed, and not kept.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.candidates import GROUPS, smoothed_shares
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.data.resampling import resampling
from edge_behavior.data.windows import eligible
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.protocols import PROTOCOLS, EvaluationWindows, WindowChoice
from edge_behavior.util.files import new_file
from edge_behavior.util.resampling import Resampling

# Where the truth is: among the L events that a window shows, among all that the user was seen to do before, or new.
KINDS = ("return", "seen", "discovery")
# Events known of a user in the cold start.
COLD = (0, 1, 2, 5, 10)
FEWEST_UNITS = 2
_DAMAGED = "the file is damaged: copy it again, or start in another folder"
_CODE_LENGTH = 12

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Drawn:
    """Positions of the windows' targets in the tables of the test and validation users.

    Attributes:
        test: [n], ascending; each window once.
        member: Per protocol, [n] whether it takes the window.
        validation: [m], natural windows.
    """

    test: Ints
    member: dict[str, Mask]
    validation: Ints


@dataclass(frozen=True)
class Part:
    """Windows of one part of the users.

    Attributes:
        truth: [n] candidate codes.
        units: [n] salted code of each window's resampling unit.
        earlier: [n] events of the user before the target.
        kinds: [n] index into `KINDS`.
        member: Per protocol, [n] whether it takes the window.
    """

    truth: Ints
    units: NDArray[np.str_]
    earlier: Ints
    kinds: Ints
    member: dict[str, Mask]

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def unit_codes(self) -> Ints:
        """[n] number of each window's unit, in order of first appearance: independent of the salt."""
        _, first, code = np.unique(self.units, return_index=True, return_inverse=True)
        return np.asarray(np.argsort(np.argsort(first))[code], dtype=np.int64)


@dataclass(frozen=True)
class Windows:
    """What is kept of a comparison's windows, and what numbers about them need.

    Attributes:
        test: Windows of the test users.
        validation: Of the validation users; natural ones.
        groups: [B] head, medium or tail.
        log_share: [B] log of the smoothed share of each behavior in the training part, as the habits' prior has it.
        unit: What is resampled: `users`, `groups` or `day_blocks`.
        days: Length of a block of days; 0 for other units.
        history_length: L.
    """

    test: Part
    validation: Part
    groups: tuple[str, ...]
    log_share: Floats
    unit: str
    days: int
    history_length: int

    def resampling(self, part: Part) -> Resampling:
        """The resampling units of a part's windows."""
        return Resampling(part.unit_codes, self.unit, self.days or None)

    def size(self, window_set: str) -> int:
        """Number of windows of a set that systems score, see `window_sets`."""
        if window_set == "validation":
            return len(self.validation)
        return len(self.test) if window_set == "test" else int(self.test.member["natural"].sum())


def window_sets(cold: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the sets that a system scores: test, validation, and the natural test windows at each cold start."""
    return ("test", "validation", *(f"cold{known}" for known in cold))


def known_events(window_set: str) -> int | None:
    """How many events are known in a set; None for all."""
    return int(window_set.removeprefix("cold")) if window_set.startswith("cold") else None


def draw(dataset: Dataset, history_length: int, protocol: str, windows: int, validation: int, seed: int) -> Drawn:
    """The windows of a comparison, the same for the same dataset and numbers.

    Each protocol takes up to `windows`, as evenly over the users (natural) or behaviors (balanced) as they have them.

    Args:
        protocol: natural, balanced or both.

    Raises:
        EdgebError: too few users, groups or days with a full history.
    """
    table = dataset.events("test")
    targets = eligible(table, history_length)
    _check_units(dataset, table, targets, "test")
    choice = WindowChoice(
        per_user=_each(np.bincount(table.user_of(targets)), windows),
        per_behavior=_each(np.bincount(table.behavior[targets]), windows),
        limit=windows,
        seed=seed,
    )
    drawn = EvaluationWindows.draw(protocol, table, history_length, choice)
    member = {name: np.zeros(len(drawn.targets), dtype=np.bool_) for name in PROTOCOLS}
    for held in drawn.protocols:
        member[held.name][drawn.rows(held)] = True
        _check_units(dataset, table, held.targets, "test")
    held_out = dataset.events("validation")
    possible = eligible(held_out, history_length)
    _check_units(dataset, held_out, possible, "validation")
    each = _each(np.bincount(held_out.user_of(possible)), validation)
    natural = EvaluationWindows.draw(
        "natural", held_out, history_length, WindowChoice(per_user=each, limit=validation, seed=seed)
    )
    return Drawn(drawn.targets, member, natural.targets)


def targets_of(window_set: str, drawn: Drawn) -> Ints:
    """Positions of the targets of a set that systems score."""
    if window_set == "validation":
        return drawn.validation
    return drawn.test if window_set == "test" else drawn.test[drawn.member["natural"]]


def describe(dataset: Dataset, drawn: Drawn, history_length: int, anchor_threshold: float) -> Windows:
    """What is kept of drawn windows; units get new salted codes at every call."""
    salt = os.urandom(16)
    parts, units = [], None
    for split, targets, member in (
        ("test", drawn.test, drawn.member),
        ("validation", drawn.validation, {}),
    ):
        table = dataset.events(split)
        units = resampling(table, targets)
        parts.append(
            Part(
                truth=table.behavior[targets].astype(np.int64),
                units=np.array([_salted(salt, split, int(code)) for code in units.codes], dtype=f"U{_CODE_LENGTH}"),
                earlier=targets - table.user_offsets[table.user_of(targets)],
                kinds=_kinds(table, targets, history_length),
                member=dict(member),
            )
        )
    assert units is not None
    log_share = np.log(smoothed_shares(dataset.candidates.counts))
    groups = dataset.candidates.groups(anchor=anchor_threshold)
    return Windows(parts[0], parts[1], tuple(groups), log_share, units.unit, units.days or 0, history_length)


def write_windows(path: Path, windows: Windows) -> None:
    """Write windows.npz."""
    arrays: dict[str, NDArray[Any]] = {
        "groups": np.array([GROUPS.index(group) for group in windows.groups], dtype=np.uint8),
        "log_share": windows.log_share,
        "unit": np.array(windows.unit),
        "days": np.array(windows.days),
        "history_length": np.array(windows.history_length),
    }
    for name, part in (("test", windows.test), ("validation", windows.validation)):
        arrays[f"{name}_truth"] = part.truth.astype(np.int16)
        arrays[f"{name}_units"] = part.units
        arrays[f"{name}_earlier"] = part.earlier.astype(np.int32)
        arrays[f"{name}_kinds"] = part.kinds.astype(np.uint8)
    for protocol in PROTOCOLS:
        arrays[f"test_{protocol}"] = windows.test.member[protocol]
    write_arrays(path, arrays)


def read_windows(path: Path) -> Windows:
    """Read windows.npz strictly.

    Raises:
        EdgebError: missing, damaged, or arrays that do not belong together.
    """
    held = read_arrays(path, _NAMES)
    parts = {}
    for name in ("test", "validation"):
        sizes = {len(held[f"{name}_{column}"]) for column in ("truth", "units", "earlier", "kinds")}
        if name == "test":
            sizes |= {len(held[f"test_{protocol}"]) for protocol in PROTOCOLS}
        truth, kinds = held[f"{name}_truth"].astype(np.int64), held[f"{name}_kinds"].astype(np.int64)
        right = len(sizes) == 1 and len(truth) > 0 and truth.min() >= 0 and truth.max() < len(held["groups"])
        if not (right and kinds.max() < len(KINDS)):
            raise EdgebError(f"{path}: the arrays of {name} do not belong together", _DAMAGED)
        member = {p: held[f"test_{p}"].astype(np.bool_) for p in PROTOCOLS} if name == "test" else {}
        earlier = held[f"{name}_earlier"].astype(np.int64)
        parts[name] = Part(truth, held[f"{name}_units"].astype(np.str_), earlier, kinds, member)
    codes = held["groups"]
    if codes.ndim != 1 or codes.max() >= len(GROUPS) or held["log_share"].shape != codes.shape:
        raise EdgebError(f"{path}: 'groups' and 'log_share' do not belong together", _DAMAGED)
    return Windows(
        parts["test"],
        parts["validation"],
        tuple(GROUPS[code] for code in codes),
        held["log_share"].astype(np.float64),
        str(held["unit"]),
        int(held["days"]),
        int(held["history_length"]),
    )


def write_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write arrays to a compressed .npz file, whole or not at all."""
    with new_file(path, replace=True, durable=True) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_arrays(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file that has just these.

    Raises:
        EdgebError: missing, damaged, or with other arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: np.asarray(file[name]) for name in file.files}
    except FileNotFoundError:
        raise EdgebError(f"{path} is missing", "is the folder complete?") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        raise EdgebError(f"{path} is damaged", _DAMAGED) from None
    if set(held) != set(names):
        wrong = sorted(set(held) ^ set(names))[0]
        raise EdgebError(f"{path}: array '{wrong}' is missing or unknown", _DAMAGED)
    return held


_NAMES = (
    *("groups", "log_share", "unit", "days", "history_length"),
    *(f"{part}_{name}" for part in ("test", "validation") for name in ("truth", "units", "earlier", "kinds")),
    *(f"test_{protocol}" for protocol in PROTOCOLS),
)


def _check_units(dataset: Dataset, table: EventTable, targets: Ints, split: str) -> None:
    units = resampling(table, targets).summary() if len(targets) else None
    if units is None or units.count < FEWEST_UNITS:
        has = "no one" if units is None else units.counted
        raise EdgebError(
            f"{dataset.path}: {has} in the {split} part has a full history, and intervals need {FEWEST_UNITS} or more",
            "import more users or a longer log, or set a shorter layout.history_length",
        )


def _each(counts: Ints, wanted: int) -> int:
    """The least share per user or behavior that gives `wanted` windows; their largest count where none does."""
    low, high = 1, max(1, int(counts.max(initial=1)))
    while low < high:
        middle = (low + high) // 2
        if np.minimum(counts, middle).sum() >= wanted:
            high = middle
        else:
            low = middle + 1
    return low


def _kinds(table: EventTable, targets: Ints, history_length: int) -> Ints:
    first = table.user_offsets[table.user_of(targets)]
    kinds = np.empty(len(targets), dtype=np.int64)
    for row, (start, target) in enumerate(zip(first.tolist(), targets.tolist(), strict=True)):
        truth, before = table.behavior[target], table.behavior[start:target]
        kinds[row] = 0 if truth in before[-history_length:] else 1 if truth in before else 2
    return kinds


def _salted(salt: bytes, split: str, code: int) -> str:
    return hashlib.sha256(salt + f"{split} {code}".encode()).hexdigest()[:_CODE_LENGTH]
