"""What commands print for people and as JSON."""

from __future__ import annotations

import json

from edge_behavior.commands.output import emit


class TestEmit:
    def test_json_is_the_only_thing_on_stdout(self, capsys):
        emit({"a": [1, None], "ü": "買い物"}, True, lambda: print("shown"))
        out, err = capsys.readouterr()
        assert json.loads(out) == {"a": [1, None], "ü": "買い物"}
        assert "買い物" in out
        assert err == ""

    def test_for_people_it_shows(self, capsys):
        emit({"a": 1}, False, lambda: print("bare"))
        emit({"a": 1}, False, lambda found: print(found["a"]))
        assert capsys.readouterr().out == "bare\n1\n"
