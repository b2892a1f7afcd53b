"""The architectures that can be trained and exported, and every check of a backbone.

Export checks before it converts, training before it begins, so that no training ends in a model that cannot be
exported. Reads configuration, tokenizer and the headers of the weights; knows nothing of adapters and bundles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_behavior.errors import EdgebError
from edge_behavior.hf.folder import first_line, read_model_json, weight_files
from edge_behavior.hf.gguf_vocab import TOKENIZER_FILE, UnsupportedBackboneError, read_vocab
from edge_behavior.hf.tensors import TensorLayout, TensorSpec, check_tensors, head_dim, stored_shapes, tensor_specs
from edge_behavior.hf.tokenizers import special_ids


@dataclass(frozen=True)
class Architecture:
    """One architecture, and how the engines compute it.

    Attributes:
        gguf: llama.cpp's name.
        model_type: `model_type` in config.json.
        ropes: RoPE scalings that llama.cpp has for it.
        onnx_ropes: RoPE scalings that onnxruntime-genai's builder honors. For Llama it accepts `linear` and ignores it,
            for Gemma 3 it scales the sliding-window layers, too.
        fixed: Settings that the engines support only with these values.
        tensors: What its tensors have beyond Llama's.
        window_period: Every how many layers one attends to the whole context, the others to a sliding window; 0 if all
            attend to the whole.
    """

    gguf: str
    model_type: str
    ropes: tuple[str, ...]
    onnx_ropes: tuple[str, ...]
    fixed: tuple[tuple[str, tuple[Any, ...]], ...]
    tensors: TensorLayout
    window_period: int = 0


_SILU = (("hidden_act", ("silu",)), ("use_sliding_window", (False, None)))
_GEMMA3 = (
    ("hidden_activation", ("gelu_pytorch_tanh",)),
    ("final_logit_softcapping", (None,)),
    ("attn_logit_softcapping", (None,)),
    ("use_bidirectional_attention", (False, None)),
    ("attention_bias", (False,)),
)
_PLAIN = ("default", "linear")
# By Hugging Face class. A new one may also need tensor names in `tensors` and a tokenizer in `gguf_vocab`.
ARCHITECTURES = {
    "Qwen2ForCausalLM": Architecture("qwen2", "qwen2", _PLAIN, _PLAIN, _SILU, TensorLayout(qkv_biases=True)),
    "Qwen3ForCausalLM": Architecture("qwen3", "qwen3", _PLAIN, _PLAIN, _SILU, TensorLayout(head_norms=True)),
    "LlamaForCausalLM": Architecture(
        "llama", "llama", (*_PLAIN, "llama3"), ("default", "llama3"), _SILU, TensorLayout(adjacent_pairs=True)
    ),
    "Gemma3ForCausalLM": Architecture(
        "gemma3",
        "gemma3_text",
        _PLAIN,
        ("default",),
        _GEMMA3,
        TensorLayout(head_norms=True, sandwich_norms=True, norm_offset=1.0),
        window_period=6,
    ),
}
_SUPPORTED = f"supported: {', '.join(ARCHITECTURES)}"


@dataclass(frozen=True)
class Backbone:
    """A model folder that can be exported; its weights are not read yet.

    Attributes:
        folder: The folder.
        config: Its Transformers configuration.
        tokenizer: Its fast tokenizer, as Transformers loads it.
    """

    folder: Path
    config: Any
    tokenizer: Any


def check_backbone(folder: Path, weights: bool = True) -> Backbone:
    """Check everything that GGUF export needs of a backbone.

    Args:
        folder: The model folder.
        weights: Check the headers of its weight files, too; without them configuration and tokenizer suffice.

    Raises:
        EdgebError: see `load_config`, `load_tokenizer`, `gguf_vocab.read_vocab`, `folder.weight_files` and
            `tensor_plan`.
    """
    config = load_config(folder)
    if (folder / "adapter_config.json").is_file():
        raise EdgebError(f"{folder} holds an adapter beside the model", "merge it into the model, or move it elsewhere")
    tokenizer = load_tokenizer(folder)
    read_vocab(tokenizer, int(config.vocab_size))
    special_ids(tokenizer)
    if weights:
        tensor_plan(config, weight_files(folder), folder)
    return Backbone(folder, config, tokenizer)


def tensor_plan(config: Any, files: Iterable[Path], model_dir: Path) -> list[TensorSpec]:
    """Every tensor to convert, in file order, after checking that the weight files hold exactly these.

    Args:
        config: A configuration that `load_config` accepted.
        files: Its weight files.
        model_dir: Their folder, for messages.

    Raises:
        EdgebError: a tensor that is missing, misshapen or unknown; a damaged file.
    """
    return check_tensors(config, stored_shapes(files), model_dir, _tensor_layout(config))


def backbone_tensors(config: Any) -> list[TensorSpec]:
    """Every tensor that a backbone may have, in GGUF's order; biases also where this one has none."""
    return list(tensor_specs(config, _tensor_layout(config)))


