"""A session of 100,000 events, and eight threads on one predictor: flat memory, unchanged answers."""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from edge_behavior.core.events import BehaviorEvent
from edge_behavior.runtime.predictor import PredictOptions, Predictor
from tests import demo_bundle

_PLACES = ("home", "work", "transit", "cafe")
_WARM_UP = 0.1
_COMPARED_EVERY = 500
_MEMORY_SAMPLES = 100
_THREADS = 8
_TOLERANCE = 1e-3
_EXHAUSTIVE = PredictOptions(exhaustive=True)


def run_steps(folder: Path, steps: int, advance: Callable[[], None]) -> dict[str, Any]:
    """Observe and predict `steps` times; every so often compare with a fresh session on another predictor."""
    bundle, process, random_ = demo_bundle.make(folder), psutil.Process(), random.Random(0)
    memory: list[tuple[int, int]] = []
    different = 0
    with (
        Predictor.load(bundle, threads=1, prefix_cache=False) as predictor,
        Predictor.load(bundle, threads=1, prefix_cache=False) as fresh,
    ):
        session, labels = predictor.session(), predictor.manifest.candidates.labels
        now = datetime(2024, 1, 1)
        for step in range(steps):
            now += timedelta(minutes=random_.randrange(1, 90))
            place = random_.choice(_PLACES)
            said = session.predict(now, place, top_k=1)
            if step % _COMPARED_EVERY == 0:
                # Evaluated from an empty cache; the model alone, because habits have seen more than the window.
                other, alone = fresh.session(), PredictOptions(source="model", exhaustive=True)
                for event in session.events:
                    other.observe(event)
                wanted, again = (s.predict(now, place, 1, options=alone) for s in (other, session))
                first, second = wanted.ranked[0], again.ranked[0]
                different += abs(first.probability - second.probability) > _TOLERANCE
                different += said.ranked[0].behavior != session.predict(now, place, top_k=1).ranked[0].behavior
            session.observe(BehaviorEvent(place, now, random_.choice(labels)))
            if step % max(1, steps // _MEMORY_SAMPLES) == 0:
                memory.append((step, process.memory_info().rss))
            advance()
    settled = [bytes_ for step, bytes_ in memory if step >= steps * _WARM_UP]
    return {
        "steps": steps,
        "compared": len(range(0, steps, _COMPARED_EVERY)),
        "different": different,
        "resident_mib_after_warm_up": round(settled[0] / 2**20, 1),
        "resident_mib_at_the_end": round(settled[-1] / 2**20, 1),
        "growth_mib": round((settled[-1] - settled[0]) / 2**20, 2),
        "bad": different,
    }


def run_threads(folder: Path, seconds: float, advance: Callable[[], None]) -> dict[str, Any]:
    """Eight threads predict with one predictor, directly and by sessions, for `seconds`; answers are compared."""
    bundle = demo_bundle.make(folder)
    with Predictor.load(bundle, threads=1, prefix_cache=False) as predictor:
        labels = predictor.manifest.candidates.labels
        contexts = [
            (
                [
                    BehaviorEvent(_PLACES[(i + n) % 4], datetime(2024, 3, 18, 8 + i), labels[(i * n + 1) % len(labels)])
                    for i in range(n % 6)
                ],
                datetime(2024, 3, 19, n % 24),
                _PLACES[n % 4],
            )
            for n in range(48)
        ]
        right = [predictor.predict(*context, None, options=_EXHAUSTIVE) for context in contexts]
        until, lock = time.monotonic() + seconds, threading.Lock()
        found: dict[str, Any] = {"predictions": 0, "different": 0, "exceptions": []}

        def ask(number: int) -> None:
            random_ = random.Random(number)
            try:
                while time.monotonic() < until:
                    which = random_.randrange(len(contexts))
                    history, when, place = contexts[which]
                    if random_.random() < 0.5:
                        said = predictor.predict(history, when, place, None, options=_EXHAUSTIVE)
                    else:
                        session = predictor.session()
                        for event in history:
                            session.observe(event)
                        said = session.predict(when, place, None, options=_EXHAUSTIVE)
                    wrong = any(
                        a.behavior != b.behavior or abs(a.probability - b.probability) > _TOLERANCE
                        for a, b in zip(said.ranked, right[which].ranked, strict=True)
                    )
                    with lock:
                        found["predictions"] += 1
                        found["different"] += wrong
            except BaseException:
                with lock:
                    found["exceptions"].append(traceback.format_exc())

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(_THREADS)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(1)
            advance()
    return {"threads": _THREADS, "seconds": seconds, **found, "bad": found["different"] + len(found["exceptions"])}
