"""What a user chooses for an import: the options, their ranges, and which of them apply to a format."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from edge_behavior.core.times.clock import Clock, make_clock
from edge_behavior.data.dataset import SPLITS
from edge_behavior.data.duck import check_memory_limit
from edge_behavior.data.info import RecordedOptions
from edge_behavior.errors import EdgebError, nearest

GENERIC_FORMATS = ("csv", "jsonl", "parquet")
FORMATS = (*GENERIC_FORMATS, "tsmc2014", "app-usage")
# Whole users (or groups of them) per split, or the events of every user by time.
SPLIT_KINDS = ("users", "time")
MISSING_POLICIES = ("refuse", "drop", "keep")

CELL_DEGREES = 0.03
APP_USAGE_MERGE_SECONDS = 60
# Larger numbers are typing errors, and some would overflow.
MAX_SEED, MAX_MIN_EVENTS, MAX_MERGE_SECONDS = 2**63 - 1, 10**9, 366 * 86_400


@dataclass(frozen=True)
class ColumnMap:
    """Column names of a generic log.

    Attributes:
        place: None for a log without places.
        group: Column of the user's group; None where users are not grouped.
    """

    user: str = "user_id"
    time: str = "timestamp"
    place: str | None = "place"
    behavior: str = "behavior"
    group: str | None = None

    @property
    def named(self) -> dict[str, str]:
        """Column per role, without the roles that have none."""
        return {role: name for role, name in asdict(self).items() if name is not None}

    def check(self) -> None:
        """Refuse one column in two roles.

        Raises:
            EdgebError: naming the column and both roles.
        """
        roles: dict[str, str] = {}
        for role, name in self.named.items():
            if name in roles:
                first = roles[name]
                hint = f"--{first}-column and --{role}-column must differ"
                if "place" in (first, role):
                    hint += "; if the log has no places, pass --no-place"
                raise EdgebError(f"column '{name}' cannot be both the {first} and the {role}", hint)
            roles[name] = role


@dataclass(frozen=True)
class ImportOptions:
    """Options of an import; the defaults suit a log with the columns of `ColumnMap`.

    Attributes:
        columns: Column names of a generic log; None for the usual ones.
        places: Whether events have a place. If not, the place column is not read.
        split: `users`: 8:1:1 of the users, or of their groups. `time`: the last two tenths of every user's events are
            validation and test.
        seed: Of the split by users.
        min_events: Users with fewer events are skipped and counted; at least 2, and 3 with a split by time.
        cell_degrees: Height and width of a place cell, `tsmc2014` only; None for 0.03.
        merge_seconds: Drop an event that repeats the user's previous behavior and place within this time. None: 60 for
            `app-usage`, whose rows are network requests, else 0.
        timezone: Generic logs whose times have offsets or count from 1970: the users' zone, or `as-written`; see
            `clock.make_clock`. None: times are local already.
        time_unit: Generic logs: unit of numeric times since 1970: s, ms, us or ns.
        missing: Events whose behavior is empty or a word like NULL: one of MISSING_POLICIES; `keep` makes it a label.
        memory_limit: DuckDB's, like "8GB"; None for half of the free memory, at most 8 GiB.
        source_name: Recorded as the source instead of the file's name.
    """

    columns: ColumnMap | None = None
    places: bool = True
    split: str = "users"
    seed: int = 0
    min_events: int = 21
    cell_degrees: float | None = None
    merge_seconds: int | None = None
    timezone: str | None = None
    time_unit: str | None = None
    missing: str = "refuse"
    memory_limit: str | None = None
    source_name: str | None = None

    def check(self, format: str) -> None:
        """Refuse options that are out of range or do not apply to the format.

        Raises:
            EdgebError: naming the option and what it takes.
        """
        if format not in FORMATS:
            raise EdgebError(f"unknown format '{format}'", nearest(format, FORMATS))
        self._check_numbers()
        self._check_applies(format)
        if self.columns is not None:
            self.columns.check()
        make_clock(self.timezone, self.time_unit)
        if self.missing not in MISSING_POLICIES:
            raise EdgebError(f"unknown --missing '{self.missing}'", nearest(self.missing, MISSING_POLICIES))
        if self.split not in SPLIT_KINDS:
            raise EdgebError(f"unknown split '{self.split}'", nearest(self.split, SPLIT_KINDS))
        if self.split == "time" and self.min_events < len(SPLITS):
            raise EdgebError(
                f"--min-events is {self.min_events}, but a split by time needs at least one event per user in each of "
                f"{len(SPLITS)} splits",
                f"use at least {len(SPLITS)}",
            )

    def _check_numbers(self) -> None:
        if self.memory_limit is not None:
            check_memory_limit(self.memory_limit)
        if not 0 <= self.seed <= MAX_SEED:
            raise EdgebError(f"--seed is {self.seed}", "use 0 to 2^63 - 1")
        if not 2 <= self.min_events <= MAX_MIN_EVENTS:
            raise EdgebError(
                f"--min-events is {self.min_events}", f"use 2 to {MAX_MIN_EVENTS}; 21 gives each user one full window"
            )
        if self.cell_degrees is not None and not 1e-4 <= self.cell_degrees <= 180:
            raise EdgebError(f"--cell-degrees is {self.cell_degrees}", "use 0.0001 to 180; 0.03 is about 3 km")
        if self.merge_seconds is not None and not 0 <= self.merge_seconds <= MAX_MERGE_SECONDS:
            raise EdgebError(
                f"--merge-seconds is {self.merge_seconds}",
                f"use 0, which keeps repeats, to {MAX_MERGE_SECONDS} (a year)",
            )

    def _check_applies(self, format: str) -> None:
        if format not in GENERIC_FORMATS:
            if self.columns is not None:
                raise EdgebError(
                    f"column names do not apply to {format}", "its layout is fixed; drop the --…-column options"
                )
            if self.timezone is not None or self.time_unit is not None:
                raise EdgebError(
                    f"--timezone and --time-unit do not apply to {format}", "its time format is fixed; drop them"
                )
        if self.cell_degrees is not None and format != "tsmc2014":
            raise EdgebError(f"--cell-degrees does not apply to {format}", "only tsmc2014 has place cells; drop it")
        if self.cell_degrees is not None and not self.places:
            raise EdgebError("--cell-degrees and --no-place exclude each other", "pass one of them")

    @property
    def clock(self) -> Clock:
        """What times with an offset and numeric times mean."""
        return make_clock(self.timezone, self.time_unit)

    @property
    def mapped(self) -> ColumnMap:
        """Column names of a generic log, with the defaults filled in."""
        columns = self.columns or ColumnMap()
        return columns if self.places else ColumnMap(columns.user, columns.time, None, columns.behavior, columns.group)

    def recorded(self, format: str) -> RecordedOptions:
        """The options as dataset.json records them."""
        default = APP_USAGE_MERGE_SECONDS if format == "app-usage" else 0
        return RecordedOptions(
            seed=self.seed,
            min_events=self.min_events,
            merge_seconds=default if self.merge_seconds is None else self.merge_seconds,
            missing=self.missing,
            columns=self.mapped.named if format in GENERIC_FORMATS else None,
            timezone=self.timezone,
            time_unit=self.time_unit,
            split=self.split,
            group_column=self.mapped.group,
        )
