"""The endpoint as a system: which questions it is asked, and the answers kept on disk.

The prompt is the project's, candidates listed: `stream` for completions, `instruct` for chats. What an endpoint can
give is found out by asking: echoed log-probabilities, alternatives of a chat or a completion, or text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edge_behavior.baselines.cold_start import known_only
from edge_behavior.baselines.endpoint.answers import (
    Echoed,
    echoed,
    from_alternatives,
    from_text,
    positions_of,
    trustworthy,
)
from edge_behavior.baselines.endpoint.client import Endpoint, EndpointConfig, UnsupportedError
from edge_behavior.baselines.system import Budget, Fitted, Floats, Ints
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.fields import parse_json
from edge_behavior.core.prompts import STREAM_TERMINATOR, PromptLayout
from edge_behavior.core.scoring import log_softmax
from edge_behavior.data.dataset import Dataset, EventTable
from edge_behavior.errors import EdgebError
from edge_behavior.util.files import write_file
from edge_behavior.util.progress import progress_bar

_ANSWER_ONLY = "\nAnswer with one behavior of the candidate set, exactly as it is written there, and nothing else."
_ANSWER_TOKENS = 32
# How an endpoint may answer, the most exact first; see `answers`.
KINDS = ("echo", "chat alternatives", "completion alternatives", "chat text", "completion text")
# Chats list 20 alternatives at most, completions by convention 5.
_CHAT_ALTERNATIVES, _COMPLETION_ALTERNATIVES = 20, 5

# Labels on which echoed log-probabilities are tried.
_TRIED = 5


@dataclass(frozen=True)
class EndpointSystem:
    """A model behind an OpenAI-compatible endpoint, untuned and asked with the project's prompt."""

    config: EndpointConfig
    name: str = "endpoint"
    rates: tuple[float, ...] = ()
    needs: frozenset[str] = frozenset()
    learns: bool = False

    @property
    def title(self) -> str:
        """As tables show it."""
        return f"{self.config.model} (endpoint)"

    def fit(self, dataset: Dataset, history_length: int, budget: Budget, rate: float | None) -> Fitted:
        """Find out how the endpoint answers; nothing is trained. Answers are kept in `budget.folder`.

        Raises:
            EdgebError: the endpoint is down, refuses the key, or knows no completions and no chat.
        """
        asked = AskedEndpoint(Endpoint(self.config), budget.folder / "answers")
        return FittedEndpoint(asked, dataset.candidates, history_length, dataset.has_places)


class AskedEndpoint:
    """An endpoint whose answers are kept: one file per question, named by its hash, without the question.

    Args:
        endpoint: Asked where there is no answer yet.
        folder: Of the answers.
    """

    def __init__(self, endpoint: Endpoint, folder: Path) -> None:
        self._endpoint, self._folder = endpoint, folder

    def ask(self, path: str, body: dict[str, Any], reading: Callable[[Any], Any]) -> Any:
        """What `reading` makes of `choices[0]` of the answer to a request: a JSON value, kept on disk.

        Raises:
            EdgebError: see `Endpoint.post`; or an answer without choices.
        """
        config = self._endpoint.config
        asked = json.dumps([config.url, config.model, path, body], sort_keys=True)
        key = hashlib.sha256(asked.encode()).hexdigest()
        file = self._folder / key[:2] / f"{key}.json"
        if file.is_file():
            return parse_json(file.read_bytes(), str(file), "delete that file: the question is then asked again")
        choices = self._endpoint.post(path, body).get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise EdgebError(f"the endpoint {config.url}/{path} answers without choices", "check the URL")
        found = reading(choices[0])
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, json.dumps(found))
        return found


