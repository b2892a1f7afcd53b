"""The memory formula against what PyTorch's profiler sees of real models; refusals and what they advise."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, Qwen2Config, Qwen2ForCausalLM
from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

from edge_behavior.core.search import Goal
from edge_behavior.errors import EdgebError
from edge_behavior.hf.tree.head import TILE_ROWS
from edge_behavior.hf.tree_scoring import TorchScorer
from edge_behavior.train.geometry import Geometry, build_model, geometry, with_adapter
from edge_behavior.train.plan.counts import Batch, Counts, Samples, Window
from edge_behavior.train.plan.memory import (
    Device,
    Memory,
    Precision,
    changed,
    head_bytes,
    other_gpu,
    precision,
    scoring_bytes,
    this_device,
    training_bytes,
    windows_per_pass,
)
from edge_behavior.train.recipe import ATuning, BackboneConfig, BTuning, Recipe, ScoringConfig
from edge_behavior.train.trainer.batch_split import micro_batch_of
from edge_behavior.train.trainer.label_head import LabelLogProbs
from edge_behavior.util.numbers import GIB, gib
from tests import helpers
from tests.unit.train.plan.configs import LLAMA, LORA, small

FLOAT = Precision(torch.float32, autocast=False)


def real(config: Qwen2Config, weights: torch.dtype) -> Any:
    torch.manual_seed(0)
    return with_adapter(build_model(config, config.num_hidden_layers, weights), LORA)


def allocated_peak(run: Callable[[], Any]) -> int:
    """The most bytes that were allocated at once above the start, as PyTorch's allocator reports them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    assert peak
    return peak


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_a_training_pass_needs_what_was_estimated(checkpointing: bool, autocast: bool, weights: torch.dtype) -> None:
    config, batch = small(4), Batch(sequences=4, length=96, labels=0)
    how = Precision(weights, autocast)
    kept, working = training_bytes(geometry(config, LORA), batch, how, checkpointing)
    model = real(config, weights)
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    ids, mask = torch.zeros((4, 96), dtype=torch.long), torch.ones((4, 96), dtype=torch.long)
    mask[0, :5] = 0
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    def step(hooks: bool = False) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            with torch.autograd.graph.saved_tensors_hooks(note if hooks else lambda t: t, lambda t: t):
                hidden = model.get_base_model().model(input_ids=ids, attention_mask=mask).last_hidden_state
            hidden.sum().backward()

    if not checkpointing:  # inside checkpointed layers no hook sees what is saved
        step(hooks=True)
        model.zero_grad()
        assert kept == pytest.approx(sum(saved.values()), rel=0.15)
    assert kept + working == pytest.approx(allocated_peak(step), rel=0.15)


def test_checkpointing_keeps_layer_inputs_and_works_in_one_layer() -> None:
    batch = Batch(4, 96, 0)
    plain, checkpointed = (training_bytes(geometry(small(8), LORA), batch, FLOAT, on) for on in (False, True))
    one = training_bytes(geometry(small(1), LORA), batch, FLOAT, False)
    assert checkpointed[0] < plain[0] / 5
    assert sum(checkpointed) == 8 * batch.tokens * 64 * 4 + sum(one)


class TestHead:
    @pytest.mark.parametrize(
        ("device", "at_once"), [("cpu", 3 * 4 * 2**24 * 0.99), ("cuda", 4096 * _CHUNKED_LOGPROB_CHUNK_SIZE * 4)]
    )
    def test_it_grows_neither_with_the_sequence_nor_with_the_vocabulary(self, device: str, at_once: float) -> None:
        def logits(tokens: int, vocabulary: int) -> int:
            sizes = Geometry(small(1, vocab_size=vocabulary, hidden_size=16), (), 0, 0)
            return head_bytes(sizes, Batch(1, tokens, tokens), FLOAT, device)

        base = logits(4096, 128_000)
        assert base >= at_once
        # Twice the sequence adds its hidden states and a few numbers per position, not its logits.
        assert 0 < logits(8192, 128_000) - base < 4096 * (16 * 4 * 4 + 200)
        assert logits(4096, 512_000) - base <= at_once / 1000

    def test_on_a_cpu_it_needs_what_was_estimated(self) -> None:
        states, weight = torch.randn(160, 32, requires_grad=True), torch.randn(40_000, 32)
        targets = torch.zeros(160, dtype=torch.long)
        sizes = Geometry(small(1, vocab_size=40_000, hidden_size=32), (), 0, 0)

        def step() -> None:
            apply: Any = LabelLogProbs.apply
            apply(states, weight, None, targets, 1.0, 0)[0].sum().backward()

        assert head_bytes(sizes, Batch(4, 80, 160), FLOAT, "cpu") == pytest.approx(allocated_peak(step), rel=0.15)

    def test_on_a_gpu_it_is_a_tile_of_the_label_positions(self) -> None:
        sizes = Geometry(small(1, vocab_size=151_936, hidden_size=1536), (), 0, 0)
        how = Precision(torch.bfloat16, autocast=True)
        few, many = (head_bytes(sizes, Batch(8, 600, labels), how, "cuda") for labels in (100, 200))
        assert few == 100 * (_CHUNKED_LOGPROB_CHUNK_SIZE * 2 + 1536 * (2 + 2 + 4) + 36)
        assert many == 2 * few


