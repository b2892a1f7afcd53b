"""`edgeb demo` as typed: what it prints, how it ends, and that bad input is refused before anything is served."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

HISTORY = "timestamp,place,behavior\n2024-03-18T07:05,home,Video\n2024-03-18T07:20,home,Video Call\n"


def start(home: Path, *arguments: object) -> subprocess.Popen[str]:
    # A browser that nobody asked for would show up here.
    environment = {**os.environ, "EDGEB_HOME": str(home), "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "edge_behavior", "demo", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_serves_until_it_is_interrupted(bundle: Path, tmp_path: Path, ending: signal.Signals) -> None:
    (tmp_path / "today.csv").write_text(HISTORY)
    process = start(tmp_path, bundle, "--history", tmp_path / "today.csv", "--threads", 1)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{url}api/state", timeout=30) as answer:
            assert b'"behavior": "Video Call"' in answer.read()
    finally:
        process.send_signal(ending)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert err.splitlines() == ["The page is for this machine only. Ctrl-C ends it.", "stopped"]


def test_one_user_of_several_in_a_zone(bundle: Path, tmp_path: Path) -> None:
    rows = "7,2024-03-18T07:05Z,home,Video\n8,2024-03-18T07:20Z,home,Video Call\n"
    (tmp_path / "all.csv").write_text("user_id,timestamp,place,behavior\n" + rows)
    chosen = ["--user", 8, "--timezone", "Europe/Berlin", "--threads", 1]
    process = start(tmp_path, bundle, "--history", tmp_path / "all.csv", *chosen)
    try:
        assert process.stdout is not None
        with urllib.request.urlopen(f"{process.stdout.readline().strip()}api/state", timeout=30) as answer:
            [event] = json.load(answer)["events"]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert (event["time"], event["behavior"]) == ("2024-03-18T08:20:00", "Video Call")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.gguf"], "missing.gguf"),
        (["broken.gguf"], "broken.gguf"),
        (["{bundle}", "--history", "missing.csv"], "missing.csv"),
        (["{bundle}", "--history", "other.csv"], "no event's behavior is in the candidate set: 'Vidio' (line 2)"),
        (["{bundle}", "--host", "0.0.0.0"], "not a loopback address"),
        ([], "no bundle was given"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_served(
    bundle: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "broken.gguf").write_bytes(bundle.read_bytes()[:-64])
    (tmp_path / "other.csv").write_text("timestamp,place,behavior\n2024-03-18T07:05,home,Vidio\n")
    given = [
        str(bundle) if a == "{bundle}" else str(tmp_path / a) if "." in a and "0" not in a else a for a in arguments
    ]
    process = start(tmp_path, *given)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("edgeb: ")
    assert message in err


@pytest.mark.parametrize("port", ["-1", "65536", "web"])
def test_a_port_is_a_port(bundle: Path, tmp_path: Path, port: str) -> None:
    process = start(tmp_path, bundle, "--port", port)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert "--port" in err
    assert "Traceback" not in err
