"""A Hugging Face model folder as an ONNX folder that onnxruntime-genai runs, by that project's own model builder.

Everything is read from disk: no network, no code from model folders. Knows nothing of bundles and adapters.
"""

from __future__ import annotations

import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

from edge_behavior.errors import EdgebError, nearest
from edge_behavior.hf.architectures import check_onnx, load_config
from edge_behavior.hf.folder import first_line
from edge_behavior.runtime.backends.genai import load_genai
from edge_behavior.train.run.folder import read_json
from edge_behavior.util.progress import progress_bar

CONFIG_FILE, MODEL_FILE = "genai_config.json", "model.onnx"
BLOCK_SIZES = (16, 32, 64, 128, 256)
# Activations of a quantized product: 0 the engine's choice, 1 f32, 2 f16, 3 bf16, 4 8-bit integers.
ACCURACY_LEVELS = (0, 1, 2, 3, 4)
ALGORITHMS = ("default", "rtn", "k_quant")
# edgeb's name of a weight format, and the builder's.
PRECISIONS = {"q4": "int4", "q8": "int8", "f16": "fp16", "f32": "fp32"}
QUANTIZED = ("q4", "q8")
_DEFAULT_BLOCK = 32
# Stages that the builder announces beside one per layer: embedding, norm, head, graph, configuration, tokenizer.
_OTHER_STAGES = 6


@dataclass(frozen=True)
class Provider:
    """An execution provider: the builder's name for the graph it wants, the engine's name, and what can be built.

    Attributes:
        builder: The builder's execution provider.
        engine: The name in genai_config.json; "" for the CPU, which needs none.
        quants: Weight formats whose graphs load; the others the builder writes without a usable cache.
        qdq: Quantized weights as DequantizeLinear, not as MatMulNBits.
    """

    builder: str
    engine: str
    quants: tuple[str, ...]
    qdq: bool = False


PROVIDERS = {
    "cpu": Provider("cpu", "", ("q4", "q8", "f32")),
    "cuda": Provider("cuda", "cuda", ("q4", "q8", "f16")),
    "dml": Provider("dml", "dml", ("q4", "q8", "f16")),
    "webgpu": Provider("webgpu", "webgpu", ("q4", "q8", "f16", "f32")),
    "trt-rtx": Provider("NvTensorRtRtx", "NvTensorRtRtx", ("q4", "f16"), qdq=True),
    # The builder has no graph for QNN: the CPU's, with standard operators where it has them.
    "qnn": Provider("cpu", "qnn", ("q4", "f32"), qdq=True),
}


@dataclass(frozen=True)
class OnnxOptions:
    """How the model is built. None takes the default of the format and the execution provider.

    Attributes:
        quant: q4, q8, f16 or f32.
        block_size: Weights that share a scale: 16, 32, 64, 128 or 256; 32 by default.
        accuracy_level: Precision of a quantized product, 0 to 4, see `ACCURACY_LEVELS`; by default 4 on the CPU.
        execution_provider: A key of `PROVIDERS`.
        context_length: Positions to build for; None takes what the bundle's prompts need.
        algorithm: How weights are rounded: default, rtn or k_quant.
        share_embeddings: Keep one quantized matrix where input and output embeddings are tied; None does if it can.
        static_shapes: Fix batch size and cache length in the graph. The number of new tokens stays open.
        provider_options: Settings of the execution provider, as genai_config.json has them.

    Raises:
        EdgebError: a value that is unknown, or does not go with another.
    """

    quant: str = "q4"
    block_size: int | None = None
    accuracy_level: int | None = None
    execution_provider: str = "cpu"
    context_length: int | None = None
    algorithm: str = "default"
    share_embeddings: bool | None = None
    static_shapes: bool = False
    provider_options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.quant not in PRECISIONS:
            raise EdgebError(f"ONNX export has no weight format '{self.quant}'", nearest(self.quant, PRECISIONS))
        if self.execution_provider not in PROVIDERS:
            raise EdgebError(
                f"unknown execution provider '{self.execution_provider}'", nearest(self.execution_provider, PROVIDERS)
            )
        provider = PROVIDERS[self.execution_provider]
        if self.quant not in provider.quants:
            raise EdgebError(
                f"the builder has no {self.quant} for the execution provider {self.execution_provider}",
                f"use {', '.join(provider.quants)}",
            )
        for name, value, known in (
            ("block size", self.block_size, BLOCK_SIZES),
            ("accuracy level", self.accuracy_level, ACCURACY_LEVELS),
        ):
            if value is not None and value not in known:
                raise EdgebError(f"the {name} is {value}", f"use {', '.join(map(str, known))}")
            if value is not None and self.quant not in QUANTIZED:
                raise EdgebError(f"{self.quant} weights have no {name}", "leave it out, or use q4 or q8")
        if self.accuracy_level is not None and provider.qdq:
            raise EdgebError(
                f"weights for {self.execution_provider} have no accuracy level", "the provider decides how it computes"
            )
        if self.algorithm not in ALGORITHMS:
            raise EdgebError(f"unknown algorithm '{self.algorithm}'", nearest(self.algorithm, ALGORITHMS))
        if self.context_length is not None and self.context_length < 1:
            raise EdgebError(f"the context length is {self.context_length}", "use at least 1 position")
        if self.share_embeddings and provider.qdq:
            raise EdgebError(f"embeddings cannot be shared for {self.execution_provider}", "leave share_embeddings out")
        if self.provider_options and not provider.engine:
            raise EdgebError("the CPU has no provider options", "leave them out, or name another execution provider")

    @property
    def provider(self) -> Provider:
        """The execution provider to build for."""
        return PROVIDERS[self.execution_provider]

    @property
    def name(self) -> str:
        """For manifest and report, like "INT4 block 32 accuracy 4, cpu"."""
        parts = [PRECISIONS[self.quant].upper()]
        if self.quant in QUANTIZED:
            parts += ["block", str(self.block_size or _DEFAULT_BLOCK)]
            if not self.provider.qdq:
                level = self.accuracy_level
                parts += ["accuracy", str(level if level is not None else 0 if self.provider.engine else 4)]
        return f"{' '.join(parts)}, {self.execution_provider}"

    def extra(self) -> list[str]:
        """The builder's options, as its command line takes them."""
        found = ["hf_token=false", "hf_remote=false", f"algo_config={self.algorithm}"]
        if self.block_size is not None:
            found.append(f"block_size={self.block_size}")
        if self.accuracy_level is not None:
            found.append(f"accuracy_level={self.accuracy_level}")
        if self.provider.qdq and self.quant in QUANTIZED:
            # In this form weights cannot be shared.
            found += ["use_qdq=true", "shared_embeddings=false"]
        elif self.share_embeddings is not None:
            found.append(f"shared_embeddings={str(self.share_embeddings).lower()}")
        return found


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
