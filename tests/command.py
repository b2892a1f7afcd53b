"""The `edgeb` command, started as its user starts it, and in this process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from edge_behavior.cli import app, main

Output = subprocess.CompletedProcess[str]


def edgeb(*arguments: object, code: int = 0, home: Path | None = None) -> Output:
    """A process of its own, which ends with `code`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "EDGEB_HOME": str(home or _home())}
    command = [sys.executable, "-m", "edge_behavior", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    return _ended(done, code)


def edgeb_here(*arguments: object, code: int = 0, home: Path | None = None) -> Output:
    """The same without a new process: importing torch takes longer than what most tests ask for."""
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setenv("EDGEB_HOME", str(home or _home()))
        patch.setattr(sys, "argv", ["edgeb", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
    return _ended(Output(arguments, int(exit.value.code or 0), out.getvalue(), err.getvalue()), code)


def invoked(*arguments: object) -> Result:
    """The command's result in this process; an `EdgebError` is raised, as `main` would see it."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def live_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder, remember things in its `home`, and print for a wide terminal."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("EDGEB_HOME", str(folder / "home"))
    monkeypatch.setenv("COLUMNS", "200")


def _home() -> Path:
    return Path(tempfile.gettempdir()) / "edgeb-tests"


def _ended(done: Output, code: int) -> Output:
    assert done.returncode == code, f"{done.args}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done
