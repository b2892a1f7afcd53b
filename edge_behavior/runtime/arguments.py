"""Checks of the Python API's arguments, before anything is computed.

Bad values must not reach prompts, native code or a user's habits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from numbers import Integral, Real
from pathlib import Path

import numpy as np

from edge_behavior.core.events import BehaviorEvent
from edge_behavior.errors import EdgebError

_SHOWN = 40


def check_query(history: object, when: object, place: object) -> None:
    """Refuse a history, a local time or a place of the wrong type.

    Raises:
        EdgebError: naming the argument, or the event.
    """
    if isinstance(history, str | bytes) or not isinstance(history, Sequence):
        raise EdgebError(f"history is {described(history)}", "pass a list of BehaviorEvent, [] for none")
    for i, event in enumerate(history, 1):
        if not _is_event(event):
            check_event(event, f"history event {i}")
    check_time(when, "when")
    check_place(place)


def check_place(place: object) -> None:
    """Refuse a place that is neither text nor None; whether one is required depends on the layout.

    Raises:
        EdgebError: it is something else.
    """
    if place is not None:
        check_text(place, "place")


def check_event(event: object, what: str) -> None:
    """Refuse anything but a `BehaviorEvent` of texts and a local time.

    Raises:
        EdgebError: naming `what`, and the field.
    """
    if not isinstance(event, BehaviorEvent):
        raise EdgebError(f"{what} is {described(event)}", "pass a BehaviorEvent(place, time, behavior)")
    check_text(event.place, f"the place of {what}")
    check_time(event.time, f"the time of {what}")
    check_text(event.behavior, f"the behavior of {what}")


def check_time(when: object, what: str) -> None:
    """Refuse anything but a datetime without a zone.

    Raises:
        EdgebError: naming `what`.
    """
    # pandas' NaT is a datetime that does not equal itself.
    if not isinstance(when, datetime) or when != when:
        raise EdgebError(f"{what} is {described(when)}", "pass a datetime in local time")
    if when.tzinfo is not None:
        raise EdgebError(f"{what} carries a time zone, {when.isoformat()}", "pass local time, without a tzinfo")


def check_text(text: object, what: str) -> None:
    """Refuse anything but text.

    Raises:
        EdgebError: naming `what`.
    """
    if not isinstance(text, str):
        raise EdgebError(f"{what} is {described(text)}", "pass text")


def check_labels(labels: object, what: str) -> None:
    """Refuse anything but a list of texts; a single text, though a sequence of letters, is a mistake.

    Raises:
        EdgebError: naming `what`.
    """
    if isinstance(labels, str | bytes) or not isinstance(labels, Sequence | set | frozenset):
        raise EdgebError(f"{what} is {described(labels)}", "pass a list of labels")
    for label in labels:
        check_text(label, f"a label of {what}")


def check_flag(value: object, what: str) -> None:
    """Refuse anything but True or False.

    Raises:
        EdgebError: naming `what`.
    """
    if not isinstance(value, bool | np.bool_):
        raise EdgebError(f"{what} is {described(value)}", "pass True or False")


def check_level(value: object, what: str) -> None:
    """Refuse anything but a number from 0 to 1.

    Raises:
        EdgebError: naming `what`.
    """
    # Comparisons with NaN are false.
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise EdgebError(f"{what} is {described(value)}", "pass a share between 0 and 1, like 0.8")


def whole_number(value: object, what: str, least: int, of: str) -> int:
    """A whole number of at least `least`; NumPy's integers count.

    Args:
        of: What is counted, for the hint.

    Raises:
        EdgebError: naming `what`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise EdgebError(f"{what} is {described(value)}", f"use {least} or more {of}")
    return int(value)


def checked_top_k(top_k: object) -> int | None:
    """How many candidates to return; None for all.

    Raises:
        EdgebError: not a whole number, or below 1.
    """
    return None if top_k is None else whole_number(top_k, "top_k", 1, "candidates")


def as_path(path: object, what: str) -> Path:
    """A path given as `Path` or text.

    Raises:
        EdgebError: naming `what`: not a path, or one that no file can have.
    """
    if not isinstance(path, str | os.PathLike):
        raise EdgebError(f"{what} is {described(path)}", "pass a path")
    try:
        named = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        named = False
    if not named:
        raise EdgebError(f"{what} is {described(path)}", "pass a path without NUL or surrogate characters")
    return Path(os.fsdecode(path))


def _is_event(event: object) -> bool:
    """What `check_event` accepts, without wording a message: histories are long."""
    return (
        isinstance(event, BehaviorEvent)
        and isinstance(event.time, datetime)
        and event.time == event.time
        and event.time.tzinfo is None
        and isinstance(event.place, str)
        and isinstance(event.behavior, str)
    )


def described(value: object) -> str:
    """A wrong value for an error message, with its type unless that is obvious."""
    if value is None or isinstance(value, bool | int | float):
        return f"{value}"[:_SHOWN]
    return f"{value!r}"[:_SHOWN] + f" ({type(value).__name__})"
