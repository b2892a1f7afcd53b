"""The Tsinghua App-Usage dataset: a trace of network requests with three small tables beside it.

App_usage_trace.txt: user, time (YYYYMMDDhhmmss, local), base station, app, traffic, separated by spaces.
App2Category.txt: app, category. Categorys.txt: category, name. base_poi.txt (optional): a header, then for each base
station the number of points of interest per type. The behavior is the name of the app's category; the place is the
base station's most frequent type.
"""

from __future__ import annotations

import csv
import math
from datetime import datetime
from pathlib import Path

from edge_behavior.core.events import UNKNOWN_PLACE, clean_label, clean_place
from edge_behavior.data.duck import Database
from edge_behavior.data.importers.checks import require_users
from edge_behavior.data.importers.fixed_layout import Delimited, explain_faults, first_line, open_text
from edge_behavior.data.importers.loaded_log import LoadedLog
from edge_behavior.data.importers.times import settle_times
from edge_behavior.data.info import PlaceInfo
from edge_behavior.data.simulator.place_names import letters, width_for
from edge_behavior.errors import EdgebError

TRACE, APPS, CATEGORIES, STATIONS = "App_usage_trace", "App2Category", "Categorys", "base_poi"


def load_app_usage(database: Database, path: Path) -> LoadedLog:
    """Load the dataset from its folder, or from its trace file with the tables beside it.

    A station without points of interest is the place "unknown". Without base_poi.txt the place is the station itself,
    in capital letters.

    Raises:
        EdgebError: a missing or unreadable table, a bad time, or a missing user.
    """
    folder = path if path.is_dir() else path.parent
    trace = _required(folder, TRACE) if path.is_dir() else path
    apps, categories = _required(folder, APPS), _required(folder, CATEGORIES)
    stations = _beside(folder, STATIONS)
    labels = _labels(apps, categories)
    file = _load_trace(database, trace)
    settle_times(database, file.locate, _no_time)
    require_users(database, file.locate, "user")
    files: tuple[Path, ...] = (trace, apps, categories)
    if stations is None:
        names = _station_letters(database)
        kind = "station"
    else:
        names = _station_types(stations)
        kind = "poi"
        files = (*files, stations)
    return LoadedLog(
        files,
        file.locate,
        PlaceInfo(kind=kind, count=0),
        lambda text: names.get(text, UNKNOWN_PLACE),
        labels.get,
        no_label="no_category",
    )


def _beside(folder: Path, name: str) -> Path | None:
    """The file of that name in any case (copies differ), plain or gzipped."""
    wanted = (f"{name}.txt".lower(), f"{name}.txt.gz".lower())
    return next((entry for entry in sorted(folder.iterdir()) if entry.name.lower() in wanted), None)


def _required(folder: Path, name: str) -> Path:
    found = _beside(folder, name)
    if found is None:
        raise EdgebError(f"no {name}.txt in {folder}", "pass the folder that holds the dataset's text files")
    return found


def _load_trace(database: Database, path: Path) -> Delimited:
    line = first_line(path)
    delimiter = "\t" if "\t" in line else " "
    columns = line.count(delimiter) + 1
    if columns not in (4, 5):
        raise EdgebError(
            f"{path}:1: {columns} columns where the trace has 5",
            "the columns are user, time, base station, app and traffic",
        )
    file = Delimited(path, columns, delimiter, quote="")
    clock = "CASE WHEN regexp_full_match(c1, '[0-9]{14}') THEN try_strptime(c1, '%Y%m%d%H%M%S') END"
    with explain_faults(file):
        database.execute(
            f"CREATE TABLE log AS SELECT c0 AS user, {clock} AS time, "
            f"CASE WHEN ({clock}) IS NULL THEN c1 END AS odd, c2 AS place, c3 AS behavior FROM {file.sql()}"
        )
    return file


def _no_time(text: str, where: str) -> datetime:
    raise EdgebError(f"{where}: '{text}' is not a time", "write YYYYMMDDhhmmss, like 20160420000018")


def _labels(apps: Path, categories: Path) -> dict[str, str]:
    """App id to category name; apps of an unlisted category are left out."""
    names: dict[str, str] = {}
    for _, key, value in _pairs(categories):
        if key.isdigit():  # the first line may be a header
            try:
                names[key] = clean_label(value)
            except EdgebError as error:
                raise EdgebError(f"{categories}: {error.message}", error.hint) from None
    if not names:
        raise EdgebError(f"{categories} names no category", "write one category per line: its id, a tab, its name")
    found = {app: names[category] for _, app, category in _pairs(apps) if category in names}
    if not found:
        raise EdgebError(f"no app of {apps} has a category of {categories}", "use two tables of the same dataset")
    return found


def _pairs(path: Path) -> list[tuple[int, str, str]]:
    """(line number, key, value) of a small table: the key ends at the first tab, comma or space, the value at a tab."""
    first_line(path)  # refuses an empty file
    pairs = []
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            text = line.strip()
            if not text:
                continue
            mark = next((m for m in ("\t", ",", " ") if m in text), None)
            if mark is None:
                raise EdgebError(f"{path}:{number}: one column where two are expected", "separate them with a tab")
            key, value = text.split(mark, 1)
            pairs.append((number, key.strip(), value.split("\t")[0].strip()))
    return pairs


def _station_types(path: Path) -> dict[str, str]:
    """Base station to its most frequent type; the first column wins a tie."""
    first_line(path)
    names: dict[str, str] = {}
    with open_text(path) as file:
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        types = [clean_place(name) for name in next(reader)[1:]]
        for record in reader:
            if not record:
                continue
            try:
                counts = [float(cell or 0) for cell in record[1:]]
            except ValueError:
                counts = []
            if len(counts) != len(types) or not types or not all(map(math.isfinite, counts)):
                raise EdgebError(
                    f"{path}:{reader.line_num}: expected a number for each of {len(types)} types",
                    "write the types in the first line, then a station and its counts per line, tab-separated",
                )
            most = max(counts)
            if most > 0:
                names[record[0].strip()] = types[counts.index(most)]
    return names


def _station_letters(database: Database) -> dict[str, str]:
    """Base station to letters, from its number where all are numbers, else from its rank."""
    stations = [
        text for (text,) in database.query("SELECT DISTINCT place FROM log WHERE place IS NOT NULL ORDER BY place")
    ]
    if all(text.isdigit() for text in stations):
        numbers = {text: int(text) for text in stations}
    else:
        numbers = {text: rank for rank, text in enumerate(stations)}
    width = width_for(max(numbers.values(), default=0) + 1)
    return {text: letters(number, width) for text, number in numbers.items()}
