"""The two kinds of BPE vocabularies that can be pruned: their byte tokens, merges, and what tokens read as.

Byte-level BPE (Qwen, Llama 3, SmolLM2) merges the bytes of a word. SentencePiece's kind (Llama 2, Gemma) merges the
characters of a whole text and spells characters that it has no token for in byte tokens, which never merge.

The second kind is merged by two different rules: Hugging Face applies a table of pairs; llama.cpp has no table and
joins any two neighbors whose joined text is a token, the best score of that token first. Both do the same as long as

- every cut of a token into two tokens is in the table,
- every character of a token is a token: to llama.cpp a character without one is still a neighbor to join,
- the table lists all cuts of one token together, as if by its score. Runs of one character may be an exception: they
  end in the same tokens in whatever order they grow.

Published tables are like this, and `check_scores` refuses a kept vocabulary that is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from edge_behavior.errors import EdgebError
from edge_behavior.export.prune.words import byte_alphabet
from edge_behavior.hf.gguf_vocab import SPACE

KEEP_HINT = "export with --prune off"


class CannotPrune(EdgebError):
    """The tokenizer or model cannot be pruned; it can be exported unpruned."""


@dataclass(frozen=True, eq=False)
class Merges:
    """A vocabulary and its merges.

    Attributes:
        vocab: Id of every token.
        ranks: Pairs that merge, by rank: the lowest first.
        always: Tokens that every text may need: the byte tokens, and beside SentencePiece's printable ASCII.
        by_score: SentencePiece's kind.
    """

    vocab: dict[str, int]
    ranks: dict[tuple[str, str], int]
    always: tuple[str, ...]
    by_score: bool
    _bytes: Mapping[str, int] = field(repr=False)

    def derivation(self, token: str) -> list[str]:
        """Every symbol that merging makes from a token's characters, in order, characters and token included.

        With `ignore_merges` the merges may end in several symbols instead of the token.
        """
        if self.by_score and token in self._bytes:
            return [token]
        symbols, made = list(token), list(token)
        while len(symbols) > 1:
            options = [self.ranks.get(pair, len(self.ranks)) for pair in pairwise(symbols)]
            best = min(options)
            if best == len(self.ranks):
                break
            at = options.index(best)
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
            made.append(symbols[at])
        return [symbol for symbol in (*made, token) if symbol in self.vocab]

    def results(self) -> Iterator[str]:
        """What merges make, in their order, with repetitions."""
        return (left + right for left, right in self.ranks)

    def text(self, token: str) -> str | None:
        """What a token stands for; None if it is no whole text, like half a character."""
        if self.by_score:
            return None if token in self._bytes else token.replace(SPACE, " ")
        try:
            return bytes(self._bytes[char] for char in token).decode("utf-8")
        except (KeyError, UnicodeDecodeError):
            return None

    def kept(self, tokens: Iterable[str]) -> list[tuple[str, str]]:
        """The merges whose parts and result are among some tokens, in order."""
        known = set(tokens)
        return [pair for pair in self.ranks if pair[0] in known and pair[1] in known and pair[0] + pair[1] in known]

    def check_scores(self, tokens: Iterable[str]) -> None:
        """Check that llama.cpp merges some tokens as their table does.

        Raises:
            CannotPrune: it would join a pair that is not in the table, or in another order.
        """
        if not self.by_score:
            return
        known = set(tokens)
        symbols = known | {char for token in known for char in token}
        for token in sorted(known):
            for cut in range(1, len(token)):
                pair = (token[:cut], token[cut:])
                if pair[0] in symbols and pair[1] in symbols and pair not in self.ranks:
                    raise CannotPrune(f"the tokenizer has no merge of {pair[0]!r} and {pair[1]!r}", KEEP_HINT)
        results = [left + right for left, right in self.kept(known) if len(set(left + right)) > 1]
        runs = 1 + sum(a != b for a, b in pairwise(results))
        if results and runs != len(set(results)):
            raise CannotPrune("the tokenizer's merges are not in the order of scores", KEEP_HINT)


def read_merges(fields: Mapping[str, Any]) -> Merges:
    """The vocabulary of a tokenizer.json.

    Raises:
        CannotPrune: a kind that cannot be pruned, or SentencePiece's without all byte tokens.
    """
    model: dict[str, Any] = fields["model"]
    if model["type"] != "BPE":
        raise CannotPrune(f"a {model['type']} vocabulary is not pruned, only BPE is", KEEP_HINT)
    by_score = bool(model.get("byte_fallback"))
    bytes_ = {f"<0x{byte:02X}>": byte for byte in range(256)} if by_score else byte_alphabet()
    # With byte tokens nothing is unknown to SentencePiece's kind.
    settings = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", *(() if by_score else ("unk_token",)))
    for name in settings:
        if model.get(name):
            raise CannotPrune(f"pruning does not support a tokenizer with {name} = {model[name]!r}", KEEP_HINT)
    steps = fields["pre_tokenizer"] or {}
    kinds = [step["type"] for step in steps.get("pretokenizers", [steps] if steps else [])]
    if not by_score and "ByteLevel" not in kinds:
        raise CannotPrune("the tokenizer does not split text into bytes", KEEP_HINT)
    vocab: dict[str, int] = model["vocab"]
    # Byte-level tokenizers, whole or pruned, leave out a byte that they have no token for: SmolLM2 lacks 21, most of
    # which are in no text. SentencePiece's would have a token for what is unknown.
    missing = [token for token in bytes_ if token not in vocab]
    if missing and by_score:
        raise CannotPrune(
            f"the tokenizer lacks {len(missing)} of the 256 byte tokens, {missing[0]!r} for one", KEEP_HINT
        )
    always = [token for token in bytes_ if token in vocab]
    if by_score:
        always += [char for char in (SPACE, *map(chr, range(0x21, 0x7F))) if char in vocab]
        always += [model["unk_token"]] if model.get("unk_token") else []
    ranks = {pair: rank for rank, pair in enumerate(_pairs(model))}
    return Merges(vocab, ranks, tuple(always), by_score, bytes_)


def _pairs(model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for pair in model["merges"]:
        # Older files join the two halves with a space.
        left, right = pair.split(" ") if isinstance(pair, str) else pair
        yield left, right
