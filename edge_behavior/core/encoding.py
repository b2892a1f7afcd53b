"""From prompts to token ids: where a layout meets a tokenizer.

The tokenizer is any function from text to ids that neither adds nor parses special tokens, so that text from a log
cannot become a control token. Those of a chat template come from the layout, as ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.core.trie import LabelTrie
from edge_behavior.errors import EdgebError

Tokenize = Callable[[str], list[int]]


@dataclass(frozen=True)
class Stretch:
    """Consecutive events as one training sequence in the stream layout.

    Attributes:
        ids: Token ids, static part included.
        targets: Per event, the half-open span of its label and terminator in `ids`.
    """

    ids: list[int]
    targets: list[tuple[int, int]]


class PromptEncoder:
    """Token ids of a layout's prompts, labels and training sequences, for one tokenizer and candidate set.

    A layout with chat turns begins with them instead of `bos_id`, and ends its labels with their end instead of
    `eos_id`.

    Segments (a day and hour with a place, a label) recur all the time, so their ids are cached; the cache is emptied
    at `cache_size` ids. Not thread-safe.
    """

    def __init__(
        self,
        tokenize: Tokenize,
        layout: PromptLayout,
        candidates: CandidateSet,
        bos_id: int | None,
        eos_id: int,
        cache_size: int = 2_000_000,
    ) -> None:
        self.layout = layout
        self.candidates = candidates
        self._tokenize = tokenize
        self._cache: dict[str, list[int]] = {}
        self._cache_size, self._cached = cache_size, 0
        self.bos_id, self.eos_id = bos_id, eos_id
        start, reply, end_id = [] if bos_id is None else [bos_id], list[int](), eos_id
        if layout.chat is not None:
            start, reply, end_id = list(layout.chat.opening), list(layout.chat.reply), layout.chat.end_id
        # What begins the assistant's turn: after the static part, or after the question.
        early, self._reply = (reply, []) if layout.name == "stream" else ([], reply)
        self._around_static = start, early
        self.static_ids = self._static(layout, candidates.labels)
        self._as_given = replace(layout, candidate_order="frequency")
        self.terminator_ids: list[int] = [end_id] if layout.terminator is None else self.segment(layout.terminator)
        paths = {label: self.label_ids(label) for label in candidates.labels}
        _check_distinct(paths)
        self.trie = LabelTrie.from_paths(list(paths.values()))

    def segment(self, text: str) -> list[int]:
        """Ids of one segment. The list is the cached one: do not change it."""
        ids = self._cache.get(text)
        if ids is None:
            if self._cached >= self._cache_size:
                self._cache.clear()
                self._cached = 0
            ids = self._cache[text] = self._tokenize(text)
            self._cached += len(ids)
        return ids

    def label_ids(self, label: str) -> list[int]:
        """Ids of an answer: the label and its terminator."""
        return self.segment(self.layout.answer(label)) + self.terminator_ids

    def static_for(self, listed: Sequence[str] | None) -> list[int]:
        """Ids of the static part with the candidates listed in this order; None for the layout's own."""
        return self.static_ids if listed is None else self._static(self._as_given, listed)

    def prompt_ids(
        self,
        history: Sequence[BehaviorEvent],
        when: datetime,
        place: str | None,
        format_index: int = 0,
        listed: Sequence[str] | None = None,
    ) -> list[int]:
        """Ids of the whole prompt, static part first, the candidates in the order of `listed` (see `static_for`)."""
        layout, labels = self._listing(listed)
        prompt = layout.prompt(history, when, place, labels, format_index)
        return self.static_for(listed) + self._join(prompt.body) + self._reply

    def line_ids(self, event: BehaviorEvent) -> list[int]:
        """Ids of one past event, the same at every position."""
        return self._join(self.layout.line(event))

    def frame_ids(
        self, when: datetime, place: str | None, format_index: int = 0, listed: Sequence[str] | None = None
    ) -> tuple[list[int], list[int]]:
        """Ids between the static part and the history, and ids after the history (`PromptLayout.frame`)."""
        layout, labels = self._listing(listed)
        before, after = layout.frame(when, place, labels, format_index)
        return self._join(before), self._join(after) + self._reply

    def stretch(self, events: Sequence[BehaviorEvent], listed: Sequence[str] | None = None) -> Stretch:
        """Encode consecutive events so that each can carry a loss (stream layout)."""
        ids, targets = list(self.static_for(listed)), []
        for event in events:
            context, answer, end = self.layout.line(event)
            ids += self.segment(context)
            start = len(ids)
            ids += self.segment(answer)
            ids += self.segment(end)
            targets.append((start, len(ids)))
        return Stretch(ids, targets)

    def _listing(self, listed: Sequence[str] | None) -> tuple[PromptLayout, Sequence[str]]:
        return (self.layout, self.candidates.labels) if listed is None else (self._as_given, listed)

    def _static(self, layout: PromptLayout, labels: Sequence[str]) -> list[int]:
        start, early = self._around_static
        return start + self._join(layout.static(labels)) + early

    def _join(self, segments: Sequence[str]) -> list[int]:
        return [i for segment in segments for i in self.segment(segment)]


def _check_distinct(paths: Mapping[str, Sequence[int]]) -> None:
    """Refuse labels that a tokenizer makes the same tokens of, by their names."""
    seen = dict[tuple[int, ...], str]()
    for label, path in paths.items():
        other = seen.setdefault(tuple(path), label)
        if other != label:
            raise EdgebError(f"'{other}' and '{label}' have the same tokens", "rename one of them in the log")
