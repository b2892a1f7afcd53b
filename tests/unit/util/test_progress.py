"""What a bar shows where stderr is no terminal: its last state."""

from __future__ import annotations

import pytest

from edge_behavior.util.progress import ProgressBar, progress_bar, step_spinner


def test_amounts_names_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("Reading", 4) as advance:
        advance()
        advance(2, "Writing", note="loss 0.5")
    shown = capsys.readouterr()
    assert shown.out == ""
    for words in ("Writing", "3/4", "loss 0.5"):
        assert words in shown.err


def test_file_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("Hashing", 3_000_000, unit_bytes=True) as advance:
        advance(1_500_000)
    assert "1.5/3.0 MB" in capsys.readouterr().err


def test_a_bar_that_goes_on_and_one_that_is_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    for hidden in (False, True):
        bar = ProgressBar("A-Tuning", hidden=hidden)
        bar.start(10, completed=6)
        bar.advance(1)
        bar.stop()
        bar.stop()
        assert ("7/10" in capsys.readouterr().err) is not hidden


def test_steps_are_for_terminals_only(capsys: pytest.CaptureFixture[str]) -> None:
    with step_spinner() as step:
        step("sorting")
    assert capsys.readouterr().err == ""
