"""The tokenizer of a LiteRT bundle: the vocabulary in its archive, opened by llama.cpp as a GGUF bundle's is."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from edge_behavior.bundle.litert_file import TOKENIZER_ENTRY, read_litert_entry
from edge_behavior.runtime.llama.model import LlamaModel


def open_tokenizer(path: Path) -> LlamaModel:
    """The tokenizer of the bundle at `path`.

    Raises:
        EdgebError: not a bundle, a vocabulary that was changed, or one that llama.cpp cannot load.
    """
    content = read_litert_entry(path, TOKENIZER_ENTRY)
    # llama.cpp reads files; it does not need this one once the vocabulary is in memory.
    with TemporaryDirectory(prefix="edgeb-") as folder:
        file = Path(folder) / TOKENIZER_ENTRY
        file.write_bytes(content)
        return LlamaModel(file, vocab_only=True)
