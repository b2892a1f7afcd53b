"""Standard streams: any encoding, closed or not, and JSON that fits each of them.

Loads rich only where something is drawn.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_READABLE = "edgeb.readable"
# Non-ASCII characters of this package's tables and messages, and what stands for them.
_PLAIN = {
    "–": "-", "—": "-", "−": "-", "…": "...", "×": "x", "·": ".", "±": "+-", "≤": "<=", "≥": ">=", "→": "->", "Δ": "d",
    "λ": "lambda", "ε": "epsilon", "β": "beta", "²": "^2", "█": "#", "▉": "#", "▊": "#", "▋": "#", "▌": "|", "▍": "|",
    "▎": "|", "▏": "|", "\N{NO-BREAK SPACE}": " ", "’": "'", "“": '"', "”": '"', "•": "*", "✓": "yes", "✗": "no",
}  # fmt: skip
# Outside of these, rich draws nothing or pads lines to gigabytes.
_SIZES = {"COLUMNS": (20, 2000), "TERMINAL_WIDTH": (20, 2000), "LINES": (1, 10_000)}


def prepare_streams() -> None:
    """Make stdin, stdout and stderr usable: closed ones, any encoding, and sizes that the environment gets wrong.

    Characters that a stream cannot encode are written as ASCII look-alikes or escapes.
    """
    for name, (least, most) in _SIZES.items():
        value = os.environ.get(name, "")
        if name in os.environ and not (value.isascii() and value.isdigit() and least <= int(value[:9]) <= most):
            del os.environ[name]
    _open_closed()
    codecs.register_error(_READABLE, _readable)
    for stream in (sys.stdout, sys.stderr):
        # Tests and notebooks put other objects there.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_READABLE)


def silence_stdout() -> None:
    """Drop what is still buffered once the reader has gone, so that exiting raises no error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def open_console(*, stderr: bool = False, quiet: bool = False, file: Any = None) -> Console:
    """A rich console on stdout, stderr or `file` that shows tables whole even where the terminal is too narrow.

    Text is shown as it is: brackets and colons of a label, a file or a model are neither markup nor emoji.
    """
    from edge_behavior.util.wide_console import WideConsole

    return WideConsole(stderr=stderr, quiet=quiet, file=file, markup=False, emoji=False)


def json_text(document: Any, encoding: str | None) -> str:
    """A JSON document, indented; in ASCII with escapes where `encoding` lacks one of its characters."""
    text = json.dumps(document, ensure_ascii=False, indent=1)
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(document, indent=1)
    return text


def _open_closed() -> None:
    """Open closed streams: a file opened later would get their number, and libraries write messages there."""
    closed = [n for n, name in enumerate(("stdin", "stdout", "stderr")) if getattr(sys, name) is None]
    for number in closed:
        try:
            os.fstat(number)
        except OSError:
            handle = os.open(os.devnull, os.O_RDWR)
            os.dup2(handle, number)
            if handle != number:
                os.close(handle)
            os.set_inheritable(number, True)
    for number in closed:
        # Not on the descriptor itself: it may be something else's since before this program began.
        stream = open(os.devnull, "r" if number == 0 else "w", encoding="utf-8")  # noqa: SIM115
        name = ("stdin", "stdout", "stderr")[number]
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _readable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = []
    for character in error.object[error.start : error.end]:
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:
            # A byte of a file name that is not UTF-8.
            found.append(f"\\x{code - 0xDC00:02x}")
        else:
            found.append(_PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode())
    return "".join(found), error.end
