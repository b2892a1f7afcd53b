"""Numbers as people read them: shares, differences, measurements, sizes and durations."""

from __future__ import annotations

import math
import re

NONE = "–"
GIB = 2**30


def number(value: float | None, digits: int = 3) -> str:
    """A share as `.386`: no leading zero, three digits; None as a dash."""
    if value is None:
        return NONE
    text = f"{value:.{digits}f}"
    return re.sub(r"^(-?)0\.", r"\1.", text)


def difference(value: float | None) -> str:
    """A signed difference of shares, as `+.120`."""
    if value is None:
        return NONE
    rounded = round(value, 3) + 0.0  # no "-.000"
    return ("+" if rounded >= 0 else "") + number(rounded)


def difference_within(value: float, interval: tuple[float, float]) -> str:
    """A signed difference of shares and its interval, as `+.120 [-.010, +.250]`."""
    return f"{difference(value)} [{', '.join(map(difference, interval))}]"


def significant(value: float | None) -> str:
    """A measurement of 1 or more to three significant digits, without an exponent; None as a dash."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def file_size(size: float) -> str:
    """Bytes on disk in MB, below .1 MB in kB, from 1 GB on in GB (powers of ten, as file managers count)."""
    if size < 10**5:
        return f"{size / 1e3:.1f} kB"
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.1f} MB"


def amount(count: int) -> str:
    """A large number of things in thousands or millions, as `57.8 k` or `134.5 M`."""
    if count < 10**3:
        return str(count)
    return f"{count / 1e3:.1f} k" if count < 10**6 else f"{count / 1e6:,.1f} M"


def gib(size: int, up: bool = False) -> str:
    """Bytes of memory in GiB, to one decimal place (`up`: rounded up); small ones in MiB."""
    if size < GIB // 10:
        return f"{math.ceil(size / 2**20)} MiB"
    return f"{math.ceil(size / GIB * 10) / 10 if up else size / GIB:.1f} GiB"


def duration(seconds: float) -> str:
    """Seconds in one or two units that suit their size, such as `95 s`, `12 min` or `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days:,} days {hours} h"
