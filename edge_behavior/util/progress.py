"""Progress on stderr: one bar for all long work, and a spinner that names the current step.

Where stderr is no terminal, as under nohup or a batch system, a bar is a line every minute.
Loads rich only where something is drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Protocol

from edge_behavior.util.terminal import open_console

# Of a bar's lines in a log file: how often, and how many characters, whatever COLUMNS says.
_LINE_SECONDS = 60.0
_LINE_WIDTH = 160


class Advance(Protocol):
    """Moves a bar by the amount of work just done; may also rename it, or note something at its end."""

    def __call__(self, amount: float = 1, description: str | None = None, note: str | None = None) -> None:
        """Move the bar."""


class ProgressBar:
    """A bar with the amount done, the time taken and the time left.

    Args:
        description: What is being done.
        unit_bytes: Show amounts as file sizes.
        transient: Remove the bar at the end.
        hidden: Show nothing, as processes other than the main one.
    """

    def __init__(
        self, description: str, unit_bytes: bool = False, *, transient: bool = False, hidden: bool = False
    ) -> None:
        from rich import progress
        from rich.table import Column
        from rich.text import Text

        class Note(progress.ProgressColumn):
            def render(self, task: progress.Task) -> Text:
                return Text(task.fields["note"], no_wrap=True, overflow="ellipsis")

        # Where a line is too narrow, rich takes from columns that may wrap: the bar and the note.
        whole = Column(no_wrap=True)
        amount = progress.DownloadColumn if unit_bytes else progress.MofNCompleteColumn
        # The stderr of now: a block may capture what it calls.
        console = open_console(file=sys.stderr)
        if not console.is_interactive:
            console.width = _LINE_WIDTH
        self._description = description
        self._progress = progress.Progress(
            progress.TextColumn("{task.description:<22}", markup=False),
            progress.BarColumn(),
            amount(table_column=whole),
            progress.TimeElapsedColumn(table_column=whole),
            progress.TimeRemainingColumn(table_column=whole),
            Note(),
            console=console,
            transient=transient,
            disable=hidden,
        )

    def start(self, total: float, completed: float = 0) -> None:
        """Show the bar, with `completed` of `total` done."""
        self._progress.start()
        self._shown_at = monotonic()
        self._task = self._progress.add_task(self._description, total=total, completed=int(completed), note="")

    def advance(self, amount: float = 1, description: str | None = None, note: str | None = None) -> None:
        """See `Advance`."""
        fields: dict[str, Any] = {} if note is None else {"note": note}
        self._progress.update(self._task, advance=amount, description=description, **fields)
        console = self._progress.console
        if self._progress.disable or console.is_interactive or monotonic() - self._shown_at < _LINE_SECONDS:
            return
        self._shown_at = monotonic()
        console.print(self._progress.get_renderable())

    def stop(self) -> None:
        """Leave the terminal as it was; without effect where nothing was started."""
        self._progress.stop()


@contextmanager
def progress_bar(
    description: str, total: float, unit_bytes: bool = False, *, transient: bool = False, hidden: bool = False
) -> Iterator[Advance]:
    """Show a bar while the block runs; the block calls what it is given with each amount done.

    Args:
        total: Amount of work in all; the others are those of `ProgressBar`.
    """
    bar = ProgressBar(description, unit_bytes, transient=transient, hidden=hidden)
    bar.start(total)
    try:
        yield bar.advance
    finally:
        bar.stop()


@contextmanager
def step_spinner() -> Iterator[Callable[[str], None]]:
    """Name the current step of work of unknown length, on a terminal only; the block calls what it is given."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    console = open_console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("")
        yield lambda text: progress.update(task, description=text)
