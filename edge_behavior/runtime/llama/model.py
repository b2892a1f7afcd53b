"""Loading a GGUF file by llama.cpp, for everyone who does: on the CPU, and without what crashes there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import llama_cpp

from edge_behavior.errors import EdgebError
from edge_behavior.runtime.llama.build import REBUILD, UNUSABLE, verdict


def load_model(path: Path, vocab_only: bool = False) -> Any:
    """llama.cpp's handle of the file; a null pointer if it cannot load it, with the reason in its log.

    Args:
        path: The file.
        vocab_only: Load the tokenizer alone, which evaluates nothing.

    Raises:
        EdgebError: this build of llama.cpp crashes on this CPU whatever it is asked.
    """
    llama_cpp.llama_backend_init()
    options = llama_cpp.llama_model_default_params()
    options.n_gpu_layers, options.vocab_only = 0, vocab_only
    if not vocab_only:
        options.use_extra_bufts = extra_buffers()
    return llama_cpp.llama_model_load_from_file(os.fsencode(path), options)


def extra_buffers() -> bool:
    """Whether to load models with llama.cpp's extra buffers; see `Verdict`.

    Raises:
        EdgebError: see `load_model`.
    """
    found = verdict()
    if found.outcome == UNUSABLE:
        raise EdgebError(found.fault, f"rebuild it on this machine: {REBUILD}")
    return found.extra_buffers
