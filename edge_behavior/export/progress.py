"""Progress bars of the long export steps, on stderr. Knows only byte and step counts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(description: str, total: float, unit_bytes: bool = False) -> Iterator[Callable[[float], None]]:
    """Show a bar while the block runs; the block calls what it is given with each amount done.

    Args:
        description: What is being done.
        total: Amount of work in all.
        unit_bytes: Show amounts as file sizes.
    """
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from edge_behavior.util.terminal import open_console

    amount = DownloadColumn() if unit_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description:<22}"), BarColumn(), amount, TimeElapsedColumn())
    # The stderr of now: a block may capture what it calls.
    with Progress(*columns, console=open_console(file=sys.stderr)) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.update(task, advance=done)
