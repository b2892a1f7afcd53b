"""The architectures that can be trained and exported, and every check of a backbone.

Export checks before it converts, training before it begins, so that no training ends in a model that cannot be
exported. Reads configuration, tokenizer and the headers of the weights; knows nothing of adapters and bundles.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_behavior.errors import EdgebError
from edge_behavior.hf.folder import first_line, read_model_json, weight_files
from edge_behavior.hf.gguf_vocab import UnsupportedBackboneError, read_vocab
from edge_behavior.hf.tensors import TensorSpec, check_tensors, stored_shapes
from edge_behavior.hf.tokenizers import special_ids


@dataclass(frozen=True)
class Architecture:
    """One architecture, and how the engines compute it.

    Attributes:
        gguf: llama.cpp's name.
        model_type: `model_type` in config.json.
        ropes: RoPE scalings that llama.cpp has for it.
        onnx_ropes: RoPE scalings that onnxruntime-genai's builder honors. For Llama it accepts `linear` and ignores it.
        qkv_biases: Whether query, key and value projections always have biases.
        adjacent_pairs: Whether llama.cpp rotates adjacent pairs; Hugging Face rotates halves.
    """

    gguf: str
    model_type: str
    ropes: tuple[str, ...]
    onnx_ropes: tuple[str, ...]
    qkv_biases: bool
    adjacent_pairs: bool


# By Hugging Face class. A new one may also need tensor names in `tensors` and a tokenizer in `gguf_vocab`.
ARCHITECTURES = {
    "Qwen2ForCausalLM": Architecture(
        "qwen2", "qwen2", ("default", "linear"), ("default", "linear"), qkv_biases=True, adjacent_pairs=False
    ),
    "LlamaForCausalLM": Architecture(
        "llama", "llama", ("default", "linear", "llama3"), ("default", "llama3"), qkv_biases=False, adjacent_pairs=True
    ),
}
_SUPPORTED = f"supported: {', '.join(ARCHITECTURES)}"
# Settings that the engines support only with these values.
_FIXED: tuple[tuple[str, tuple[Any, ...]], ...] = (("hidden_act", ("silu",)), ("use_sliding_window", (False, None)))


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
    found = ARCHITECTURES[config.architectures[0]]
    return check_tensors(config, stored_shapes(files), model_dir, found.qkv_biases, found.adjacent_pairs)


def load_config(model_dir: Path) -> Any:
    """The Transformers configuration of a model folder that GGUF export supports.

    Raises:
        EdgebError: no readable config.json, an unsupported architecture (named, with the list), custom code,
            quantized weights, or a setting that GGUF cannot express.
    """
    from transformers import AutoConfig

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
    try:
        config = AutoConfig.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # validation errors of many types
        raise EdgebError(f"{where}: {' '.join(str(error).split())}", "check the model folder") from None
    for field, accepted in _FIXED:
        value = getattr(config, field, None)
        if value not in accepted:
            raise UnsupportedBackboneError(f"{where}: {field} = {value!r} is not supported", "use another backbone")
    kinds = sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention"})
    if kinds:
        raise UnsupportedBackboneError(
            f"{where}: layer_types has {kinds[0]}, which is not supported", "use another backbone"
        )
    check_rope(config)
    return config


def check_rope(config: Any) -> None:
    """Refuse rotary embeddings that llama.cpp computes differently.

    Raises:
        EdgebError: a scaling that it lacks for this architecture, or a partial rotary embedding.
    """
    rope, found = config.rope_parameters, ARCHITECTURES[config.architectures[0]]
    kind = rope["rope_type"]
    if kind not in found.ropes:
        raise UnsupportedBackboneError(
            f"unsupported rope scaling '{kind}'", f"supported for {found.gguf}: {', '.join(found.ropes)}"
        )
    if float(rope.get("partial_rotary_factor") or 1.0) != 1.0:
        raise UnsupportedBackboneError("a partial rotary embedding is not supported", "use another backbone")


def check_onnx(config: Any) -> None:
    """Refuse a model that the ONNX builder would silently get wrong, or not build.

    Args:
        config: A configuration that `load_config` accepted.

    Raises:
        EdgebError: a RoPE scaling that the builder lacks for this architecture.
    """
    found, kind = ARCHITECTURES[config.architectures[0]], config.rope_parameters["rope_type"]
    if kind not in found.onnx_ropes:
        raise UnsupportedBackboneError(
            f"the ONNX builder has no {kind} rope scaling for {found.gguf}",
            f"it has {' and '.join(found.onnx_ropes)}: export with --format gguf",
        )


def architecture(config: Any) -> str:
    """GGUF architecture name of a configuration that `load_config` accepted."""
    return ARCHITECTURES[config.architectures[0]].gguf


def load_tokenizer(model_dir: Path) -> Any:
    """The fast tokenizer of a model folder.

    Raises:
        EdgebError: missing or unreadable tokenizer files.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # many types, from missing files to bad JSON
        raise EdgebError(f"cannot load the tokenizer of {model_dir}: {first_line(error)}", "check its files") from None
    if not getattr(tokenizer, "is_fast", False):
        raise EdgebError(f"{model_dir} has no fast tokenizer", "save it as tokenizer.json with transformers")
    # Without its file Transformers makes an empty one, of the special tokens alone.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise EdgebError(f"the tokenizer of {model_dir} is empty: it has no tokenizer.json", "download it again")
    return tokenizer
