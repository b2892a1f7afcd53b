"""A GGUF file opened by llama.cpp: on the CPU, and without what crashes there.

Everything in edgeb that opens a model does it here, but for two: `trial`, which runs before anything is known of the
build, and `bench.native.stock_llama`, which opens llama-cpp-python's own class.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import llama_cpp

from edge_behavior.errors import EdgebError
from edge_behavior.runtime.lifetime import Lifetime
from edge_behavior.runtime.llama.build import REBUILD, UNUSABLE, verdict
from edge_behavior.runtime.llama.log import captured_log, quietly


class LlamaModel:
    """An open GGUF file: its vocabulary, and what contexts are made of. Use as a context manager.

    Args:
        path: The file.
        vocab_only: Open the tokenizer alone, which evaluates nothing.

    Attributes:
        handle: llama.cpp's pointer.
        n_vocab: Tokens in the vocabulary.

    Raises:
        EdgebError: llama.cpp cannot load the file, with its own message; or this build crashes on this CPU whatever it
            is asked.
    """

    def __init__(self, path: Path, vocab_only: bool = False) -> None:
        self._lifetime = Lifetime(self, "the model")
        try:
            self.handle = self._load(path, vocab_only)
            self._vocab = llama_cpp.llama_model_get_vocab(self.handle)
        except BaseException:
            self.close()
            raise
        self.n_vocab = int(llama_cpp.llama_vocab_n_tokens(self._vocab))

    def _load(self, path: Path, vocab_only: bool) -> Any:
        with captured_log() as errors:
            llama_cpp.llama_backend_init()
            options = llama_cpp.llama_model_default_params()
            options.n_gpu_layers, options.vocab_only = 0, vocab_only
            if not vocab_only:
                options.use_extra_bufts = extra_buffers()
            handle = llama_cpp.llama_model_load_from_file(os.fsencode(path), options)
            # Within the block, since an interrupt is raised at its end.
            if handle:
                return self._lifetime.keep(handle, quietly(llama_cpp.llama_model_free))
        reason = errors[0] if errors else "no reason given"
        raise EdgebError(f"llama.cpp cannot load {path}: {reason}", "export it again")

    def check_open(self) -> None:
        """Refuse a model that is closed, or another process's.

        Raises:
            EdgebError: says which of the two.
        """
        self._lifetime.check()

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text; adds no special tokens and parses none."""
        self.check_open()
        raw = text.encode("utf-8")
        # A token is at least one byte, and a space may be put before the first.
        buffer = (llama_cpp.llama_token * (len(raw) + 2))()
        count = llama_cpp.llama_tokenize(self._vocab, raw, len(raw), buffer, len(buffer), False, False)
        if count < 0:
            raise EdgebError(f"llama.cpp cannot tokenize {text[:40]!r}", "report this as a bug")
        return list(buffer[:count])

    def piece(self, token: int) -> bytes:
        """Bytes that a token stands for in generated text."""
        self.check_open()
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            written = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, size, 0, True)
            if written >= 0:
                return buffer.raw[:written]
            # The negative of the size it needs.
            size = -written

    def ends(self, token: int) -> bool:
        """Whether llama.cpp takes a token for the end of generation."""
        self.check_open()
        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))

    def __enter__(self) -> LlamaModel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the model; its contexts must be closed before."""
        self._lifetime.close()


def extra_buffers() -> bool:
    """Whether to load models with llama.cpp's extra buffers; see `Verdict`.

    Raises:
        EdgebError: this build of llama.cpp crashes on this CPU whatever it is asked.
    """
    found = verdict()
    if found.outcome == UNUSABLE:
        raise EdgebError(found.fault, f"rebuild it on this machine: {REBUILD}")
    return found.extra_buffers
