"""The studies: the paper's ablations (Table 4, Figure 5) and sweeps, as changes to a base recipe.

Recipes in, recipes out; trains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_behavior.errors import EdgebError, nearest
from edge_behavior.studies.runs.planned import PlannedRun, changed, identity
from edge_behavior.train.recipe import Recipe
from edge_behavior.util.files import expand_home

FULL = "full"
AUXILIARY = "aux_data"
DEFAULT_SEEDS = 5


@dataclass(frozen=True)
class Variant:
    """A recipe to compare: `changes` maps `section.field` to its value; `value` is the swept number, if any."""

    name: str
    title: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    value: float | None = None


@dataclass(frozen=True)
class Study:
    """Variants that are compared with each other and with the full recipe, which has no change."""

    name: str
    title: str
    note: str
    variants: tuple[Variant, ...]

    @property
    def swept(self) -> bool:
        """Whether the variants are values of one number."""
        return all(variant.value is not None for variant in self.variants)


@dataclass(frozen=True)
class Plan:
    """Studies and the runs they need.

    Attributes:
        studies: What was asked for.
        seeds: Seeds of every variant.
        runs: Each needed run once, all of the first seed before the next.
        run_of: Name of the run of (variant name, seed). Variants that result in the same recipe share runs.
    """

    studies: tuple[Study, ...]
    seeds: tuple[int, ...]
    runs: tuple[PlannedRun, ...]
    run_of: Mapping[tuple[str, int], str]


def all_studies(auxiliary: Mapping[str, str] | None = None) -> tuple[Study, ...]:
    """Every study there is.

    Args:
        auxiliary: Conversation files for the study of auxiliary data, by name; without one that study is left out.
    """
    studies = (
        Study(
            "components",
            "Without one component (Table 4)",
            "Each row removes one component from the recipe. Without A-Tuning, stage 2 starts from a new adapter.",
            (
                Variant("without_aux", "w/o auxiliary task", {"a_tuning.aux_ratio": 0.0}),
                Variant("without_dds", "w/o DDS (uniform)", {"b_tuning.selection": "uniform"}),
                Variant("without_kmeans", "w/o k-means (hardest)", {"b_tuning.selection": "difficulty"}),
                Variant("without_dpo", "w/o DPO (SFT)", {"b_tuning.method": "sft"}),
                Variant("without_a_tuning", "w/o A-Tuning", {"a_tuning.method": "none"}),
            ),
        ),
        Study(
            "targets",
            "What stage 1 learns (Figure 5)",
            "Tail first means medium and tail behaviors, as in the paper: the tail alone is too rare.",
            (
                Variant("targets_anchors", "anchors only", {"a_tuning.targets": "anchors"}),
                Variant("targets_all", "all behaviors", {"a_tuning.targets": "all"}),
                Variant("targets_tail_first", "tail first", {"a_tuning.targets": "medium_and_tail"}),
            ),
        ),
        _sweep(
            "aux_ratio",
            "Auxiliary ratio ε",
            "Conversations per anchor training sequence.",
            "a_tuning.aux_ratio",
            (0.0, 0.025, 0.05, 0.1, 0.2),
        ),
        _sweep(
            "anchor_threshold",
            "Anchor threshold",
            "Share of events above which a behavior is an anchor. The tables keep the base recipe's groups.",
            "a_tuning.anchor_threshold",
            (0.005, 0.01, 0.02),
        ),
        _sweep(
            "samples_per_behavior",
            "Samples per behavior F",
            "Preference pairs selected for each behavior.",
            "b_tuning.samples_per_behavior",
            (5, 10, 20, 40),
        ),
        _sweep(
            "difficulty_weight",
            "Difficulty weight λ",
            "At 1 the probability term alone counts, at 0 the confusion term alone.",
            "b_tuning.difficulty_weight",
            (0.0, 0.25, 0.5, 0.75, 1.0),
        ),
        _choice(
            "confusion",
            "Confusion rule",
            "The sign of the confusion term in Eq. 3.",
            "b_tuning.confusion",
            {"intended": "intended", "as-printed": "as printed"},
        ),
        _choice(
            "method",
            "Stage 2 method",
            "With `none`, the model of stage 1 is kept.",
            "b_tuning.method",
            {"dpo": "DPO", "sft": "SFT", "none": "none"},
        ),
        Study(
            "layout",
            "Prompt layout",
            "A stand-in backbone is pretrained separately for each layout.",
            (
                Variant("layout_stream", "stream", {"layout.name": "stream"}),
                Variant("layout_prefix", "prefix", {"layout.name": "prefix"}),
                # This layout always names its candidates.
                Variant("layout_instruct", "instruct", {"layout.name": "instruct", "layout.list_candidates": True}),
            ),
        ),
    )
    if not auxiliary:
        return studies
    note = "Stage 1 takes its conversations from these files. Those longer than the longest training row are left out."
    variants = tuple(Variant(f"aux_{name}", name, {"a_tuning.aux_path": path}) for name, path in auxiliary.items())
    return (*studies, Study(AUXILIARY, "Auxiliary data (Table 7)", note, variants))


def auxiliary_files(texts: Sequence[str]) -> dict[str, str]:
    """`NAME=FILE` or `FILE` (named by its stem) as {name: file}.

    Raises:
        EdgebError: no name, or two files with the same one.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals:
            name, path = Path(text).name.split(".")[0], text
        if not name or not path or name in found:
            raise EdgebError(f"--aux {text}: no name, or a name already taken", "write --aux NAME=FILE")
        found[name] = str(expand_home(path))
    return found


