from __future__ import annotations

import pytest

from edge_behavior.util.numbers import GIB, difference, duration, file_size, gib, number, significant


@pytest.mark.parametrize(
    ("value", "text"), [(0.3864, ".386"), (1.0, "1.000"), (0.0, ".000"), (None, "–"), (-0.25, "-.250")]
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.12, "+.120"), (-0.0331, "-.033"), (-0.0001, "+.000"), (0.0, "+.000"), (None, "–")]
)
def test_difference(value: float | None, text: str) -> None:
    assert difference(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1,234"), (99.96, "100.0"), (12.34, "12.3"), (1.234, "1.23"), (0.5, "0.50"), (None, "–")],
)
def test_significant(value: float | None, text: str) -> None:
    assert significant(value) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0.0 kB"), (62_308, "62.3 kB"), (5_340_000, "5.3 MB"), (10**9, "1.0 GB")]
)
def test_file_size(size: int, text: str) -> None:
    assert file_size(size) == text


@pytest.mark.parametrize(
    ("size", "up", "text"),
    [(2**20 + 1, False, "2 MiB"), (GIB, False, "1.0 GiB"), (GIB + 1, True, "1.1 GiB"), (GIB + 1, False, "1.0 GiB")],
)
def test_gib(size: int, up: bool, text: str) -> None:
    assert gib(size, up) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (99.4, "99 s"),
        (100, "2 min"),
        (5940, "99 min"),
        (6000, "1 h 40 min"),
        (48 * 3600, "2 days 0 h"),
        (100_000_000, "1,157 days 9 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