def test_scoring_needs_what_was_estimated() -> None:
    tokens = helpers.tokenizer()
    encoder = helpers.encoder(tokens)
    model = with_adapter(helpers.model(tokens, layers=3), LORA)
    events = helpers.diary(12)
    prompt = encoder.prompt_ids(events[:-1], events[-1].time, events[-1].place)
    static, trie = len(encoder.static_ids), encoder.trie
    path = len(trie.ancestors(int(trie.leaves[0]))) - 1
    window = Window(static, len(prompt) - static + path, path + 1)
    estimate = scoring_bytes(geometry(model.config, LORA), window, 12, size=4)
    scorer = TorchScorer(model, encoder)
    peak = allocated_peak(lambda: scorer.score([prompt] * 12, [Goal(1, target=0)] * 12))
    assert estimate == pytest.approx(peak, rel=0.15)


def test_scoring_memory_grows_neither_with_the_logits_nor_with_the_kept_prefix() -> None:
    """Of a wide vocabulary a tile is needed, whatever the trie; of the prefix's copies those of one layer."""

    def needed(layers: int = 2, vocabulary: int = 300, static: int = 10, **shape: int) -> int:
        window = Window(**{"static": static, "own": 120, "outputs": 100, **shape})
        return scoring_bytes(geometry(small(layers, vocab_size=vocabulary), LORA), window, 32, size=4)

    wide = needed(vocabulary=30_000)
    assert wide - needed() > TILE_ROWS * 30_000 * 4
    assert wide < 4 * TILE_ROWS * 30_000 * 4 < 3200 * 30_000 * 4
    assert needed(vocabulary=30_000, outputs=50) == pytest.approx(wide, rel=0.01)
    copies = 32 * 600 * 2 * 32 * 4
    assert needed(layers=6, static=610) - needed(layers=2, static=610) < copies


def test_a_pass_takes_as_many_windows_as_the_recipe_s_tokens_allow() -> None:
    window = Window(300, 100, 60)
    for tokens, count in ((8192, 81), (99, 1), (100_000, 128)):
        recipe = Recipe(scoring=ScoringConfig(tokens_per_pass=tokens))
        assert windows_per_pass(recipe, window) == count


def test_pretraining_needs_what_was_estimated() -> None:
    config = small(4)
    backbone = BackboneConfig(pretrain_batch_size=3, pretrain_block=64)
    need = made(config, "cpu").needs(Recipe(backbone=backbone))["backbone"]
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).train()
    ids = torch.zeros((3, 64), dtype=torch.long)
    measured = allocated_peak(lambda: model(input_ids=ids, labels=ids, use_cache=False).loss.backward())
    assert need["activations"] + need["working"] == pytest.approx(measured, rel=0.15)


WINDOW = Window(20, 60, 10)
BOTH: dict[str, Any] = {"a_tuning.gradient_checkpointing": True, "b_tuning.gradient_checkpointing": True}
LONG: dict[str, Any] = {"a_tuning": Samples(600, 400.0, 160), "b_tuning": Samples(450, 420.0, 6, sequences=2)}


@cache
def of_layers(layers: int) -> Memory:
    return made(small(layers, hidden_size=128), "cuda")


def made(config: Any, kind: Any, samples: Any = None, processes: int = 1) -> Memory:
    found = samples or {"a_tuning": Samples(80, 50.0, 20), "b_tuning": Samples(70, 60.0, 3, sequences=2)}
    device = Device(kind, "that device", 0, here=False, bf16=kind == "cuda")
    return Memory(geometry(config, LORA), Counts({}, found, {}, WINDOW, WINDOW), device, processes)


