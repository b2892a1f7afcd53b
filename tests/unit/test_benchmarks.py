"""Every module under benchmarks/ imports, and every script explains itself: a changed signature shows up here first."""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(p for p in (ROOT / "benchmarks").rglob("*.py") if p.name != "__init__.py")
MODULES = {".".join(file.relative_to(ROOT).with_suffix("").parts): file.read_text(encoding="utf-8") for file in FILES}
SCRIPTS = sorted(name for name, text in MODULES.items() if '__name__ == "__main__"' in text)
OURS = {"benchmarks", "edge_behavior", "tests"}

if not FILES:
    pytest.skip("not a checkout: there are no benchmarks", allow_module_level=True)


@contextmanager
def skipped_without_a_package() -> Iterator[None]:
    """Skip where a package that is not ours is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in OURS:
            raise
        pytest.skip(f"{error.name} is not installed")


@pytest.mark.parametrize("name", sorted(set(MODULES) - set(SCRIPTS)))
def test_imports(name: str) -> None:
    with skipped_without_a_package():
        importlib.import_module(name)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", SCRIPTS)
def test_help(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As `python -m` runs it."""
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with skipped_without_a_package(), pytest.raises(SystemExit) as left:
        runpy.run_module(name, run_name="__main__")
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_docstring_gives_the_command(name: str) -> None:
    """The one that works: by its path, a script would not find its siblings."""
    opening = MODULES[name].split('"""')[1]
    assert f"python -m {name.removesuffix('.__main__')}" in opening or "make " in opening
