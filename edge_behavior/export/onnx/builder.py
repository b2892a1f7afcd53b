"""Build an ONNX folder from a Hugging Face model folder, with onnxruntime-genai's own model builder.

Everything is read from disk: no network, no code from model folders. Knows nothing of bundles and adapters.
"""

from __future__ import annotations

import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from edge_behavior.errors import EdgebError
from edge_behavior.export.onnx.options import PRECISIONS, OnnxOptions
from edge_behavior.hf.architectures import check_onnx, load_config, local_rope, rope_parameters
from edge_behavior.hf.folder import first_line
from edge_behavior.runtime.backends.genai import load_genai
from edge_behavior.train.run.folder import read_json
from edge_behavior.util.progress import progress_bar

CONFIG_FILE, MODEL_FILE = "genai_config.json", "model.onnx"
# Steps that the builder prints beside one per layer: embedding, norm, head, graph, configuration, tokenizer.
_OTHER_STEPS = 6


def build_onnx(model_dir: Path, out_dir: Path, options: OnnxOptions, scratch: Path) -> dict[str, dict[str, str]]:
    """Write the ONNX folder of a model: graph, weights, genai_config.json and tokenizer.

    The folder does not name its execution provider yet, so that any machine can check it; see `name_provider`.

    Args:
        model_dir: config.json, safetensors weights and a fast tokenizer. The context in its config.json is lowered to
            the options'.
        out_dir: Folder to write, directly.
        options: How to build.
        scratch: Folder for the builder's temporary files.

    Returns:
        The execution provider's name and settings, for `name_provider`; empty for the CPU.

    Raises:
        EdgebError: onnxruntime-genai or onnx_ir is not installed, a model that the builder gets wrong, or the builder
            fails, with its message.
    """
    load_genai()
    config = load_config(model_dir)
    check_onnx(config)
    layers = int(config.num_hidden_layers)
    _lower_context(model_dir, options.context_length)
    # The bar holds the real stderr; the builder's prints go to the captured one.
    with progress_bar(f"Building ONNX {options.quant}", layers + _OTHER_STEPS) as advance, _captured(advance):
        try:
            from onnxruntime_genai.models import builder

            # By position, as its own command line does.
            where = (
                "",
                str(model_dir),
                str(out_dir),
                PRECISIONS[options.quant],
                options.provider.builder,
                str(scratch),
            )
            prepared = builder.parse_extra_options(*where, options.extra())
            _flatten_ropes(prepared["hf_details"]["hf_config"])
            builder.create_model(*where, **prepared)
        except ImportError as error:
            raise EdgebError(f"the ONNX builder needs {error.name}", "pip install 'edgeb[onnx,export]'") from None
        except Exception as error:  # of many types, assertions among them
            raise EdgebError(
                f"onnxruntime-genai cannot build this model: {first_line(error)}", "try other options or --format gguf"
            ) from None
    written = _swap_providers(out_dir, [])
    if options.static_shapes:
        _fix_shapes(out_dir / MODEL_FILE, int(read_json(out_dir / CONFIG_FILE)["model"]["context_length"]))
    engine = options.provider.engine
    if not engine:
        return {}
    settings = next((found[engine] for found in written if engine in found), {})
    return {engine: {**settings, **options.provider_options}}


def name_provider(folder: Path, settings: dict[str, dict[str, str]]) -> None:
    """Make a checked folder ask for the execution provider that `build_onnx` returned; nothing for the CPU."""
    if settings:
        _swap_providers(folder, [settings])


def weight_operators(folder: Path) -> dict[str, int]:
    """How many operators of each kind hold weights, like {"MatMulNBits": 9, "GatherBlockQuantized": 1}."""
    import onnx

    graph = onnx.load(str(folder / MODEL_FILE), load_external_data=False).graph
    kinds = {"MatMul", "MatMulNBits", "Gather", "GatherBlockQuantized", "DequantizeLinear"}
    weights = {tensor.name for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type in kinds and weights.intersection(node.input)]
    return dict(Counter(node.op_type for node in nodes))


class _StepCounter(io.TextIOBase):
    """A text stream that shows nothing and counts the steps it is told of."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        self._advance = advance

    def write(self, text: str) -> int:
        if text.startswith(("Reading ", "Saving ")):
            self._advance(1)
        return len(text)


@contextmanager
def _captured(advance: Callable[[float], None]) -> Iterator[None]:
    """Hide the builder's prints, and restore the root logger, which its quantizer reconfigures."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    if not handlers:
        root.addHandler(logging.NullHandler())
    try:
        with redirect_stdout(_StepCounter(advance)), redirect_stderr(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


def _lower_context(model_dir: Path, length: int | None) -> None:
    """Lower the context in config.json: rotary tables are stored for every position, megabytes for a long one."""
    file = model_dir / "config.json"
    config = read_json(file)
    if length is not None and length < int(config["max_position_embeddings"]):
        config["max_position_embeddings"] = length
        file.write_text(json.dumps(config, indent=2), encoding="utf-8")


def _flatten_ropes(config: Any) -> None:
    """Rename the two rotary embeddings of a model with sliding windows: the builder knows Gemma 3's of old."""
    local, full = local_rope(config), rope_parameters(config)
    if local is not None:
        config.rope_parameters, config.rope_theta = full, full["rope_theta"]
        config.rope_local_base_freq = local["rope_theta"]


def _swap_providers(folder: Path, providers: list[dict[str, dict[str, str]]]) -> list[dict[str, dict[str, str]]]:
    """Write the list of execution providers; returns the old one."""
    file = folder / CONFIG_FILE
    config = read_json(file)
    session = config["model"]["decoder"]["session_options"]
    before: list[dict[str, dict[str, str]]] = session["provider_options"]
    session["provider_options"] = providers
    file.write_text(json.dumps(config, indent=4), encoding="utf-8")
    return before


def _fix_shapes(file: Path, length: int) -> None:
    import onnx

    model = onnx.load(str(file), load_external_data=False)
    for value in [*model.graph.input, *model.graph.output]:
        is_cache = value.name.startswith(("past_key_values.", "present."))
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == "batch_size":
                dimension.dim_value = 1
            elif is_cache and dimension.dim_param in ("past_sequence_length", "total_sequence_length"):
                dimension.dim_value = length
    onnx.save(model, str(file))
