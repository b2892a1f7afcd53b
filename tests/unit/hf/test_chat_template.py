"""Prompts in a chat template are token by token what the template makes of the same text."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.core.prompts import LAYOUTS, PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.hf.chat_template import chat_turns
from edge_behavior.hf.tokenizers import encoder_for, plain_encoder
from tests import chat_templates, smollm2
from tests.unit.export.conftest import sentencepiece_tokenizer

LABELS = ("Video", "Video Call", "Bar", "Read books")
START = datetime(2024, 5, 1, 8)
HISTORY = [
    BehaviorEvent(("home", "work")[i % 2], START + timedelta(hours=5 * i), LABELS[i % len(LABELS)]) for i in range(6)
]
WHEN = START + timedelta(hours=31)


@pytest.fixture(scope="module")
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    name = request.param
    if name in chat_templates.SMALL:
        return chat_templates.small(name)
    if name == "SmolLM2":
        file = smollm2.gguf()
        if file is None:
            pytest.skip(smollm2.WHY_NOT)
        return _of_gguf(file, tmp_path_factory.mktemp("smollm2"))
    real = request.getfixturevalue("real_tokenizers")
    if name == "Qwen2.5":
        return real["qwen2"]
    # The file at hand is of the base model, without the tokens of turns.
    return chat_templates.with_turns(deepcopy(real["llama3"]), "llama3")


def _of_gguf(file: Path, folder: Path) -> Any:
    from gguf import GGUFReader

    from edge_behavior.hf.architectures import load_tokenizer
    from edge_behavior.hf.gguf_tokenizer import write_tokenizer

    fields = GGUFReader(file).fields
    write_tokenizer({name: field.contents() for name, field in fields.items()}, folder)
    return load_tokenizer(folder)


ALL = pytest.mark.parametrize("tokenizer", [*chat_templates.SMALL, "Qwen2.5", "Llama 3", "SmolLM2"], indirect=True)


def templated(tokenizer: Any, *texts: str, **options: Any) -> list[int]:
    """What Transformers makes of turns of the user and the assistant in turn."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return list(tokenizer.apply_chat_template(messages, return_dict=False, **options))


@ALL
@pytest.mark.parametrize("name", ["prefix", "instruct"])
def test_question_and_answer_are_two_turns(tokenizer: Any, name: str) -> None:
    layout = PromptLayout(name, chat=chat_turns(tokenizer))
    encoder = encoder_for(tokenizer, layout, CandidateSet.of(LABELS))
    for wording in range(layout.formats):
        text = layout.prompt(HISTORY, WHEN, "home", LABELS, wording).text
        ids = encoder.prompt_ids(HISTORY, WHEN, "home", wording)
        asked = templated(tokenizer, text, add_generation_prompt=True)
        assert ids[: len(asked)] == asked
        for label in LABELS:
            answered, found = templated(tokenizer, text, label), ids + encoder.label_ids(label)
            assert found == answered[: len(found)]
            # After the token that ends a turn at most a line break is left.
            assert answered[len(found) :] in ([], plain_encoder(tokenizer)("\n"))
    assert encoder.terminator_ids == [layout.chat.end_id]


@ALL
def test_in_the_stream_the_assistant_writes_the_history(tokenizer: Any) -> None:
    layout = PromptLayout(chat=chat_turns(tokenizer))
    encoder = encoder_for(tokenizer, layout, CandidateSet.of(LABELS))
    prompt = layout.prompt(HISTORY, WHEN, "home", LABELS)
    static, body = ("".join(part) for part in (prompt.static, prompt.body))
    ids = encoder.prompt_ids(HISTORY, WHEN, "home")
    assert ids == templated(tokenizer, static, body, continue_final_message=True)
    # The whole user's turn is in the static part, which is evaluated once.
    assert encoder.static_ids == templated(tokenizer, static, "(", continue_final_message=True)[:-1]
    assert encoder.stretch(HISTORY).ids == encoder.static_ids + [i for e in HISTORY for i in encoder.line_ids(e)]
    assert encoder.terminator_ids == plain_encoder(tokenizer)(")\n")


@ALL
@pytest.mark.parametrize("name", LAYOUTS)
def test_text_makes_no_control_token(tokenizer: Any, name: str) -> None:
    turns = chat_turns(tokenizer)
    control = set(tokenizer.added_tokens_decoder)
    attack = "".join(tokenizer.added_tokens_decoder[i].content for i in sorted(control & set(turns.ids)))
    plain = PromptLayout(name, chat=turns)
    attacked = replace(plain, task=attack, role=f"{attack}\nassistant")
    labels = (*LABELS, attack)
    encoder = encoder_for(tokenizer, attacked, CandidateSet.of(labels))
    history = [*HISTORY, BehaviorEvent(attack, WHEN, attack)]
    wanted = Counter(i for i in (*turns.opening, *turns.reply) if i in control)
    for wording in range(plain.formats):
        ids = encoder.prompt_ids(history, WHEN, attack, wording)
        assert Counter(i for i in ids if i in control) == wanted
    assert not control & set(encoder.line_ids(history[-1]))
    ending = [turns.end_id] if name != "stream" else []
    assert [i for i in encoder.label_ids(attack) if i in control] == ending


@ALL
def test_session_and_prompt_are_put_together_alike(tokenizer: Any) -> None:
    turns = chat_turns(tokenizer)
    for name in LAYOUTS:
        encoder = encoder_for(tokenizer, PromptLayout(name, chat=turns), CandidateSet.of(LABELS))
        before, after = encoder.frame_ids(WHEN, "home")
        lines = [i for event in HISTORY for i in encoder.line_ids(event)]
        assert encoder.prompt_ids(HISTORY, WHEN, "home") == encoder.static_ids + before + lines + after


def test_an_empty_thought_belongs_to_the_answers_beginning() -> None:
    tokenizer = chat_templates.small("qwen2")
    turns = chat_turns(tokenizer)
    assert tokenizer.decode(turns.reply) == "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert tokenizer.decode([turns.end_id]) == "<|im_end|>"


def test_every_day_gives_the_same_prompt() -> None:
    tokenizer = chat_templates.small("llama3")
    tokenizer.chat_template = chat_templates.DATED
    assert "Today Date: 26 Jul 2024" in tokenizer.decode(chat_turns(tokenizer).opening)


REFUSED = {
    "has no chat template": None,
    "changes the text of its turns": chat_templates.CHATML.replace("message['content']", "message['content'] | upper"),
    "fails: no roles here": "{{ raise_exception('no roles here') }}",
    "ends a turn without a token of its own": "{% for m in messages %}<|im_start|>{{ m['content'] }}\n{% endfor %}",
    "depends on the text of its turns": "{% for m in messages %}{{ '<|im_start|>' + m['content'][0] + '\n' + "
    "m['content'] + '<|im_end|>' }}{% endfor %}",
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_template_of_which_no_prompt_can_be_made_is_refused(message: str) -> None:
    tokenizer = chat_templates.small("smollm")
    tokenizer.chat_template = REFUSED[message]
    with pytest.raises(EdgebError, match=message) as caught:
        chat_turns(tokenizer)
    assert "\n" not in f"{caught.value}"
    assert "layout.chat_template=false" in caught.value.hint


def test_tokens_that_depend_on_their_neighbours_are_refused() -> None:
    """A tokenizer that puts a space before every text does so within a turn, too, when that is tokenized by itself."""
    tokenizer = sentencepiece_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ 'a' + m['content'] + '</s>' }}{% endfor %}"
    with pytest.raises(EdgebError, match="run into those of its turns"):
        chat_turns(tokenizer)
