"""`edgeb bench`: what it passes on, prints and writes."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from edge_behavior.bench import latency, sustained
from edge_behavior.bench.measurement import Measurement, Slice, Sustained
from edge_behavior.bench.options import BenchOptions, HistoryFile
from edge_behavior.bench.timing import Machine, Timing
from edge_behavior.bundle import bundle
from edge_behavior.cli import app
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.util import cpus
from edge_behavior.util.workspace import remember

TIMING = Timing(1.25, 9.5, 2.5, 33.0, [1.0, 1.25, 9.5])
HERE = Machine("Linux", "an abacus", 2, 1 << 30, 1, "3.11.0", "0.3.36", "AVX2 = 1", None, None)
MEASURED = Measurement(
    bundle="m.gguf",
    architecture="qwen2",
    quantization="Q4_K_M",
    candidates=4,
    trie_nodes=9,
    layout="grammar",
    static_tokens=77,
    scoring="exact",
    anchor_every=20,
    file_bytes=3 << 20,
    peak_rss_bytes={"session": 50 << 20},
    scenarios={"session": TIMING, "warm": TIMING},
    machine=HERE,
)


@pytest.fixture(autouse=True)
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, BenchOptions]]:
    monkeypatch.setenv("EDGEB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)
    # Nothing computes here: as on a machine of four.
    monkeypatch.setattr(cpus, "allowed_cpus", lambda root=None: 4)
    seen = []

    def measure(bundle: Path, options: BenchOptions, tick: Any) -> Measurement:
        seen.append((bundle, options))
        tick("take turns")
        return MEASURED

    monkeypatch.setattr(latency, "measure", measure)
    return seen


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["bench", *map(str, arguments)], catch_exceptions=False, standalone_mode=False)
    if done.exception:
        raise done.exception
    return done.stdout


def test_json_is_the_result_and_nothing_else(asked: list[tuple[Path, BenchOptions]]) -> None:
    assert (
        json.loads(run("m.gguf", "--repeats", 5, "--threads", 2, "--scoring", "masked", "--json")) == MEASURED.to_dict()
    )
    assert asked == [(Path("m.gguf"), BenchOptions(repeats=5, threads=2, scoring="masked"))]


def test_the_last_bundle_is_the_default(asked: list[tuple[Path, BenchOptions]], tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"x")
    remember("bundle", tmp_path / "m.gguf")
    run("--json")
    assert asked == [(tmp_path / "m.gguf", BenchOptions(threads=1))]


def test_all_options_arrive(monkeypatch: pytest.MonkeyPatch, asked: list[tuple[Path, BenchOptions]]) -> None:
    candidates = CandidateSet.of(["Video", "Mail"])
    manifest = SimpleNamespace(candidates=candidates, layout=PromptLayout())
    monkeypatch.setattr(bundle, "read_manifest", lambda _: manifest)
    rows = "2024-03-18T07:05,home,Video\n2024-03-18T07:00,home,Tennis\n"
    Path("h.csv").write_text("timestamp,place,behavior\n" + rows)
    flags = {"--anchor-every": 7, "--history": "h.csv", "--cold-starts": 2, "--label-repeats": 4, "--pp": 8, "--tg": 9}
    arguments = ["bench", "m.gguf", "--threads", "1", "--compare", *(str(p) for pair in flags.items() for p in pair)]
    notes = CliRunner().invoke(app, arguments, catch_exceptions=False).stderr
    assert "1 event is earlier" in notes
    assert "'Tennis' (line 3)" in notes
    expected = BenchOptions(
        threads=1,
        compare=True,
        anchor_every=7,
        history=HistoryFile(Path("h.csv")),
        cold_starts=2,
        label_repeats=4,
        pp=8,
        tg=9,
    )
    assert asked == [(Path("m.gguf"), expected)]


def test_a_history_without_places_for_a_bundle_without(
    monkeypatch: pytest.MonkeyPatch, asked: list[tuple[Path, BenchOptions]]
) -> None:
    manifest = SimpleNamespace(candidates=CandidateSet.of(["Video", "Mail"]), layout=PromptLayout(places=False))
    monkeypatch.setattr(bundle, "read_manifest", lambda _: manifest)
    Path("h.csv").write_text("timestamp,behavior\n2024-03-18T07:05,Video\n2024-03-18T08:00,Mail\n")
    run("m.gguf", "--threads", 1, "--history", "h.csv")
    assert asked == [(Path("m.gguf"), BenchOptions(threads=1, history=HistoryFile(Path("h.csv"))))]


def test_a_history_of_several_users_in_seconds_since_1970(
    monkeypatch: pytest.MonkeyPatch, asked: list[tuple[Path, BenchOptions]]
) -> None:
    manifest = SimpleNamespace(candidates=CandidateSet.of(["Video", "Mail"]), layout=PromptLayout())
    monkeypatch.setattr(bundle, "read_manifest", lambda _: manifest)
    rows = "1710743400,home,Video,ada\n1710743500,home,Mail,bob\n1710747000,work,Mail,ada\n"
    Path("h.csv").write_text("timestamp,place,behavior,user_id\n" + rows)
    arguments = ("m.gguf", "--threads", 1, "--history", "h.csv")
    with pytest.raises(EdgebError, match="--time-unit"):
        run(*arguments, "--user", "ada")
    zone = ("--timezone", "Europe/Berlin", "--time-unit", "s")
    with pytest.raises(EdgebError, match="a second user"):
        run(*arguments, *zone)
    assert asked == []
    run(*arguments, *zone, "--user", "ada")
    history = HistoryFile(Path("h.csv"), "ada", "Europe/Berlin", "s")
    assert asked == [(Path("m.gguf"), BenchOptions(threads=1, history=history))]
    assert history.read(places=True).events[0] == BehaviorEvent("home", datetime(2024, 3, 18, 7, 30), "Video")


def test_for_people() -> None:
    out = run("m.gguf", "--threads", 1)
    for words in ("p50", "p95", "33.0", "50", "3.0 MiB", "session", "warm", "an abacus", "77 static tokens"):
        assert words in out


def test_threads_and_sustained(monkeypatch: pytest.MonkeyPatch, asked: list[tuple[Path, BenchOptions]]) -> None:
    calls: list[object] = []

    def sweep(bundle: Path, options: BenchOptions, threads: list[int], tick: Any) -> dict[str, Timing]:
        calls.append(threads)
        tick()
        return dict.fromkeys(map(str, threads), TIMING)

    def sustain(bundle: Path, options: BenchOptions, seconds: float, tick: Any) -> Sustained:
        calls.append(seconds)
        tick(0.5)
        return Sustained(2.0, 3, [Slice(0.0, 1.5, 3), Slice(1.0, None, 0)], None)

    monkeypatch.setattr(sustained, "threads_sweep", sweep)
    monkeypatch.setattr(sustained, "sustained", sustain)
    found = json.loads(run("m.gguf", "--threads", "4,1,2,1", "--sustained", 2, "--json"))
    assert calls == [[4, 1, 2], 2.0]
    assert asked[0][1].threads == 4
    assert set(found["threads"]) == {"1", "2", "4"}
    assert "sustained for 2 s" in run("m.gguf", "--sustained", 2)


def test_files_are_written_and_not_replaced_unasked(tmp_path: Path, asked: list[object]) -> None:
    run("m.gguf", "--markdown", "m.md", "--chart", "c.png")
    assert "| session: observe + predict, top 1 | 1.25 | 9.50 |" in (tmp_path / "m.md").read_text(encoding="utf-8")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    for flags in (("--markdown", "m.md"), ("--chart", "c.png")):
        with pytest.raises(EdgebError, match="already exists"):
            run("m.gguf", *flags)
    assert len(asked) == 1
    run("m.gguf", "--markdown", "m.md", "--force")
    with pytest.raises(EdgebError, match="folder of no"):
        run("m.gguf", "--markdown", "no/m.md")
    with pytest.raises(EdgebError, match="is a folder"):
        run("m.gguf", "--chart", tmp_path, "--force")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--threads", "0"), "--threads is 0"),
        (("--threads", "-1"), "--threads is '-1'"),
        (("--threads", "1,8000"), "--threads is 8000, but this process may use 4 CPUs"),
        (("--threads", "1,x"), "--threads is '1,x'"),
        (("--threads", ""), "--threads is ''"),
        (("--repeats", "1"), "--repeats is 1"),
        (("--scoring", "fast"), "unknown scoring"),
        (("--sustained", "0.1"), "--sustained is 0.1"),
    ],
)
def test_bad_flags_are_refused_before_the_work(flags: tuple[str, ...], words: str, asked: list[object]) -> None:
    with pytest.raises(EdgebError, match=words):
        run("m.gguf", *flags)
    assert asked == []
