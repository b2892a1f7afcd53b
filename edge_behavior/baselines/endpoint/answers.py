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
from collections import Counter
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
# Nats; half precision and batches of other sizes move a log-probability a little.
_SAME = 0.05
_HINT = "its log-probabilities have another form than OpenAI's; report it with the server's name and version"


@dataclass(frozen=True)
class Position:
    """One token of a generated answer: its text, and the log-probability of it and of the likeliest others."""

    token: str
    alternatives: Mapping[str, float]


def even(size: int) -> Floats:
    """[B] the row of an answer outside the list."""
    return np.full(size, -math.log(size))


@dataclass(frozen=True)
class Echoed:
    """What an echoed completion says of a label behind a prompt.

    Attributes:
        score: Log-probability of the label and what ends it.
        start: Where its first token begins; before the prompt's end where that token holds some of both.
        likeliest: Log-probability of the likeliest token at that place, the same whatever label follows.
    """

    score: float
    start: int
    likeliest: float


def echoed(choice: Any, prompt: str, answer: str) -> Echoed | None:
    """What an echoed completion says of `answer` after `prompt`; None where the endpoint does not echo.

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
        # The generated token begins where the text ended.
        offsets = [*map(int, held["text_offset"]), math.inf]
        counted = [i for i in range(len(offsets) - 1) if offsets[i + 1] > start and offsets[i] < stop]
        score = sum(_log_prob(held["token_logprobs"][i]) for i in counted)
        top = held["top_logprobs"][counted[0]].values()
        return Echoed(score, int(offsets[counted[0]]), max(map(_log_prob, top)))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise EdgebError("the endpoint's echoed log-probabilities cannot be read", _HINT) from None


def trustworthy(found: Sequence[Echoed]) -> bool:
    """Whether labels echoed behind one prompt were scored in its place.

    Before the labels' first tokens, nothing tells one label from another: the likeliest token there must have one
    log-probability. llama-cpp-python 0.3 gives every token that of coming once more, and is found out by this.
    """
    usual = Counter(one.start for one in found).most_common(1)[0][0]
    values = [one.likeliest for one in found if one.start == usual]
    return max(values) - min(values) <= _SAME


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
    """[B] log-probabilities for an answer, and whether its first line is exactly a label, once cleaned; even if not.

    Args:
        ends: What ends a label; where it is a whole line's end, some servers cut the line break off.
    """
    line = text.strip().split("\n")[0]
    # A label may itself end like its line: what is left without the end counts first.
    for answer in (line.removesuffix(ends.strip()), line):
        try:
            code = list(labels).index(clean_label(answer))
        except (EdgebError, ValueError):
            continue
        row = np.full(len(labels), math.log((1 - TEXT_SHARE) / (len(labels) - 1)))
        row[code] = math.log(TEXT_SHARE)
        return row, True
    return even(len(labels)), False


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
