"""Prompt layouts: how events become a prompt, the same in training, evaluation, runtime and phone.

A prompt is a sequence of *segments*, each tokenized by itself, so that an event has the same tokens at every position,
a cache can be extended event by event, and a label has the same tokens in the trie as in training. Knows neither
tokenizers nor models; of a chat template it carries the token ids, which text from a log can never produce.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from edge_behavior.core.events import UNKNOWN_PLACE, BehaviorEvent, clean_place
from edge_behavior.core.fields import DAMAGED_HINT, Kind, is_whole, naming, read_fields, read_list
from edge_behavior.errors import EdgebError, nearest

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
LAYOUTS = ("stream", "prefix", "instruct")
CANDIDATE_ORDERS = ("frequency", "alphabetical")
STREAM_TERMINATOR = ")\n"
TASK = "Predict the next behavior of the user."
ROLE = (
    "You are a smart phone assistant that infers what the user will do next from the history of the user's behaviors."
)

# Appendix D, Instruct1-3: history, then next context, then candidates.
_INSTRUCT = (
    (
        "This user has done behaviors",
        " in the previous. {parts} of the next behavior are {context},"
        " respectively. Choose the answer from the following behavior candidate set: {candidates}. The answer is",
    ),
    (
        "The user's historical behavior information sequence is:",
        ". {parts} of the next behavior are {context}, respectively. Given the"
        " following behavior candidate set: {candidates}, recommend one intention for this user to do next."
        " The intent you recommend is",
    ),
    (
        "The behavior history of this user is:",
        ". {parts} of the next behavior are {context}, respectively. Recommend a"
        " next intention for this user to do from the following behavior candidate set: {candidates}."
        " The recommendation is",
    ),
)
# The parts of an instruct prompt's context, with places and without.
_PARTS = {True: "Day of the week, the hour, and the place", False: "Day of the week and the hour"}


@dataclass(frozen=True)
class ChatTurns:
    """What a backbone's chat template puts around a user's turn and the assistant's, as token ids.

    Attributes:
        opening: From the beginning to the user's text; with the beginning-of-sequence token where the template has it.
        reply: From the user's text to the assistant's.
        end_id: The token that ends the assistant's turn.
    """

    opening: tuple[int, ...]
    reply: tuple[int, ...]
    end_id: int

    @classmethod
    def from_dict(cls, values: object, where: str) -> ChatTurns:
        """Read strictly what `to_dict` gave.

        Raises:
            EdgebError: a field that is missing, unknown or holds no token ids.
        """
        found = read_fields(values, {"opening": list, "reply": list, "end_id": int}, where)
        turns = cls(
            tuple(read_list(found["opening"], f"{where}.opening", int)),
            tuple(read_list(found["reply"], f"{where}.reply", int)),
            found["end_id"],
        )
        if not all(is_whole(i, 0, 1 << 31) for i in turns.ids):
            raise EdgebError(f"{where} holds a number that is no token id", DAMAGED_HINT)
        return turns

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields that `from_dict` reads."""
        return {"opening": list(self.opening), "reply": list(self.reply), "end_id": self.end_id}

    @property
    def ids(self) -> tuple[int, ...]:
        """All of them."""
        return (*self.opening, *self.reply, self.end_id)

    def renumbered(self, new_ids: Callable[[Sequence[int]], list[int]]) -> ChatTurns:
        """The same turns in another vocabulary."""
        return ChatTurns(tuple(new_ids(self.opening)), tuple(new_ids(self.reply)), new_ids([self.end_id])[0])


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt: `static` is the same for every prediction of a bundle, `body` holds history and context."""

    static: tuple[str, ...]
    body: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole prompt as one string, for people; models get the segments."""
        return "".join(self.static + self.body)


