"""An endpoint in a comparison: what its answers were is in every report, and another one is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edge_behavior.cli import app
from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import write_text
from tests.unit.baselines.endpoint.test_system import Server, server
from tests.unit.studies.compare.conftest import Asking, Noisy, contenders

__all__ = ["server"]
ONE = {"model": "small", "url_sha256": "1"}


def compare(*words: object) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, words)])


def test_answers_outside_the_list_are_in_the_report(server: Server, data: Path, recipe: Recipe, tmp_path: Path) -> None:
    says = {"choices": [{"message": {"content": "I would rather not say"}}]}
    server.reply = lambda path, body: (200, says) if path.startswith("chat") else (404, {"error": "no completions"})
    out = tmp_path / "out"
    write_text(tmp_path / "quick.yaml", recipe.to_yaml())
    # Brackets are no markup of the tables on a terminal.
    asked = ("--endpoint", server.url, "--endpoint-model", "small[/q8]")
    sizes = ("--recipe", tmp_path / "quick.yaml", "--data", data, "--windows", 10, "--validation", 10)
    result = compare("--out", out, "--systems", "most_frequent", *sizes, *asked, "--json")
    assert result.exit_code == 0, result.output
    rows = {row["name"]: row for row in json.loads(result.stdout)["rows"]}
    windows = json.loads(result.stdout)["windows"]["natural"]["windows"]
    assert rows["endpoint"]["answers"]["cold0"] == {"kind": "chat text", "windows": windows, "outside": windows}
    assert set(rows["endpoint"]["answers"]) == {"test", "validation", "cold0", "cold1", "cold2", "cold5", "cold10"}
    assert rows["endpoint+habits"]["answers"] == rows["habits"]["answers"] == {}
    total = rows["endpoint"]["answers"]["test"]["windows"]
    said = f"(endpoint): answers by chat text, {total} of {total} outside the list."
    for name, model in (("results.md", r"small\[/q8\]"), ("compare.html", "small[/q8]")):
        assert f"{model} {said}" in (out / name).read_text()
    # The URL may name a private machine, and what is published must not.
    assert not any(server.url in (out / name).read_text() for name in ("compare.json", "results.json", "compare.html"))
    held = (out / "compare.json").read_text()
    for other in (("--endpoint", server.url, "--endpoint-model", "large"), ("--endpoint-model", "small")):
        refused = compare("--out", out, *other)
        assert isinstance(refused.exception, EdgebError)
        assert "--endpoint-model" in str(refused.exception)
    assert (out / "compare.json").read_text() == held
    # A second look at the same endpoint asks nothing.
    before = len(server.asked)
    shown = compare("--out", out, *asked)
    assert shown.exit_code == 0
    assert "small[/q8]" in shown.output
    assert len(server.asked) == before


def test_another_endpoint_is_refused(asking: Asking) -> None:
    systems = contenders(Noisy("endpoint", 1.0, learns=False))
    bench, _ = asking(systems, endpoint=ONE)
    assert bench.folder.read().endpoint == ONE
    for other, message in (
        ({**ONE, "model": "large"}, "started with --endpoint-model small, not large"),
        ({**ONE, "url_sha256": "2"}, "started with another --endpoint"),
    ):
        with pytest.raises(EdgebError, match=message):
            asking(systems, endpoint=other)
    # A call that asks for no endpoint keeps it.
    assert asking(systems)[0].folder.read().endpoint == ONE
