"""Many calls, threads and loads leave no memory behind, and change no answer."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from edge_behavior.runtime.predictor import Predictor
from tests import helpers


def test_threads_share_a_predictor(any_bundle: Path) -> None:
    users = [helpers.diary(25, seed) for seed in range(4)]
    with Predictor.load(any_bundle, threads=1, exact_math=True, prefix_cache=False) as opened:
        said: dict[int, list[str]] = {}

        def live(user: int) -> None:
            session = opened.session()
            said[user] = []
            for event in users[user]:
                said[user].append(session.predict(event.time, event.place, 1).ranked[0].behavior)
                session.observe(event)

        workers = [threading.Thread(target=live, args=(user,)) for user in range(len(users))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        together = dict(said)
        for user in range(len(users)):
            live(user)
    assert said == together


def live_long(bundle: Path, calls: int) -> tuple[int, int]:
    """Resident memory after a tenth of the calls, and after all."""
    process = psutil.Process()
    events = helpers.diary(200)
    span = events[-1].time - events[0].time + timedelta(hours=1)
    with Predictor.load(bundle, threads=1, prefix_cache=False) as opened:
        session = opened.session()
        early = 0
        for call in range(calls // 2):
            event = events[call % len(events)]
            event = replace(event, time=event.time + span * (call // len(events)))
            session.predict(event.time, event.place, 1)
            session.observe(event)
            if call == calls // 20:
                early = process.memory_info().rss
        return early, process.memory_info().rss


def test_no_leak(native_bundle: Path) -> None:
    early, late = live_long(native_bundle, 1_000)
    assert late - early < 4 << 20


@pytest.mark.slow
def test_no_leak_in_100_000_calls(native_bundle: Path) -> None:
    early, late = live_long(native_bundle, 100_000)
    assert late - early < 8 << 20


def test_opening_and_closing_gives_memory_back(native_bundle: Path) -> None:
    def open_and_close(times: int) -> int:
        for _ in range(times):
            with Predictor.load(native_bundle, threads=1, prefix_cache=False) as opened:
                opened.predict([], helpers.diary(1)[0].time, "DK", 1)
        return psutil.Process().memory_info().rss

    before = open_and_close(5)
    assert open_and_close(20) - before < 16 << 20
