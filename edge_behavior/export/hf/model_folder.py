"""A model folder that Transformers 4 and 5 read alike, in the precision that was asked for.

Transformers 5 renamed fields of config.json and tokenizer_config.json, and tools that pin Transformers 4 read only the
old names: both are written where one version ignores the other's, else the names that both know. Knows no adapters.
"""

from __future__ import annotations

import json
import shutil
import stat
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_behavior.errors import EdgebError, nearest
from edge_behavior.hf.folder import WEIGHTS_INDEX, open_weights, read_model_json, weight_files
from edge_behavior.util.progress import progress_bar

# Names of the weight formats here, and PyTorch's.
DTYPES = {"f16": "float16", "bf16": "bfloat16", "f32": "float32"}
BYTES_PER_WEIGHT = {"f16": 2.0, "bf16": 2.0, "f32": 4.0}
_CONFIG, _TOKENIZER_CONFIG, _GENERATION_CONFIG = "config.json", "tokenizer_config.json", "generation_config.json"
# Loads tokenizer.json as it is; a class of its own rebuilds the tokenizer, in each version differently.
_TOKENIZER_CLASS = "PreTrainedTokenizerFast"
# How the tokenizer was loaded, which Transformers 5 saves with it.
_OF_THIS_MACHINE = ("backend", "is_local", "local_files_only", "name_or_path")


def check_format(quant: str) -> None:
    """Refuse a weight format that a Hugging Face folder does not have.

    Raises:
        EdgebError: it is quantized, or unknown.
    """
    if quant.startswith("q") or quant == "auto":
        raise EdgebError(
            f"a Hugging Face folder holds unquantized weights, --quant is {quant}",
            "use f16, bf16 or f32, and quantize with the tool that runs the model",
        )
    if quant not in DTYPES:
        raise EdgebError(f"a Hugging Face folder has no weight format '{quant}'", nearest(quant, DTYPES))


def own_format(config: Any) -> str:
    """The weight format of a backbone's own precision, or f32."""
    own = str(config.dtype).removeprefix("torch.")
    return next((name for name, dtype in DTYPES.items() if dtype == own), "f32")


def write_model_folder(model_dir: Path, out: Path, quant: str) -> dict[str, int]:
    """Write weights, configuration and tokenizer of a model folder.

    Args:
        model_dir: As Transformers 5 saved it.
        out: A folder to make.
        quant: A key of `DTYPES`.

    Returns:
        How many tensors have each type, by safetensors' name.

    Raises:
        EdgebError: a damaged file, or weights that do not fit the format.
    """
    out.mkdir()
    config = read_model_json(model_dir / _CONFIG)
    _write_json(out / _CONFIG, portable_config(config, DTYPES[quant]))
    for name in (_GENERATION_CONFIG, "tokenizer.json", "chat_template.jinja"):
        if (model_dir / name).is_file():
            shutil.copyfile(model_dir / name, out / name)
    _write_json(out / _TOKENIZER_CONFIG, portable_tokenizer_config(read_model_json(model_dir / _TOKENIZER_CONFIG)))
    files = weight_files(model_dir)
    types: Counter[str] = Counter()
    total = 0
    with progress_bar("Writing", sum(file.stat().st_size for file in files), unit_bytes=True) as advance:
        for file in files:
            found, size = _write_weights(file, out / file.name, quant)
            types += found
            total += size
            advance(file.stat().st_size)
    if (model_dir / WEIGHTS_INDEX).is_file():
        index = read_model_json(model_dir / WEIGHTS_INDEX)
        index["metadata"] = {**index.get("metadata", {}), "total_size": total}
        _write_json(out / WEIGHTS_INDEX, index)
    return dict(types)


def portable_config(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """A configuration of Transformers 5 with the fields that Transformers 4 reads beside the new ones.

    Args:
        config: The fields of config.json.
        dtype: PyTorch's name of the weights' precision.
    """
    rope = config["rope_parameters"]
    local = rope.get("sliding_attention")
    whole = dict(rope.get("full_attention", rope))
    theta, kind = whole.pop("rope_theta"), whole["rope_type"]
    old: dict[str, Any] = {"rope_theta": theta, "rope_scaling": None if kind == "default" else whole}
    if local is not None:
        old["rope_local_base_freq"] = local["rope_theta"]
    return {**config, **old, "dtype": dtype, "torch_dtype": dtype}


def portable_tokenizer_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer's configuration by the names that both versions of Transformers know."""
    known = {name: value for name, value in config.items() if name not in _OF_THIS_MACHINE}
    known["tokenizer_class"] = _TOKENIZER_CLASS
    extra = known.pop("extra_special_tokens", None)
    # Version 4 wants named tokens here, version 5 writes a list.
    if extra:
        known["extra_special_tokens" if isinstance(extra, dict) else "additional_special_tokens"] = extra
    return known


def _write_weights(file: Path, out: Path, quant: str) -> tuple[Counter[str], int]:
    """Convert one weight file; its tensors by type, and their bytes."""
    import torch
    from safetensors.torch import save_file

    dtype = getattr(torch, DTYPES[quant])
    tensors = {}
    with open_weights(file) as weights:
        for name in weights.keys():  # noqa: SIM118
            loaded = weights.get_tensor(name)
            tensors[name] = loaded.to(dtype).contiguous()
            # The backbone's own weights were checked before merging.
            if not bool(torch.isfinite(tensors[name]).all()):
                finite = bool(torch.isfinite(loaded).all())
                what = f"does not fit {quant}" if finite else "holds values that are not finite"
                hint = "pass --quant bf16 or f32" if finite else "train again with a lower learning rate"
                raise EdgebError(f"the tensor '{name}' {what}", hint)
    # safetensors and Transformers read this key.
    save_file(tensors, out, metadata={"format": "pt"})
    # safetensors makes files that only their owner may read.
    out.chmod(stat.S_IMODE((out.parent / _CONFIG).stat().st_mode))
    return Counter({quant.upper(): len(tensors)}), sum(tensor.nbytes for tensor in tensors.values())


def _write_json(path: Path, fields: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
