"""Is the written file the model that was trained: its tokens and its logits against training's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.encoding import Tokenize
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.export.merge import Probe, logit_difference
from edge_behavior.export.prune.words import domain_texts

# f16 weights and activations against f32, relative to the largest logit. A wrong conversion is off by about 1.
CONVERSION_TOLERANCE = 5e-2
_SAMPLE_PLACES = ("home", "work", "unknown", "40.75/-73.98", "a b-c_d.e&f/g+h", "Café Zürich", "東京駅", "место 7")


def prompt_segments(layout: PromptLayout, candidates: CandidateSet, places: Sequence[str] = ()) -> list[str]:
    """Every text of the domain, and the contexts of all hours in sample places of many kinds."""
    times = [datetime(2024, 1, 1) + timedelta(hours=hour) for hour in range(7 * 24)]
    texts = [layout.context(when, place) for when in times for place in _SAMPLE_PLACES]
    return list(dict.fromkeys([*domain_texts(layout, candidates, places), *texts]))


def check_tokens(tokenize: Tokenize, expected: Tokenize, texts: Sequence[str]) -> None:
    """Refuse a file that tokenizes one of `texts` differently from training.

    Args:
        tokenize: The file's.
        expected: Training's.
        texts: Segments of prompts, see `prompt_segments`.
    """
    for text in texts:
        found, wanted = tokenize(text), expected(text)
        if found != wanted:
            raise EdgebError(
                f"the exported file tokenizes {text!r} as {found}, training as {wanted}",
                "rename the label or reword the prompt, or report this as a bug",
            )


def check_logits(probe: Probe, found: NDArray[np.float32], what: str) -> float:
    """Refuse unquantized logits that are not PyTorch's to rounding; the largest difference.

    Args:
        probe: PyTorch's logits.
        found: The file's, shape [T, V].
        what: The model in the message: "converted", "ONNX".
    """
    difference = logit_difference(probe.logits, found)
    limit = CONVERSION_TOLERANCE * max(1.0, float(np.abs(probe.logits).max()))
    if difference > limit:
        raise EdgebError(
            f"the {what} model's logits differ by {difference:.3g} from PyTorch's (limit {limit:.3g})",
            "report this with the backbone's config.json",
        )
    return difference


def check_quantized_logits(probe: Probe, found: NDArray[np.float32], what: str, finer: str) -> float:
    """Refuse quantized logits that are not finite; the largest difference from PyTorch's.

    Args:
        probe: See `check_logits`.
        found: See `check_logits`.
        what: See `check_logits`.
        finer: Formats to suggest, like "q8 or f16".
    """
    difference = logit_difference(probe.logits, found)
    if not np.isfinite(difference):
        raise EdgebError(f"the {what} model's logits are not finite", f"try --quant {finer}")
    return difference