@dataclass(frozen=True)
class PromptLayout:
    """One of the three layouts, and its settings.

    Attributes:
        name: `stream` (one line per event, the context before the behavior; the question is an unfinished line),
            `prefix` (the same lines, then the question in words) or `instruct` (the paper's order and its three
            wordings).
        list_candidates: List the candidates in the prompt; `instruct` always does.
        history_length: L, the number of past events the model sees.
        task: Part 1 of the prompt, the task definition.
        role: Part 2, the role-playing instruction.
        places: Whether contexts name a place. Without, a prediction takes none and places of events are ignored.
        chat: The backbone's chat template around the prompt; None for the bare text. The user's turn is the whole
            prompt and the assistant's the label; in `stream` the user's turn is the static part, and the assistant's
            begins with the history.
        candidate_order: How the candidates are listed: `frequency`, in candidate order, the most frequent in training
            first unless the list was replaced; or `alphabetical`, by code point, which tells nothing of frequency.
    """

    name: str = "stream"
    list_candidates: bool = True
    history_length: int = 20
    task: str = TASK
    role: str = ROLE
    places: bool = True
    chat: ChatTurns | None = None
    candidate_order: str = "frequency"

    def __post_init__(self) -> None:
        if self.name not in LAYOUTS:
            raise EdgebError(f"unknown prompt layout '{self.name}'", nearest(self.name, LAYOUTS))
        if self.history_length < 1:
            raise EdgebError(f"history_length is {self.history_length}", "use at least 1; the paper uses 20")
        if self.name == "instruct" and not self.list_candidates:
            raise EdgebError("the instruct layout always lists its candidates", "use the prefix or stream layout")
        if self.candidate_order not in CANDIDATE_ORDERS:
            raise EdgebError(
                f"unknown candidate order '{self.candidate_order}'", nearest(self.candidate_order, CANDIDATE_ORDERS)
            )

    @classmethod
    def from_dict(cls, values: object, where: str = "prompt layout") -> PromptLayout:
        """Read strictly what `to_dict` gave.

        Raises:
            EdgebError: a field that is missing, unknown or of the wrong type, or a value that no layout has.
        """
        known: dict[str, Kind] = {name: type(value) for name, value in cls().to_dict().items()}
        optional = {"places": bool, "chat": dict, "candidate_order": str}
        if isinstance(values, dict):
            known |= {name: kind for name, kind in optional.items() if name in values}
        found = read_fields(values, known, where)
        if "chat" in found:
            found["chat"] = ChatTurns.from_dict(found["chat"], f"{where}.chat")
        with naming(where):
            return cls(**found)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields that `from_dict` reads.

        `places` is written only where it is false, `chat` where there is one and `candidate_order` where it is not by
        frequency, so that readers from before these fields existed read the others.
        """
        fields = asdict(self)
        if self.places:
            del fields["places"]
        if self.candidate_order == "frequency":
            del fields["candidate_order"]
        del fields["chat"]
        return fields if self.chat is None else {**fields, "chat": self.chat.to_dict()}

    @property
    def terminator(self) -> str | None:
        """Text that ends a label; None where the end-of-sequence token does, or the one that ends a turn."""
        return STREAM_TERMINATOR if self.name == "stream" else None

    @property
    def formats(self) -> int:
        """Number of interchangeable wordings; the paper samples its three at random."""
        return len(_INSTRUCT) if self.name == "instruct" else 1

    def answer(self, label: str) -> str:
        """The text that follows a prompt when `label` is the next behavior, without its terminator."""
        # An assistant's turn begins with no space.
        return label if self.chat is not None and self.name != "stream" else f" {label}"

    def mention(self, label: str) -> str:
        """The text of a behavior in the line of a past event."""
        return f" {label}"

    def place_of(self, place: str | None) -> str:
        """A caller's place, cleaned; `UNKNOWN_PLACE` where the layout has no places.

        Raises:
            EdgebError: no place where the layout has places, or one where it has none.
        """
        if self.places:
            if place is None:
                raise EdgebError("no place was given, and the prompts of this model name one", "pass place (--place)")
            return clean_place(place)
        if place is not None:
            raise EdgebError(
                f"the place {place[:48]!r} was given to a model without places", "leave place (--place) out"
            )
        return UNKNOWN_PLACE

    def context(self, when: datetime, place: str | None) -> str:
        """Beginning of an event's line, up to its behavior: day, hour and, where the layout has places, place."""
        return f"({DAYS[when.weekday()]} {when.hour}{self._where(place)},"

    def listed(self, labels: Sequence[str]) -> Sequence[str]:
        """The candidate labels, given in candidate order, in the order in which prompts list them."""
        # Python compares strings by code point; UTF-16 code units, as on a JVM, would put emoji elsewhere.
        return sorted(labels) if self.candidate_order == "alphabetical" else labels

    def static(self, labels: Sequence[str]) -> tuple[str, ...]:
        """The part of the prompt that is the same for every prediction of a bundle."""
        head = f"Task: {self.task}\nRole: {self.role}\n"
        if self.name == "instruct":
            return (head,)
        if self.list_candidates:
            head += f"Candidates: {'; '.join(self.listed(labels))}\n"
        head += f"History (day hour, {'place, ' if self.places else ''}behavior):"
        # Here the user's turn ends, and some chat templates strip it.
        return (head if self.chat is not None and self.name == "stream" else f"{head}\n",)

    def line(self, event: BehaviorEvent) -> tuple[str, str, str]:
        """One past event as three segments, the same in every layout: context, behavior, end of line."""
        return self.context(event.time, event.place), self.mention(event.behavior), STREAM_TERMINATOR

    def frame(
        self, when: datetime, place: str | None, labels: Sequence[str], format_index: int = 0
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What stands between the static part and the history, and what follows the history.

        Args:
            labels: The candidate labels, in candidate order.
            format_index: Which wording, for `instruct`.
        """
        if self.name == "stream":
            return (), (self.context(when, place),)
        if self.name == "prefix":
            parts = "Day, hour and place" if self.places else "Day and hour"
            context = f"{DAYS[when.weekday()]} {when.hour}{self._where(place)}"
            return (), (f"{parts} of the next behavior: {context}.\nThe answer is",)
        opening, rest = _INSTRUCT[format_index]
        context = f"{DAYS[when.weekday()]}, {when.hour}{self._where(place)}"
        # Not str.format: a label may hold braces.
        rest = rest.replace("{parts}", _PARTS[self.places]).replace("{context}", context)
        rest = rest.replace("{candidates}", ", ".join(self.listed(labels)))
        return (opening + "\n",), (rest,)

    def prompt(
        self,
        history: Sequence[BehaviorEvent],
        when: datetime,
        place: str | None,
        labels: Sequence[str],
        format_index: int = 0,
    ) -> Prompt:
        """Render the prompt that asks for the behavior at `when` in `place` after the last L events of `history`.

        Args:
            history: Oldest first; may be shorter than L, or empty.
            place: Required where the layout has places, ignored where not.
            labels: The candidate labels, in candidate order.
            format_index: Which wording, for `instruct`.
        """
        recent = history[-self.history_length :]
        lines = tuple(segment for event in recent for segment in self.line(event))
        before, after = self.frame(when, place, labels, format_index)
        return Prompt(self.static(labels), (*before, *lines, *after))

    def _where(self, place: str | None) -> str:
        """End of a context: a comma and the place, or nothing."""
        return f", {self.place_of(place)}" if self.places else ""
