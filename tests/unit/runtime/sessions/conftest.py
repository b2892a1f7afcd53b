"""A predictor of every engine, and how sessions are fed and compared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_behavior.core.events import BehaviorEvent
from edge_behavior.runtime.prediction import Prediction
from edge_behavior.runtime.predictor import PredictOptions, Predictor
from edge_behavior.runtime.session import Session


@pytest.fixture(scope="module")
def predictor(any_bundle: Path) -> Iterator[Predictor]:
    with Predictor.load(any_bundle, threads=1, exact_math=True, prefix_cache=False) as opened:
        yield opened


def probabilities(prediction: Prediction) -> dict[str, float]:
    return {r.behavior: r.probability for r in prediction.ranked}


def fresh(path: Path, history: list[BehaviorEvent], event: BehaviorEvent, source: str = "model") -> dict[str, float]:
    with Predictor.load(path, threads=1, exact_math=True, prefix_cache=False, verify=False) as opened:
        return probabilities(
            opened.predict(history, event.time, event.place, None, options=PredictOptions(source=source))
        )


def feed(session: Session, events: list[BehaviorEvent]) -> None:
    for event in events:
        session.observe(event)
