"""Known rows of a LiteRT bundle: what the model answers to a few tokens, for hosts to check an accelerator by.

An accelerator can compute nonsense while every call reports success. So a host evaluates the tokens of `ids` as a
prompt, once by every signature, and answers nothing where the log-probabilities are further from these than the
tolerance. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.fields import DAMAGED_HINT, Kind, is_number, is_whole, read_fields, read_list
from edge_behavior.core.scoring import log_softmax
from edge_behavior.errors import EdgebError

_FIELDS: Mapping[str, Kind] = {
    "accelerators": list,
    "ids": list,
    "tokens": list,
    "log_probs": list,
    "tolerance": (int, float),
}
# Prompt tokens, and tokens of the vocabulary whose log-probabilities are kept after each.
_IDS, _TOKENS = 8, 64
# Least tolerance, nats: some 20 times what a software adapter differs from the CPU by in float32.
_FLOOR = 0.01
# An accelerator is as far from the float32 model as the quantized model is on the CPU, or nearer: what is left of it
# beyond that is a margin. With int8 that is wide, 2.6 to 6 nats on SmolLM2: the CPU rounds activations, too, which
# moves the largest of 512 differences by 1.3 to 3. A GPU that does not is .7 off, but another may round as the CPU
# does. Noise is 12 to 25 off, so that less would gain nothing, and neither would the mean. What passes is a fault as
# small as the rounding: one of 30 layers left out moves 2.1 to 4.6 (benchmarks/results/known_rows.md).
_MARGIN = 2.0
_DIGITS = 5
_MOST = 1 << 31


@dataclass(frozen=True)
class LiteRtProbe:
    """The content of a bundle's `probe.json`.

    Attributes:
        accelerators: What the graph is made for beside the CPU, by name: another may crash the process.
        ids: Token ids of a prompt's beginning.
        tokens: Some token ids, spread evenly over the vocabulary, so that a part of the head that is wrong holds one.
        log_probs: For each of `ids` the log-probability, in nats and over the whole vocabulary, of each of `tokens`
            after it, by the float32 model.
        tolerance: Largest difference from `log_probs` that is no fault, nats.
    """

    accelerators: tuple[str, ...]
    ids: tuple[int, ...]
    tokens: tuple[int, ...]
    log_probs: tuple[tuple[float, ...], ...]
    tolerance: float

    @classmethod
    def measured(
        cls,
        accelerators: tuple[str, ...],
        ids: list[int],
        plain: NDArray[np.float32],
        shipped: NDArray[np.float32],
    ) -> LiteRtProbe:
        """What an export keeps.

        Args:
            accelerators: See the class.
            ids: A prompt, of which the first tokens are taken.
            plain: Logits [T, V] after each id by the float32 model.
            shipped: Those by the model that is shipped, on the CPU.
        """
        tokens = np.unique(np.linspace(0, plain.shape[1] - 1, _TOKENS).astype(int))
        expected = _log_probs(plain[:_IDS], tokens)
        off = float(np.abs(_log_probs(shipped[:_IDS], tokens) - expected).max())
        rows = tuple(tuple(round(float(value), _DIGITS) for value in row) for row in expected)
        tolerance = round(_FLOOR + _MARGIN * off, _DIGITS)
        return cls(accelerators, tuple(ids[:_IDS]), tuple(tokens.tolist()), rows, tolerance)

    def difference(self, logits: NDArray[np.float32], first: int = 0) -> float:
        """How far logits are from the known ones at most, nats; infinite where they are not finite.

        Args:
            logits: [n, V] after the last n of `ids`.
            first: The id after which the first row is.
        """
        found = _log_probs(logits, np.array(self.tokens))
        off = float(np.abs(found - np.array(self.log_probs[first : first + len(logits)])).max())
        return off if np.isfinite(off) else float("inf")

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of the file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object, vocabulary: int, where: str = "probe") -> LiteRtProbe:
        """Read the object strictly.

        Args:
            values: What `json.loads` gave.
            vocabulary: Number of the model's tokens.
            where: The file, for error messages.

        Raises:
            EdgebError: a field that is missing, unknown or has a bad value.
        """
        found = read_fields(values, _FIELDS, where)
        accelerators = tuple(read_list(found["accelerators"], f"{where}: accelerators", str))
        ids, tokens = (_tokens(found[name], vocabulary, f"{where}: {name}") for name in ("ids", "tokens"))
        rows = []
        for number, row in enumerate(read_list(found["log_probs"], f"{where}: log_probs", list, len(ids))):
            what = f"{where}: log_probs[{number}]"
            if not all(is_number(value, -_MOST, 0) for value in read_list(row, what, (int, float), len(tokens))):
                raise EdgebError(f"{what} holds a number that is no log-probability", DAMAGED_HINT)
            rows.append(tuple(float(value) for value in row))
        if not is_number(found["tolerance"], 0, _MOST):
            raise EdgebError(f"{where}: field 'tolerance' is {found['tolerance']}", DAMAGED_HINT)
        return cls(accelerators, ids, tokens, tuple(rows), float(found["tolerance"]))


def _tokens(value: object, vocabulary: int, where: str) -> tuple[int, ...]:
    tokens = read_list(value, where, int)
    if not tokens or any(not is_whole(token, 0, vocabulary) for token in tokens):
        raise EdgebError(f"{where} is {str(tokens)[:60]}, not tokens of the model", DAMAGED_HINT)
    return tuple(tokens)


def _log_probs(logits: NDArray[np.float32], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """[n, K] of [n, V]."""
    with np.errstate(invalid="ignore", over="ignore"):
        return log_softmax(logits.astype(np.float64))[:, tokens]
