"""What the app brings along: a bundle, a log and what accepting a prediction opens."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from android_demo.tools.sample import MOST_BYTES
from android_demo.tools.sample import main as make_sample
from edge_behavior.bundle.bundle import read_manifest, verify_bundle
from edge_behavior.records.history import read_history
from tests.android.project import MAIN


def sample() -> tuple[Path, Path]:
    """What the app brings along: model and log."""
    return MAIN / "assets" / "sample.gguf", MAIN / "assets" / "sample-day.csv"


def test_the_sample_is_a_bundle_that_can_do_everything_and_a_log_that_it_knows() -> None:
    bundle, log = sample()
    manifest = verify_bundle(bundle)
    assert bundle.stat().st_size < MOST_BYTES
    assert set(manifest.sources) == {"model", "habits", "fused"}
    assert manifest.calibration is not None
    assert manifest.population is not None
    events = read_history(log).events
    assert {event.behavior for event in events} <= set(manifest.candidates.labels)
    # Every weekday, whichever day it is on the phone.
    assert (events[-1].time.date() - events[0].time.date()).days in range(14, 21)
    assert not re.search(rb"/(tmp|home|root|work)/", bundle.read_bytes())


def test_what_accepting_opens_needs_no_permission_and_is_a_behavior() -> None:
    labels = read_manifest(sample()[0]).candidates.labels
    with (MAIN / "assets" / "actions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        assert row["behavior"] in labels
        assert row["action"].startswith("android.")
        # These two ask the calling app for a permission.
        assert not row["action"].endswith((".CALL", ".SET_ALARM"))


def test_sample_refuses_what_is_no_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_sample([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "behavior.gguf is missing" in capsys.readouterr().err
    (tmp_path / "behavior.gguf").write_bytes(sample()[0].read_bytes())
    assert make_sample([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
