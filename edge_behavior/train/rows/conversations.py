"""The auxiliary conversations C of A-Tuning (§3.2): read, tokenized, filtered by length, sampled."""

from __future__ import annotations

import gzip
import json
import zlib
from array import array
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from edge_behavior.errors import EdgebError
from edge_behavior.hf.tokenizers import plain_encoder
from edge_behavior.train.rows.lazy import IGNORED, Row, Rows
from edge_behavior.train.standin.everyday import EverydayText

Turns = list[tuple[str, str]]
_Tokenized = tuple["array[int]", "array[int]"]  # prompt and completion
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
# Where a record keeps its turns, with the fields of each: ShareGPT, chat messages, LMSYS-Chat.
_TURN_LISTS = {"conversations": ("from", "value"), "messages": ("role", "content"), "conversation": ("role", "content")}
# One question and its answer: question/answer files, Alpaca, collections of problems.
_PAIRS = (("question", "answer"), ("instruction", "output"), ("problem", "solution"))
_FORMS = "a record has conversations, messages or conversation, or question and answer, instruction and output, or "
_FORMS += "problem and solution"
_GENERATED = 4000


def read_conversations(path: Path) -> list[Turns]:
    """Read conversations as (role, text) turns, from JSON lines or one JSON array, gzip accepted.

    A record is ShareGPT's (`conversations`), chat messages (`messages`), LMSYS-Chat's (`conversation`), Alpaca's
    (`instruction`, `input`, `output`), or a pair of `question` and `answer` or `problem` and `solution`.

    Raises:
        EdgebError: the file cannot be read, is truncated or not UTF-8, or has a record of no known form; names the line
            or, in an array, the record.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    found: list[Turns] = []
    number = 0
    try:
        # Decoded line by line: a text file reads ahead, and could not tell which line a wrong byte is on.
        with opener(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not found and line.lstrip().startswith(b"["):
                    return _array(line + file.read(), path)
                if line.strip():
                    found.append(_parsed(line.decode("utf-8"), f"{path}:{number}"))
    except UnicodeDecodeError:
        raise EdgebError(f"a_tuning.aux_path {path}:{number}: not UTF-8", "save the file as UTF-8") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        where = f"{path} after line {number}"
        raise EdgebError(
            f"a_tuning.aux_path {where}: truncated or damaged: {error}", "compress the file again, or set null"
        ) from None
    except OSError as error:
        raise EdgebError(f"cannot read a_tuning.aux_path {path}: {error}", "name a JSONL file, or set null") from None
    return _some(found, path)


def _array(content: bytes, path: Path) -> list[Turns]:
    try:
        records = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise EdgebError(f"a_tuning.aux_path {path}: not UTF-8", "save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise EdgebError(f"{path}: not a JSON array: {error}", "write one JSON array, or one record a line") from None
    return _some([_turns(record, f"{path}: record {number}") for number, record in enumerate(records, 1)], path)


def _some(found: list[Turns], path: Path) -> list[Turns]:
    if not found:
        raise EdgebError(f"{path} holds no conversation", f"{_FORMS}; or set null")
    return found


def _parsed(line: str, where: str) -> Turns:
    try:
        return _turns(json.loads(line), where)
    except (ValueError, RecursionError):
        raise EdgebError(f"{where}: not a conversation", _FORMS) from None


def _turns(record: object, where: str) -> Turns:
    try:
        if not isinstance(record, dict):
            raise TypeError
        for key, (role, text) in _TURN_LISTS.items():
            if key in record:
                return [(_ROLES[turn[role]], _text(turn[text])) for turn in record[key]]
        for asked, answered in _PAIRS:
            if asked in record:
                more = _text(record.get("input") or "") if asked == "instruction" else ""
                question = _text(record[asked])
                return [("user", f"{question}\n\n{more}" if more else question), ("assistant", _text(record[answered]))]
        raise KeyError
    except (KeyError, TypeError):
        raise EdgebError(f"{where}: not a conversation", _FORMS) from None


def _text(value: object) -> str:
    # Turns with images or tool calls hold lists and nulls.
    if not isinstance(value, str):
        raise TypeError
    return value


def generated_conversations(labels: Sequence[str], seed: int) -> list[Turns]:
    """Generated small talk about the labels, for recipes without a conversation file."""
    text = EverydayText(labels, (), seed)
    return [text.small_talk() for _ in range(_GENERATED)]


class Conversations:
    """Conversations as training rows with a loss on the last assistant turn.

    Each is tokenized when it is first needed, and kept at 4 bytes a token.
    """

    def __init__(self, turns: Sequence[Turns], tokenizer: Any) -> None:
        self._turns, self._tokenizer = turns, tokenizer
        self._tokenized: dict[int, _Tokenized | None] = {}

    def sample(self, wanted: int, max_tokens: int, seed: int) -> ConversationRows:
        """Rows of `wanted` random conversations of at most `max_tokens` tokens; where they are few, they repeat.

        No row if every conversation is longer.
        """
        chosen: list[_Tokenized] = []
        for i in np.random.default_rng(seed).permutation(len(self._turns)).tolist():
            if len(chosen) >= wanted:
                break
            found = self._one(i)
            if found is not None and len(found[0]) + len(found[1]) <= max_tokens:
                chosen.append(found)
        return ConversationRows(list(islice(cycle(chosen), wanted)))

    def _one(self, index: int) -> _Tokenized | None:
        if index not in self._tokenized:
            self._tokenized[index] = _tokenized(self._turns[index], self._tokenizer)
        return self._tokenized[index]


class ConversationRows(Rows):
    """Tokenized conversations as rows."""

    def __init__(self, chosen: Sequence[_Tokenized]) -> None:
        self._chosen = chosen
        self.lengths = np.array([len(prompt) + len(answer) for prompt, answer in chosen], dtype=np.int32)
        self.labelled = np.array([len(answer) for _, answer in chosen], dtype=np.int32)

    def at_most(self, labelled: float) -> ConversationRows:
        """The first rows that have together at most so many tokens with a loss."""
        return ConversationRows(self._chosen[: int(np.searchsorted(np.cumsum(self.labelled), labelled, side="right"))])

    def read(self, index: int) -> Row:
        """One conversation."""
        prompt, answer = (list(part) for part in self._chosen[index])
        return {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}


def _tokenized(turns: Turns, tokenizer: Any) -> _Tokenized | None:
    while turns and turns[-1][0] != "assistant":
        turns = turns[:-1]
    if len(turns) < 2:
        return None
    messages = [{"role": role, "content": text} for role, text in turns]
    if tokenizer.chat_template:
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        if not whole.startswith(prompt):
            return None
        # Unlike log text, this holds the template's control tokens, which must be parsed as such.
        prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answer_ids = tokenizer(whole[len(prompt) :], add_special_tokens=False)["input_ids"]
    else:
        tokenize = plain_encoder(tokenizer)
        lines = "".join(f"{role}: {text}\n" for role, text in turns[:-1])
        prompt_ids = tokenize(f"{lines}assistant:")
        answer_ids = [*tokenize(f" {turns[-1][1]}"), tokenizer.eos_token_id]
    return array("i", prompt_ids), array("i", answer_ids)
