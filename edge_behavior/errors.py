"""The exception that users see: what is wrong, and what to do about it."""

from __future__ import annotations

import errno
import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

# Control and format characters: escape sequences, carriage returns, text direction marks.
_INVISIBLE = ("Cc", "Cf")
# Needed to write Persian words and emoji.
_JOINERS = "\u200c\u200d"


class EdgebError(Exception):
    """A fault of the user's input or environment; the CLI prints it in one line and exits with 2.

    Args:
        message: What is wrong, naming the file, line or field.
        hint: What to do about it.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        self.message, self.hint = _one_line(message), _one_line(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


def _one_line(text: str) -> str:
    """One line without control characters, since messages quote logs and the terminal must not interpret them."""
    joined = re.sub(r"[ \t]*[\t\r\n\v\f\x1c-\x1e\x85\u2028\u2029][\s\x1c-\x1e]*", " ", text).strip()
    return "".join(c if c in _JOINERS or unicodedata.category(c) not in _INVISIBLE else ascii(c)[1:-1] for c in joined)


class GateError(EdgebError):
    """A quality gate or comparison failed, with valid input; the CLI exits with 1."""

    exit_code = 1


def nearest(name: str, known: Iterable[str], fallback: int = 8) -> str:
    """A hint for an unknown name: the closest valid one, or the valid names if none is close.

    Args:
        fallback: How many valid names to list at most.
    """
    names = sorted(known)
    lower = {n.lower(): n for n in names}
    close = get_close_matches(name.lower(), list(lower), n=1, cutoff=0.7)
    if close:
        return f"did you mean '{lower[close[0]]}'?"
    shown = ", ".join(names[:fallback])
    more = f", … ({len(names)} in all)" if len(names) > fallback else ""
    return f"valid: {shown}{more}"


_FULL = "free some space, or choose a place on another disk"
_SYSTEM: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", _FULL),
    errno.EDQUOT: ("the disk quota is used up", _FULL),
    errno.EFBIG: ("the file is too large for this disk or for `ulimit -f`", "choose a place on another disk"),
    errno.EROFS: ("the disk is read-only", "choose a place that can be written"),
    errno.EACCES: ("permission denied", "check the permissions of the file and of the folders above it"),
    errno.EPERM: ("not permitted", "check the permissions of the file and of the folders above it"),
    errno.EMFILE: ("too many files are open", "close other programs, or raise the limit with `ulimit -n`"),
    errno.ENFILE: ("too many files are open on this machine", "close other programs"),
    errno.ENAMETOOLONG: ("the name is too long", "use a shorter name"),
    errno.ELOOP: ("a link leads to itself", "remove the link, or name the file itself"),
    errno.ENOENT: ("no such file or folder", "check the path"),
    errno.ENOTDIR: ("a part of the path is not a folder", "check the path"),
    errno.EISDIR: ("it is a folder", "name a file"),
    errno.EBUSY: ("it is in use, for example as a mount point", "choose another place"),
    errno.EXDEV: ("it is a mount point", "choose another place"),
    errno.EIO: ("the disk reports an error", "check the disk, and choose a place on another one"),
    errno.ENOMEM: ("out of memory", "close other programs, or use a machine with more memory"),
}


def system_error(error: OSError, doing: str = "") -> EdgebError:
    """A system error as one line: what failed, why, and what to do.

    Args:
        doing: What failed, naming the file, like "cannot write x.gguf"; by default the file in the error.
    """
    reason, hint = _SYSTEM.get(error.errno or 0, (str(error.strerror or error), "check the path and its permissions"))
    if error.errno == errno.ENOENT and error.filename is None:
        reason, hint = "the current folder is gone", "change to a folder that exists"
    what = doing or (_name(error.filename) if error.filename is not None else "")
    return EdgebError(f"{what}: {reason}" if what else reason, hint)


def _name(file: object) -> str:
    return file.decode(errors="backslashreplace") if isinstance(file, bytes) else str(file)
