"""GBNF grammars for a candidate set: they restrict llama.cpp's grammar sampler to the candidates.

`token_grammar` is the label trie in token ids, so that greedy sampling under it is greedy constrained decoding over the
trie: at every node the child with the highest logit. `character_grammar` spells the answers as text: every llama.cpp
reads it, but the sampler may then compose a label from other tokens than training did. Knows the trie and its tokens'
bytes; opens no file.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_behavior.core.trie import LabelTrie
from edge_behavior.errors import EdgebError

# Bytes that a token adds to generated text.
Piece = Callable[[int], bytes]
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


@dataclass(frozen=True)
class Grammar:
    """A grammar, and the candidates it is not exact for.

    Attributes:
        text: GBNF, root rule `root`.
        spelled: Candidates of which a part had to be written as text: for these the sampler may choose other tokens
            than training did. Empty if greedy sampling is certain to equal greedy constrained decoding.
    """

    text: str
    spelled: tuple[int, ...]


def token_grammar(trie: LabelTrie, labels: Sequence[str], piece: Piece, ends: Callable[[int], bool]) -> Grammar:
    """The label trie as rules over token ids, one rule per node with a choice.

    llama.cpp has two limits. It never matches a token literal that completes no character (a byte inside an emoji), so
    characters around such a token are written as text; next to a longer character it even accepts an overlong encoding.
    And a complete grammar allows every end-of-generation token, whereas `masked` scoring of the prefix and instruct
    layouts considers the end-of-sequence token alone; the stream layout ends a label with ordinary tokens.

    Args:
        trie: The label trie.
        labels: The candidates, for comments.
        piece: Bytes of a token.
        ends: Whether a token ends generation; the grammar leaves such tokens out.

    Raises:
        EdgebError: a label's tokens are not valid UTF-8.
    """
    walk = _Walk(trie, piece, ends)
    lines = [f"# {len(labels)} candidates as token ids of this bundle's tokenizer; llama.cpp of 2026 or newer"]
    if walk.spelled:
        some = ", ".join(labels[i] for i in sorted(walk.spelled))
        lines.append(f"# written as text where their tokens split a character: {some}")
    waiting, named = [(0, "root")], 1
    while waiting:
        node, name = waiting.pop(0)
        alternatives = []
        for element, reached in walk.steps(node):
            parts = [element]
            while len(further := walk.steps(reached)) == 1:
                parts.append(further[0][0])
                reached = further[0][1]
            comment = ""
            if further:
                waiting.append((reached, f"n{named}"))
                parts.append(f"n{named}")
                named += 1
            else:
                comment = f"  # {labels[int(trie.candidates[reached])]}"
            # An alternative that is only the end is the empty string.
            alternatives.append((" ".join(part for part in parts if part) or '""', comment))
        last = len(alternatives) - 1
        # A line without a bar at its end would end the rule.
        rows = [f"  {text}{' |' if i < last else ''}{comment}" for i, (text, comment) in enumerate(alternatives)]
        lines += [f"{name} ::=", *rows]
    return Grammar("\n".join(lines) + "\n", tuple(sorted(walk.spelled)))


def character_grammar(answers: Sequence[str]) -> Grammar:
    """One alternative per answer text, in candidate order; for a llama.cpp without token literals.

    Args:
        answers: The text generated for each candidate: space, label, terminator (`answer_texts`).
    """
    return Grammar("root ::=\n" + " |\n".join(f"  {quoted(a)}" for a in answers) + "\n", tuple(range(len(answers))))


def answer_texts(trie: LabelTrie, piece: Piece, ends: Callable[[int], bool]) -> list[str]:
    """The text the model generates for each candidate, without the end-of-generation token.

    Raises:
        EdgebError: a label's tokens are not valid UTF-8.
    """
    texts = _Walk(trie, piece, ends).texts
    return ["".join(texts[node] for node in trie.ancestors(int(leaf))) for leaf in trie.leaves]


def quoted(text: str) -> str:
    """A GBNF string literal: printable characters as they are, all others escaped."""
    return '"' + "".join(_ESCAPES.get(c) or (c if c.isprintable() else _code(c)) for c in text) + '"'


def _code(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04X}" if number < 0x10000 else f"\\U{number:08X}"


class _Walk:
    """Grammar elements along the trie: one token literal, or text down to the next node on a character boundary."""

    def __init__(self, trie: LabelTrie, piece: Piece, ends: Callable[[int], bool]) -> None:
        self._trie, self._ends = trie, ends
        self._children: list[list[int]] = [[] for _ in range(len(trie))]
        # Per node: the characters its token completes, and the bytes of an incomplete one at its end.
        self.texts, self._open = [""] * len(trie), [b""] * len(trie)
        self.spelled: set[int] = set()
        for node in range(1, len(trie)):
            parent, token = int(trie.parents[node]), int(trie.tokens[node])
            self._children[parent].append(node)
            if ends(token):
                continue
            decoder = codecs.getincrementaldecoder("utf-8")()
            try:
                self.texts[node] = decoder.decode(self._open[parent] + piece(token))
            except UnicodeDecodeError:
                raise EdgebError(
                    f"token {token} of a label is not valid UTF-8",
                    "tokenizer and labels do not fit; export again",
                ) from None
            self._open[node] = decoder.getstate()[0]
        for candidate, leaf in enumerate(trie.leaves):
            if any(self._blind(node) for node in trie.ancestors(int(leaf))):
                self.spelled.add(candidate)

    def steps(self, node: int) -> list[tuple[str, int]]:
        """(grammar element, node it leads to) for everything that may follow `node`; empty for an end of generation."""
        found = []
        for child in self._children[node]:
            if self._ends(int(self._trie.tokens[child])):
                found.append(("", child))
            elif self._blind(child):
                found += [(quoted(text), reached) for text, reached in self._spans(child)]
            else:
                found.append((f"<[{self._trie.tokens[child]}]>", child))
        return found

    def _blind(self, node: int) -> bool:
        """Whether llama.cpp never matches the node's literal: its token completes no character."""
        return not self.texts[node] and not self._ends(int(self._trie.tokens[node]))

    def _spans(self, node: int) -> list[tuple[str, int]]:
        """Texts from `node` on, inclusive, with the nodes that complete their last character."""
        if not self._open[node]:
            return [(self.texts[node], node)]
        return [
            (self.texts[node] + text, reached) for child in self._children[node] for text, reached in self._spans(child)
        ]
