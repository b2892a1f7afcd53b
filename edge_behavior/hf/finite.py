"""Whether a model's weights are finite and fit f16, checked once they are in memory."""

from __future__ import annotations

import math
from typing import Any

from edge_behavior.errors import EdgebError

F16_MAX = 65504.0
KEEP_F32 = "export with --quant f32"


def check_weights(model: Any, base: str) -> dict[str, float]:
    """Check that the weights of a backbone in memory are finite.

    Args:
        model: A Transformers model without an adapter. Packed 4-bit weights are skipped.
        base: The backbone's name, for messages.

    Returns:
        Largest magnitude of every matrix that does not fit f16, by tensor name.

    Raises:
        EdgebError: a value that is not finite; the message names the first such tensor.
    """
    beyond = {}
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point() or not parameter.numel():
            continue
        low, high = (float(value) for value in parameter.detach().aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            half = str(parameter.dtype) == "torch.float16"
            what = "that float16 cannot hold, or that are not numbers" if half else "that are not finite numbers"
            raise EdgebError(
                f"the backbone {base} has values {what} in its own weight '{name}'",
                "load it in float32, download it again, or use another backbone"
                if half
                else "download it again, or use another backbone",
            )
        if parameter.ndim > 1 and max(-low, high) > F16_MAX:
            beyond[name] = max(-low, high)
    return beyond


def beyond_f16(base: str, beyond: dict[str, float]) -> str:
    """A line for an error or a note on weights of the backbone that do not fit f16."""
    name, value = next(iter(beyond.items()))
    others = f" and {len(beyond) - 1} others" if len(beyond) > 1 else ""
    return f"the backbone {base} has values up to {value:.3g} in its own weight '{name}'{others}: does not fit f16"
