"""What run.json records, field by field. Runs of older versions lack the fields that have a default here."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from edge_behavior.util.fields import Section

SCHEMA_VERSION = 1


class BackboneRecord(Section):
    """The backbone of a run: a hub name, a folder, or the stand-in inside the run."""

    path: str
    standin: bool
    revision: str | None = None


class DatasetRecord(Section):
    """The dataset a run was trained on."""

    path: str
    fingerprint: str


class ComputingRecord(Section):
    """What `backbone.dtype: auto` stands for in this run, whatever machine it goes on at, and why it was chosen."""

    dtype: str
    why: str


class CandidateRecord(Section):
    """One label and how often the training users show it."""

    label: str
    count: int


class InputFile(Section):
    """A file outside the run that a recipe field points to. Same size and mtime: taken for the same file."""

    sha256: str
    size: int
    mtime_ns: int


# By recipe field, then by file name.
Inputs = dict[str, dict[str, InputFile]]


class StageRecord(Section):
    """A finished stage: the key of its work (`stage_key`), and SHA-256 of what it made by path in the run folder."""

    key: str
    files: dict[str, str]


class ChangeRecord(Section):
    """One resume with other settings: when, during which stage (None: after the last), and [old, new] by field."""

    when: str
    during: str | None
    started_over: bool
    fields: dict[str, tuple[Any, Any]]


class RunState(Section):
    """All of run.json. Only fields that were set are written, in this order.

    Attributes:
        done: Report of every finished stage.
        edgeb: Version that began the run.
        created: UTC, ISO 8601.
        layout: As `PromptLayout.to_dict` gives it.
        computing: Where the recipe leaves the dtype open.
        recipe: The recipe in force. recipe.yaml differs only where a user has edited it, or within a change.
        made: By finished stage.
    """

    schema_version: int
    done: dict[str, dict[str, Any]]
    edgeb: str | None = None
    created: str | None = None
    dataset: DatasetRecord | None = None
    candidates: list[CandidateRecord]
    inputs: Inputs = Field({})
    backbone: BackboneRecord
    layout: dict[str, Any]
    recipe: dict[str, Any] | None = None
    computing: ComputingRecord | None = None
    made: dict[str, StageRecord] = Field({})
    changes: list[ChangeRecord] = Field([])

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of run.json."""
        return self.model_dump(exclude_unset=True)

    @property
    def fingerprint(self) -> str | None:
        """The dataset's, where it is on record."""
        return None if self.dataset is None else self.dataset.fingerprint
