"""Every system of a comparison by name, except tuned language models, which are recipes (`recipes`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edge_behavior.baselines.counters import CounterSystem
from edge_behavior.baselines.endpoint.client import EndpointConfig
from edge_behavior.baselines.endpoint.system import EndpointSystem
from edge_behavior.baselines.habits import HabitsPopulationSystem, HabitsSystem
from edge_behavior.baselines.population import PopulationSystem
from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.baselines.sequence.system import TITLES, SequenceSystem
from edge_behavior.baselines.system import System
from edge_behavior.evaluation.counters import COUNTERS

_PUBLISHED = SequenceConfig(context=False)
_SEQUENCE = [SequenceSystem(name) for name in TITLES] + [SequenceSystem(name, _PUBLISHED) for name in TITLES]
SEQUENCE_SYSTEMS: Mapping[str, SequenceSystem] = {system.name: system for system in _SEQUENCE}


def systems(
    endpoint: EndpointConfig | None = None, settings: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, System]:
    """The systems, in the order of tables.

    Args:
        endpoint: Adds `endpoint`: it sends events of the log to another machine, so that it is never asked unasked.
        settings: By system, those that are not its own by default.
    """
    found: list[System] = [CounterSystem(name) for name in COUNTERS]
    found += [HabitsSystem(), PopulationSystem(), HabitsPopulationSystem()]
    found += [replace(system, **(settings or {}).get(name, {})) for name, system in SEQUENCE_SYSTEMS.items()]
    if endpoint is not None:
        found.append(EndpointSystem(endpoint))
    return {system.name: system for system in found}
