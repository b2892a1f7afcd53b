"""Makes calls on a bundle for the golden vectors, and notes what came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from edge_behavior.bundle.bundle import read_manifest
from edge_behavior.bundle.npu_folder import has_contexts, read_npu
from edge_behavior.core import DEFAULT_TOP_K
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.backends.litert import LiteRtBackend, LiteRtRunOptions
from edge_behavior.runtime.prediction import Prediction, PredictOptions
from edge_behavior.runtime.predictor import Predictor, context_needed
from edge_behavior.runtime.session import Session


def event_row(event: BehaviorEvent) -> list[str]:
    return [event.place, event.time.isoformat(timespec="minutes"), event.behavior]


@dataclass
class Recorder:
    """Makes calls on a bundle and notes them with what came out."""

    path: Path
    exact_math: bool
    calls: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.predictor = self._open()
        self.session: Session | None = None
        self.places = self.predictor.manifest.layout.places

    def reopen(self) -> None:
        self.predictor.close()
        self.predictor = self._open()
        self.calls.append({"do": "reopen"})

    def predict(self, history: Sequence[BehaviorEvent], when: datetime, place: str, **wanted: Any) -> None:
        self._predict(history, when, place if self.places else None, wanted)

    def misplaced(self, history: Sequence[BehaviorEvent], when: datetime) -> None:
        """A place where the bundle has none, and none where it has places."""
        error = "no place was given" if self.places else "given to a model without places"
        self._predict(history, when, None if self.places else "DK", {"error": error})

    def start(self, anchor_every: int) -> None:
        self.session = self.predictor.session(anchor_every)
        self.calls.append({"do": "session", "anchor_every": anchor_every})

    def observe(self, event: BehaviorEvent, error: str | None = None) -> None:
        assert self.session is not None
        call = {"do": "observe", "event": event_row(event)}
        try:
            self.session.observe(event)
            assert error is None, f"{call} went well"
        except EdgebError as raised:
            call["error"] = _expected(raised, error)
        self.calls.append({**call, "window": len(self.session.events)})

    def ask(self, when: datetime, place: str, **wanted: Any) -> None:
        session = self.session
        assert session is not None
        asked = place if self.places else None
        wanted = {"top_k": DEFAULT_TOP_K, **wanted}
        self._ask({"do": "ask"}, partial(session.predict, when, asked), when, asked, wanted)

    def prepare(self) -> None:
        assert self.session is not None
        self.calls.append({"do": "prepare", "tokens": self.session.prepare()})

    def save(self, name: str, folder: Path) -> None:
        assert self.session is not None
        self.session.save(folder / f"python-{name}")
        self.calls.append({"do": "save", "name": name})

    def restore(self, name: str, folder: Path) -> None:
        self.session = self.predictor.restore(folder / f"python-{name}")
        self.calls.append({"do": "restore", "name": name, "window": len(self.session.events)})

    def _open(self) -> Predictor:
        if has_contexts(self.path):
            # An NPU's calls, counted on the CPU.
            manifest = read_manifest(self.path)
            size = read_npu(self.path, manifest.tensors_sha256).size
            options = LiteRtRunOptions(context_needed(manifest), 1, size=size)
            return Predictor(manifest, LiteRtBackend(self.path, options))
        return Predictor.load(self.path, threads=1, exact_math=self.exact_math, prefix_cache=False)

    def _predict(
        self, history: Sequence[BehaviorEvent], when: datetime, place: str | None, wanted: dict[str, Any]
    ) -> None:
        call = {"do": "predict", "history": [event_row(e) for e in history]}
        # Kotlin's `predict` returns every candidate unless told otherwise.
        self._ask(call, partial(self.predictor.predict, history, when, place), when, place, {"top_k": None, **wanted})

    def _ask(
        self,
        call: dict[str, Any],
        run: Callable[..., Prediction],
        when: datetime,
        place: str | None,
        wanted: dict[str, Any],
    ) -> None:
        call |= {"when": when.isoformat(timespec="minutes"), "place": place}
        error = wanted.pop("error", None)
        call["wanted"] = wanted
        top_k, options = wanted["top_k"], {name: value for name, value in wanted.items() if name != "top_k"}
        try:
            found = run(top_k, options=PredictOptions(**options))
        except EdgebError as raised:
            call["error"] = _expected(raised, error)
        else:
            assert error is None, f"{call} went well"
            call["found"] = {
                "ranked": [[r.behavior, r.probability] for r in found.ranked],
                "source": found.source,
                "tokens": found.tokens_evaluated,
                "unexpanded": found.unexpanded,
                "calibrated": found.calibrated,
                "suggest": found.suggest,
                "likely": found.likely,
                "balance": found.balance,
            }
        self.calls.append(call)


def _expected(raised: EdgebError, error: str | None) -> str:
    if error is None or error not in raised.message:
        raise AssertionError(f"'{raised}' in place of '{error}'") from raised
    return error
