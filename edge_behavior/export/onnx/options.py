"""How an ONNX folder is built: weight format, execution provider, and the combinations that exist.

Read from profiles (flag > profile > default), or given directly. Knows the names of onnxruntime-genai's builder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as checked_dataclass

from edge_behavior.errors import EdgebError, nearest
from edge_behavior.export.profiles import parse_profile

BLOCK_SIZES = (16, 32, 64, 128, 256)
# Activations of a quantized product: 0 the engine's choice, 1 f32, 2 f16, 3 bf16, 4 8-bit integers.
ACCURACY_LEVELS = (0, 1, 2, 3, 4)
ALGORITHMS = ("default", "rtn", "k_quant")
# edgeb's name of a weight format, and the builder's.
PRECISIONS = {"q4": "int4", "q8": "int8", "f16": "fp16", "f32": "fp32"}
QUANTIZED = ("q4", "q8")
_DEFAULT_BLOCK = 32


@dataclass(frozen=True)
class Provider:
    """An execution provider: its names, and what can be built for it.

    Attributes:
        builder: The builder's name for the graph that it takes.
        engine: The name in genai_config.json; "" for the CPU, which needs none.
        quants: Weight formats whose graphs load; the builder writes others without a usable cache.
        qdq: Quantized weights are DequantizeLinear, not MatMulNBits.
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
    # The builder has no graph for QNN: the CPU's, with standard operators as far as it has them.
    "qnn": Provider("cpu", "qnn", ("q4", "f32"), qdq=True),
}


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class OnnxOptions:
    """How the model is built. None takes the default of weight format and execution provider.

    Attributes:
        quant: q4, q8, f16 or f32.
        block_size: Weights that share a scale: 16, 32, 64, 128 or 256; 32 by default.
        accuracy_level: Precision of activations in quantized products, see `ACCURACY_LEVELS`; by default 4 on the CPU.
        execution_provider: A key of `PROVIDERS`.
        context_length: Positions to build for; by default what prompts need, and 2048 if the backbone has them.
        algorithm: How weights are rounded: default, rtn or k_quant.
        share_embeddings: Keep one quantized matrix for tied embeddings; by default if possible.
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
                f"weights for {self.execution_provider} have no accuracy level", "leave it out: the provider decides"
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
        """Extra options of the builder, as its command line takes them."""
        # Also in sliding-window layers the whole context is cached: a shorter cache cannot be truncated.
        found = ["hf_token=false", "hf_remote=false", f"algo_config={self.algorithm}", "windowed_kv_cache=false"]
        if self.block_size is not None:
            found.append(f"block_size={self.block_size}")
        if self.accuracy_level is not None:
            found.append(f"accuracy_level={self.accuracy_level}")
        if self.provider.qdq and self.quant in QUANTIZED:
            # Such weights cannot be shared.
            found += ["use_qdq=true", "shared_embeddings=false"]
        elif self.share_embeddings is not None:
            found.append(f"shared_embeddings={str(self.share_embeddings).lower()}")
        return found


def onnx_options(profile: str | None, flags: Mapping[str, Any]) -> OnnxOptions:
    """The options of a profile, or the defaults, with flags in their place.

    Args:
        profile: A shipped profile's name or a YAML file; None for the defaults.
        flags: Fields of `OnnxOptions`.

    Raises:
        EdgebError: see `profiles.parse_profile`; or options that do not go together.
    """
    return replace(OnnxOptions() if profile is None else parse_profile(OnnxOptions, profile, "onnx"), **flags)
