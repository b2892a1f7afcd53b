"""The assistant's logic on this machine's JVM: its JUnit tests, and a day on a real bundle beside Python's session."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from edge_behavior.core.events import clean_place
from edge_behavior.records.history import read_history, write_history
from edge_behavior.runtime.predictor import Predictor
from tests import helpers
from tests.android import host
from tests.android.golden.texts import LABELS
from tests.android.goldens import write_goldens

APP = host.ANDROID / "app" / "src"
USAGE = host.ANDROID / "usage" / "src"
# What knows no Android, and its tests.
LOGIC = [
    APP / "main" / "kotlin" / "dev" / "edgeb" / "assistant" / "logic",
    USAGE / "main" / "kotlin" / "dev" / "edgeb" / "usage" / "logic",
]
TESTS = [APP / "test" / "kotlin", USAGE / "test" / "kotlin"]
# Texts of licenses, as an APK has them.
RESOURCES = host.ANDROID / "runtime" / "src" / "main" / "resources"
# Debian's packages junit4 and libhamcrest-java.
JUNIT = [Path("/usr/share/java/junit4.jar"), Path("/usr/share/java/hamcrest-core.jar")]
WHY_NOT = host.missing() or (None if all(jar.exists() for jar in JUNIT) else "no JUnit: apt-get install junit4")
PLACE = "home"
# Compiling takes most of a minute; what was compiled is kept.
pytestmark = [pytest.mark.slow, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]


@pytest.fixture(scope="module")
def app() -> host.Host:
    """The library as `host` builds it, and the app's logic and tests on top."""
    built = host.build()
    digest = hashlib.sha256(built.class_path.encode())
    for path in sorted(file for folder in [*LOGIC, *TESTS] for file in folder.rglob("*.kt")):
        digest.update(path.read_bytes())
    jar = host.BUILD / f"app-{digest.hexdigest()[:16]}.jar"
    class_path = ":".join([built.class_path, *map(str, [*JUNIT, RESOURCES])])
    if not jar.exists():
        made = jar.with_name(f"new-{os.getpid()}-{jar.name}")
        kotlinc = host.ANDROID / "tools" / "kotlinc"
        done = run([kotlinc, *LOGIC, *TESTS, "-cp", class_path, "-jvm-target", "1.8", "-nowarn", "-d", made])
        assert done.returncode == 0, done.stdout + done.stderr
        made.replace(jar)
    return replace(built, class_path=f"{jar}:{class_path}")


def run(command: Sequence[object]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=300)


def test_junit(app: host.Host) -> None:
    found = [(folder, path) for folder in TESTS for path in sorted(folder.rglob("*Test.kt"))]
    names = [".".join(path.relative_to(folder).with_suffix("").parts) for folder, path in found]
    done = app.run("org.junit.runner.JUnitCore", *names)
    assert done.returncode == 0, done.stdout + done.stderr
    wanted = sum(path.read_text(encoding="utf-8").count("@Test\n") for _, path in found)
    assert f"OK ({wanted} tests)" in done.stdout


def test_a_day_on_a_bundle(app: host.Host, tmp_path: Path) -> None:
    """Import, events, a process that dies, a damaged file, a log deleted: always what Python says."""
    bundle = write_goldens(tmp_path / "goldens").parent / "full.gguf"
    # More than a session's window, and the same day at the end.
    events = [replace(e, place=clean_place(e.place)) for e in helpers.diary(45, 5, LABELS)]
    now = events[-1].time + timedelta(minutes=20)
    history, folder = tmp_path / "history.csv", tmp_path / "app"
    write_history(history, events)
    (folder / "cache").mkdir(parents=True)
    when = now.isoformat(timespec="minutes")
    done = app.run("dev.edgeb.assistant.logic.OnBundleKt", folder, bundle, history, when, PLACE)
    assert done.returncode == 0, done.stdout + done.stderr
    said: dict[str, dict[str, list[list[str]]]] = defaultdict(lambda: defaultdict(list))
    for word, kind, *fields in (line.split("\t") for line in done.stdout.splitlines()):
        said[word][kind].append(fields)

    sha256 = hashlib.sha256(bundle.read_bytes()).hexdigest()
    assert said["import"] == {"problem": [["null"]], "sha256": [[sha256]]}
    assert said["damaged"]["problem"] == [["mine.gguf: the tensors do not match the manifest's hash"]]
    assert said["damaged"]["sha256"] == [[sha256]]
    # Written by a version that is yet to come.
    (newer,) = said["newer"]["problem"]
    assert newer == ["mine.gguf was written by a newer edgeb (schema 2, this one reads 1)"]
    assert said["newer"]["hint"] == [["update the app"]]
    assert said["newer"]["sha256"] == [[sha256]]
    with Predictor.load(bundle) as predictor:
        session = predictor.session()
        forgotten = session.predict(now, PLACE, 5).ranked
        for event in events:
            session.observe(event)
        whole = session.predict(now, PLACE, 5)
        lived = whole.ranked
    assert forgotten != lived
    for word in ("lived", "restarted", "damaged", "newer", "forgotten"):
        ranked = forgotten if word == "forgotten" else lived
        assert [fields[1] for fields in said[word]["ranked"]] == [one.behavior for one in ranked], word
        found = [float(fields[0]) for fields in said[word]["ranked"]]
        assert found == pytest.approx([one.probability for one in ranked], abs=1e-4), word
    # The JSON names the file that was picked, though the app keeps it under another name.
    for word in ("imported", "restarted"):
        found_json = json.loads(said[word]["benchmark"][0][0])
        assert (found_json["bundle"], found_json["file_bytes"]) == ("mine.gguf", bundle.stat().st_size)
    # Why it says so, of what is shown; tests/android/test_why.py has the sources.
    for word in ("lived", "restarted", "forgotten"):
        (why,) = said[word]["why"]
        assert why[0] == said[word]["ranked"][0][1]
        assert why[1] in {fields[0] for fields in said[word]["without"]} | {"null"}
    today = sum(1 for event in events if event.time.date() == now.date())
    assert said["restarted"]["today"] == [[str(today)]]
    assert said["forgotten"]["today"] == [["0"]]
    # The restored session pays for its question and the labels it looks at; one that has just observed, for the events.
    assert int(said["restarted"]["tokens"][0][0]) < whole.tokens_evaluated
    assert read_history(folder / "timeline.csv").events == []


def test_a_process_that_is_killed_at_any_moment_loses_nothing(app: host.Host, tmp_path: Path) -> None:
    """Six lives of one folder: what was said to be kept is there, and at most one event more."""
    rng = random.Random(0)
    kept = 0
    for life in range(6):
        command = [app.java, "-cp", app.class_path, "dev.edgeb.assistant.logic.UntilKilled", str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as living:
            assert living.stdout is not None
            found = living.stdout.readline().rstrip("\n").split("\t")
            assert found[:2] == ["found", "null"], (life, found)
            events = int(found[2])
            assert events in (kept, kept + 1), (life, found)
            # The model has seen all of it: it ranks first what was done last.
            if events:
                assert found[3] == ["News", "Music", "Maps"][(events - 1) % 3], (life, found)
            said = [living.stdout.readline() for _ in range(rng.randrange(5, 40))]
            time.sleep(rng.random() / 50)
            living.kill()
            said += living.stdout.readlines()
        kept = int(said[-1].split("\t")[1])
    assert kept > 50
