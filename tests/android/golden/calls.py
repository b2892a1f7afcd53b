"""What is asked of every golden bundle, in the order in which it is recorded: labels, sources, sessions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from edge_behavior.core.events import BehaviorEvent
from tests.android.golden.recorder import Recorder
from tests.android.golden.texts import CROWDED, PLACES, diary


def label_calls(made: Recorder, labels: Sequence[str]) -> None:
    events = diary(22, 5, labels)
    when = events[-1].time + timedelta(minutes=30)
    for scoring in ("exact", "masked"):
        made.predict(events, when, "DK", scoring=scoring)
        made.predict(events, when, "home", scoring=scoring, top_k=5)
        made.predict(events, when, "home", scoring=scoring, only=labels[::2])
        made.predict(events, when, "home", scoring=scoring, exclude=labels[::3], top_k=7)


def all_calls(made: Recorder, folder: Path, full: bool, long_window: bool) -> None:
    events = diary(60, 3)
    when = events[24].time + timedelta(minutes=30)
    for scoring in ("exact", "masked"):
        made.predict(events[:25], when, "DK", scoring=scoring)
        made.predict(events[:25], when, "東京 駅", scoring=scoring, top_k=1)
        made.predict(events[:25], when, "DK", scoring=scoring, top_k=3)
        made.predict(events[:25], when, "DK", scoring=scoring, top_k=3, exhaustive=True)
        made.predict(events[:25], when, "DK", scoring=scoring, only=["Video", "買い物", "🎮 Game", "Café"])
        made.predict(events[:25], when, "DK", scoring=scoring, top_k=2, exclude=["Video", "Почта", "<|endoftext|>"])
    made.predict([], when, "a(b)[c]{d}<e>", top_k=4)
    made.predict(events[:25], when, "DK", only=[], error="no candidate is left")
    made.predict(events[:25], when, "DK", only=["Vide"], error="is not in the candidate set")
    made.predict(events[:25], when, "DK", top_k=0, error="is 0")
    made.predict(events[:25], events[24].time - timedelta(days=2), "DK", error="before the last event")
    made.predict(events[:25][::-1], when, "DK", error="the newest event comes first")
    west = [*events[:24], replace(events[24], time=events[23].time - timedelta(hours=3))]
    made.predict(west, west[24].time - timedelta(minutes=55), "DK", top_k=3)
    odd = [replace(event, behavior=f"\u200e{event.behavior} \u00a0") for event in events[:25]]
    made.predict(odd, when, "DK", only=["Video\u200b", "Cafe\u0301", "\u202a買い物"])
    made.misplaced(events[:25], when)
    if full:
        _full_calls(made, events[:25], when)
    else:
        made.predict(events[:25], when, "DK", source="fused", error="no weights")
        made.predict(events[:25], when, "DK", precision=0.5, error="not calibrated")
        made.predict(events[:25], when, "DK", source="habits")
        made.predict(events[:25], when, "DK", balance=0.25)
        made.predict(events[:25], when, "home", scoring="masked", balance=2.0, top_k=3)
        made.predict(events[:25], when, "DK", balance="fitted", error="no fitted balance")
        made.predict(events[:25], when, "DK", balance=2.5, error="balance is 2.5")
    _session_calls(made, folder, events, full, 20 if long_window else 3)


def _full_calls(made: Recorder, history: list[BehaviorEvent], when: datetime) -> None:
    # A user of whom nothing is known, and little: what people in general do.
    for known in (0, 1, 2):
        for place in CROWDED[:3]:
            made.predict(history[:known], when, place, source="habits", calibrated=False)
            made.predict(history[:known], when, place, top_k=3)
    for source in ("model", "habits", "fused"):
        for calibrated in (True, False):
            made.predict(history, when, "DK", source=source, calibrated=calibrated)
            made.predict(history, when, "home", source=source, calibrated=calibrated, top_k=2)
        made.predict(history, when, "DK", source=source, only=["Video", "Bar", "買い物"])
        made.predict(history, when, "DK", source=source, precision=0.5, top_k=1)
        made.predict(history, when, "DK", source=source, coverage=0.8, top_k=1)
        made.predict(history, when, "DK", source=source, precision=0.5, coverage=0.8, top_k=2)
        for balance in (0.4, "fitted", 2.0):
            made.predict(history, when, "DK", source=source, balance=balance)
            made.predict(history, when, "home", source=source, balance=balance, top_k=2)
            made.predict(history, when, "DK", source=source, balance=balance, only=["Video", "Bar", "🎮 Game"])
            made.predict(history, when, "DK", source=source, balance=balance, calibrated=False, top_k=3)
            made.predict(history, when, "DK", source=source, balance=balance, scoring="masked", top_k=3)
        made.predict(history, when, "DK", source=source, balance="fitted", precision=0.5, coverage=0.8, top_k=1)
        made.predict(history, when, "DK", source=source, balance=0.4, coverage=0.8, error="not measured at balance 0.4")
    made.predict(history, when, "DK", source="model", precision=0.9, top_k=1)
    made.predict(history, when, "DK", precision=0.7, coverage=0.95, top_k=3)
    made.predict(history, when, "DK", coverage=0.5, error="not calibrated for a coverage")
    made.predict(history, when, "DK", coverage=0.8, calibrated=False, error="measured on calibrated values")
    made.predict(history, when, "DK", coverage=0.8, exclude=["Bar"], error="over all candidates")
    made.predict(history, when, "DK", coverage=0.8, scoring="masked", error="under exact scoring")


def _session_calls(made: Recorder, folder: Path, events: list[BehaviorEvent], full: bool, anchor_every: int) -> None:
    made.start(anchor_every)
    for i, event in enumerate(events[:36]):
        made.observe(event)
        if i % 3 == 2:
            made.ask(event.time + timedelta(minutes=20), PLACES[i % len(PLACES)], top_k=2 + i % 3)
        if i % 8 == 4:
            made.prepare()
    made.observe(replace(events[36], behavior="Nap"), "is not in the candidate set")
    early = events[35].time - timedelta(days=2)
    made.observe(replace(events[36], time=early), "before the last event")
    made.ask(early, "DK", error="before the last event")
    made.ask(events[35].time, "DK", scoring="masked")
    made.save("used", folder)
    made.observe(events[36])
    made.ask(events[36].time, "home", top_k=None, exhaustive=True)
    made.save("behind", folder)
    made.reopen()
    made.restore("behind", folder)
    made.ask(events[36].time, "home")
    made.restore("used", folder)
    made.ask(events[36].time, "home")
    for event in events[36:40]:
        made.observe(event)
    made.observe(replace(events[40], time=events[39].time - timedelta(minutes=55), behavior="\u200fVideo\u00a0"))
    made.ask(events[39].time - timedelta(hours=3), "home", exclude=["Video\ufeff"])
    made.ask(events[39].time + timedelta(minutes=1), "Café Zürich")
    if full:
        made.ask(events[39].time + timedelta(minutes=1), "Café Zürich", source="habits", top_k=None)
        made.ask(events[39].time + timedelta(minutes=1), "Café Zürich", balance="fitted", coverage=0.8)
        made.ask(events[39].time + timedelta(minutes=2), "DK", source="model", balance=1.0)