def having(memory: Memory, available: int) -> Memory:
    """The same for a device with so much memory."""
    return replace(memory, device=replace(memory.device, available=available))


def recipe(micro: int | None = None, **backbone: Any) -> Recipe:
    fields = {"path": "a/b", "dtype": "bfloat16", **backbone}
    return Recipe(
        backbone=BackboneConfig(**fields), a_tuning=ATuning(micro_batch_size=micro),
        b_tuning=BTuning(micro_batch_size=micro), scoring=ScoringConfig(tokens_per_pass=4 * WINDOW.own),
    )  # fmt: skip


@settings(max_examples=6, deadline=None)
@given(layers=st.integers(1, 2), more=st.integers(1, 2), micro=st.sampled_from([1, 2]), on=st.booleans())
def test_more_layers_or_a_larger_micro_batch_never_need_less(layers: int, more: int, micro: int, on: bool) -> None:
    knobs = {f"{stage}.gradient_checkpointing": on for stage in ("a_tuning", "b_tuning")}
    one = of_layers(layers).needs(changed(recipe(micro), knobs))
    deeper = of_layers(layers + more).needs(changed(recipe(micro), knobs))
    larger = of_layers(layers).needs(changed(recipe(2 * micro), knobs))
    for stage, need in one.items():
        assert deeper[stage]["total"] > need["total"]
        assert larger[stage]["total"] >= need["total"]
        assert min(need.values()) >= 0


class TestRefusal:
    def applied(self, hint: str, to: Recipe) -> Recipe:
        """The recipe with what a hint says to set."""
        words = hint.partition("set ")[2].split(" and ")
        pairs = [word.partition("=")[::2] for word in words]
        return changed(to, {key: value if key.endswith("quantize") else json.loads(value) for key, value in pairs})

    def refusal(self, available: int, of: Recipe) -> EdgebError:
        found = having(of_layers(6), available).refusal(of)
        assert found is not None
        return found

    def total(self, of: Recipe) -> int:
        return of_layers(6).total(of)

    def test_what_fits_is_not_refused(self) -> None:
        needed = self.total(recipe())
        assert having(of_layers(6), needed).refusal(recipe()) is None
        error = self.refusal(needed - 1, recipe())
        assert error.message == f"training needs about {gib(needed)}, that device has {gib(needed - 1)}"

    def test_checkpointing_comes_first(self) -> None:
        hint = self.refusal(self.total(changed(recipe(), BOTH)), recipe()).hint
        assert hint == "set a_tuning.gradient_checkpointing=true and b_tuning.gradient_checkpointing=true"

    def test_only_the_stages_that_need_it_are_changed(self) -> None:
        plain = recipe()
        needs = of_layers(6).needs(plain)
        assert needs["b_tuning"]["total"] > needs["a_tuning"]["total"]
        hint = self.refusal(needs["a_tuning"]["total"], plain).hint
        assert hint == "set b_tuning.gradient_checkpointing=true"

    def test_then_smaller_micro_batches(self) -> None:
        of = changed(recipe(), BOTH)
        for size in (4, 2, 1):
            wanted = changed(of, {"a_tuning.micro_batch_size": size, "b_tuning.micro_batch_size": size})
            hint = self.refusal(self.total(wanted), of).hint
            assert f"b_tuning.micro_batch_size={size}" in hint
            assert "checkpointing" not in hint
            assert self.total(self.applied(hint, of)) <= self.total(wanted)

    def test_then_four_bits_on_a_gpu_and_all_together(self) -> None:
        of = recipe()
        smallest = {**BOTH, "a_tuning.micro_batch_size": 1, "b_tuning.micro_batch_size": 1}
        for change in ({**smallest}, {**smallest, "backbone.quantize": "4bit"}):
            available = self.total(changed(of, change))
            hint = self.refusal(available, of).hint
            assert hint.startswith("set ")
            assert self.total(self.applied(hint, of)) <= available
        assert "quantize=4bit" in hint

    def test_scoring_is_told_to_take_fewer_tokens(self) -> None:
        of = changed(recipe(), {"a_tuning.micro_batch_size": 1, "b_tuning.micro_batch_size": 1, **BOTH})
        large = changed(of, {"scoring.tokens_per_pass": 1 << 16})
        needs = of_layers(6).needs(large)
        least = max(need["total"] for stage, need in needs.items() if stage != "scoring")
        assert needs["scoring"]["total"] > least
        hint = self.refusal(needs["scoring"]["total"] - 1, large).hint
        assert hint.startswith("set scoring.tokens_per_pass=")
        assert self.total(self.applied(hint, large)) < needs["scoring"]["total"]

    def test_processes_share_the_batch_and_keep_the_weights(self) -> None:
        alone, four = made(small(2), "cuda"), made(small(2), "cuda", processes=4)
        one, shared = (found.needs(recipe())["a_tuning"] for found in (alone, four))
        assert shared["weights"] == one["weights"]
        assert shared["adapter"] == one["adapter"] * 5 // 4
        assert shared["activations"] == alone.needs(recipe(2))["a_tuning"]["activations"] < one["activations"]

    def test_a_hopeless_device_hears_what_would_do(self) -> None:
        of = recipe()
        hint = self.refusal(1000, of).hint
        assert hint.startswith("use a device with at least ")
        assert "quantize" in hint
        size, unit = hint.removeprefix("use a device with at least ").split()[:2]
        enough = float(size) * {"MiB": 2**20, "GiB": GIB}[unit]
        assert self.total(self.applied(hint, of)) <= enough