def tensor_names(config: Any) -> dict[str, str]:
    """GGUF name of every matrix and vector by its Hugging Face name."""
    return {tensor.source: tensor.gguf for tensor in backbone_tensors(config)}


def _tensor_layout(config: Any) -> TensorLayout:
    # By model type: a configuration made in memory names no class.
    return next(known.tensors for known in ARCHITECTURES.values() if known.model_type == config.model_type)


def check_architecture(model_dir: Path) -> Architecture:
    """The architecture that config.json names, as far as the file itself says what is supported; imports nothing.

    Raises:
        EdgebError: no readable config.json, an unsupported architecture (named, with the list), custom code,
            quantized weights, or a setting that the engines do not support.
    """
    where = f"{model_dir}/config.json"
    raw = read_model_json(model_dir / "config.json")
    names = raw.get("architectures")
    name = names[0] if isinstance(names, list) and names else f"model type {raw.get('model_type')!r}"
    found = ARCHITECTURES.get(str(name))
    if found is None:
        raise UnsupportedBackboneError(f"{model_dir}: unsupported architecture {name}", _SUPPORTED)
    if raw.get("auto_map"):
        raise EdgebError(f"{where}: auto_map names custom code, which is never run", _SUPPORTED)
    if raw.get("model_type") != found.model_type:
        raise EdgebError(f"{where}: model_type {raw.get('model_type')!r} is not that of a {name}", "check config.json")
    if raw.get("quantization_config"):
        raise EdgebError(f"{model_dir} holds already quantized weights", "take the original f16, bf16 or f32 model")
    _check_fixed({field: raw[field] for field, _ in found.fixed if field in raw}, found, where)
    return found


def load_config(model_dir: Path) -> Any:
    """The Transformers configuration of a model folder that GGUF export supports.

    Raises:
        EdgebError: see `check_architecture`; or a setting that GGUF cannot express.
    """
    found = check_architecture(model_dir)
    from transformers import AutoConfig

    where = f"{model_dir}/config.json"
    try:
        config = AutoConfig.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # validation errors of many types
        raise EdgebError(f"{where}: {' '.join(str(error).split())}", "check the model folder") from None
    # With what Transformers takes where the file says nothing.
    _check_fixed({field: getattr(config, field, None) for field, _ in found.fixed}, found, where)
    _check_windows(config, found, where)
    check_rope(config)
    return config


def _check_fixed(values: Mapping[str, Any], found: Architecture, where: str) -> None:
    for field, accepted in found.fixed:
        if field in values and values[field] not in accepted:
            raise UnsupportedBackboneError(
                f"{where}: {field} = {values[field]!r} is not supported", "use another backbone"
            )


