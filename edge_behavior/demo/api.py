"""The page's JSON endpoints: what each takes, strictly, and what it does. Knows nothing of sockets or headers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edge_behavior.core.times.clock import parse_time
from edge_behavior.demo.assistant import Ask, Assistant
from edge_behavior.demo.views import View
from edge_behavior.errors import EdgebError, nearest

_NAMES = {str: "text", bool: "true or false", float: "a number", type(None): "null"}

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Endpoint:
    """Fields of a request, all required, with the types of their values, and the function that answers it."""

    fields: Mapping[str, tuple[type, ...]]
    answer: Callable[[Assistant, Fields], View]


def _predict(assistant: Assistant, fields: Fields) -> View:
    given = dict(fields)
    given["when"] = parse_time(given["when"], "when")
    return assistant.predict(Ask(**given))


def _add(assistant: Assistant, fields: Fields) -> View:
    when = parse_time(fields["when"], "when")
    assistant.add(fields["behavior"], fields["place"], when, fields["accepted"])
    return assistant.state()


def _dismiss(assistant: Assistant, fields: Fields) -> View:
    assistant.dismiss(fields["behavior"])
    return assistant.state()


def _fill_sample_day(assistant: Assistant, fields: Fields) -> View:
    assistant.fill_sample_day(parse_time(fields["day"], "day"))
    return assistant.state()


def _then_state(change: Callable[[Assistant], None]) -> Callable[[Assistant, Fields], View]:
    def answer(assistant: Assistant, _: Fields) -> View:
        change(assistant)
        return assistant.state()

    return answer


GET: Mapping[str, Callable[[Assistant], View]] = {
    "api/bundle": Assistant.bundle,
    "api/state": Assistant.state,
}
POST: Mapping[str, Endpoint] = {
    "api/predict": Endpoint(
        {
            "when": (str,),
            "place": (str, type(None)),
            "threshold": (float,),
            "precision": (float, type(None)),
            "coverage": (float, type(None)),
            "source": (str, type(None)),
            "balance": (float,),
            "exhaustive": (bool,),
        },
        _predict,
    ),
    "api/events": Endpoint({"behavior": (str,), "place": (str, type(None)), "when": (str,), "accepted": (bool,)}, _add),
    "api/dismiss": Endpoint({"behavior": (str,)}, _dismiss),
    "api/restore": Endpoint({}, _then_state(Assistant.restore)),
    "api/undo": Endpoint({}, _then_state(Assistant.undo)),
    "api/start-over": Endpoint({}, _then_state(Assistant.start_over)),
    "api/made-up-day": Endpoint({"day": (str,)}, _fill_sample_day),
}


def read_fields(body: bytes, known: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """Read the JSON object of a request: exactly the known fields, each of one of its types.

    Raises:
        EdgebError: naming the field that is missing, unknown or of the wrong type.
    """
    try:
        # All numbers as floats: a long integer could not be converted later.
        fields = json.loads(body, parse_int=float, parse_constant=_refuse)
    # Deep nesting overflows the stack before the check that fields are flat.
    except (ValueError, RecursionError):
        raise EdgebError("the request is not JSON", "send one JSON object in UTF-8") from None
    if not isinstance(fields, dict):
        raise EdgebError("the request is not a JSON object", f"send the fields {', '.join(known) or '{}'}")
    for name, value in fields.items():
        if name not in known:
            raise EdgebError(f"unknown field '{name[:40]}'", nearest(name[:40], known) if known else "send {}")
        if not isinstance(value, known[name]):
            wanted = " or ".join(dict.fromkeys(_NAMES[kind] for kind in known[name]))
            raise EdgebError(f"field '{name}' is not {wanted}", f"send {wanted}")
    missing = [name for name in known if name not in fields]
    if missing:
        raise EdgebError(f"field '{missing[0]}' is missing", f"send the fields {', '.join(known)}")
    return fields


def _refuse(name: str) -> float:
    raise ValueError(name)
