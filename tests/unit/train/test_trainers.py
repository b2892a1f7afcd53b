"""TRL does what the recipe says: schedule, masks, reference, best weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, get_scheduler

from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import ATuning, BTuning, LoraSettings, Recipe
from edge_behavior.train.rows.batches import steps_of
from edge_behavior.train.rows.conversations import Conversations, read_conversations
from edge_behavior.train.rows.lazy import IGNORED, joined
from edge_behavior.train.stages.dpo import train_dpo
from edge_behavior.train.stages.sft import train_sft
from edge_behavior.train.stages.tuning import Tuning
from edge_behavior.train.trainer.arguments import batching, schedule
from edge_behavior.train.trainer.lora import lora_config
from tests import helpers


@pytest.fixture(scope="module")
def tokens() -> Any:
    return helpers.tokenizer()


def rows(tokens: Any, count: int = 24) -> list[dict[str, list[int]]]:
    encoder = helpers.encoder(tokens)
    made = []
    for seed in range(count):
        stretch = encoder.stretch(helpers.diary(6, seed))
        labels = [IGNORED] * len(stretch.ids)
        for a, b in stretch.targets[1:]:
            labels[a:b] = stretch.ids[a:b]
        made.append({"input_ids": stretch.ids, "labels": labels})
    return made


def test_schedule_is_the_papers() -> None:
    """Warm-up from 1e-6 over a tenth of the steps to 1e-4, cosine down to 1e-6."""
    stage = ATuning()
    arguments = schedule(stage)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=arguments["learning_rate"])
    scheduler = get_scheduler(arguments["lr_scheduler_type"], optimizer, 100, 1000, arguments["lr_scheduler_kwargs"])
    rates = []
    for _ in range(1000):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(1e-6, rel=0.1)
    assert max(rates) == pytest.approx(1e-4)
    assert rates.index(max(rates)) == pytest.approx(100, abs=1)
    assert rates[-1] == pytest.approx(1e-6, rel=0.1)
    middle = 1e-6 + (1e-4 - 1e-6) * 0.5 * (1 + math.cos(math.pi * (550 - 100) / 900))
    assert rates[550] == pytest.approx(middle, rel=1e-2)  # Transformers counts the step that is under way


def test_batches() -> None:
    assert batching(ATuning(batch_size=8, micro_batch_size=2), "a_tuning")["gradient_accumulation_steps"] == 4
    odd = batching(ATuning(batch_size=9, micro_batch_size=4), "a_tuning")
    assert odd["per_device_train_batch_size"] * odd["gradient_accumulation_steps"] == 9
    assert steps_of(ATuning(batch_size=8, epochs=3), 17, 3) == (3, 9)
    assert steps_of(ATuning(batch_size=8, epochs=3, max_steps=4), 17, 3) == (3, 4)


def sft(tokens: Any, folder: Path, **changes: Any) -> dict[str, Any]:
    stage = ATuning(learning_rate=3e-3, batch_size=8, **changes)
    recipe = Recipe(lora=LoraSettings(rank=4, alpha=8), a_tuning=stage)
    data = rows(tokens)
    tuning = Tuning(recipe, "a_tuning", 3, 6, folder, folder / "logs")
    return train_sft(helpers.model(tokens, spread=1.0), tokens, joined([data, data]), joined([data[:8]]), tuning)


def test_sft_learns_saves_safetensors_and_loads_in_stock_peft(tokens: Any, tmp_path: Path) -> None:
    result = sft(tokens, tmp_path / "a")
    losses = [row["eval_loss"] for row in result["log"] if "eval_loss" in row]
    assert result["steps"] == 6
    assert result["best_validation_loss"] == min(losses) < math.log(len(tokens)) * 1.2
    names = {p.name for p in (tmp_path / "a" / "adapter").iterdir()}
    assert "adapter_model.safetensors" in names
    assert not [n for n in names if n.endswith((".bin", ".pt", ".pkl"))]
    base = helpers.save(helpers.model(tokens, spread=1.0), tokens, tmp_path / "base")
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "a" / "adapter")
    assert sum(p.abs().sum() for n, p in loaded.named_parameters() if "lora_B" in n) > 0


def test_sft_loss_is_on_the_completion_only(tokens: Any, tmp_path: Path) -> None:
    """TRL's first training loss equals the mean over labelled tokens computed by hand."""
    stage = ATuning(batch_size=24, learning_rate=1e-9, min_learning_rate=1e-9)
    recipe = Recipe(lora=LoraSettings(rank=4), a_tuning=stage)
    data = rows(tokens)
    model = helpers.model(tokens, spread=1.0)
    total, count = 0.0, 0
    with torch.no_grad():
        for row in data:
            ids = torch.tensor([row["input_ids"]])
            log_probs = torch.log_softmax(model(input_ids=ids).logits[0], -1)
            for i, label in enumerate(row["labels"]):
                if label != IGNORED:
                    total, count = total - float(log_probs[i - 1, label]), count + 1
    tuning = Tuning(recipe, "a_tuning", 1, 1, tmp_path / "a", tmp_path)
    result = train_sft(model, tokens, joined([data]), joined([data[:8]]), tuning)
    assert result["train_loss"] == pytest.approx(total / count, rel=1e-3)


