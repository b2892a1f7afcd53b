"""Typed training recipes: every setting of a run with its default and its bounds, and where recipe files are found.

Precedence is flag > recipe file > method > default; the resolved recipe is saved with the run. Knows no trainer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from edge_behavior.core.candidates import ANCHOR_THRESHOLD
from edge_behavior.core.prompts import ROLE, TASK, PromptLayout
from edge_behavior.core.scoring import TOKENS_PER_PASS
from edge_behavior.errors import EdgebError, nearest
from edge_behavior.hf.chat_template import chat_turns
from edge_behavior.train.methods import DEFAULT_METHOD, METHODS, method_title
from edge_behavior.util.fields import Section, complaint, config_folders, field_names, find_config, read_mapping

# Libraries take seeds and sizes of 32 bits.
_MOST = 2**32 - 1


class _Settings(Section):
    @field_validator("*")
    @classmethod
    def _countable(cls, value: Any) -> Any:
        if isinstance(value, int) and value > _MOST:
            raise ValueError(f"should be at most {_MOST}")
        return value


class BackboneConfig(_Settings):
    """The model to tune."""

    path: str | None = Field(None, description="Hub name or local folder; null builds the stand-in below")
    revision: str | None = Field(None, description="Hub revision")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Weights in memory; auto: the checkpoint's on a GPU; on a CPU bfloat16 if faster, or float32",
    )
    quantize: Literal["none", "4bit"] = Field("none", description="4bit: QLoRA, with the frozen weights as NF4")
    attention: Literal["auto", "sdpa", "flash_attention_2"] = Field(
        "auto", description="Training kernels; auto: FlashAttention where package and GPU have it"
    )
    export: Literal["gguf", "onnx", "none"] = Field(
        "gguf", description="Export format the backbone is checked for at the start; none: the run is never exported"
    )
    hidden_size: int = Field(256, ge=16, le=16_384, description="Stand-in: width")
    layers: int = Field(4, ge=1, le=256, description="Stand-in: depth")
    heads: int = Field(4, ge=1, le=256, description="Stand-in: attention heads")
    kv_heads: int = Field(2, ge=1, le=256, description="Stand-in: key/value heads")
    intermediate_size: int = Field(768, ge=16, le=65_536, description="Stand-in: feed-forward width")
    vocab_size: int = Field(2048, ge=300, le=1_000_000, description="Stand-in: tokenizer size")
    pretrain_tokens: int = Field(
        4_000_000, ge=0, description="Stand-in: tokens of generated everyday text to pretrain on"
    )
    pretrain_tail_contexts: bool = Field(
        True, description="Stand-in: the text shows when, where and next to what labels below 1 % occur"
    )
    pretrain_learning_rate: float = Field(2e-3, gt=0, description="Stand-in: peak learning rate")
    pretrain_batch_size: int = Field(16, ge=1, description="Stand-in: sequences per step")
    pretrain_block: int = Field(384, ge=32, le=131_072, description="Stand-in: tokens per sequence")


class LayoutConfig(_Settings):
    """How events become prompts."""

    name: Literal["stream", "prefix", "instruct"] = Field("stream", description="See docs/train.md")
    list_candidates: bool = Field(True, description="List the candidates in the prompt's static part")
    candidate_order: Literal["frequency", "alphabetical", "shuffled"] = Field(
        "frequency", description="shuffled: A-Tuning's rows each in a random order, all other prompts alphabetical"
    )
    history_length: int = Field(20, ge=1, le=100_000, description="L, past events that a prediction sees")
    task: str = Field(TASK, description="Part 1 of the prompt: the task")
    role: str = Field(ROLE, description="Part 2 of the prompt: the role")
    places: bool | None = Field(None, description="Name places in prompts; null: where the dataset has them")
    chat_template: bool = Field(False, description="Wrap prompts in the backbone's chat template (an instruct model's)")

    def layout(self, dataset_places: bool, tokenizer: Any) -> PromptLayout:
        """The layout these fields describe.

        Args:
            dataset_places: Whether the dataset has places.
            tokenizer: The backbone's; None does where no chat template is taken from it.

        Raises:
            EdgebError: see `names_places` and `chat_turns`.
        """
        fields = {**self.model_dump(exclude={"chat_template"}), "places": self.names_places(dataset_places)}
        if self.candidate_order == "shuffled":
            fields["candidate_order"] = "alphabetical"
        return PromptLayout(**fields, chat=chat_turns(tokenizer) if self.chat_template else None)

    def names_places(self, dataset_places: bool) -> bool:
        """Whether prompts name places.

        Raises:
            EdgebError: places are asked for and the dataset has none.
        """
        if self.places and not dataset_places:
            raise EdgebError("layout.places is true, but the dataset has no places", "set layout.places=null")
        return dataset_places if self.places is None else self.places


class LoraSettings(_Settings):
    """The LoRA adapter; the paper states no rank."""

    rank: int = Field(8, ge=1, le=16_384)
    alpha: int = Field(16, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str = Field("all-linear", description="As PEFT takes it")


class StageConfig(_Settings):
    """Settings that both tuning stages have: schedule, batches and stopping."""

    learning_rate: float = Field(1e-4, gt=0, description="Peak of the cosine schedule")
    min_learning_rate: float = Field(1e-6, ge=0, description="Start of the warm-up and end of the cosine")
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="Share of the steps")
    weight_decay: float = Field(0.0, ge=0)
    batch_size: int = Field(8, ge=1, description="Sequences per optimizer step")
    micro_batch_size: int | None = Field(None, ge=1, description="Sequences per forward pass; null: batch_size")
    epochs: float = Field(8, gt=0, description="Passes over the data, at most")
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps, at most; null: by epochs")
    patience: int = Field(2, ge=1, description="Stop after this many evaluations without improvement")
    evals_per_epoch: float = Field(1, gt=0, description="Evaluations on validation users per epoch")
    gradient_checkpointing: bool = Field(False, description="Less memory for about a third more time")
    padding_free: bool | None = Field(
        None, description="Lay sequences end to end instead of padding them; null: with FlashAttention, and on a CPU"
    )


class ATuning(StageConfig):
    """A-Tuning, §3.2: supervised tuning on anchors (frequent behaviors) plus some conversation."""

    method: Literal["sft", "none"] = Field("sft", description="none: the adapter stays untrained (w/o A-Tuning)")
    targets: Literal["anchors", "all", "tail", "medium_and_tail"] = Field("anchors", description="Labels with a loss")
    anchor_threshold: float = Field(
        ANCHOR_THRESHOLD, gt=0, lt=1, description="Share of training events above which a label is an anchor"
    )
    class_weights: Literal["none", "inverse", "sqrt_inverse"] = Field(
        "none", description="Weight of a label's loss: one over its share of the training events, or over the root"
    )
    max_targets: int = Field(200_000, ge=1, description="Supervised targets per epoch, at most")
    draw: Literal["fixed", "fresh"] = Field(
        "fixed", description="fixed: one sample for all epochs and the pool; fresh: drawn and cut anew per epoch"
    )
    stretch_min: int = Field(2, ge=2, le=100_000, description="stream: fewest events in a training sequence")
    stretch_max: int = Field(40, ge=2, le=100_000, description="stream: most events in a training sequence")
    aux_ratio: float = Field(0.05, ge=0, description="ε, conversations per anchor training sequence")
    aux_max_loss_share: float | None = Field(
        0.25, gt=0, lt=1, description="Most of the tokens with a loss that conversations may take; null: any share"
    )
    aux_path: str | None = Field(
        None, description="Conversations as JSON: ShareGPT, messages, Alpaca, …; null: generated small talk"
    )
    aux_max_tokens: int | None = Field(
        None, ge=16, description="Skip longer conversations; null: the longest training sequence"
    )


class BTuning(StageConfig):
    """B-Tuning, §3.3: balanced tuning on difficult samples."""

    method: Literal["dpo", "sft", "none"] = Field("dpo", description="none: keep the A-tuned model")
    pool_per_behavior: int | None = Field(200, ge=1, description="Samples scored per behavior; null: all")
    samples_per_behavior: int = Field(20, ge=1, description="F, preference pairs per behavior, at most")
    difficulty_weight: float = Field(0.5, ge=0, le=1, description="λ of Eq. 3")
    confusion: Literal["intended", "as-printed"] = Field("intended", description="Sign of Eq. 3's confusion term")
    selection: Literal["weighted-kmeans++", "difficulty", "uniform"] = Field("weighted-kmeans++")
    dpo_beta: float = Field(0.1, gt=0, description="β of Eq. 4")
    sft_weight: float = Field(
        0.0, ge=0, description="DPO: the loss also holds the chosen answer's negative log-probability, times this"
    )
    epochs: float = Field(3, gt=0)
    learning_rate: float = Field(5e-5, gt=0)


class ScoringConfig(_Settings):
    """How windows of the pool, validation users and test users are scored."""

    tokens_per_pass: int = Field(
        TOKENS_PER_PASS, ge=1, description="Tokens of prompts and label tries per forward pass; fewer need less memory"
    )
    bound: float | None = Field(
        0.1, gt=0, description="Nats within which a window's sum over all labels is proven; null: score every label"
    )
    windows: Literal["alone", "session"] = Field(
        "alone",
        description="stream: windows of validation and test each by itself, or as a session grows and cuts them",
    )


class EvaluationConfig(_Settings):
    """What the run is evaluated on."""

    per_user: int = Field(20, ge=0, description="Natural protocol: windows per user; 0: all")
    per_behavior: int = Field(500, ge=1, description="Balanced protocol: windows per behavior")
    limit: int | None = Field(None, ge=1, description="Windows per protocol, at most")
    validation_targets: int = Field(2_000, ge=10, description="Validation targets for early stopping")


class Recipe(_Settings):
    """A whole training recipe."""

    name: str = "default"
    method: str | None = Field(
        None, description="One of train/methods.py, whose fields it gives unless they are set; null: none, by hand"
    )
    seed: int = Field(0, ge=0)
    threads: int | None = Field(None, ge=1, description="CPU threads; null: what other processes leave free")
    report_to: list[Literal["tensorboard", "wandb"]] = Field(
        ["tensorboard"], description="Where trainers log; wandb (Weights & Biases) is configured by its own variables"
    )
    backbone: BackboneConfig = BackboneConfig()
    layout: LayoutConfig = LayoutConfig()
    lora: LoraSettings = LoraSettings()
    a_tuning: ATuning = ATuning()
    b_tuning: BTuning = BTuning()
    scoring: ScoringConfig = ScoringConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def tuning(self, stage: str) -> StageConfig:
        """The section of a tuning stage, `a_tuning` or `b_tuning`."""
        return {"a_tuning": self.a_tuning, "b_tuning": self.b_tuning}[stage]

    @property
    def method_title(self) -> str:
        """The method in words, see `methods.method_title`."""
        return method_title(self.method, self.model_dump())


def recipe_folders() -> list[Path]:
    """Where named recipes are looked up: in the wheel, else in the checkout."""
    return config_folders("train")


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    return sorted({p.stem for folder in recipe_folders() for p in folder.glob("*.yaml")})


def find_recipe(name_or_file: str) -> Path:
    """Path of a recipe given by name or file.

    Raises:
        EdgebError: no such recipe; the hint names the nearest.
    """
    return find_config("train", name_or_file, "recipe", "recipe", recipe_names())


def load_recipe(
    name_or_file: str, overrides: Sequence[str] = (), default_method: str | None = DEFAULT_METHOD
) -> Recipe:
    """Read a recipe, take its method's fields where it has none, and apply `section.key=value` overrides.

    A method named by an override (`method=plain`) replaces its fields in the file, too; other overrides come after it.

    Args:
        default_method: For a recipe that names none; None leaves its fields as they are.

    Raises:
        EdgebError: unreadable YAML, an unknown key (with the nearest valid one) or a value of the wrong type.
    """
    path = find_recipe(name_or_file)
    fields = read_mapping(path, "a recipe is a mapping of sections", "start from a shipped recipe")
    fields.setdefault("name", path.stem)
    given = [read_override(text) for text in overrides]
    fields.setdefault("method", default_method)
    for key, value in sorted(given, key=lambda pair: pair[0] != "method"):
        _set(fields, key, value)
        if key == "method":
            _take_method(fields, value, replace=True)
    _take_method(fields, fields["method"], replace=False)
    return parse_recipe(fields, str(path), {key for key, _ in given})


def read_override(text: str) -> tuple[str, Any]:
    """Key and value of a `section.key=value` override.

    Raises:
        EdgebError: not of that form, or no YAML value.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise EdgebError(f"--set {text}: not of the form section.key=value", "for example --set a_tuning.epochs=2")
    try:
        return key.strip(), yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):
        raise EdgebError(f"--set {text}: '{value}' is not a YAML value", "quote it") from None


