"""The grammar of a bundle: its candidate set as GBNF, over the tokens of its own file.

Reads the file's vocabulary only. The grammar itself is `gbnf`'s.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp

from edge_behavior.bundle.grammar import Grammar, answer_texts, character_grammar, token_grammar
from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.export.gguf.llama_file import LlamaFile


class Vocabulary(LlamaFile):
    """The vocabulary of a GGUF file. Use as a context manager.

    Raises:
        EdgebError: llama.cpp cannot load the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)

    def __enter__(self) -> Vocabulary:
        return self

    def piece(self, token: int) -> bytes:
        """Bytes that a token stands for in generated text."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            written = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, size, 0, True)
            if written >= 0:
                return buffer.raw[:written]
            # The negative of what it takes.
            size = -written

    def ends(self, token: int) -> bool:
        """Whether llama.cpp takes a token for the end of generation."""
        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))

    def encoder(self, manifest: Manifest) -> PromptEncoder:
        """The manifest's prompts and label trie in this vocabulary; it can encode as long as the file is open.

        Raises:
            EdgebError: the tokenizer cannot tell two labels apart.
        """
        return PromptEncoder(self.tokenize, manifest.layout, manifest.candidates, manifest.bos_id, manifest.eos_id)


def bundle_grammar(path: Path, manifest: Manifest, characters: bool = False) -> Grammar:
    """GBNF for a bundle's candidates, to be put after a prompt of `PromptEncoder.prompt_ids`.

    Args:
        path: The bundle.
        manifest: Its manifest.
        characters: Spell the answers instead of listing their tokens.

    Raises:
        EdgebError: llama.cpp cannot read the file's vocabulary.
    """
    with Vocabulary(path) as vocabulary:
        trie = vocabulary.encoder(manifest).trie
        if characters:
            return character_grammar(answer_texts(trie, vocabulary.piece, vocabulary.ends))
        return token_grammar(trie, manifest.candidates.labels, vocabulary.piece, vocabulary.ends)
