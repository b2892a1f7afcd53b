"""From what an endpoint answers to log-probabilities of labels. Pure functions; docs/compare.md says the same in words.

Three kinds of answers, the better first:

- `echo`: the log-probabilities of a text's own tokens. A label's score is their sum over the label and what ends it:
  p(y|x) as `core.scoring` defines `exact`, up to how the endpoint splits prompt and label into tokens.
- `alternatives`: a generated answer with the likeliest tokens at each position. Along the answer, a label has the
  product of its path, branching off where it differs. A branch that several labels share is divided evenly among them.
  What no listed token accounts for is spread evenly over all labels. Approximate.
- `text`: the answer only. The label it names gets `TEXT_SHARE`, the others the rest: a rank, not a probability.

An answer that names no label gives an even row, and is counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_behavior.baselines.system import Floats
from edge_behavior.core.events import clean_label
from edge_behavior.core.scoring import log_softmax
from edge_behavior.errors import EdgebError

TEXT_SHARE = 0.5
# Of an answer's probability, at least so much is spread over all labels: endpoints round, and list few tokens.
_LEAST_SPREAD = 1e-3
_HINT = "its log-probabilities have another form than OpenAI's; report it with the server's name and version"


@dataclass(frozen=True)
class Position:
    """One token of a generated answer: its text, and the log-probability of it and of the likeliest others."""

    token: str
    alternatives: Mapping[str, float]


def even(size: int) -> Floats:
    """[B] the row of an answer outside the list."""
    return np.full(size, -math.log(size))


def echoed_score(choice: Any, prompt: str, answer: str) -> float | None:
    """Log-probability of `answer` after `prompt` by an echoed completion; None where the endpoint gives none.

    A token counts that ends behind the prompt and starts before the answer's end, so that one which holds the prompt's
    last character and the answer's first does.

    Args:
        choice: `choices[0]` of a completion with `echo` and `logprobs`.

    Raises:
        EdgebError: the log-probabilities are malformed.
    """
    held = choice.get("logprobs") if isinstance(choice, dict) else None
    if not isinstance(held, dict) or not held.get("text_offset"):
        return None
    tokens, offsets, scores = (held.get(name) for name in ("tokens", "text_offset", "token_logprobs"))
    if not all(isinstance(part, list) for part in (tokens, offsets, scores)):
        raise EdgebError("the endpoint's echoed tokens cannot be read", _HINT)
    assert isinstance(tokens, list) and isinstance(offsets, list) and isinstance(scores, list)
    # Servers without echo give the generated token only.
    if len(tokens) < 2 or not str(choice.get("text", "")).startswith(prompt + answer):
        return None
    start, stop, total = len(prompt), len(prompt) + len(answer), 0.0
    ends = [*offsets[1:], stop + 1]
    counted = 0
    for first, end, score in zip(offsets, ends, scores, strict=True):
        if end > start and first < stop:
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                raise EdgebError(f"the endpoint gives {str(score)[:40]} as a log-probability", _HINT)
            total += float(score)
            counted += 1
    return total if counted else None


def positions_of(choice: Any) -> list[Position] | None:
    """The tokens of a generated answer with their alternatives; None where the endpoint gives none.

    Reads the completions' form (`tokens`, `top_logprobs` as a mapping) and the chat's (`content` with `top_logprobs`).

    Raises:
        EdgebError: malformed.
    """
    held = choice.get("logprobs") if isinstance(choice, dict) else None
    if not isinstance(held, dict):
        return None
    try:
        if held.get("content"):
            return [
                Position(
                    str(at["token"]),
                    {
                        **{str(other["token"]): _log_prob(other["logprob"]) for other in at.get("top_logprobs") or ()},
                        str(at["token"]): _log_prob(at["logprob"]),
                    },
                )
                for at in held["content"]
            ]
        if held.get("tokens") and held.get("top_logprobs"):
            columns = zip(held["tokens"], held["token_logprobs"], held["top_logprobs"], strict=True)
            return [
                Position(
                    str(token), {**{str(k): _log_prob(v) for k, v in (top or {}).items()}, str(token): _log_prob(p)}
                )
                for token, p, top in columns
            ]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise EdgebError("the endpoint's alternatives cannot be read", _HINT) from None
    return None


def from_alternatives(positions: Sequence[Position], answers: Sequence[str]) -> Floats | None:
    """[B] log-probabilities along a generated answer; None where it leads to no label.

    Args:
        positions: The answer's tokens.
        answers: Every label as it is answered, with what ends it. Space before it may be missing.
    """
    wanted = [answer.lstrip() for answer in answers]
    mass, path, before = np.zeros(len(wanted)), "", 0.0
    for at in positions:
        for token, log_prob in at.alternatives.items():
            text = (path + token).lstrip()
            if token == at.token or not text:
                continue
            mass[_starting(wanted, text)] += _shared(before + log_prob, wanted, text)
        path, before = path + at.token, before + at.alternatives[at.token]
        reached = _starting(wanted, path.lstrip())
        if len(reached) == 1 or not len(reached):
            break
    reached = _starting(wanted, path.lstrip()) if path.strip() else np.empty(0, np.int64)
    if len(reached):
        mass[reached] += math.exp(before) / len(reached)
    if not mass.any():
        return None
    whole = max(float(mass.sum()), 1.0)
    spread = max(1.0 - float(mass.sum()), _LEAST_SPREAD)
    return log_softmax(np.log(mass / whole + spread / len(mass)))


def from_text(text: str, labels: Sequence[str], ends: str | None) -> Floats | None:
    """[B] log-probabilities for an answer that is exactly a label, once cleaned; None for any other.

    Args:
        ends: What ends a label in the layout; the answer is read up to it.
    """
    line = text.strip().split("\n")[0]
    if ends is not None and ends.strip():
        line = line.split(ends.strip())[0]
    try:
        code = list(labels).index(clean_label(line))
    except (EdgebError, ValueError):
        return None
    row = np.full(len(labels), math.log((1 - TEXT_SHARE) / (len(labels) - 1)))
    row[code] = math.log(TEXT_SHARE)
    return row


def _log_prob(value: Any) -> float:
    # Some endpoints write -inf, or -9999, for what is out of reach.
    return min(float(value), 0.0)


def _starting(wanted: Sequence[str], text: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Codes of the answers that begin with a text, or that it begins with."""
    return np.array([i for i, w in enumerate(wanted) if w.startswith(text) or text.startswith(w)], dtype=np.int64)


def _shared(log_prob: float, wanted: Sequence[str], text: str) -> float:
    return math.exp(log_prob) / max(len(_starting(wanted, text)), 1)