def test_sft_is_reproducible(tokens: Any, tmp_path: Path) -> None:
    one, two = sft(tokens, tmp_path / "one"), sft(tokens, tmp_path / "two")
    assert one["train_loss"] == pytest.approx(two["train_loss"], rel=1e-6)


def test_dpo_starts_at_ln_2_and_learns_the_preference(tokens: Any, tmp_path: Path) -> None:
    encoder = helpers.encoder(tokens)
    pairs = []
    for seed in range(16):
        h = helpers.diary(6, seed)
        pairs.append(
            {
                "prompt_ids": encoder.prompt_ids(h[:-1], h[-1].time, h[-1].place),
                "chosen_ids": encoder.label_ids("Video Call"),
                "rejected_ids": encoder.label_ids("Bar"),
            }
        )
    recipe = Recipe(b_tuning=BTuning(batch_size=8, learning_rate=5e-3, warmup_ratio=0.0))
    model = get_peft_model(helpers.model(tokens, spread=1.0), lora_config(LoraSettings(rank=4)))
    # An adapter that already does something, so that the reference is not the bare backbone.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)

    def margin() -> float:
        p = pairs[0]
        return helpers.brute_force(model.eval(), p["prompt_ids"], p["chosen_ids"]) - helpers.brute_force(
            model, p["prompt_ids"], p["rejected_ids"]
        )

    before = margin()
    for pair in pairs:
        for answer in ("chosen", "rejected"):
            score = helpers.brute_force(model.eval(), pair["prompt_ids"], pair[f"{answer}_ids"])
            pair[f"ref_{answer}_logps"] = score
    result = train_dpo(model, tokens, [*pairs] * 4, Tuning(recipe, "b_tuning", 2, 8, tmp_path / "b", tmp_path))
    first = next(row["loss"] for row in result["log"] if "loss" in row)
    assert first == pytest.approx(math.log(2), abs=1e-3)
    assert margin() > before + 1
    model.save_pretrained(tmp_path / "adapter", selected_adapters=["default"])
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 4
    assert not (tmp_path / "adapter" / "ref").exists()


def test_conversations_are_read_filtered_and_masked(tokens: Any, tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text(
        '{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello there"}]}\n'
        '{"question": "Why?", "answer": "Because."}\n'
        f'{{"question": "Long?", "answer": "{"word " * 500}"}}\n'
    )
    conversations = read_conversations(path)
    assert conversations[1] == [("user", "Why?"), ("assistant", "Because.")]
    found = Conversations(conversations, tokens).sample(wanted=2, max_tokens=100, seed=0)
    assert len(found) == 2
    for row in found:
        completion = [label for label in row["labels"] if label != IGNORED]
        assert completion[-1] == tokens.eos_token_id
        assert tokens.decode(completion[:-1]).strip() in ("Hello there", "Because.")
        assert row["input_ids"][-len(completion) :] == completion


@pytest.mark.parametrize("line", ["not json", '{"x": 1}', '{"conversations": [{"from": "alien", "value": "x"}]}'])
def test_bad_conversation_names_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text('{"question": "a", "answer": "b"}\n' + line + "\n")
    with pytest.raises(EdgebError, match=r"talk.jsonl:2: not a conversation"):
        read_conversations(path)


def test_chat_template_is_used_where_there_is_one(tokens: Any) -> None:
    import copy

    chat = copy.deepcopy(tokens)
    chat.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    [row] = Conversations([[("user", "Hi"), ("assistant", "Yo")]], chat).sample(1, 100, 0)
    assert chat.decode(row["input_ids"]) == "[user]Hi\n[assistant]Yo\n"
    assert chat.decode([x for x in row["labels"] if x != IGNORED]) == "Yo\n"
