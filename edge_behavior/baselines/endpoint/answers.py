"""From what an endpoint answers to log-probabilities of labels. docs/baselines.md says it in words.

Three kinds of answers, the better first:

- `echo`: the log-probabilities of a text's own tokens. A label's score is their sum over the label and what ends it:
  p(y|x) as `core.scoring` defines `exact`, up to how the endpoint splits prompt and label into tokens.
- `alternatives`: a generated answer with the likeliest tokens at each position. Along the answer, a label has the
  product of its path, branching off where it differs. A branch that several labels share is divided evenly among them.
  What no listed token accounts for is spread evenly over all labels. Approximate.
- `text`: the answer only. The label it names gets `TEXT_SHARE`, the others the rest: a rank, not a probability.

An answer that names no label is counted; without alternatives that do, its row is even.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.baselines.system import Floats
from edge_behavior.core.events import clean_label
from edge_behavior.core.scoring import log_softmax
from edge_behavior.errors import EdgebError

TEXT_SHARE = 0.5
# Of an answer's probability, at least so much is spread over all labels: endpoints round, and list few tokens.
_LEAST_SPREAD = 1e-3
_LEAST_LOG_PROB = -1e4
# Endpoints round.
_SAME = 1e-3
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
    """Log-probability of `answer` after `prompt` by an echoed completion; None where the endpoint has none.

    The token that was generated at temperature 0 must be the likeliest at its place. If not, the log-probabilities
    belong to other tokens: llama-cpp-python 0.3 gives every echoed token that of coming once more.

    A token counts that ends behind the prompt and starts before the answer's end, so that one which holds the prompt's
    last character and the answer's first does.

    Args:
        choice: `choices[0]` of a completion with `echo` and `logprobs`.

    Raises:
        EdgebError: the log-probabilities are malformed.
    """
    held = choice.get("logprobs") if isinstance(choice, dict) else None
    # Servers that know no echo give the generated token only.
    if not isinstance(held, dict) or not str(choice.get("text", "")).startswith(prompt + answer):
        return None
    start, stop = len(prompt), len(prompt) + len(answer)
    try:
        if not _greedy(held):
            return None
        # The generated token begins where the text ended.
        columns = zip(held["text_offset"], [*held["text_offset"][1:], math.inf], held["token_logprobs"], strict=True)
        counted = [_log_prob(score) for first, end, score in columns if end > start and first < stop]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise EdgebError("the endpoint's echoed log-probabilities cannot be read", _HINT) from None
    return sum(counted) if counted else None


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


def from_alternatives(positions: Sequence[Position], labels: Sequence[str], ends: str) -> tuple[Floats, bool]:
    """[B] log-probabilities along a generated answer, and whether it named a label.

    Args:
        positions: The answer's tokens. Space before the first is not part of it.
        ends: What ends a label: of a chat, which ends its turn instead, a line break.
    """
    wanted = [label + ends for label in labels]
    mass, path, before = np.zeros(len(wanted)), "", 0.0
    reached = _agreeing(wanted, path)
    for at in positions:
        for token, log_prob in at.alternatives.items():
            text = (path + token).lstrip()
            if token != at.token and text:
                branch = _agreeing(wanted, text)
                mass[branch] += math.exp(before + log_prob) / max(len(branch), 1)
        path, before = path + at.token, before + at.alternatives[at.token]
        reached = _agreeing(wanted, path.lstrip())
        if len(reached) < 2:
            break
    else:
        # The model stopped by itself, or at the limit: within no label.
        reached = _agreeing(wanted, path.strip() + ends)
    mass[reached] += math.exp(before) / max(len(reached), 1)
    spread = max(1.0 - float(mass.sum()), _LEAST_SPREAD)
    return log_softmax(np.log(mass + spread / len(mass))), bool(len(reached))


def from_text(text: str, labels: Sequence[str], ends: str) -> tuple[Floats, bool]:
    """[B] log-probabilities for an answer, even unless it is exactly a label once cleaned; and whether it is one.

    Args:
        ends: What ends a label; the answer is read up to it.
    """
    try:
        code = list(labels).index(clean_label(f"{text.strip()}{ends}".split(ends)[0]))
    except (EdgebError, ValueError):
        return even(len(labels)), False
    row = np.full(len(labels), math.log((1 - TEXT_SHARE) / (len(labels) - 1)))
    row[code] = math.log(TEXT_SHARE)
    return row, True


def _greedy(held: Mapping[str, Any]) -> bool:
    """Whether the last token is the likeliest of those listed for its place."""
    own = _log_prob(held["token_logprobs"][-1])
    return own >= max(map(_log_prob, held["top_logprobs"][-1].values())) - _SAME


def _log_prob(value: Any) -> float:
    """A log-probability; some endpoints write -inf or -9999 for what is out of reach.

    Raises:
        ValueError, TypeError: not a number.
    """
    if isinstance(value, bool) or math.isnan(found := float(value)):
        raise ValueError(value)
    return max(min(found, 0.0), _LEAST_LOG_PROB)


def _agreeing(wanted: Sequence[str], text: str) -> NDArray[np.int64]:
    """Codes of the answers that begin with a text, or that it begins with."""
    return np.array([i for i, w in enumerate(wanted) if w.startswith(text) or text.startswith(w)], dtype=np.int64)