def chosen(studies: Sequence[Study], only: Sequence[str]) -> tuple[Study, ...]:
    """The studies named by `only`; all of them if it is empty.

    Raises:
        EdgebError: an unknown name.
    """
    names = [study.name for study in studies]
    for name in only:
        if name == AUXILIARY and name not in names:
            raise EdgebError(f"study '{name}' has no data", "give conversation files with --aux NAME=FILE")
        if name not in names:
            raise EdgebError(f"no study named '{name}'", nearest(name, names))
    return tuple(study for study in studies if not only or study.name in only)


def varied(base: Recipe, variant: Variant, seed: int) -> Recipe:
    """The base recipe with a variant's changes and a seed.

    Raises:
        EdgebError: the changes do not fit the recipe.
    """
    name = base.name if variant.name == FULL else f"{base.name}-{variant.name}"
    return changed(base, variant.changes, seed, name, f"variant {variant.name}")


def make_plan(base: Recipe, studies: Sequence[Study], wanted: Sequence[Study], seeds: Sequence[int]) -> Plan:
    """The runs that `wanted` needs, those of the full recipe among them.

    Args:
        base: The recipe to vary.
        studies: All studies: a run is named after the first variant among them that needs it, so that its folder does
            not depend on what was asked for.
        wanted: Some of `studies`.
        seeds: Seeds of every variant.
    """
    full = Variant(FULL, "full recipe")
    needed = {FULL, *(variant.name for study in wanted for variant in study.variants)}
    runs: dict[str, PlannedRun] = {}
    run_of: dict[tuple[str, int], str] = {}
    for seed in seeds:
        name_of: dict[str, str] = {}
        for variant in (full, *(variant for study in studies for variant in study.variants)):
            recipe = varied(base, variant, seed)
            name = name_of.setdefault(identity(recipe), f"{variant.name}-seed{seed}")
            if variant.name in needed:
                run_of[variant.name, seed] = name
                first = name.rpartition("-seed")[0]
                named = recipe.model_copy(update={"name": base.name if first == FULL else f"{base.name}-{first}"})
                runs.setdefault(name, PlannedRun(name, seed, named))
    return Plan(tuple(wanted), tuple(seeds), tuple(runs.values()), run_of)


def _sweep(name: str, title: str, note: str, key: str, values: Sequence[float]) -> Study:
    variants = tuple(Variant(f"{name}_{value:g}", f"{value:g}", {key: value}, float(value)) for value in values)
    return Study(name, title, note, variants)


def _choice(name: str, title: str, note: str, key: str, values: Mapping[str, str]) -> Study:
    variants = tuple(Variant(f"{name}_{value}", shown, {key: value}) for value, shown in values.items())
    return Study(name, title, note, variants)
