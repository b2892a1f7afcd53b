"""Foursquare check-ins in the TSMC2014 layout: eight tab-separated columns without a header, or a copy with one.

user, venue id, category id, category name, latitude, longitude, time-zone offset in minutes, UTC time. Copies in CSV
have a header (userId, venueId, …) and are read by its names. The behavior is the category; the place is a coarse map
cell, never the venue, which would give the category away.
"""

from __future__ import annotations

import csv
import math
from datetime import datetime
from pathlib import Path

from edge_behavior.data.duck import Database
from edge_behavior.data.importers.checks import require_users
from edge_behavior.data.importers.fixed_layout import Delimited, explain_faults, first_line
from edge_behavior.data.importers.loaded_log import LoadedLog
from edge_behavior.data.importers.times import settle_times
from edge_behavior.data.info import PlaceInfo
from edge_behavior.data.simulator.place_names import letters_sql, width_for
from edge_behavior.errors import EdgebError

COLUMNS = ("user", "venue", "category id", "category", "latitude", "longitude", "offset", "UTC time")
# Names of the required columns in copies with a header: lower case, letters only.
_HEADER = {
    "user": ("userid", "user"),
    "category": ("venuecategory", "venuecategoryname", "category"),
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon", "lng", "long"),
    "offset": ("timezoneoffset", "timezone", "offset"),
    "UTC time": ("utctimestamp", "utctime", "timestamp"),
}
_DELIMITERS = (",", "\t", ";", "|")
_TIME = "%a %b %d %H:%M:%S +0000 %Y"
_MAX_OFFSET = 14 * 60  # minutes


def load_tsmc(database: Database, path: Path, cell_degrees: float) -> LoadedLog:
    """Load a TSMC2014 file in UTF-8, as published or with a header.

    A cell is `cell_degrees` high and wide. Its name is the letters of its row, then of its column, counted from the
    south-west corner of the log: row 3, column 10 is "DK".

    Raises:
        EdgebError: a wrong number of columns, a bad time, offset or position, or a missing user.
    """
    file, index = _layout(path)
    c = {name: f"c{i}" for name, i in index.items()}
    minutes = f"TRY_CAST({c['offset']} AS INTEGER)"
    clock = (
        f"CASE WHEN {minutes} BETWEEN {-_MAX_OFFSET} AND {_MAX_OFFSET} "
        f"THEN try_strptime({c['UTC time']}, '{_TIME}') + to_minutes({minutes}) END"
    )
    with explain_faults(file):
        database.execute(
            f"CREATE TABLE checkins AS SELECT trim({c['user']}) AS user, {clock} AS time, "
            f"CASE WHEN ({clock}) IS NULL THEN concat({c['UTC time']}, ' ', {c['offset']}) END AS odd, "
            f"{c['category']} AS behavior, TRY_CAST({c['latitude']} AS DOUBLE) AS lat, "
            f"TRY_CAST({c['longitude']} AS DOUBLE) AS lon FROM {file.sql()}"
        )
    if database.query_int("SELECT count(*) FROM checkins") == 0:
        raise EdgebError(f"{path} has no rows", "pass a log with one row per event")
    bad = database.query_row(
        "SELECT min(rowid) FROM checkins WHERE coalesce(NOT (abs(lat) <= 90 AND abs(lon) <= 180), true)"
    )[0]
    if bad is not None:
        columns = " and ".join(str(index[name] + 1) for name in ("latitude", "longitude"))
        raise EdgebError(
            f"{file.locate(bad)}: columns {columns} are not a latitude and longitude", "drop or correct the row"
        )
    place = _name_cells(database, cell_degrees)
    settle_times(database, file.locate, _no_time)
    require_users(database, file.locate, "user")
    return LoadedLog((path,), file.locate, place)


def _layout(path: Path) -> tuple[Delimited, dict[str, int]]:
    """How to read the file, and the position of each required column."""
    line = first_line(path)
    delimiter = max(_DELIMITERS, key=line.count)
    names = ["".join(c for c in name.lower() if c.isalpha()) for name in next(csv.reader([line], delimiter=delimiter))]
    index = {
        column: names.index(found)
        for column, known in _HEADER.items()
        if (found := next((name for name in known if name in names), None)) is not None
    }
    if len(index) == len(_HEADER):
        return Delimited(path, len(names), delimiter, header=True), index
    tabs = line.count("\t") + 1
    if index.keys() >= {"user", "category"} or tabs != len(COLUMNS):
        lacking = ", ".join(column for column in _HEADER if column not in index)
        missing = f"; as a header it lacks {lacking}" if index else ""
        raise EdgebError(
            f"{path}:1: {tabs} tab-separated columns where TSMC2014 has {len(COLUMNS)}{missing}",
            f"the columns are {', '.join(COLUMNS)}; for another layout pass --format csv",
        )
    plain = Delimited(path, len(COLUMNS), "\t", header=False, quote="")
    return plain, {name: COLUMNS.index(name) for name in _HEADER}


def _name_cells(database: Database, degrees: float) -> PlaceInfo:
    """Turn `checkins` into `log`, with cell names for positions."""
    south, north, west, east = database.query_row("SELECT min(lat), max(lat), min(lon), max(lon) FROM checkins")
    rows = math.floor((north - south) / degrees) + 1
    columns = math.floor((east - west) / degrees) + 1
    row_width, column_width = width_for(rows), width_for(columns)
    row = f"CAST(floor((lat - ({south!r})) / {degrees!r}) AS BIGINT)"
    column = f"CAST(floor((lon - ({west!r})) / {degrees!r}) AS BIGINT)"
    database.execute(
        f"CREATE TABLE log AS SELECT user, time, odd, behavior, "
        f"{letters_sql(row, row_width)} || {letters_sql(column, column_width)} AS place FROM checkins"
    )
    database.execute("DROP TABLE checkins")
    return PlaceInfo(
        kind="cell",
        origin={"latitude": south, "longitude": west},
        cell_degrees=degrees,
        rows=rows,
        columns=columns,
        row_letters=row_width,
        column_letters=column_width,
        count=0,
    )


def _no_time(text: str, where: str) -> datetime:
    raise EdgebError(
        f"{where}: '{text}' is not a UTC time and an offset of at most 14 hours in minutes",
        "they look like 'Sun Apr 08 18:20:29 +0000 2012' and -240 in TSMC2014",
    )
