"""What a bar shows where stderr is no terminal: its last state, and a line every minute until then."""

from __future__ import annotations

import pytest

from edge_behavior.util import progress
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


def test_long_work_writes_a_line_every_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: clock[0])
    with progress_bar("A-Tuning", 9) as advance:
        for at in (1, 59, 60, 61, 119, 121):
            clock[0] = at
            advance(1, note=f"loss {at}")
        # The bar's last state, too, comes once.
        assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["60", "121"]
    assert "6/9" in capsys.readouterr().err


def test_figures_stay_whole_beside_a_long_note(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("Plain fine-tuning", 5000) as advance:
        advance(1500, note="loss 2.412, eval_loss 2.331, lowest 2.331")
    assert "1500/5000 0:00:00" in capsys.readouterr().err


def test_a_name_in_brackets_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("Checking model[/bold][red].gguf", 1) as advance:
        advance(note="[/red]")
    shown = capsys.readouterr().err
    assert "Checking model[/bold][red].gguf" in shown
    assert "[/red]" in shown


def test_a_hidden_bar_writes_no_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    with progress_bar("A-Tuning", 9, hidden=True) as advance:
        advance()
    assert capsys.readouterr().err == ""


def test_steps_are_for_terminals_only(capsys: pytest.CaptureFixture[str]) -> None:
    with step_spinner() as step:
        step("sorting")
    assert capsys.readouterr().err == ""
