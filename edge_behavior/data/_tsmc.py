"""Foursquare check-ins in the TSMC2014 layout: eight tab-separated columns, no header.

user, venue id, category id, category name, latitude, longitude, time-zone offset in minutes, UTC time. The behavior
is the category; the place is a coarse cell of the map, never the venue, which would give the category away.
"""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path

from edge_behavior.data._engine import Engine
from edge_behavior.data._letters import letters_sql, width_for
from edge_behavior.data._source import Source, require_users, settle_times
from edge_behavior.data._text import Delimited, detect_encoding, explained, first_line
from edge_behavior.errors import EdgebError

COLUMNS = ("user", "venue", "category id", "category", "latitude", "longitude", "offset", "UTC time")
_TIME = "%a %b %d %H:%M:%S +0000 %Y"


def load_tsmc(engine: Engine, path: Path, cell_degrees: float) -> Source:
    """Load a TSMC2014 file (UTF-8, or latin-1 as first published).

    A cell is `cell_degrees` high and wide; its name is its row's letters, then its column's, counted from the
    south-west corner of the log: row 3, column 10 is "DK".

    Raises:
        EdgebError: another number of columns, a bad time, offset or position, an empty user.
    """
    encoding = detect_encoding(path)
    line = first_line(path, "utf-8-sig" if encoding == "utf-8" else encoding)
    if line.count("\t") != len(COLUMNS) - 1:
        raise EdgebError(
            f"{path}:1: {line.count(chr(9)) + 1} tab-separated columns where TSMC2014 has {len(COLUMNS)}",
            f"the columns are {', '.join(COLUMNS)}; for another layout pass --format csv",
        )
    file = Delimited(path, len(COLUMNS), "\t", quote="", encoding=encoding)
    clock = f"try_strptime(c7, '{_TIME}') + to_minutes(TRY_CAST(c6 AS INTEGER))"
    with explained(file):
        engine.rows(
            f"CREATE TABLE checkins AS SELECT trim(c0) AS user, {clock} AS time, "
            f"CASE WHEN ({clock}) IS NULL THEN concat(c7, ' ', c6) END AS odd, c3 AS behavior, "
            f"TRY_CAST(c4 AS DOUBLE) AS lat, TRY_CAST(c5 AS DOUBLE) AS lon FROM {file.sql()}"
        )
    bad = engine.row("SELECT min(rowid) FROM checkins WHERE coalesce(NOT (abs(lat) <= 90 AND abs(lon) <= 180), true)")[
        0
    ]
    if bad is not None:
        raise EdgebError(f"{file.where(bad)}: no latitude and longitude in columns 5 and 6", "drop or mend the row")
    place = _name_cells(engine, cell_degrees)
    settle_times(engine, file.where, _no_time)
    require_users(engine, file.where, "user")
    return Source((path,), file.where, place)


def _name_cells(engine: Engine, degrees: float) -> dict[str, object]:
    """Turn `checkins` into `log`, positions into cell names; returns what dataset.json says of the cells."""
    south, north, west, east = engine.row("SELECT min(lat), max(lat), min(lon), max(lon) FROM checkins")
    rows = math.floor((north - south) / degrees) + 1
    columns = math.floor((east - west) / degrees) + 1
    row_width, column_width = width_for(rows), width_for(columns)
    row = f"CAST(floor((lat - ({south!r})) / {degrees!r}) AS BIGINT)"
    column = f"CAST(floor((lon - ({west!r})) / {degrees!r}) AS BIGINT)"
    engine.rows(
        f"CREATE TABLE log AS SELECT user, time, odd, behavior, "
        f"{letters_sql(row, row_width)} || {letters_sql(column, column_width)} AS place FROM checkins"
    )
    engine.rows("DROP TABLE checkins")
    return {
        "kind": "cell",
        "origin": {"latitude": south, "longitude": west},
        "cell_degrees": degrees,
        "rows": rows,
        "columns": columns,
        "row_letters": row_width,
        "column_letters": column_width,
    }


def _no_time(text: str, where: str) -> datetime:
    raise EdgebError(
        f"{where}: '{text}' is not a UTC time and an offset in minutes",
        "TSMC2014 writes them like 'Sun Apr 08 18:20:29 +0000 2012' and -240",
    )
