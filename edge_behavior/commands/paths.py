"""Paths on the command line as people write them where no shell reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from edge_behavior.util.files import expand_home


class PathCommand(TyperCommand):
    """A command whose paths may begin with `~`, as in a Dockerfile, a unit file or quotes."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command with its paths expanded."""
        for name, value in ctx.params.items():
            if isinstance(value, Path):
                ctx.params[name] = expand_home(value)
        return super().invoke(ctx)
