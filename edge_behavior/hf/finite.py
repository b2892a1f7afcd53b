"""Whether a model's weights are numbers, and numbers that f16 can hold: asked once they are in memory anyway."""

from __future__ import annotations

import math
from typing import Any

from edge_behavior.errors import EdgebError

F16_MAX = 65504.0
KEEP_F32 = "export with --quant f32"


def check_weights(model: Any, base: str) -> dict[str, float]:
    """See that the weights of a backbone in memory are finite.

    Args:
        model: A Transformers model without an adapter. Packed 4-bit weights are passed over.
        base: What the user calls it, for messages.

    Returns:
        Largest magnitude of every matrix that f16 cannot hold, by the tensor's name.

    Raises:
        EdgebError: naming the first tensor with a value that is not finite.
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
    """Say which of a backbone's own weights f16 cannot hold, for an error or a note."""
    name, value = next(iter(beyond.items()))
    others = f" and {len(beyond) - 1} others" if len(beyond) > 1 else ""
    return f"the backbone {base} has values up to {value:.3g} in its own weight '{name}'{others}: does not fit f16"
