"""A run folder: where a training run keeps what it made, and which stages are done.

    recipe.yaml      the resolved recipe
    run.json         backbone, dataset, candidates, layout, versions; recipe as in force and what was changed when;
                     finished stages, with checksums of what they made
    backbone/        only where the recipe builds a stand-in
    a_tuning/adapter, b_tuning/adapter
    pairs.jsonl, metrics.json, report.html, README.md

Knows no trainer and no model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.util.files import expand_home, write_file

STAGES = ("a_tuning", "b_tuning")
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class RunFolder:
    """Paths and state of one run."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run.

        Raises:
            EdgebError: the folder is not a run, or of a newer version.
        """
        run = cls(path)
        if not (path / "run.json").is_file():
            raise EdgebError(f"{path} is not a run folder: it has no run.json", "pass the --out of `edgeb train`")
        state = run.state
        if state.get("schema_version") != SCHEMA_VERSION:
            raise EdgebError(
                f"{path}/run.json has schema version {state.get('schema_version')}", "update edgeb, or train again"
            )
        missing = [key for key in ("done", "backbone", "candidates", "layout") if key not in state]
        if missing:
            raise EdgebError(f"{path}/run.json lacks '{missing[0]}'", "the file is damaged; train again")
        return run

    @property
    def state(self) -> dict[str, Any]:
        """Content of run.json."""
        return read_json(self.path / "run.json")

    def update(self, **fields: Any) -> None:
        """Merge fields into run.json."""
        old = self.state if (self.path / "run.json").is_file() else {"schema_version": SCHEMA_VERSION, "done": {}}
        write_json(self.path / "run.json", {**old, **fields})

    def done(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage reported, or None."""
        found = self.state["done"].get(stage)
        return dict(found) if found is not None else None

    def finish(self, stage: str, report: Mapping[str, Any], made: Mapping[str, Any] | None = None) -> None:
        """Mark a stage as done, and note what it has made (see `train.stage_record`)."""
        state = self.state
        record = {} if made is None else {"made": {**state.get("made", {}), stage: dict(made)}}
        self.update(done={**state["done"], stage: dict(report)}, **record)

    def adapter(self, stage: str) -> Path:
        """Folder of a stage's PEFT adapter."""
        return self.path / stage / "adapter"

    @property
    def final_adapter(self) -> Path:
        """Adapter of the last stage.

        Raises:
            EdgebError: the run is not finished.
        """
        missing = [stage for stage in STAGES if self.done(stage) is None]
        if missing:
            raise EdgebError(
                f"{self.path}: stage {missing[0]} is not finished", "continue it with `edgeb train --resume`"
            )
        return self.adapter(STAGES[-1])

    @property
    def backbone(self) -> str:
        """Hub name or path of the backbone; a stand-in's path is inside the run."""
        held = self.state["backbone"]
        name = str(held["path"])
        if held["standin"]:
            return str(self.path / name)
        # A hub name is on record with its revision, a folder by its whole path.
        return name if held.get("revision") else found_beside(name, self.path)

    @property
    def candidates(self) -> CandidateSet:
        """The candidate set of the run's dataset."""
        rows = self.state["candidates"]
        return CandidateSet(tuple(r["label"] for r in rows), tuple(r["count"] for r in rows))

    @property
    def layout(self) -> PromptLayout:
        """The prompt layout the run was trained with."""
        return PromptLayout.from_dict(self.state["layout"])


def found_beside(name: str, run: Path) -> str:
    """A path in a run of an older version, which kept it as it was given: from here, or from a folder above the run.

    Returns:
        The absolute path where there is such a folder or file, else `name`.
    """
    given = expand_home(name)
    for folder in (Path.cwd(), *run.resolve().parents):
        if (folder / given).exists():
            return str((folder / given).resolve())
    return name


def saved_recipe(out: Path) -> Path:
    """The resolved recipe of a run, for `--resume`.

    Raises:
        EdgebError: there is no run at `out`.
    """
    path = out / "recipe.yaml"
    if not path.is_file():
        raise EdgebError(f"{out} holds no run to resume", "start one with `edgeb train`")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        EdgebError: unreadable, or not an object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgebError(f"cannot read {path}: {error.strerror}", "is the folder complete?") from None
    except ValueError:
        raise EdgebError(f"{path} is not valid JSON", "the file is damaged; make it again") from None
    if not isinstance(found, dict):
        raise EdgebError(f"{path} is not a JSON object", "the file is damaged; make it again")
    return found


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole, as `write_text` does."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole, and have it on the disk: a run of days hangs on it."""
    write_file(path, text, durable=True)
