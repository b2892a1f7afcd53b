"""Load the model and tokenizer that are tuned, from a hub name, a local folder or a run's stand-in."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils.import_utils import is_flash_attn_2_available

from edge_behavior.errors import EdgebError
from edge_behavior.recipes import BackboneConfig


def load_tokenizer(path: str, revision: str | None = None) -> Any:
    """The backbone's tokenizer, with a padding token.

    Raises:
        EdgebError: it cannot be loaded, or has no words.
    """
    _check_path(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EdgebError(f"no tokenizer at backbone '{path}': {_first_line(error)}", _HINT) from None
    # Without its file Transformers makes an empty one, of the special tokens alone.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise EdgebError(f"the tokenizer at backbone '{path}' is empty: it has no tokenizer.json", _HINT)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(path: str, settings: BackboneConfig) -> Any:
    """The backbone's weights, from safetensors only, in the recipe's dtype, on this process's device.

    `auto` is the checkpoint's own dtype on a GPU that supports it and float32 on a CPU. With `quantize: 4bit` the
    linear layers are held as NF4 with double quantization (QLoRA).

    Raises:
        EdgebError: nothing loadable there, a damaged file, a GPU without bfloat16, or a missing package.
    """
    _check_path(path)
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
            revision=settings.revision,
            dtype=chosen,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation=attention(settings),
            quantization_config=_four_bits(chosen, bf16) if settings.quantize == "4bit" else None,
            device_map={"": device} if cuda else None,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise EdgebError(
            f"cannot load backbone '{damaged_file(Path(path)) or path}': {_first_line(error)}", _HINT
        ) from None
    if dtype == "auto" and model.dtype == torch.bfloat16 and not bf16:
        raise EdgebError(
            f"backbone '{path}' has bfloat16 weights and this GPU has no bfloat16",
            "set backbone.dtype=float16 or float32",
        )
    return model


def attention(settings: BackboneConfig) -> str:
    """Transformers' name of the attention that training runs.

    Raises:
        EdgebError: FlashAttention is asked for and not there.
    """
    there = torch.cuda.is_available() and is_flash_attn_2_available() and settings.dtype != "float32"
    if settings.attention == "auto":
        return "flash_attention_2" if there else "sdpa"
    if settings.attention == "flash_attention_2" and not there:
        raise EdgebError(
            "backbone.attention is flash_attention_2, which needs the package flash-attn, a GPU and 16-bit weights",
            "set backbone.attention=auto, or install it",
        )
    return settings.attention


def check_four_bits() -> None:
    """See that QLoRA can run: bitsandbytes' CPU kernels cannot go from evaluation back to training.

    Raises:
        EdgebError: no GPU, or bitsandbytes is not installed.
    """
    if not torch.cuda.is_available():
        raise EdgebError("backbone.quantize is 4bit, which needs a GPU", "set backbone.quantize=none")
    if find_spec("bitsandbytes") is None:
        raise EdgebError("backbone.quantize is 4bit, which needs bitsandbytes", "pip install 'edgeb[qlora]'")


def damaged_file(folder: Path) -> Path | None:
    """The first safetensors file of a folder that is cut short or no such file."""
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


_HINT = "give backbone.path a Hugging Face folder with safetensors, or a hub name you have access to"


def _check_path(path: str) -> None:
    looks_local = path.startswith((".", "/", "~")) or path.count("/") != 1
    if looks_local and not Path(path).is_dir():
        raise EdgebError(f"backbone path {path} does not exist", _HINT)


def _first_line(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
