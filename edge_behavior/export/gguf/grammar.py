"""The grammar of a bundle: its candidate set as GBNF, over the tokens of its own file.

Reads the file's vocabulary only. What a grammar looks like is `bundle.grammar`'s.
"""

from __future__ import annotations

from pathlib import Path

from edge_behavior.bundle.grammar import Grammar, answer_texts, character_grammar, token_grammar
from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.runtime.llama.model import LlamaModel


def file_encoder(model: LlamaModel, manifest: Manifest) -> PromptEncoder:
    """The manifest's prompts and label trie in a file's vocabulary; it can encode as long as the file is open.

    Raises:
        EdgebError: the tokenizer cannot tell two labels apart.
    """
    return PromptEncoder(model.tokenize, manifest.layout, manifest.candidates, manifest.bos_id, manifest.eos_id)


def bundle_grammar(path: Path, manifest: Manifest, characters: bool = False) -> Grammar:
    """GBNF for a bundle's candidates, to be put after a prompt of `PromptEncoder.prompt_ids`.

    Args:
        path: The bundle.
        manifest: Its manifest.
        characters: Spell the answers instead of listing their tokens.

    Raises:
        EdgebError: llama.cpp cannot read the file's vocabulary.
    """
    with LlamaModel(path, vocab_only=True) as model:
        trie = file_encoder(model, manifest).trie
        if characters:
            return character_grammar(answer_texts(trie, model.piece, model.ends))
        return token_grammar(trie, manifest.candidates.labels, model.piece, model.ends)
