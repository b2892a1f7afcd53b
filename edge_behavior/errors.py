"""The one exception users see: what is wrong, and what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class EdgebError(Exception):
    """The user's input or environment is at fault; the CLI prints one line and exits with 2.

    Args:
        message: What is wrong, naming the file, line or field.
        hint: What to do about it.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class GateError(EdgebError):
    """A quality gate or comparison failed: nothing is wrong with the input, so the CLI exits with 1."""

    exit_code = 1


def nearest(name: str, known: Iterable[str], fallback: int = 8) -> str:
    """A hint for an unknown name: the closest valid one, or the valid names when nothing is close.

    `fallback` bounds how many names are listed.
    """
    names = sorted(known)
    lower = {n.lower(): n for n in names}
    close = get_close_matches(name.lower(), list(lower), n=1, cutoff=0.7)
    if close:
        return f"did you mean '{lower[close[0]]}'?"
    shown = ", ".join(names[:fallback])
    more = f", … ({len(names)} in all)" if len(names) > fallback else ""
    return f"valid: {shown}{more}"
