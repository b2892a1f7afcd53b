"""Load the model and tokenizer that are tuned, from a hub name, a local folder or a run's stand-in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from edge_behavior.errors import EdgebError
from edge_behavior.recipes import BackboneConfig


def load_tokenizer(path: str, revision: str | None = None) -> Any:
    """The backbone's tokenizer, with a padding token.

    Raises:
        EdgebError: it cannot be loaded.
    """
    _check_path(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise EdgebError(f"no tokenizer at backbone '{path}': {_first_line(error)}", _HINT) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(path: str, settings: BackboneConfig) -> Any:
    """The backbone's weights, from safetensors only, in the recipe's dtype.

    `auto` is the checkpoint's own dtype on a GPU that supports it and float32 on a CPU.

    Raises:
        EdgebError: nothing loadable there, or bfloat16 on a GPU without it.
    """
    _check_path(path)
    dtype = settings.dtype
    cuda = torch.cuda.is_available()
    if dtype == "bfloat16" and cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise EdgebError("this GPU has no bfloat16", "set backbone.dtype=float16 or float32")
    chosen = ("auto" if cuda else "float32") if dtype == "auto" else dtype
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            path,
            revision=settings.revision,
            dtype=chosen,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation="sdpa",
        )
    except (OSError, ValueError) as error:
        raise EdgebError(f"cannot load backbone '{path}': {_first_line(error)}", _HINT) from None
    return model.to("cuda") if cuda else model


_HINT = "give backbone.path a Hugging Face folder with safetensors, or a hub name you have access to"


def _check_path(path: str) -> None:
    looks_local = path.startswith((".", "/", "~")) or path.count("/") != 1
    if looks_local and not Path(path).is_dir():
        raise EdgebError(f"backbone path {path} does not exist", _HINT)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
