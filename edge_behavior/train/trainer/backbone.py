"""Load the backbone's model and tokenizer from a hub name, a local folder or a run's stand-in."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils.import_utils import is_flash_attn_2_available

from edge_behavior.errors import EdgebError
from edge_behavior.hf.architectures import check_backbone, check_onnx
from edge_behavior.hf.architectures import load_tokenizer as load_fast_tokenizer
from edge_behavior.hf.find import find_backbone
from edge_behavior.hf.folder import check_no_pickle, first_line
from edge_behavior.hf.tree.attention import attention_windows
from edge_behavior.train.first_look import check_logits, telling_of_export
from edge_behavior.train.recipe import BackboneConfig


def open_backbone(settings: BackboneConfig, fetch: bool = True) -> tuple[Any, Any]:
    """Configuration and tokenizer of a recipe's backbone, after the checks that `backbone.export` needs.

    Args:
        settings: Their `path` is set.
        fetch: Download the hub's weights, too; else only configuration, tokenizer and local weights are checked.

    Raises:
        EdgebError: what export would refuse, with the same message; with `export: none` only what cannot be loaded.
    """
    path = str(settings.path)
    folder = find_backbone(path, settings.revision, weights=fetch)
    check_no_pickle(folder)
    if settings.export == "none":
        config = read_config(folder)
        check_logits(config.to_dict(), str(folder))
        attention_windows(config)
        return config, load_tokenizer(folder)
    with telling_of_export():
        # A plan needs no weights, but checks those that are there.
        found = check_backbone(folder, weights=fetch or any(folder.glob("*.safetensors")))
        if settings.export == "onnx":
            check_onnx(found.config)
    return found.config, _padded(found.tokenizer)


def read_config(folder: Path) -> Any:
    """A backbone's configuration.

    Raises:
        EdgebError: there is none, or its model type is unknown.
    """
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # validation errors of many types
        hint = "set backbone.path to a Hugging Face folder, or a hub name you have access to"
        raise EdgebError(f"no configuration at backbone '{folder}': {first_line(error)}", hint) from None


def load_tokenizer(folder: str | Path) -> Any:
    """A backbone's tokenizer, with a padding token.

    Raises:
        EdgebError: it cannot be loaded, or is empty.
    """
    return _padded(load_fast_tokenizer(Path(folder)))


def _padded(tokenizer: Any) -> Any:
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(folder: str | Path, settings: BackboneConfig, name: str | None = None) -> Any:
    """The backbone's weights, from safetensors only, in the recipe's dtype, on this process's device.

    `auto` is the checkpoint's dtype on a GPU and float32 on a CPU. With `quantize: 4bit` the linear layers are NF4 with
    double quantization (QLoRA). Adapters and model cards record `name`, by default the folder.

    Raises:
        EdgebError: no loadable model, a damaged file, a GPU without bfloat16, or a missing package.
    """
    path = str(folder)
    dtype = settings.dtype
    cuda = torch.cuda.is_available()
    bf16 = not cuda or torch.cuda.is_bf16_supported(including_emulation=False)
    if dtype == "bfloat16" and not bf16:
        raise EdgebError("this GPU has no bfloat16", "set backbone.dtype=float16 or float32")
    chosen = ("auto" if cuda else "float32") if dtype == "auto" else dtype
    device = f"cuda:{torch.cuda.current_device()}" if cuda else "cpu"
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=chosen,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation=attention(settings),
            quantization_config=_four_bits(chosen, bf16) if settings.quantize == "4bit" else None,
            device_map={"": device} if cuda else None,
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise EdgebError(
            f"cannot load backbone '{damaged_file(Path(path)) or path}': {first_line(error)}", _HINT
        ) from None
    if dtype == "auto" and model.dtype == torch.bfloat16 and not bf16:
        raise EdgebError(
            f"backbone '{path}' has bfloat16 weights and this GPU has no bfloat16",
            "set backbone.dtype=float16 or float32",
        )
    model.name_or_path = model.config.name_or_path = name or path
    return model


def attention(settings: BackboneConfig) -> str:
    """Transformers' name of the attention that training uses.

    Raises:
        EdgebError: FlashAttention is requested but unavailable.
    """
    available = torch.cuda.is_available() and is_flash_attn_2_available() and settings.dtype != "float32"
    if settings.attention == "auto":
        return "flash_attention_2" if available else "sdpa"
    if settings.attention == "flash_attention_2" and not available:
        raise EdgebError(
            "backbone.attention is flash_attention_2, which needs the package flash-attn, a GPU and 16-bit weights",
            "set backbone.attention=auto, or install it",
        )
    return settings.attention


def check_four_bits() -> None:
    """Check that QLoRA can run; not on a CPU, where bitsandbytes cannot go from evaluation back to training.

    Raises:
        EdgebError: no GPU, or bitsandbytes is not installed.
    """
    if not torch.cuda.is_available():
        raise EdgebError("backbone.quantize is 4bit, which needs a GPU", "set backbone.quantize=none")
    if find_spec("bitsandbytes") is None:
        raise EdgebError("backbone.quantize is 4bit, which needs bitsandbytes", "pip install 'edgeb[qlora]'")


def damaged_file(folder: Path) -> Path | None:
    """The first safetensors file of a folder that is truncated or not valid."""
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (OSError, SafetensorError):
            return file
    return None


def _four_bits(dtype: str, bf16: bool) -> Any:
    compute = (torch.bfloat16 if bf16 else torch.float16) if dtype == "auto" else getattr(torch, dtype)
    configuration: Any = BitsAndBytesConfig
    return configuration(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


_HINT = "set backbone.path to a Hugging Face folder with safetensors, or a hub name you have access to"
