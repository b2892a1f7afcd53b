"""The text contract of training, evaluation, runtime and phone: how events become a prompt.

A prompt is a sequence of *segments*. Every segment is tokenized by itself and the ids are joined, so that an
event has the same tokens wherever it stands, a cache can be extended event by event, and a label's tokens in
the trie are the label's tokens in training. Nothing here knows tokenizers or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from edge_behavior.errors import EdgebError, nearest
from edge_behavior.events import BehaviorEvent, clean_place

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
LAYOUTS = ("stream", "prefix", "instruct")
STREAM_TERMINATOR = ")\n"
TASK = "Predict the next behavior of the user."
ROLE = (
    "You are a smart phone assistant that infers what the user will do next from the history of the user's behaviors."
)

# Appendix D, Instruct1-3: history, then next context, then candidates.
_INSTRUCT = (
    (
        "This user has done behaviors",
        " in the previous. Day of the week, the hour, and the place of the next behavior are {context},"
        " respectively. Choose the answer from the following behavior candidate set: {candidates}. The answer is",
    ),
    (
        "The user's historical behavior information sequence is:",
        ". Day of the week, the hour, and the place of the next behavior are {context}, respectively. Given the"
        " following behavior candidate set: {candidates}, recommend one intention for this user to do next."
        " The intent you recommend is",
    ),
    (
        "The behavior history of this user is:",
        ". Day of the week, the hour, and the place of the next behavior are {context}, respectively. Recommend a"
        " next intention for this user to do from the following behavior candidate set: {candidates}."
        " The recommendation is",
    ),
)


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt: `static` never changes for a bundle, `body` holds history and next context."""

    static: tuple[str, ...]
    body: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole prompt as one string (for people; models get the segments)."""
        return "".join(self.static + self.body)


@dataclass(frozen=True)
class PromptLayout:
    """Which of the three wordings, and its settings (RECIPE: `stream`, `prefix`, `instruct`).

    Attributes:
        name: `stream` (context before the behavior, one line per event), `prefix` (static part first) or
            `instruct` (the paper's order; three formats).
        list_candidates: Name the candidates in the prompt. Only `stream` and `prefix` may leave them out.
        history_length: L, the number of past events a prediction sees.
        task: Part 1 of the prompt, the task definition.
        role: Part 2, the role-playing instruction.
    """

    name: str = "stream"
    list_candidates: bool = True
    history_length: int = 20
    task: str = TASK
    role: str = ROLE

    def __post_init__(self) -> None:
        if self.name not in LAYOUTS:
            raise EdgebError(f"unknown prompt layout '{self.name}'", nearest(self.name, LAYOUTS))
        if self.history_length < 1:
            raise EdgebError(f"history_length is {self.history_length}", "use at least 1; the paper uses 20")
        if self.name == "instruct" and not self.list_candidates:
            raise EdgebError("the instruct layout always lists its candidates", "use the prefix or stream layout")

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> PromptLayout:
        """Rebuild a layout from `to_dict`'s result, refusing fields this version does not know."""
        unknown = sorted(set(fields) - set(cls.__dataclass_fields__))
        if unknown:
            raise EdgebError(f"prompt layout has the unknown field '{unknown[0]}'", "update edgeb")
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """Plain fields, as the manifest carries them."""
        return asdict(self)

    @property
    def terminator(self) -> str | None:
        """Text that ends a label, or None where the tokenizer's end-of-sequence token does."""
        return STREAM_TERMINATOR if self.name == "stream" else None

    @property
    def formats(self) -> int:
        """Number of interchangeable wordings (the paper samples its three at random)."""
        return len(_INSTRUCT) if self.name == "instruct" else 1

    def answer(self, label: str) -> str:
        """The text that follows a prompt when `label` is the next behavior, without its terminator."""
        return f" {label}"

    def context(self, when: datetime, place: str) -> str:
        """The line that asks for a behavior in the stream layout: day, hour and place."""
        return f"({DAYS[when.weekday()]} {when.hour}, {clean_place(place)},"

    def static(self, labels: Sequence[str]) -> tuple[str, ...]:
        """The part of the prompt that is the same for every prediction of a bundle."""
        head = f"Task: {self.task}\nRole: {self.role}\n"
        if self.name == "instruct":
            return (head,)
        if self.list_candidates:
            head += f"Candidates: {'; '.join(labels)}\n"
        return (head + "History (day hour, place, behavior):\n",)

    def line(self, event: BehaviorEvent) -> tuple[str, str, str]:
        """One past event: its context, its behavior, its end. The same three segments in every layout."""
        return self.context(event.time, event.place), self.answer(event.behavior), STREAM_TERMINATOR

    def frame(
        self, when: datetime, place: str, labels: Sequence[str], format_index: int = 0
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What stands between the static part and the history's lines, and what follows the lines.

        Args:
            labels: The candidate labels, in candidate order.
            format_index: Which wording, for `instruct`.
        """
        if self.name == "stream":
            return (), (self.context(when, place),)
        if self.name == "prefix":
            day, hour = DAYS[when.weekday()], when.hour
            question = f"Day, hour and place of the next behavior: {day} {hour}, {clean_place(place)}.\nThe answer is"
            return (), (question,)
        opening, rest = _INSTRUCT[format_index]
        context = f"{DAYS[when.weekday()]}, {when.hour}, {clean_place(place)}"
        # Not str.format: a label may hold braces.
        rest = rest.replace("{context}", context).replace("{candidates}", ", ".join(labels))
        return (opening + "\n",), (rest,)

    def prompt(
        self,
        history: Sequence[BehaviorEvent],
        when: datetime,
        place: str,
        labels: Sequence[str],
        format_index: int = 0,
    ) -> Prompt:
        """Render the question "what does the user do at `when` in `place`?" after the last L events of `history`.

        Args:
            history: Oldest first; shorter than L, or empty, is fine.
            labels: The candidate labels, in candidate order.
            format_index: Which wording, for `instruct`.
        """
        recent = history[-self.history_length :]
        lines = tuple(segment for event in recent for segment in self.line(event))
        before, after = self.frame(when, place, labels, format_index)
        return Prompt(self.static(labels), (*before, *lines, *after))