def parse_recipe(fields: dict[str, Any], source: str, flags: Collection[str] = ()) -> Recipe:
    """Validate a recipe's fields.

    Args:
        fields: As a recipe file has them.
        source: Named in error messages.
        flags: Keys that `--set` gave; errors about them name `--set`.

    Raises:
        EdgebError: an unknown key (with the nearest valid one), a wrong value, or fields that contradict each other.
    """
    try:
        recipe = Recipe.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        if any(flag == key or flag.startswith(f"{key}.") for flag in flags):
            source = "--set"
        if first["type"] == "extra_forbidden":
            raise EdgebError(f"{source}: unknown recipe key '{key}'", _nearest_key(key)) from None
        value = first["input"]
        raise EdgebError(
            f"{source}: {key} = {value!r}: {complaint(first)}", "see the comments in train/configs"
        ) from None
    if recipe.method is not None and recipe.method not in METHODS:
        where = "--method" if "method" in flags else f"{source}: method"
        raise EdgebError(f"{where} = {recipe.method!r}: there is no such method", nearest(recipe.method, METHODS))
    stage = recipe.a_tuning
    if stage.stretch_min > stage.stretch_max:
        raise EdgebError(
            f"{source}: a_tuning.stretch_min {stage.stretch_min} is above stretch_max {stage.stretch_max}", "swap them"
        )
    if recipe.scoring.windows == "session" and recipe.layout.name != "stream":
        raise EdgebError(
            f"{source}: scoring.windows=session needs the stream layout, not {recipe.layout.name}",
            "set scoring.windows=alone",
        )
    if recipe.layout.name == "instruct" and not recipe.layout.list_candidates:
        raise EdgebError(
            f"{source}: the instruct layout always lists its candidates", "set layout.list_candidates=true"
        )
    if recipe.layout.candidate_order != "frequency" and not recipe.layout.list_candidates:
        raise EdgebError(
            f"{source}: layout.candidate_order is {recipe.layout.candidate_order}, and no candidate is listed",
            "set layout.list_candidates=true, or layout.candidate_order=frequency",
        )
    if recipe.layout.chat_template and recipe.backbone.path is None:
        raise EdgebError(
            f"{source}: layout.chat_template is true, and the stand-in has no chat template", "set backbone.path"
        )
    return recipe


def _set(fields: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    at = fields
    for section in sections:
        at = at.setdefault(section, {})
        if not isinstance(at, dict):
            raise EdgebError(f"--set {key}: '{section}' is not a section", _nearest_key(key))
    at[last] = value


def _take_method(fields: dict[str, Any], name: object, replace: bool) -> None:
    """Give a recipe the fields of a method that it lacks, or all with `replace`; `parse_recipe` refuses other names."""
    if not isinstance(name, str) or name not in METHODS:
        return
    for key, value in METHODS[name].fields.items():
        section, _, field = key.partition(".")
        held = fields.setdefault(section, {})
        if isinstance(held, dict) and (replace or field not in held):
            held[field] = value


def _nearest_key(key: str) -> str:
    known = field_names(Recipe)
    section, _, leaf = key.rpartition(".")
    same_name = [k for k in known if k.rsplit(".", 1)[-1] == leaf]
    if same_name:
        return f"did you mean '{same_name[0]}'?"
    inside = [k.rsplit(".", 1)[-1] for k in known if k.startswith(f"{section}.")] if section else []
    return nearest(leaf, inside, fallback=40) if inside else nearest(section or leaf, [*Recipe.model_fields, *known])
