"""A rich console that shows every cell of a table, wider than the terminal if need be."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.measure import Measurement
from rich.table import Table


class WideConsole(Console):
    """Lines of a table that is too wide wrap in the terminal; rich alone would leave columns out."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does, tables at least as wide as their numbers."""
        known = self._width
        least = max(map(self._least, objects), default=0)
        if least > self.width:
            self._width = least
        try:
            super().print(*objects, **options)
        finally:
            self._width = known

    def on_broken_pipe(self) -> None:
        """Leave it to the command line, which knows the exit code."""
        self.quiet = True
        raise BrokenPipeError

    def _least(self, shown: Any) -> int:
        if isinstance(shown, Group):
            return max(map(self._least, shown.renderables), default=0)
        return Measurement.get(self, self.options, shown).minimum if isinstance(shown, Table) else 0
