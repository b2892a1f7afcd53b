"""A Hugging Face model folder as an ONNX folder that onnxruntime-genai runs, by that project's own model builder.

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

from edge_behavior.errors import EdgebError
from edge_behavior.export.onnx.options import PRECISIONS, OnnxOptions
from edge_behavior.hf.architectures import check_onnx, load_config
from edge_behavior.hf.folder import first_line
from edge_behavior.runtime.backends.genai import load_genai
from edge_behavior.train.run.folder import read_json
from edge_behavior.util.progress import progress_bar

CONFIG_FILE, MODEL_FILE = "genai_config.json", "model.onnx"
# Stages that the builder announces beside one per layer: embedding, norm, head, graph, configuration, tokenizer.
_OTHER_STAGES = 6


def build_onnx(model_dir: Path, out_dir: Path, options: OnnxOptions, scratch: Path) -> dict[str, dict[str, str]]:
    """Write the ONNX folder of a model: graph, weights, genai_config.json and tokenizer.

    The folder names no execution provider yet, so that it can be checked on any machine; see `name_provider`.

    Args:
        model_dir: config.json, safetensors weights and a fast tokenizer. The context in its config.json is lowered to
            the options'.
        out_dir: Folder to write, directly.
        options: How to build.
        scratch: Folder for the builder's temporary files.

    Returns:
        The execution provider's name and settings, for `name_provider`; empty for the CPU.

    Raises:
        EdgebError: onnxruntime-genai or onnx_ir is not installed, a model it gets wrong, or the builder fails (its
            message is passed on).
    """
    load_genai()
    config = load_config(model_dir)
    check_onnx(config)
    layers = int(config.num_hidden_layers)
    _lower_context(model_dir, options.context_length)
    # The bar writes to the stderr of now; what is written to later ones is the builder's.
    with progress_bar(f"Building ONNX {options.quant}", layers + _OTHER_STAGES) as advance, _captured(advance):
        try:
            from onnxruntime_genai.models import builder

            # All but the folders by position, as its own command line does it.
            where = (
                "",
                str(model_dir),
                str(out_dir),
                PRECISIONS[options.quant],
                options.provider.builder,
                str(scratch),
            )
            prepared = builder.parse_extra_options(*where, options.extra())
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
    """Make a checked folder ask for the execution provider that `build_onnx` returned."""
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


class _Stages(io.TextIOBase):
    """A text stream that shows nothing and counts the stages it is told of."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        self._advance = advance

    def write(self, text: str) -> int:
        if text.startswith(("Reading ", "Saving ")):
            self._advance(1)
        return len(text)


@contextmanager
def _captured(advance: Callable[[float], None]) -> Iterator[None]:
    """Keep the builder's prints off both streams, and the root logger as it was: its quantizer sets that up anew."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    if not handlers:
        root.addHandler(logging.NullHandler())
    try:
        with redirect_stdout(_Stages(advance)), redirect_stderr(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


def _lower_context(model_dir: Path, length: int | None) -> None:
    """Tables of rotations are stored for every position, so a long context costs megabytes."""
    file = model_dir / "config.json"
    config = read_json(file)
    if length is not None and length < int(config["max_position_embeddings"]):
        config["max_position_embeddings"] = length
        file.write_text(json.dumps(config, indent=2), encoding="utf-8")


def _swap_providers(folder: Path, providers: list[dict[str, dict[str, str]]]) -> list[dict[str, dict[str, str]]]:
    """Write the list of execution providers and return the one before."""
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
