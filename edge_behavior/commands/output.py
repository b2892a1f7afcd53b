"""Prints a command's result: one JSON document, or something for people to read."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import typer

from edge_behavior.util.terminal import json_text


def emit(document: Any, as_json: bool, show: Callable[..., None]) -> None:
    """Print `document` as JSON on stdout, or call `show`; `show` may take the document as its argument."""
    if as_json:
        typer.echo(json_text(document, sys.stdout.encoding))
    elif show.__code__.co_argcount:
        show(document)
    else:
        show()