class TestEightBillion:
    def of(self, **backbone: Any) -> Recipe:
        return changed(recipe(4, **backbone), BOTH)

    @pytest.fixture(scope="class")
    def found(self) -> Memory:
        return made(LlamaConfig(**LLAMA), "cuda", LONG)

    def test_four_bits_and_checkpointing_fit_24_gib(self, found: Memory) -> None:
        of = self.of(quantize="4bit")
        weights = found.needs(of)["a_tuning"]["weights"]
        assert weights == pytest.approx(5.31 * GIB, rel=1e-2)
        assert weights < found.total(of) < 12 * GIB
        assert having(found, 24 * GIB).refusal(of) is None

    def test_without_checkpointing_it_is_told_to_use_it(self, found: Memory) -> None:
        error = having(found, 24 * GIB).refusal(recipe())
        assert error is not None
        assert error.hint == "set a_tuning.gradient_checkpointing=true and b_tuning.gradient_checkpointing=true"

    def test_on_12_gib_it_is_told_to_use_four_bits(self, found: Memory) -> None:
        error = having(found, 12 * GIB).refusal(self.of())
        assert error is not None
        assert error.hint == "set backbone.quantize=4bit"


class TestDevices:
    def test_amounts_of_memory(self) -> None:
        sizes = {"24GiB": 24 * GIB, "80 GB": 80 * 10**9, "1.5gib": 3 * GIB // 2, "512MiB": 2**29, "1000": 1000}
        for text, size in sizes.items():
            found = other_gpu(text)
            assert (found.available, found.kind, found.here) == (size, "cuda", False)
        for text in ("much", "24 TiB", "-1GiB", "", "0GiB"):
            with pytest.raises(EdgebError, match="not an amount of memory"):
                other_gpu(text)

    def test_this_device_is_what_training_would_use(self) -> None:
        found = this_device()
        assert found.here
        assert found.kind == ("cuda" if torch.cuda.is_available() else "cpu")
        assert found.available > 0

    def test_weights_are_held_as_the_run_would_hold_them(self) -> None:
        sizes, gpu = geometry(small(1, dtype="bfloat16"), LORA), other_gpu("1GiB")
        cpu = replace(gpu, kind="cpu", bf16=False)
        auto = recipe(dtype="auto")
        assert precision(auto, sizes, gpu) == Precision(torch.bfloat16, autocast=True)
        assert precision(auto, sizes, cpu) == Precision(torch.float32, autocast=False)
        assert precision(recipe(dtype="float16"), sizes, cpu).weights == torch.float16
        assert precision(changed(auto, {"backbone.path": None}), sizes, gpu).weights == torch.float32

    def test_micro_batches_divide_the_batch(self) -> None:
        for batch, wanted, given_ in ((8, None, 8), (8, 3, 2), (9, 4, 3), (4, 16, 4)):
            assert micro_batch_of(ATuning(batch_size=batch, micro_batch_size=wanted)) == given_

    def test_and_the_share_of_a_process(self) -> None:
        for processes, wanted, given_ in ((1, None, 8), (2, None, 4), (4, 4, 2), (8, 4, 1), (2, 3, 2)):
            assert micro_batch_of(ATuning(batch_size=8, micro_batch_size=wanted), processes) == given_
