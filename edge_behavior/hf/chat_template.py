"""A tokenizer's chat template as token ids around the text of two turns.

What is told apart here is the template's own text, which may hold control tokens, and the text of the turns, which
never does: the encoder tokenizes it as plain text. Knows no layout.
"""

from __future__ import annotations

from typing import Any

from edge_behavior.core.prompts import ChatTurns
from edge_behavior.errors import EdgebError
from edge_behavior.hf.folder import first_line
from edge_behavior.hf.tokenizers import plain_encoder

# Found again in the rendered text. They begin and end as prompts, lines and labels do; nothing else of them matters.
_USER = "Task: edgeb-user {x}\n(Mon 9, home, A): the answer is"
_REPLIES = ("(Mon 9, edgeb-reply,", "Video edgeb-reply")
# Some templates state the day on which they are rendered; Llama 3.2's gives this one where it knows no other.
_DATE = "26 Jul 2024"
_HINT = "set layout.chat_template=false, or use another backbone"


def chat_turns(tokenizer: Any) -> ChatTurns:
    """What the template puts before a user's text, between it and the answer, and the token that ends the answer.

    A system turn is there if the template writes one of its own. The same for every day and every text.

    Raises:
        EdgebError: no chat template, one that fails, changes a turn's text or ends it with no token of its own, or one
            whose tokens run into those of a turn.
    """
    if not tokenizer.chat_template:
        raise EdgebError("layout.chat_template is true, but the backbone's tokenizer has no chat template", _HINT)
    found = {_split(tokenizer, reply) for reply in _REPLIES}
    if len(found) > 1:
        raise EdgebError("the backbone's chat template depends on the text of its turns", _HINT)
    return found.pop()


def _split(tokenizer: Any, reply: str) -> ChatTurns:
    text = _rendered(tokenizer, reply)
    if text.count(_USER) != 1 or text.count(reply) != 1:
        raise EdgebError("the backbone's chat template changes the text of its turns", _HINT)
    opening, rest = text.split(_USER)
    middle, closing = rest.split(reply)
    plain = plain_encoder(tokenizer)
    parts = [_parsed(tokenizer, part) for part in (opening, middle, closing)]
    if _parsed(tokenizer, text) != [*parts[0], *plain(_USER), *parts[1], *plain(reply), *parts[2]]:
        raise EdgebError("the tokens of the backbone's chat template run into those of its turns", _HINT)
    if not parts[2] or parts[2][0] not in tokenizer.added_tokens_decoder:
        raise EdgebError("the backbone's chat template ends a turn without a token of its own", _HINT)
    return ChatTurns(tuple(parts[0]), tuple(parts[1]), parts[2][0])


def _rendered(tokenizer: Any, reply: str) -> str:
    messages = [{"role": "user", "content": _USER}, {"role": "assistant", "content": reply}]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, date_string=_DATE))
    except Exception as error:  # a template may raise anything
        raise EdgebError(f"the backbone's chat template fails: {first_line(error)}", _HINT) from None


def _parsed(tokenizer: Any, text: str) -> list[int]:
    """Ids of the template's text, control tokens included."""
    return [int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
