"""Small logs for the data tests, and the brute-force reading of them that the importer is held against."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

Row = tuple[str, str, str, str]
HEADER = ("user_id", "timestamp", "place", "behavior")


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., list[Row]]:
    """Rows (user, time, place, behavior) of some users, in order of time, no two of a user at the same time."""

    def make(users: int = 10, events: int = 30, behaviors: int = 4, seed: int = 0) -> list[Row]:
        rng = random.Random(seed)
        rows = []
        for user in range(users):
            time = datetime(2024, 3, 1) + timedelta(seconds=user)
            for _ in range(events):
                time += timedelta(minutes=rng.randint(1, 600))
                label = f"Behavior {min(rng.randint(0, behaviors - 1), rng.randint(0, behaviors - 1))}"
                rows.append((f"u{user:02d}", time.isoformat(), f"place {rng.randint(0, 5)}", label))
        return sorted(rows, key=lambda row: row[1])

    return make


@pytest.fixture(scope="session")
def write_csv() -> Callable[..., Path]:
    def write(path: Path, rows: Iterable[Iterable[str]], header: Iterable[str] = HEADER) -> Path:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows(rows)
        return path

    return write


@pytest.fixture(scope="session")
def histories() -> Callable[[list[Row], int], dict[str, list[tuple[str, str, str]]]]:
    """What an import must keep: user to events (time, place, behavior), by plain loops over the rows."""

    def read(rows: list[Row], min_events: int = 21) -> dict[str, list[tuple[str, str, str]]]:
        users: dict[str, list[tuple[str, str, str]]] = {}
        for user, *event in rows:
            events = users.setdefault(user, [])
            if tuple(event) not in events:
                events.append((event[0], event[1], event[2]))
        return {user: sorted(e, key=lambda x: x[0]) for user, e in sorted(users.items()) if len(e) >= min_events}

    return read
