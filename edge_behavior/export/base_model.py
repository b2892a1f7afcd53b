"""The backbone on disk: where it is, whether export knows its architecture, and its weight files.

Reads configuration and file headers only. Knows nothing of adapters or GGUF.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from edge_behavior.errors import EdgebError

# Hugging Face class → GGUF architecture.
ARCHITECTURES = {"Qwen2ForCausalLM": "qwen2", "LlamaForCausalLM": "llama"}
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt"]


def resolve_base(base: str | Path) -> Path:
    """The local folder of a backbone given by path or hub name (fetched into the hub cache if need be).

    Raises:
        EdgebError: no such folder, and not a hub name that can be fetched.
    """
    folder = Path(base)
    if folder.is_dir():
        return folder
    if isinstance(base, Path) or not _HUB_NAME.fullmatch(base) or folder.exists():
        raise EdgebError(
            f"the backbone folder {base} does not exist", "pass a model folder or a hub name like org/model"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(base, allow_patterns=_HUB_FILES))
    except Exception as error:  # the hub client raises many unrelated types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EdgebError(
            f"'{base}' is no folder here, and the hub did not give it: {reason}",
            "check the name, the network and HF_TOKEN",
        ) from None


def load_config(model_dir: Path) -> Any:
    """The transformers configuration of a model folder, checked for what conversion supports.

    Raises:
        EdgebError: no or unreadable config.json, an unsupported architecture (named, with the list), quantized
            weights, or a setting that GGUF cannot express.
    """
    from transformers import AutoConfig

    raw = _read_json(model_dir / "config.json")
    names = raw.get("architectures")
    name = names[0] if isinstance(names, list) and names else f"model type {raw.get('model_type')!r}"
    if name not in ARCHITECTURES:
        raise EdgebError(f"{model_dir}: unsupported architecture {name}", f"supported: {', '.join(ARCHITECTURES)}")
    if "quantization_config" in raw:
        raise EdgebError(
            f"{model_dir} holds already quantized weights", "export from the original f16, bf16 or f32 model"
        )
    try:
        config = AutoConfig.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # validation errors of many types
        raise EdgebError(f"{model_dir}/config.json: {' '.join(str(error).split())}", "check the model folder") from None
    for field, accepted in (("hidden_act", ("silu",)), ("use_sliding_window", (False, None))):
        value = getattr(config, field, None)
        if value not in accepted:
            raise EdgebError(f"{model_dir}/config.json: {field} = {value!r} is not supported", "use another backbone")
    return config


def architecture(config: Any) -> str:
    """GGUF architecture name of a configuration that `load_config` accepted."""
    return ARCHITECTURES[config.architectures[0]]


def head_dim(config: Any) -> int:
    """Width of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def weight_files(model_dir: Path) -> list[Path]:
    """The safetensors files of a model folder, in name order.

    Raises:
        EdgebError: there are none (pickled weights are not read), or a shard that the index names is missing.
    """
    if (model_dir / WEIGHTS_INDEX).is_file():
        index = _read_json(model_dir / WEIGHTS_INDEX).get("weight_map")
        if not isinstance(index, dict) or not index:
            raise EdgebError(f"{model_dir / WEIGHTS_INDEX} has no weight_map", "download the model again")
        files = sorted({model_dir / str(name) for name in index.values()})
    else:
        files = [model_dir / WEIGHTS]
    for file in files:
        if not file.is_file():
            pickled = any(model_dir.glob("pytorch_model*.bin"))
            hint = "convert pytorch_model.bin to safetensors" if pickled else "download or train the model again"
            raise EdgebError(f"weight file {file} is missing", hint)
    return files


@contextmanager
def open_weights(file: Path) -> Iterator[Any]:
    """Open a safetensors file for reading single tensors.

    Raises:
        EdgebError: a damaged or truncated file.
    """
    from safetensors import SafetensorError, safe_open

    hint = "download or train the model again"
    try:
        opened = safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise EdgebError(f"{file} is damaged: {first_line(error)}", hint) from None
    with opened as weights:
        try:
            yield weights
        except SafetensorError as error:
            raise EdgebError(f"{file} is damaged: {first_line(error)}", hint) from None


def count_parameters(files: list[Path]) -> int:
    """Number of weights in all files, from their headers."""
    total = 0
    for file in files:
        with open_weights(file) as weights:
            total += sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return total


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
    return tokenizer


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgebError(f"cannot read {file}: {error.strerror}", "pass a folder written by save_pretrained") from None
    except ValueError as error:
        raise EdgebError(f"{file} is not JSON: {error}", "download or train the model again") from None
    if not isinstance(content, dict):
        raise EdgebError(f"{file} is not a JSON object", "download or train the model again")
    return content


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type: third-party messages run to pages."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
