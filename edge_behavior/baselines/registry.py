"""Every system that is not a tuned language model, by the name that `edgeb compare --systems` takes."""

from __future__ import annotations

from edge_behavior.baselines.counting import CountingSystem, habits, population, simple_counter
from edge_behavior.baselines.sequence import SEQUENCE_SYSTEMS
from edge_behavior.baselines.system import System
from edge_behavior.evaluation.tables import NAMES

_PLACES = frozenset({"places"})


def systems() -> dict[str, System]:
    """The systems by name: counters from simple to better informed, then small networks."""
    found: list[System] = [
        *(
            CountingSystem(name, NAMES[name], simple_counter(name))
            for name in ("most_frequent", "last_mode", "markov_1", "hour_mode")
        ),
        CountingSystem(
            "place_hour_backoff", NAMES["place_hour_backoff"], simple_counter("place_hour_backoff"), _PLACES
        ),
        CountingSystem("population", "population counter", population),
        CountingSystem("habits", "habits", habits(with_population=False)),
        CountingSystem("habits_population", "habits above the population", habits(with_population=True)),
        *SEQUENCE_SYSTEMS,
    ]
    return {system.name: system for system in found}
