"""Expands `~` in paths on the command line, where no shell did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from edge_behavior.util.files import expand_home


class PathCommand(TyperCommand):
    """A command whose paths may begin with `~`, as in a Dockerfile, a systemd unit or quotes."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command with its paths expanded."""
        for name, value in ctx.params.items():
            if isinstance(value, Path):
                ctx.params[name] = expand_home(value)
            elif isinstance(value, list | tuple) and all(isinstance(item, Path) for item in value):
                ctx.params[name] = type(value)(map(expand_home, value))
        return super().invoke(ctx)
