"""Raw predictions on disk: one small file per system, seed and set of windows, written as soon as it is scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.scoring import log_softmax
from edge_behavior.errors import EdgebError
from edge_behavior.studies.compare.windows import read_arrays, write_arrays

Floats = NDArray[np.float64]
# Half precision has no smaller number.
_LOWEST = -6e4


def write_scores(path: Path, scores: Floats) -> None:
    """Keep log-probabilities [n, B] in half precision, as distances from each window's best.

    Close to the best, where ranks are decided, half precision is exact to 1e-7; a probability far below it is known to
    one part in a thousand of its logarithm.

    Raises:
        EdgebError: a score that is no number.
    """
    if not np.isfinite(scores.max(1)).all() or np.isnan(scores).any():
        raise EdgebError(f"{path.stem}: a window has a score that is no number", "see whether its training diverged")
    away = np.maximum(scores - scores.max(1, keepdims=True), _LOWEST)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(path, {"scores": away.astype(np.float16)})


def read_scores(path: Path, windows: int, candidates: int) -> Floats:
    """Log-probabilities [n, B], normalized over the candidates.

    Raises:
        EdgebError: missing, damaged, or of other windows.
    """
    held = read_arrays(path, ("scores",))["scores"]
    if held.shape != (windows, candidates) or held.dtype != np.float16 or not np.isfinite(held).all():
        raise EdgebError(f"{path} is not of these windows", "delete it, and compare again")
    return log_softmax(held.astype(np.float64))
