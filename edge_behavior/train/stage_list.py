"""The stages of a training run, in order: the one list that everything else about stages is read from.

To add a stage, add it here and bind its name to a function in `train.pipeline`. A stage needs what all stages before it
made. Knows no trainer and no library, so that any module may import it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

BACKBONE_FIELD = "backbone.path"
CONVERSATIONS_FIELD = "a_tuning.aux_path"
# Recipe fields that no stage computes with: names, and what the run is for. A method's effect is in its other fields.
_NOT_COMPUTED = ("name", "method", "backbone.export")
_REPORTED = ("evaluation.per_user", "evaluation.per_behavior", "evaluation.limit")
# Fields that say how a stage is computed (memory, kernels, logs): the result is the same up to rounding.
FREE = frozenset(
    (
        *("threads", "report_to", "backbone.attention", "backbone.export", "scoring.tokens_per_pass"),
        *(
            f"{s}_tuning.{name}"
            for s in "ab"
            for name in ("gradient_checkpointing", "micro_batch_size", "padding_free")
        ),
    )
)


@dataclass(frozen=True)
class Stage:
    """One stage of a run. Paths are relative to the run folder.

    Attributes:
        name: As the recipe, run.json and the run's subfolders call it.
        title: As people call it.
        unread: Recipe fields that it does not depend on; `section.` is all of a section. Every other field counts, so
            that one added later is never overlooked.
        input_fields: Recipe fields that point to files it reads.
        output: The file or folder that later stages or users read; None where nothing depends on it.
        progress: Folders that hold work in progress. They are deleted when the stage is done, or when a field changes
            that this work depended on; the stage then starts over.
        scores: Folders of scored windows, deleted when the stage is done. They survive a changed field, since they
            record which windows they hold.
        restarts_on: The `FREE` fields that its `progress` does not survive.
        tunes: Whether its output is an adapter: a model that is evaluated and can be exported.
        shareable: Whether a run may copy it from another run that did the same work.
    """

    name: str
    title: str
    unread: tuple[str, ...] = ()
    input_fields: tuple[str, ...] = ()
    output: str | None = None
    progress: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    restarts_on: frozenset[str] = frozenset()
    tunes: bool = False
    shareable: bool = False

    @property
    def scratch(self) -> tuple[str, ...]:
        """Folders that only an unfinished stage needs."""
        return self.progress + self.scores

    def reads(self, field: str) -> bool:
        """Whether the stage depends on a recipe field."""
        return not any(field.startswith(part) if part.endswith(".") else field == part for part in self.unread)

    def starts_over(self, changed: Iterable[str]) -> bool:
        """Whether work in progress belongs to other values of these recipe fields."""
        return any(field in self.restarts_on if field in FREE else self.reads(field) for field in changed)


STAGES = (
    Stage(
        "backbone",
        "stand-in",
        unread=(*_NOT_COMPUTED, "lora.", "a_tuning.", "b_tuning.", "scoring.", "evaluation."),
        output="backbone",
        shareable=True,
    ),
    Stage(
        "a_tuning",
        "A-Tuning",
        unread=(*_NOT_COMPUTED, "b_tuning.", "scoring.", *_REPORTED),
        input_fields=(BACKBONE_FIELD, CONVERSATIONS_FIELD),
        output="a_tuning/adapter",
        progress=("a_tuning/checkpoints",),
        # Padding-free rows come in another order, and the best validation loss is one of means over micro-batches.
        restarts_on=frozenset(("backbone.attention", "a_tuning.padding_free", "a_tuning.micro_batch_size")),
        tunes=True,
        shareable=True,
    ),
    Stage(
        "b_tuning",
        "B-Tuning",
        unread=(*_NOT_COMPUTED, *_REPORTED),
        input_fields=(BACKBONE_FIELD,),
        output="b_tuning/adapter",
        progress=("b_tuning/checkpoints", "b_tuning/best"),
        scores=("b_tuning/pool",),
        tunes=True,
    ),
    Stage(
        "evaluation",
        "evaluation",
        unread=_NOT_COMPUTED,
        input_fields=(BACKBONE_FIELD,),
        output="metrics.json",
        scores=("evaluation",),
    ),
    # Its texts may be edited, and nothing reads them.
    Stage("report", "report"),
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)
TUNED = tuple(stage.name for stage in STAGES if stage.tunes)
UNTUNED = "untuned"
# What a run evaluates, from the backbone to the final model.
MODELS = (UNTUNED, *TUNED)


def stage_named(name: str) -> Stage:
    """The stage of that name."""
    return next(stage for stage in STAGES if stage.name == name)
