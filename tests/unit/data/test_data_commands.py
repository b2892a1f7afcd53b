"""`edgeb data` through its parser: JSON alone on stdout, errors as EdgebError, nothing heavy until a command runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from edge_behavior.commands.data import app
from edge_behavior.errors import EdgebError
from edge_behavior.util import workspace


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEB_HOME", str(tmp_path / "home"))


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_import_then_describe(tmp_path, make_rows, write_csv):
    log = write_csv(tmp_path / "log.csv", make_rows(users=5), ("who", "when", "place", "what"))
    flags = ["--user-column", "who", "--time-column", "when", "--behavior-column", "what"]
    made = json.loads(run("import", log, "--format", "csv", "--out", tmp_path / "data", *flags, "--seed", 3, "--json"))
    assert made["options"]["seed"] == 3
    assert made["dataset"] == str(tmp_path / "data")
    assert workspace.recall("dataset") == tmp_path / "data"
    shown = json.loads(run("describe", tmp_path / "data", "--json", "--png", tmp_path / "plot.png"))
    assert shown["users"]["kept"] == 5
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(EdgebError, match="already exists"):
        run("describe", tmp_path / "data", "--png", tmp_path / "plot.png")
    assert "validation" in run("describe", tmp_path / "data", "--png", tmp_path / "plot.png", "--force")
    with pytest.raises(EdgebError, match="already exists"):
        run("import", log, "--format", "csv", "--out", tmp_path / "data", *flags)
    assert "rows read" in run("import", log, "--format", "csv", "--out", tmp_path / "data", *flags, "--force")


def test_outputs_that_are_no_place_for_a_file(tmp_path, make_rows, write_csv):
    log = write_csv(tmp_path / "log.csv", make_rows(users=5))
    run("import", log, "--format", "csv", "--out", tmp_path / "data")
    os.mkfifo(tmp_path / "pipe")
    for out, message in (
        (tmp_path / "pipe", "is a pipe"),
        ("/dev/stdout", "is a device|no place"),
        (tmp_path, "folder"),
    ):
        with pytest.raises(EdgebError, match=message):
            run("describe", tmp_path / "data", "--png", out, "--force")
        with pytest.raises(EdgebError, match=message):
            run("synth", "--users", 5, "--days", 2, "--out", tmp_path / "new", "--log", out, "--force")
    for out in (tmp_path / "pipe", "/dev/null"):
        for flags in ([], ["--force"]):
            with pytest.raises(EdgebError):
                run("import", log, "--format", "csv", "--out", out, *flags)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "home", "log.csv", "pipe"]


def test_a_log_is_kept_or_replaced_as_asked(tmp_path):
    flags = ["--users", 5, "--days", 6, "--log", tmp_path / "log.csv"]
    (tmp_path / "log.csv").write_text("mine")
    with pytest.raises(EdgebError, match="already exists"):
        run("synth", *flags, "--out", tmp_path / "a")
    assert (tmp_path / "log.csv").read_text() == "mine"
    run("synth", *flags, "--out", tmp_path / "a", "--force")
    assert (tmp_path / "log.csv").read_text().startswith("user_id,")


def test_one_persons_log_without_places(tmp_path, make_rows, write_csv):
    rows = [(u, t, b, "home 1") for u, t, _, b in make_rows(users=1, events=60)]
    log = write_csv(tmp_path / "me.csv", rows, ("user_id", "timestamp", "behavior", "household"))
    flags = ["--format", "csv", "--no-place", "--group-column", "household"]
    with pytest.raises(EdgebError, match="only 1 user has at least 21 events") as caught:
        run("import", log, *flags, "--out", tmp_path / "data")
    assert "--split time" in caught.value.hint
    assert "4 behaviors, no places" in run("import", log, *flags, "--split", "time", "--out", tmp_path / "data")
    text = run("describe", tmp_path / "data")
    assert "by time" in text
    assert "blocks of a day of the test split" in text
    shown = json.loads(run("describe", tmp_path / "data", "--json"))
    assert shown["place"] == {"kind": "none", "count": 0}
    with pytest.raises(EdgebError, match="exclude each other"):
        run("import", log, *flags, "--place-column", "where", "--out", tmp_path / "more")


def test_synth_is_an_import_of_a_simulated_log(tmp_path):
    made = json.loads(
        run(
            "synth",
            "--users",
            12,
            "--days",
            4,
            "--seed",
            9,
            "--out",
            tmp_path / "data",
            "--log",
            tmp_path / "log.csv",
            "--json",
        )
    )
    assert made["source"]["name"] == "synth(users=12, days=4, seed=9)"
    assert made["options"]["seed"] == 9
    again = json.loads(
        run("import", tmp_path / "log.csv", "--format", "csv", "--out", tmp_path / "b", "--seed", 9, "--json")
    )
    assert again["content"] == made["content"]
    with pytest.raises(EdgebError, match="already exists"):
        run("synth", "--users", 12, "--days", 4, "--out", tmp_path / "data")


def test_column_flags_are_for_generic_logs(tmp_path, make_rows, write_csv):
    log = write_csv(tmp_path / "log.csv", make_rows(users=3))
    with pytest.raises(EdgebError, match="do not apply to tsmc2014"):
        run("import", log, "--format", "tsmc2014", "--out", tmp_path / "data", "--user-column", "x")


def test_every_command_has_help_with_an_example():
    for command in ("import", "synth", "describe"):
        assert f"edgeb data {command}" in run(command, "--help")


def test_importing_the_commands_loads_nothing_heavy():
    code = (
        "import sys, edge_behavior.commands.data, edge_behavior.data; "
        "print([m for m in ('numpy', 'duckdb', 'pyarrow', 'matplotlib', 'torch') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_data_package_needs_no_torch():
    code = (
        "import sys, edge_behavior.data.importers.importer, edge_behavior.data.windows, edge_behavior.data.describe; "
        "print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False False\n"
    )
