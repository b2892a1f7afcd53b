"""A rich console that shows every cell of a table, wider than the terminal if necessary."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Column, Table

# Longer words, such as hashes and paths, are folded; numbers are not.
_LONGEST_WORD = 24
_WIDEST = 100_000


class WideConsole(Console):
    """Lets the terminal wrap lines of a table that is too wide; rich alone would cut cells."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does, with room for the words and numbers of every table."""
        known = self._width
        self._width = max([self.width, *(self._least(shown) for shown in objects)])
        try:
            super().print(*objects, **options)
        finally:
            self._width = known

    def on_broken_pipe(self) -> None:
        """Leave the exit code to the command line."""
        self.quiet = True
        raise BrokenPipeError

    def _least(self, shown: Any) -> int:
        """The width below which cells would be cut; 0 for what wraps by itself."""
        if isinstance(shown, Group):
            return max(map(self._least, shown.renderables), default=0)
        if not isinstance(shown, Table) or self._measured(shown).maximum <= self.width:
            return 0
        folded = sum(map(self._keep_whole, shown.columns))
        width = max(self.width, self._measured(shown).minimum - folded)
        # Rich narrows the widest columns first, then widens them again to their minimum.
        for _ in shown.columns:
            lines = Segment.split_lines(self.render(shown, self.options.update(width=width)))
            drawn = max(map(Segment.get_line_length, lines), default=0)
            if drawn <= width:
                break
            width = drawn
        return width

    def _keep_whole(self, column: Column) -> int:
        """Give a column room for its words; returns how much narrower it is than its longest word, which is folded."""
        sizes = [self._measured(cell) for cell in (column.header, *column.cells, column.footer)]
        # A column that may not wrap is as wide as its longest line.
        whole = max(size.maximum if column.no_wrap else size.minimum for size in sizes)
        least = whole
        if not column.no_wrap and column.justify != "right":
            least = min(whole, _LONGEST_WORD)
            column.overflow = "fold"
        column.min_width = max(column.min_width or 0, least)
        return whole - least

    def _measured(self, shown: Any) -> Measurement:
        # Not with the terminal's width, which would cap the measurement.
        return Measurement.get(self, self.options.update(max_width=_WIDEST), shown)
