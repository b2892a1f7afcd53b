"""Loading of onnxruntime-genai: on first use, telemetry off, a clear error where it is missing."""

from __future__ import annotations

import os
from typing import Any

from edge_behavior.errors import EdgebError

_HINT = "pip install 'edgeb[onnx]' (Python 3.11 or newer)"


def load_genai() -> Any:
    """The onnxruntime_genai module.

    Raises:
        EdgebError: not installed, or its native library does not load.
    """
    # Its builds contain a telemetry client, on Linux too; prompts are personal data.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime_genai as module
    except ImportError as error:
        if error.name in ("onnxruntime_genai", "onnxruntime"):
            raise EdgebError("ONNX bundles need onnxruntime-genai, which is not installed", _HINT) from None
        raise EdgebError(f"onnxruntime-genai does not load: {error}", _HINT) from None
    module.disable_telemetry_events()
    return module
