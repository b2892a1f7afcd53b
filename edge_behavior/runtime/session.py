"""A user session: append events as they happen; a prediction evaluates only what is new.

The window of past events grows from L to L + `rebase_every` events, then it is re-based: cut to the last L, which are
evaluated again. That takes less time than shifting the cache by an event each time (measured by benchmarks/windows.py),
and answers do not depend on earlier prompts.
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

from edge_behavior.core import DEFAULT_TOP_K, REBASE_EVERY
from edge_behavior.core.events import UNKNOWN_PLACE, BehaviorEvent, clean_place, read_event
from edge_behavior.core.fields import Kind, is_whole, naming, read_fields, read_list
from edge_behavior.core.habits import HabitCounter
from edge_behavior.core.scoring import Floats, check_scoring
from edge_behavior.core.times.event_order import check_step
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.arguments import (
    as_path,
    check_event,
    check_place,
    check_time,
    checked_top_k,
    whole_number,
)
from edge_behavior.runtime.prediction import DEFAULT_OPTIONS, Prediction, PredictOptions
from edge_behavior.runtime.ranker import Ranker
from edge_behavior.runtime.state_file import read_state, write_state

_SCHEMA = 2
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
    # Not checked: a cache of another inference engine, or of another version, is not used.
    "engine": object,
}


class Session:
    """One user's events and predictions on a loaded bundle; made by `Predictor.session`.

    May be used from several threads: calls on one predictor take turns. Once the predictor is closed, only `events` and
    `habits` can be read. Sessions of one predictor share its one cache, so that a call after another session's
    evaluates the whole window again: give users who are active at the same time a predictor each.
    """

    def __init__(self, ranker: Ranker, rebase_every: int = REBASE_EVERY) -> None:
        self._ranker, self._rebase_every = ranker, whole_number(rebase_every, "rebase_every", 1, "events")
        self._length, self._places = ranker.manifest.layout.history_length, ranker.manifest.layout.places
        self._window: list[tuple[BehaviorEvent, list[int]]] = []
        self._counter = ranker.counter()

    @property
    def events(self) -> tuple[BehaviorEvent, ...]:
        """Events the model sees, oldest first."""
        return tuple(event for event, _ in self._window)

    @property
    def habits(self) -> HabitCounter:
        """The user's habits over everything observed."""
        return self._counter

    def observe(self, event: BehaviorEvent) -> None:
        """Append an event. Nothing is evaluated until the next prediction or `prepare`.

        Where the bundle has no places, the event's place is dropped.

        Raises:
            EdgebError: not a candidate, or before the last event by more than a local clock goes back. The session is
                unchanged.
        """
        check_event(event, "the event observed")
        with self._ranker.turn():
            candidates = self._ranker.manifest.candidates
            place = clean_place(event.place) if self._places else UNKNOWN_PLACE
            event = candidates.named(replace(event, place=place), "the event observed")
            code = candidates.code(event.behavior)
            self._check_time(event.time, "the event observed")
            line = self._ranker.encoder.line_ids(event)
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
        with self._ranker.turn():
            self._check_time(when, "the time asked for")
            where = self._ranker.manifest.layout.place_of(place)
            source = self._ranker.source(options)
            habits = None if source == "model" else self._counter.log_probs(when, where)
            ids = [] if source == "habits" else self._ids(when, where)
            return self._ranker.answer(ids, habits, top_k, options, started)

    def log_probs(self, when: datetime, place: str | None = None, scoring: str = "exact") -> Floats:
        """The model's log-probabilities [B] in candidate order; arguments as for `Predictor.log_probs`.

        Raises:
            EdgebError: as `predict`.
        """
        check_time(when, "when")
        check_place(place)
        with self._ranker.turn():
            self._check_time(when, "the time asked for")
            where = self._ranker.manifest.layout.place_of(place)
            return self._ranker.log_probs(self._ids(when, where), check_scoring(scoring))

    def prepare(self) -> int:
        """Evaluate the events observed so far, while nobody waits; the next prediction then evaluates its context only.

        A sequence model keeps nothing of it, and its next prediction evaluates the window again.

        Returns:
            Tokens evaluated.

        Raises:
            EdgebError: the window does not fit into the context.
        """
        with self._ranker.turn():
            lead = self._lead()
            ids = lead + self._fitting_ids(len(lead))
            backend = self._ranker.backend
            return 0 if backend.held[: len(ids)] == ids else backend.prefill(ids)[1]

    def save(self, path: Path | str) -> None:
        """Write window and habits and, if the cache still holds the window, the cache.

        The file holds the user's places and behaviors: store it as private data.

        Raises:
            EdgebError: the file cannot be written.
        """
        path = as_path(path, "path")
        with self._ranker.turn():
            backend = self._ranker.backend
            held = list(backend.held) if self._holds_window() else []
            header = {
                "kind": "session",
                "schema": _SCHEMA,
                "model": self._ranker.manifest.tensors_sha256,
                "candidates": _labels_hash(self._ranker),
                "anchor_every": self._rebase_every,
                "events": [[e.time.isoformat(), e.place, e.behavior] for e in self.events],
                "habits": self._counter.to_dict(),
                "held": held,
                "engine": backend.fingerprint,
            }
            write_state(path, header, backend.save_state() if held else b"")

    @classmethod
    def restore(cls, path: Path, ranker: Ranker) -> Session:
        """Restore a saved session; called by `Predictor.restore`.

        Raises:
            EdgebError: damaged, or saved by another version, with another model or with another candidate set. The
                predictor is unchanged.
        """
        header, state = read_state(path)
        found = read_fields(header, _FIELDS, str(path), _DAMAGED_HINT)
        if found["kind"] != "session" or found["schema"] != _SCHEMA:
            raise EdgebError(f"{path} is not a session this edgeb reads", "start a new session")
        if found["model"] != ranker.manifest.tensors_sha256:
            raise EdgebError(f"{path} belongs to another model", "load the bundle it was made with")
        if found["candidates"] != _labels_hash(ranker):
            raise EdgebError(f"{path} belongs to another candidate list", "load the bundle it was made with")
        with ranker.turn():
            with naming(str(path)):
                session = cls(ranker, found["anchor_every"])
            events = _saved_events(found["events"], ranker, str(path))
            session._window = [(event, ranker.encoder.line_ids(event)) for event in events]
            session._counter = HabitCounter.from_dict(
                found["habits"],
                ranker.manifest.candidates.counts,
                f"{path}: habits",
                ranker.manifest.layout.places,
                ranker.population,
            )
            held = _saved_ids(found["held"], ranker, str(path))
            if held and found["engine"] == ranker.backend.fingerprint:
                # If the inference engine refuses it, the next prediction evaluates the window again.
                ranker.backend.load_state(held, state)
        return session

    def _check_time(self, when: datetime, what: str) -> None:
        if self._window:
            check_step(self._window[-1][0].time, when, what)

    def _rebase(self) -> None:
        del self._window[: -self._length]

    def _ids(self, when: datetime, place: str) -> list[int]:
        """The prompt."""
        lead, after = self._lead(), self._ranker.encoder.frame_ids(when, place)[1]
        return lead + self._fitting_ids(len(lead) + len(after)) + after

    def _fitting_ids(self, others: int) -> list[int]:
        """Ids of the window, which is re-based early where it would not fit beside so many others and the labels."""
        others += len(self._ranker.encoder.trie.inner)
        if others + len(self._line_ids()) > self._ranker.backend.capacity:
            self._rebase()
        return self._line_ids()

    def _line_ids(self) -> list[int]:
        return [i for _, line in self._window for i in line]

    def _lead(self) -> list[int]:
        """Ids before the window's events."""
        encoder = self._ranker.encoder
        return encoder.static_ids + encoder.frame_ids(datetime.min, "")[0]

    def _holds_window(self) -> bool:
        """Whether the cache holds the window's events, except perhaps the last."""
        known = self._lead() + [i for _, line in self._window[:-1] for i in line]
        return bool(self._window) and self._ranker.backend.held[: len(known)] == known


def _saved_events(saved: list[Any], ranker: Ranker, where: str) -> list[BehaviorEvent]:
    """The events of a saved window."""
    events = []
    for number, fields in enumerate(saved, 1):
        what = f"{where}: event {number}"
        time, place, behavior = read_list(fields, what, str, 3, _DAMAGED_HINT)
        events.append(ranker.manifest.candidates.named(read_event(time, place, behavior, what), what))
    return events


def _saved_ids(saved: list[Any], ranker: Ranker, where: str) -> list[int]:
    if not all(is_whole(id_, 0, ranker.backend.n_vocab) for id_ in saved):
        raise EdgebError(f"{where}: 'held' is not a list of token ids", _DAMAGED_HINT)
    return saved


def _labels_hash(ranker: Ranker) -> str:
    return hashlib.sha256(json.dumps(ranker.manifest.candidates.labels).encode()).hexdigest()