class FittedEndpoint:
    """Scores windows by asking.

    Attributes:
        kind: How the endpoint answers, see `KINDS`.
        outside: Answers of the latest `log_probs` that named no candidate.
        answered: Windows of the latest `log_probs`.
    """

    def __init__(self, asked: AskedEndpoint, candidates: CandidateSet, history_length: int, places: bool) -> None:
        self._asked, self._labels = asked, candidates.labels
        self._stream = PromptLayout("stream", history_length=history_length, places=places)
        self._instruct = PromptLayout("instruct", history_length=history_length, places=places)
        self.outside = self.answered = 0
        self.kind = self._find_kind()

    def log_probs(self, table: EventTable, targets: Ints, known: int | None = None) -> Floats:
        """See `Fitted.log_probs`.

        Raises:
            EdgebError: the endpoint fails; the answers so far are kept.
        """
        table, targets = known_only(table, targets, known)
        found = np.empty((len(targets), len(self._labels)))
        self.outside = self.answered = 0
        with progress_bar("Asking the endpoint", len(targets)) as advance:
            for row, target in enumerate(targets.tolist()):
                found[row], inside = self._window(table, target)
                self.answered += 1
                self.outside += not inside
                advance(1, note=f"{self.outside} outside the list" if self.outside else None)
        return found

    def report(self) -> dict[str, Any]:
        """See `Reporting.report`. The same whether answers came from the endpoint or from disk."""
        return {"kind": self.kind, "windows": self.answered, "outside": self.outside}

    def close(self) -> None:
        """Nothing is held."""

    def _window(self, table: EventTable, target: int) -> tuple[Floats, bool]:
        """[B] log-probabilities, and whether the answer named a candidate."""
        event, chat = table.event(target), self.kind.startswith("chat")
        layout = self._instruct if chat else self._stream
        history = table.history(target, layout.history_length)
        place = event.place if layout.places else None
        prompt = layout.prompt(history, event.time, place, self._labels).text
        if self.kind == "echo":
            echoes = self._echoes(prompt, self._labels)
            if echoes is None:
                raise EdgebError(
                    "the endpoint's echoed log-probabilities are not those of the tokens", "use another server for it"
                )
            return log_softmax(np.array([one.score for one in echoes], dtype=np.float64)), True
        choice = self._generated(self.kind, prompt)
        ends = "\n" if chat else STREAM_TERMINATOR
        if not self.kind.endswith("alternatives"):
            return from_text(choice["text"], self._labels, ends)
        return from_alternatives(positions_of(choice) or [], self._labels, ends)

    def _echoes(self, prompt: str, labels: Sequence[str]) -> list[Echoed] | None:
        """What is echoed of each label; None where that cannot be used."""
        found = []
        for label in labels:
            answer = self._stream.answer(label) + STREAM_TERMINATOR
            # A token is generated, since some servers take 0 for no limit.
            body = {"prompt": prompt + answer, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
            one = self._asked.ask("completions", body, partial(_echoed, prompt=prompt, answer=answer))
            if one is None:
                return None
            found.append(Echoed(*one))
        return found if trustworthy(found) else None

    def _generated(self, kind: str, prompt: str) -> dict[str, Any]:
        body: dict[str, Any] = {"max_tokens": _ANSWER_TOKENS, "temperature": 0}
        with_alternatives = kind.endswith("alternatives")
        if kind.startswith("chat"):
            path = "chat/completions"
            body["messages"] = [{"role": "user", "content": prompt + _ANSWER_ONLY}]
            body |= {"logprobs": True, "top_logprobs": _CHAT_ALTERNATIVES} if with_alternatives else {}
        else:
            path = "completions"
            body["prompt"] = prompt
            body |= {"logprobs": _COMPLETION_ALTERNATIVES} if with_alternatives else {}
        found: dict[str, Any] = self._asked.ask(path, body, _kept)
        return found

    def _find_kind(self) -> str:
        """The best kind of answer that the endpoint gives to a question without events."""
        prompt = "".join(self._stream.static(self._labels))
        # Of different first tokens.
        tried = list({label[0]: label for label in self._labels}.values())[:_TRIED]
        refused: UnsupportedError | None = None
        for kind in KINDS:
            try:
                if kind == "echo":
                    found = self._echoes(prompt, tried) is not None
                else:
                    choice = self._generated(kind, prompt)
                    found = bool(positions_of(choice)) or kind.endswith("text")
            except UnsupportedError as error:
                refused = error
                continue
            if found:
                return kind
        raise refused or EdgebError("the endpoint gives no answer", "check the URL and --endpoint-model")


def _kept(choice: dict[str, Any]) -> dict[str, Any]:
    """Of an answer, its text and log-probabilities: what cannot be the log's."""
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else choice.get("text")
    return {"text": text if isinstance(text, str) else "", "logprobs": choice.get("logprobs")}


def _echoed(choice: dict[str, Any], prompt: str, answer: str) -> list[float] | None:
    """The fields of `Echoed`, as JSON keeps them."""
    found = echoed(choice, prompt, answer)
    return None if found is None else list(astuple(found))
