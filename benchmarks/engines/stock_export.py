"""Write the stock `.litertlm` of a model folder, by litert-torch.

    python -m benchmarks.engines.stock_export FOLDER OUT --recipe dynamic_wi8_afp32 --cache 512 --prefill 32 128

Run by `litert_lm` with the Python of another environment: imports nothing of edgeb, which is not there.
"""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from typing import Any


def stand_in_for_tensorflow() -> None:
    """litert-torch 0.10 imports one module of TensorFlow without declaring it; ai-edge-litert has the same module."""
    # First: it must not take the stand-in for TensorFlow.
    import transformers  # noqa: F401
    from ai_edge_litert import schema_py_generated

    for name in ("tensorflow", "tensorflow.lite", "tensorflow.lite.python"):
        module = types.ModuleType(name)
        # Torch asks for it.
        module.__spec__ = ModuleSpec(name, None)
        sys.modules[name] = module
    python: Any = sys.modules["tensorflow.lite.python"]
    python.schema_py_generated = schema_py_generated
    sys.modules["tensorflow.lite.python.schema_py_generated"] = schema_py_generated


def write(folder: str, out: str, recipe: str, cache: int, prefill: Sequence[int]) -> None:
    """Export; arguments as on the command line."""
    stand_in_for_tensorflow()
    from litert_torch.generative.export_hf.export import export

    export(folder, out, quantization_recipe=recipe, cache_length=cache, prefill_lengths=list(prefill))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="the model, as a Hugging Face folder")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--recipe", required=True, help="quantization recipe of ai-edge-quantizer")
    parser.add_argument("--cache", type=int, required=True, help="slots of the cache")
    parser.add_argument("--prefill", type=int, nargs="+", required=True, help="sizes of prefill signatures")
    args = parser.parse_args()
    write(args.folder, args.out, args.recipe, args.cache, args.prefill)


if __name__ == "__main__":
    main()
