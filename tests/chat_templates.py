"""Published chat templates, and small tokenizers that have their control tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.unit.export.conftest import gemma_tokenizer, llama3_tokenizer, qwen2_tokenizer, smollm_tokenizer

# SmolLM2's; Qwen2.5's says as much of two turns.
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# Without its branches for system turns and images.
GEMMA3 = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
    "{% endif %}{{ '<start_of_turn>' + role + '\n' }}{{ message['content'] | trim }}{{ '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
# Qwen3 gives its answers an empty thought, its prompts none.
QWEN3 = CHATML.replace(
    "{{'<|im_start|>' + message['role'] + '\n' + message['content']",
    "{{'<|im_start|>' + message['role'] + '\n' + ('<think>\n\n</think>\n\n' if message['role'] == 'assistant' else '')"
    " + message['content']",
)
# Llama 3.2's names the day.
DATED = LLAMA3.replace(
    "message['role'] + '<|end_header_id|>\n\n'+",
    "message['role'] + '<|end_header_id|>\n\nToday Date: ' + (date_string if date_string is defined else "
    "strftime_now('%d %b %Y')) + '\n\n' +",
)

_TURNS = {
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "smollm": (),
    "qwen2": ("<think>", "</think>"),
}
_SMALL: dict[str, tuple[Callable[[], Any], str]] = {
    "llama3": (llama3_tokenizer, LLAMA3),
    "gemma": (gemma_tokenizer, GEMMA3),
    "smollm": (smollm_tokenizer, CHATML),
    "qwen2": (qwen2_tokenizer, QWEN3),
}
SMALL = tuple(_SMALL)


def small(name: str) -> Any:
    """A small tokenizer with a chat template and the control tokens that it writes."""
    return with_turns(_SMALL[name][0](), name)


def with_turns(tokenizer: Any, name: str) -> Any:
    """The same tokenizer with the chat template and control tokens of the small one of that name."""
    tokenizer.add_tokens(list(_TURNS[name]), special_tokens=True)
    tokenizer.chat_template = _SMALL[name][1]
    return tokenizer
