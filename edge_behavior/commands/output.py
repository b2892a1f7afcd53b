"""One way to answer: a JSON document for machines, or something readable for people."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import typer


def emit(document: Any, as_json: bool, show: Callable[..., None]) -> None:
    """Print `document` as JSON on stdout, or call `show`; `show` may take the document as its argument."""
    if as_json:
        typer.echo(json.dumps(document, ensure_ascii=False, indent=1))
    elif show.__code__.co_argcount:
        show(document)
    else:
        show()
