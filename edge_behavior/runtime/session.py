"""A running user session: events are appended as they happen, predictions pay only for what is new.

The window of past events grows from L to L + `anchor_every` events; then it is anchored anew: the last L events are
evaluated again. docs/integrate.md compares this, by accuracy and cost, with shifting the cache by an event each time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from edge_behavior.core import DEFAULT_TOP_K
from edge_behavior.core.event_order import check_step
from edge_behavior.core.events import UNKNOWN_PLACE, BehaviorEvent, clean_place, read_event
from edge_behavior.core.fields import Kind, is_whole, read_fields, read_list
from edge_behavior.core.habits import HabitCounter
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.arguments import (
    as_path,
    check_event,
    check_place,
    check_time,
    checked_top_k,
    whole_number,
)
from edge_behavior.runtime.engine import Engine
from edge_behavior.runtime.prediction import DEFAULT_OPTIONS, Prediction, PredictOptions
from edge_behavior.runtime.state_file import read_state, write_state

REBASE_EVERY = 20
_SCHEMA = 1
_DAMAGED_HINT = "the file is damaged or was edited: start a new session"
_FIELDS: Mapping[str, Kind] = {
    "kind": str,
    "schema": int,
    "model": str,
    "candidates": str,
    "anchor_every": int,
    "events": list,
    "habits": dict,
    "held": list,
    # Another version of the inference engine only means that the cache is not taken.
    "engine": object,
}


class Session:
    """One user's events and predictions on a loaded bundle; made by `Predictor.session`.

    May be used from several threads: calls on one predictor take turns. Once that is closed, only `events` and `habits`
    can be read. Sessions that share a predictor also share its one cache, so that a call after another session's
    evaluates the whole window again; give every user who is active at the same time a predictor of their own.
    """

    def __init__(self, engine: Engine, rebase_every: int = REBASE_EVERY) -> None:
        self._engine, self._rebase_every = engine, whole_number(rebase_every, "rebase_every", 1, "events")
        self._length, self._places = engine.manifest.layout.history_length, engine.manifest.layout.places
        self._window: list[tuple[BehaviorEvent, list[int]]] = []
        self._counter = engine.counter()

    @property
    def events(self) -> tuple[BehaviorEvent, ...]:
        """Events the model sees, oldest first."""
        return tuple(event for event, _ in self._window)

    @property
    def habits(self) -> HabitCounter:
        """The user's habits over everything observed."""
        return self._counter

    def observe(self, event: BehaviorEvent) -> None:
        """Append what the user did. Nothing is evaluated until the next prediction.

        The event's place is not kept where the bundle has no places.

        Raises:
            EdgebError: not a candidate, or earlier than a local clock can go back; the session is unchanged.
        """
        check_event(event, "the event observed")
        with self._engine.turn():
            candidates = self._engine.manifest.candidates
            place = clean_place(event.place) if self._places else UNKNOWN_PLACE
            event = candidates.named(replace(event, place=place), "the event observed")
            code = candidates.code(event.behavior)
            self._check_time(event.time, "the event observed")
            line = self._engine.encoder.line_ids(event)
            self._counter.observe(code, event.time, event.place)
            self._window.append((event, line))
            if len(self._window) > self._length + self._rebase_every:
                self._rebase()

    def predict(
        self,
        when: datetime,
        place: str | None = None,
        top_k: int | None = DEFAULT_TOP_K,
        *,
        options: PredictOptions = DEFAULT_OPTIONS,
    ) -> Prediction:
        """Rank the candidates for the behavior at `when` in `place`; arguments as for `Predictor.predict`.

        Raises:
            EdgebError: a time further before the last event than a local clock goes back, an unknown label or source, a
                place that is missing or not wanted, a prompt that does not fit. The session is unchanged.
        """
        started = perf_counter()
        check_time(when, "when")
        check_place(place)
        top_k = checked_top_k(top_k)
        with self._engine.turn():
            self._check_time(when, "the time asked for")
            where = self._engine.manifest.layout.place_of(place)
            source = self._engine.source(options)
            habits = None if source == "model" else self._counter.log_probs(when, where)
            ids = [] if source == "habits" else self._ids(when, where)
            return self._engine.answer(ids, habits, top_k, options, started)

    def prepare(self) -> int:
        """Evaluate the events observed so far, at a time when nobody waits; the next prediction pays for its question.

        Returns:
            Tokens evaluated.

        Raises:
            EdgebError: the window does not fit into the context.
        """
        with self._engine.turn():
            ids = self._lead() + self._line_ids()
            backend = self._engine.backend
            return 0 if backend.held[: len(ids)] == ids else backend.prefill(ids)[1]

    def save(self, path: Path | str) -> None:
        """Write window, habits and, where the cache still holds them, the evaluated events.

        The file holds the user's places and behaviors: keep it where other such data are kept.

        Raises:
            EdgebError: the file cannot be written.
        """
        path = as_path(path, "path")
        with self._engine.turn():
            backend = self._engine.backend
            held = list(backend.held) if self._holds_window() else []
            header = {
                "kind": "session",
                "schema": _SCHEMA,
                "model": self._engine.manifest.tensors_sha256,
                "candidates": _labels_hash(self._engine),
                "anchor_every": self._rebase_every,
                "events": [[e.time.isoformat(), e.place, e.behavior] for e in self.events],
                "habits": self._counter.to_dict(),
                "held": held,
                "engine": backend.fingerprint,
            }
            write_state(path, header, backend.save_state() if held else b"")

    @classmethod
    def restore(cls, path: Path, engine: Engine) -> Session:
        """Continue a saved session; `Predictor.restore` calls this.

        Raises:
            EdgebError: damaged, of another version, of another model or of another candidate list. The predictor
                stays as it was.
        """
        header, state = read_state(path)
        found = read_fields(header, _FIELDS, str(path), _DAMAGED_HINT)
        if found["kind"] != "session" or found["schema"] != _SCHEMA:
            raise EdgebError(f"{path} is not a session this edgeb reads", "start a new session")
        if found["model"] != engine.manifest.tensors_sha256:
            raise EdgebError(f"{path} belongs to another model", "load the bundle it was made with")
        if found["candidates"] != _labels_hash(engine):
            raise EdgebError(f"{path} belongs to another candidate list", "load the bundle it was made with")
        with engine.turn():
            session = cls(engine, found["anchor_every"])
            events = _saved_events(found["events"], engine, str(path))
            session._window = [(event, engine.encoder.line_ids(event)) for event in events]
            session._counter = HabitCounter.from_dict(
                found["habits"], engine.manifest.candidates.counts, f"{path}: habits", engine.manifest.layout.places
            )
            held = _saved_ids(found["held"], engine, str(path))
            if held and found["engine"] == engine.backend.fingerprint:
                # A cache the engine does not take is evaluated again by the next prediction.
                engine.backend.load_state(held, state)
        return session

    def _check_time(self, when: datetime, what: str) -> None:
        if self._window:
            check_step(self._window[-1][0].time, when, what)

    def _rebase(self) -> None:
        del self._window[: -self._length]

    def _ids(self, when: datetime, place: str) -> list[int]:
        """The prompt; where it no longer fits into the context the window is anchored early."""
        encoder = self._engine.encoder
        lead, after = self._lead(), encoder.frame_ids(when, place)[1]
        lines = self._line_ids()
        if len(lead) + len(lines) + len(after) + len(encoder.trie.inner) > self._engine.backend.capacity:
            self._rebase()
            lines = self._line_ids()
        return lead + lines + after

    def _line_ids(self) -> list[int]:
        return [i for _, line in self._window for i in line]

    def _lead(self) -> list[int]:
        """Ids before the window's lines."""
        encoder = self._engine.encoder
        return encoder.static_ids + encoder.frame_ids(datetime.min, "")[0]

    def _holds_window(self) -> bool:
        """Whether the cache holds the window's events, all but the last perhaps."""
        known = self._lead() + [i for _, line in self._window[:-1] for i in line]
        return bool(self._window) and self._engine.backend.held[: len(known)] == known


def _saved_events(saved: list[Any], engine: Engine, where: str) -> list[BehaviorEvent]:
    """The events of a saved window, read as strictly as the rest of the file."""
    events = []
    for number, fields in enumerate(saved, 1):
        what = f"{where}: event {number}"
        time, place, behavior = read_list(fields, what, str, 3, _DAMAGED_HINT)
        events.append(engine.manifest.candidates.named(read_event(time, place, behavior, what), what))
    return events


def _saved_ids(saved: list[Any], engine: Engine, where: str) -> list[int]:
    if not all(is_whole(id_, 0, engine.backend.n_vocab) for id_ in saved):
        raise EdgebError(f"{where}: 'held' is not a list of token ids", _DAMAGED_HINT)
    return saved


def _labels_hash(engine: Engine) -> str:
    return hashlib.sha256(json.dumps(engine.manifest.candidates.labels).encode()).hexdigest()
