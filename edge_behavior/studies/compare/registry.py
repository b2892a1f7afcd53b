"""Every system that `--systems` takes: those of `baselines`, and tuned language models as changes to the recipe.

`paper` stands for all systems of the paper's tables, and `habits`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edge_behavior.baselines.endpoint.client import EndpointConfig
from edge_behavior.baselines.language.registry import RIVALS
from edge_behavior.baselines.recipes import TUNED_SYSTEMS
from edge_behavior.baselines.registry import SEQUENCE_SYSTEMS, systems
from edge_behavior.baselines.settings import Changes, authors_settings, changed_settings, over, plain, settings_of
from edge_behavior.errors import EdgebError, nearest
from edge_behavior.studies.compare.contenders import Contender, Other, Tuned
from edge_behavior.studies.compare.rivals import RivalContender
from edge_behavior.studies.compare.sources import HABITS

ENDPOINT = "endpoint"
# The tuned models of a comparison that names no systems; the others are asked for by name.
_DEFAULT_TUNED = ("untuned", "plain", "two_stage")
PAPER = "paper"
# The rows of the paper's tables in their order; GPT-2's shape is from its Figure 4, and plain tuning from Figure 5.
_PAPER_SYSTEMS = ("sasrec", "bert4rec", *RIVALS, "untuned", "gpt2", "plain", "two_stage")


# The systems that have settings.
CONFIGURABLE: Mapping[str, Any] = {**SEQUENCE_SYSTEMS, **RIVALS}


def all_contenders(
    endpoint: EndpointConfig | None = None, settings: Mapping[str, Changes] | None = None
) -> dict[str, Contender]:
    """Every system by name; `endpoint` among them where one is given.

    Args:
        endpoint: That of the system `endpoint`.
        settings: By system, as `system_settings` gives them.

    Raises:
        EdgebError: settings that no system has.
    """
    changes = settings or {}
    own = {name: changed_settings(CONFIGURABLE[name], changes[name], name) for name in CONFIGURABLE if name in changes}
    found: dict[str, Contender] = {name: Other(system) for name, system in systems(endpoint, own).items()}
    found.update({name: RivalContender(kind, own.get(name, {})) for name, kind in RIVALS.items()})
    found.update({name: Tuned(name, held.title, held.changes) for name, held in TUNED_SYSTEMS.items()})
    return found


def system_settings(name: str, changes: Changes, authors: bool = False) -> dict[str, Any]:
    """The settings of a system that are not its own by default, nested as YAML has them; empty for one without any.

    Args:
        name: Of the system.
        changes: What was asked for.
        authors: Over what its authors state, where that is known.

    Raises:
        EdgebError: settings that the system does not have, or values that do not fit.
    """
    if name not in CONFIGURABLE:
        if changes:
            raise EdgebError(f"--set {name}: that system has no settings", nearest(name, CONFIGURABLE, fallback=30))
        return {}
    kind, stated = CONFIGURABLE[name], authors_settings(name) if authors else {}
    changed_settings(kind, stated, f"train/configs/systems/{name}.yaml")
    found = changed_settings(kind, over(stated, changes), f"--set {name}")
    if name in SEQUENCE_SYSTEMS and (other := replace(kind, **found).name) != name:
        raise EdgebError(f"--set {name}.config.context: that is another system", f"compare {other}")
    return _departures(settings_of(kind), found)


def _departures(held: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """What differs, down to settings of settings."""
    kept = {}
    for name, value in found.items():
        before, after = plain(held[name]), plain(value)
        if isinstance(before, dict) and isinstance(after, dict):
            after = {key: one for key, one in after.items() if one != before[key]}
            if after:
                kept[name] = after
        elif before != after:
            kept[name] = after
    return kept


def default_systems(known: Mapping[str, Contender]) -> tuple[str, ...]:
    """The systems of a comparison that names none."""
    rare = (Tuned, RivalContender)
    return tuple(name for name, held in known.items() if not isinstance(held, rare) or name in _DEFAULT_TUNED)


def chosen(known: Mapping[str, Contender], names: Sequence[str]) -> dict[str, Contender]:
    """The systems of these names; habits are always among them, since mixtures need them.

    `paper` is all systems of the paper's tables; the endpoint's row is there where one is given.

    Raises:
        EdgebError: an unknown name; the hint has the nearest.
    """
    names = [one for name in names for one in (_PAPER_SYSTEMS if name == PAPER else (name,))]
    for name in names:
        if name not in known and name == ENDPOINT:
            raise EdgebError("the system 'endpoint' needs an endpoint", "pass --endpoint URL --endpoint-model NAME")
        if name not in known:
            raise EdgebError(f"no system named '{name}'", nearest(name, known, fallback=30))
    wanted = {*names, HABITS} if HABITS in known else {*names}
    return {name: held for name, held in known.items() if name in wanted}
