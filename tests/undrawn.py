"""A run's report without its drawings, which take longer than training the small models of most tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest

from edge_behavior.train.report import page, plots


def name_only(title: str, height: float, draw: Callable[..., None]) -> str:
    """What stands for a plot."""
    return f'<svg class="plot" aria-label="undrawn, {height:g} high"></svg>'


class Undrawn:
    """The plots' module as the report's page uses it: it works out what to draw, and does not draw it."""

    def __getattr__(self, name: str) -> Any:
        real = getattr(plots, name)

        @wraps(real)
        def undrawn(*arguments: Any) -> Any:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(plots, "_svg", name_only)
                return real(*arguments)

        return undrawn


def patched(patch: pytest.MonkeyPatch, draws: bool) -> None:
    """Whether reports draw from now on."""
    patch.setattr(page, "plots", plots if draws else Undrawn())
