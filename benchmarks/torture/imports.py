"""Fuzzed logs through every importer: refused in one line, or a dataset with just the log's events.

Hypothesis draws a small table, writes it in one of the formats and dialects, and may damage the text. An undamaged
file has to give the table's events; an accepted damaged one has to account for every row.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks.torture.supervised import DIFFERENT, SAME, Judge, Outcomes, judged, outcome_of
from edge_behavior.data.dataset import SPLITS, Dataset
from edge_behavior.data.importers.importer import import_log
from edge_behavior.data.importers.options import ImportOptions
from edge_behavior.data.verify import verify

FORMATS = ("csv", "jsonl", "parquet", "tsmc2014", "app-usage")
ACCEPTED = "accepted, consistent"
_PER_CASE = 50
_USERS = ("u1", "u2", "u3", "Zoë", "0007")
_PLACES = ("home", "work", "Café, 2nd floor", 'the "Dom"', "東京", "")
_LABELS = ("Video", "Video Call", "Café", "a;b", "x|y", "News, local", 'say "hi"', "地図", "TRUE", "7")
_START = datetime(2024, 1, 1)
_TOKENS = (
    b"", b"\x00", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\r", b"\n", b"\r\n", b'"', b"'", b",", b"\t", b";", b"|", b"\\",
    b"{", b"}", b"[", b"]", b":", b"null", b"NULL", b"NaN", b"-1", b"9" * 400, b"A" * 300, "\u200e".encode(),
    "\u2028".encode(), "e\u0301".encode(), b"2024-02-30", b"0000-01-01", b"9999-12-31T23:59:59", b"+99:99", b"Z",
    b"1e400", b"sep=;\n", b"\x1f\x8b", b"PAR1", b"\n\n", b"timestamp", b"user_id,user_id",
)  # fmt: skip

LogRow = tuple[str, datetime, str, str]


@dataclass(frozen=True)
class Log:
    """A file to import: its format, its bytes, and the rows it was made from."""

    format: str
    content: bytes
    rows: tuple[LogRow, ...]
    damaged: bool


def run(folder: Path, cases: int, advance: Callable[[], None]) -> dict[str, Any]:
    """Import `cases` fuzzed logs, in batches of fifty."""
    outcomes = Outcomes()
    batches = -(-cases // _PER_CASE)
    for batch, outcome in judged(make_judge, folder, batches):
        if outcome.startswith("{"):
            for kind, example in json.loads(outcome)["found"]:
                outcomes.add(kind, batch, example)
        else:
            outcomes.add("any format", batch, f"{outcome}; the log is {_kept(folder)}")
        for _ in range(_PER_CASE):
            advance()
    return {"cases": batches * _PER_CASE, **outcomes.to_dict()}


def make_judge(folder: Path) -> Judge:
    """Judges one batch: the outcome of every log in it."""
    folder.mkdir(exist_ok=True)

    def judge(batch: int) -> str:
        found: list[tuple[str, str]] = []

        @seed(batch)
        @settings(
            max_examples=_PER_CASE,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(logs())
        def each(log: Log) -> None:
            if len(found) < _PER_CASE:
                found.append((log.format, outcome_of(lambda _: _imported(log, folder), batch)))

        each()
        return json.dumps({"found": found})

    return judge


def _kept(folder: Path) -> str:
    """Keep the log that the child was importing when it died, for debugging; its path."""
    kept = Path(tempfile.mkdtemp(prefix="edgeb-torture-log-")) / "log"
    if (folder / "current").exists():
        shutil.copytree(folder / "current", kept)
    return str(kept)


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """A log in some format, damaged or not."""
    rows = draw(st.lists(_rows(), min_size=0, max_size=24).map(tuple))
    if draw(st.integers(0, 5)):
        rows = (*rows, *_enough())
    format = draw(st.sampled_from(FORMATS))
    content = _WRITERS[format](draw, rows)
    damage = draw(st.sampled_from((0, 0, 1, 2)))
    for _ in range(damage):
        content = _damage(draw, content)
    if draw(st.integers(0, 9)) == 0 and format != "parquet":
        content = gzip.compress(content, mtime=0)
        if draw(st.integers(0, 3)) == 0:
            content, damage = content[: draw(st.integers(0, len(content)))], 1
    return Log(format, content, rows, damage > 0)


def _rows() -> st.SearchStrategy[LogRow]:
    times = st.integers(0, 60 * 24 * 60).map(lambda minutes: _START + timedelta(minutes=minutes))
    text = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12)
    known = st.sampled_from(_LABELS)
    # Mostly known labels: random text is often refused for one character, and then nothing else is tested.
    label = st.one_of(*[known] * 40, text)
    place = st.one_of(st.sampled_from(_PLACES), text)
    return st.tuples(st.sampled_from(_USERS), times, place, label)


def _enough() -> tuple[LogRow, ...]:
    """Rows that are a dataset by themselves."""
    return tuple(
        (user, _START + timedelta(hours=i, minutes=n), _PLACES[i % 2], _LABELS[(i + n) % 3])
        for n, user in enumerate(_USERS[:4])
        for i in range(5)
    )


def _csv(draw: st.DrawFn, rows: tuple[LogRow, ...]) -> bytes:
    text = io.StringIO()
    delimiter = draw(st.sampled_from(",\t;|"))
    end = draw(st.sampled_from(("\n", "\r\n")))
    quoting: Literal[0, 1] = csv.QUOTE_ALL if draw(st.booleans()) else csv.QUOTE_MINIMAL
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
    order = draw(st.permutations(range(4)))
    names = ("user_id", "timestamp", "place", "behavior")
    writer.writerow([names[i] for i in order])
    for user, time, place, label in rows:
        fields = (user, time.isoformat(sep=draw(st.sampled_from("T "))), place, label)
        writer.writerow([fields[i] for i in order])
    return _encoded(draw, text.getvalue())


def _encoded(draw: st.DrawFn, text: str) -> bytes:
    return text.encode(draw(st.sampled_from(("utf-8", "utf-8", "utf-8-sig", "utf-16"))), "surrogatepass")


def _jsonl(draw: st.DrawFn, rows: tuple[LogRow, ...]) -> bytes:
    ascii_ = draw(st.booleans())
    objects = [
        {"user_id": user, "timestamp": time.isoformat(), "place": place, "behavior": label}
        for user, time, place, label in rows
    ]
    if draw(st.integers(0, 4)) == 0:
        return _encoded(draw, json.dumps(objects, ensure_ascii=ascii_, indent=draw(st.sampled_from((None, 1)))))
    return _encoded(draw, "".join(json.dumps(o, ensure_ascii=ascii_) + "\n" for o in objects))


def _parquet(draw: st.DrawFn, rows: tuple[LogRow, ...]) -> bytes:
    users, times, places, labels = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [], [])
    unit = draw(st.sampled_from(("s", "ms", "us", "ns", "text")))
    stamps = pa.array([t.isoformat() for t in times]) if unit == "text" else pa.array(times, pa.timestamp(unit))
    table = pa.table(
        {
            "user_id": pa.array(users, pa.string()),
            "timestamp": stamps,
            "place": pa.array(places, pa.string()),
            "behavior": pa.array(labels, pa.string()),
        }
    )
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def _tsmc(draw: st.DrawFn, rows: tuple[LogRow, ...]) -> bytes:
    lines = []
    for i, (user, time, _, label) in enumerate(rows):
        clean = label.replace("\t", " ")
        stamp = time.strftime("%a %b %d %H:%M:%S +0000 %Y")
        lines.append(f"{user}\tv{i}\tc\t{clean}\t{40 + i % 3:.4f}\t{-74 + i % 5:.4f}\t0\t{stamp}\n")
    return "".join(lines).encode("utf-8", "surrogatepass")


def _app_usage(draw: st.DrawFn, rows: tuple[LogRow, ...]) -> bytes:
    return "".join(
        f"{user} {time:%Y%m%d%H%M%S} {i % 7} {i % 3} {i}\n" for i, (user, time, _, _) in enumerate(rows)
    ).encode()


_WRITERS: dict[str, Callable[[st.DrawFn, tuple[LogRow, ...]], bytes]] = {
    "csv": _csv, "jsonl": _jsonl, "parquet": _parquet, "tsmc2014": _tsmc, "app-usage": _app_usage,
}  # fmt: skip


def _damage(draw: st.DrawFn, content: bytes) -> bytes:
    at = draw(st.integers(0, len(content)))
    how = draw(st.integers(0, 4))
    if how == 0:
        return content[:at] + draw(st.sampled_from(_TOKENS)) + content[at:]
    if how == 1:
        return content[:at] + content[at + draw(st.integers(1, 40)) :]
    if how == 2:
        return content[:at] + bytes([draw(st.integers(0, 255))]) + content[at + 1 :]
    if how == 3:
        return content[:at] + draw(st.binary(min_size=1, max_size=30)) + content[at:]
    end = min(len(content), at + draw(st.integers(1, 200)))
    return content[:end] + content[at:end] + content[end:]


def _imported(log: Log, folder: Path) -> str:
    current, out = folder / "current", folder / "out"
    for left in (current, out):
        shutil.rmtree(left, ignore_errors=True)
    current.mkdir()
    source = current / "App_usage_trace.txt" if log.format == "app-usage" else current / "log"
    source.write_bytes(log.content)
    if log.format == "app-usage":
        (current / "App2Category.txt").write_text("0\t10\n1\t11\n2\t10\n")
        (current / "Categorys.txt").write_text("10\tGames\n11\tMaps\n")
        source = current
    try:
        options = ImportOptions(min_events=2, merge_seconds=0, memory_limit="256MB")
        info = import_log(source, log.format, out, options).to_dict()
    except BaseException:
        if out.exists() or {path.name for path in folder.iterdir()} != {"current"}:
            return f"left behind: {sorted(path.name for path in folder.iterdir())}"
        raise
    dataset = Dataset.open(out)
    verify(dataset)
    rows = info["rows"]
    events = [event for split in SPLITS for event in _events(dataset, split)]
    if rows["read"] != len(events) + sum(rows["dropped"].values()):
        return f"{DIFFERENT}: {rows} do not add up to {len(events)} events"
    if len(dataset.candidates) < 2:
        return f"{DIFFERENT}: {len(dataset.candidates)} candidates"
    if log.damaged:
        return ACCEPTED
    return _compared(log, events, info)


def _events(dataset: Dataset, split: str) -> list[tuple[str, datetime, str]]:
    """(user, time, label) of a part's events."""
    ids = pq.read_table(dataset.path / "users.parquet").column("user_id").to_pylist()
    table = dataset.events(split)
    users = table.user_of(range(len(table)))
    return [
        (ids[int(table.users[int(users[i])])], event.time, event.behavior)
        for i, event in enumerate(table.between(0, len(table)))
    ]


def _compared(log: Log, events: list[tuple[str, datetime, str]], info: dict[str, Any]) -> str:
    """The events of an undamaged file against the rows it was written from."""
    from edge_behavior.core.events import clean_label, clean_place

    if log.format == "app-usage":
        apps = {0: "Games", 1: "Maps", 2: "Games"}
        wanted = {(user, time, str(i % 7), apps[i % 3]) for i, (user, time, _, _) in enumerate(log.rows)}
    elif log.format == "tsmc2014":
        wanted = {
            (user, time, f"{i % 3} {i % 5}", clean_label(label.replace("\t", " ")))
            for i, (user, time, _, label) in enumerate(log.rows)
        }
    else:
        wanted = {(user, time, clean_place(place), clean_label(label)) for user, time, place, label in log.rows}
    per_user = Counter(user for user, *_ in wanted)
    expected = Counter((user, time, label) for user, time, _, label in wanted if per_user[user] >= 2)
    found = Counter(events)
    if found == expected:
        return SAME
    missing, extra = expected - found, found - expected
    return f"{DIFFERENT}: missing {list(missing)[:3]}, extra {list(extra)[:3]}; rows {info['rows']}"
