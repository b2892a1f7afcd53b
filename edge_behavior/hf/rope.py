"""Rotary embeddings as Llama 3.1 scales them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def llama3_divisors(rope: Mapping[str, Any], width: int) -> NDArray[np.float32]:
    """Per-frequency divisors of Llama 3.1's rotary scaling, shape [width / 2].

    Long wavelengths are divided by `factor`, short ones left alone, those between blended (Llama 3.1's rule).

    Args:
        rope: `rope_theta`, `factor`, `low_freq_factor`, `high_freq_factor`, `original_max_position_embeddings`.
        width: Of one attention head.
    """
    wavelengths = 2 * math.pi * float(rope["rope_theta"]) ** (np.arange(0, width, 2, dtype=np.float64) / width)
    low, high, factor = (float(rope[name]) for name in ("low_freq_factor", "high_freq_factor", "factor"))
    turns = float(rope["original_max_position_embeddings"]) / wavelengths
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - blend) / factor + blend), dtype=np.float32)