def check_rope(config: Any) -> None:
    """Refuse rotary embeddings that llama.cpp computes differently.

    Raises:
        EdgebError: a scaling that it lacks for this architecture, or a partial rotary embedding.
    """
    found = ARCHITECTURES[config.architectures[0]]
    rope = rope_parameters(config)
    kind = rope["rope_type"]
    if kind not in found.ropes:
        raise UnsupportedBackboneError(
            f"unsupported rope scaling '{kind}'", f"supported for {found.gguf}: {', '.join(found.ropes)}"
        )
    local = local_rope(config)
    if local is not None and local["rope_type"] != "default":
        raise UnsupportedBackboneError(
            f"unsupported rope scaling '{local['rope_type']}' in sliding-window layers", "use another backbone"
        )
    if any(float(part.get("partial_rotary_factor") or 1.0) != 1.0 for part in (rope, local or rope)):
        raise UnsupportedBackboneError("a partial rotary embedding is not supported", "use another backbone")


def rope_parameters(config: Any) -> dict[str, Any]:
    """The rotary embedding of the layers that attend to the whole context."""
    found: dict[str, Any] = config.rope_parameters
    return dict(found.get("full_attention", found))


def local_rope(config: Any) -> dict[str, Any] | None:
    """The rotary embedding of sliding-window layers; None where it is that of all layers."""
    found = config.rope_parameters.get("sliding_attention")
    return None if found is None else dict(found)


def _check_windows(config: Any, found: Architecture, where: str) -> None:
    """Refuse sliding windows in other layers than those for which llama.cpp has them."""
    kinds = list(getattr(config, "layer_types", None) or ())
    if not found.window_period:
        other = sorted(set(kinds) - {"full_attention"})
        if other:
            raise UnsupportedBackboneError(
                f"{where}: layer_types has {other[0]}, which is not supported", "use another backbone"
            )
        return
    period = found.window_period
    expected = ["full_attention" if i % period == period - 1 else "sliding_attention" for i in range(len(kinds))]
    if kinds != expected:
        raise UnsupportedBackboneError(
            f"{where}: layer_types is not {period - 1} sliding windows to one full attention", "use another backbone"
        )
    width = head_dim(config)
    if int(config.query_pre_attn_scalar) != width:
        raise UnsupportedBackboneError(
            f"{where}: query_pre_attn_scalar = {config.query_pre_attn_scalar} is not head_dim ({width})",
            "use another backbone",
        )


def check_onnx(config: Any) -> None:
    """Refuse a model that the ONNX builder would silently get wrong, or not build.

    Args:
        config: A configuration that `load_config` accepted.

    Raises:
        EdgebError: a RoPE scaling that the builder lacks for this architecture.
    """
    found, kind = ARCHITECTURES[config.architectures[0]], rope_parameters(config)["rope_type"]
    if kind not in found.onnx_ropes:
        raise UnsupportedBackboneError(
            f"the ONNX builder has no {kind} rope scaling for {found.gguf}",
            f"it has {' and '.join(found.onnx_ropes)}: export with --format gguf",
        )


def architecture(config: Any) -> str:
    """GGUF architecture name of a configuration that `load_config` accepted."""
    return ARCHITECTURES[config.architectures[0]].gguf


def window_period(config: Any) -> int:
    """`Architecture.window_period` of a configuration that `load_config` accepted."""
    return ARCHITECTURES[config.architectures[0]].window_period


def load_tokenizer(model_dir: Path) -> Any:
    """The fast tokenizer of a model folder.

    Raises:
        EdgebError: missing or unreadable tokenizer files.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    # As it was saved. AutoTokenizer goes by the class that is named, and makes parts of it up: of SmolLM2's, published
    # as a GPT2Tokenizer, it drops the step that splits digits.
    kind: Any = PreTrainedTokenizerFast if (model_dir / TOKENIZER_FILE).is_file() else AutoTokenizer
    try:
        tokenizer = kind.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # many types, from missing files to bad JSON
        raise EdgebError(f"cannot load the tokenizer of {model_dir}: {first_line(error)}", "check its files") from None
    if not getattr(tokenizer, "is_fast", False):
        raise EdgebError(f"{model_dir} has no fast tokenizer", "save it as tokenizer.json with transformers")
    # Without its file Transformers makes an empty one, of the special tokens alone.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise EdgebError(f"the tokenizer of {model_dir} is empty: it has no tokenizer.json", "download it again")
    return tokenizer
