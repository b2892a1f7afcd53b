"""A run folder: where a training run keeps what it makes, and which stages are done.

    recipe.yaml      the resolved recipe
    run.json         see `run.state`: backbone, dataset, candidates, layout, recipe in force, finished stages
    backbone/        only where the recipe builds a stand-in
    a_tuning/adapter, b_tuning/adapter
    pairs.jsonl, metrics.json, report.html, README.md

Knows no trainer and no model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import Recipe, load_recipe, parse_recipe
from edge_behavior.train.run.state import SCHEMA_VERSION, RunState, StageRecord
from edge_behavior.train.stage_list import TUNED
from edge_behavior.util.files import expand_home, new_folder, put_folder, write_file


@dataclass(frozen=True)
class RunFolder:
    """Paths and state of one run."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run.

        Raises:
            EdgebError: not a run folder, a damaged one, or one of a newer version.
        """
        if not (path / "run.json").is_file():
            raise EdgebError(f"{path} is not a run folder: it has no run.json", "pass the --out of `edgeb train`")
        run = cls(path)
        _ = run.state
        return run

    @property
    def state(self) -> RunState:
        """Content of run.json, read anew.

        Raises:
            EdgebError: unreadable, of another schema version, or a field that is missing, unknown or of a wrong type.
        """
        return _state(self._file, read_json(self._file))

    def update(self, **fields: Any) -> None:
        """Set fields of run.json, a new one included; see `RunState`."""
        held = self.state.to_dict() if self._file.is_file() else {"schema_version": SCHEMA_VERSION, "done": {}}
        write_json(self._file, _state(self._file, {**held, **fields}).to_dict())

    def done(self, stage: str) -> dict[str, Any] | None:
        """Report of a finished stage, or None."""
        return self.state.done.get(stage)

    def finish(self, stage: str, report: Mapping[str, Any], made: StageRecord | None = None) -> None:
        """Mark a stage as done; `made` records what it has made."""
        state = self.state
        record = {} if made is None else {"made": {**state.made, stage: made}}
        self.update(done={**state.done, stage: dict(report)}, **record)

    def adapter(self, stage: str) -> Path:
        """Folder of a stage's PEFT adapter."""
        return self.path / stage / "adapter"

    @property
    def final_adapter(self) -> Path:
        """Adapter of the last tuning stage.

        Raises:
            EdgebError: the run is not finished.
        """
        missing = [stage for stage in TUNED if self.done(stage) is None]
        if missing:
            raise EdgebError(
                f"{self.path}: stage {missing[0]} is not finished", "continue it with `edgeb train --resume`"
            )
        return self.adapter(TUNED[-1])

    @property
    def backbone(self) -> str:
        """Hub name or path of the backbone; a stand-in's path is inside the run."""
        record = self.state.backbone
        if record.standin:
            return str(self.path / record.path)
        # A hub name is recorded with its revision, a folder with its absolute path.
        return record.path if record.revision else found_beside(record.path, self.path)

    @property
    def candidates(self) -> CandidateSet:
        """The candidate set of the run's dataset."""
        held = self.state.candidates
        return CandidateSet(tuple(c.label for c in held), tuple(c.count for c in held))

    @property
    def layout(self) -> PromptLayout:
        """The prompt layout the run was trained with."""
        return PromptLayout.from_dict(self.state.layout)

    @property
    def recipe(self) -> Recipe:
        """The recipe of recipe.yaml, see `saved_recipe`."""
        return saved_recipe(self.path)

    @property
    def recipe_in_force(self) -> Recipe:
        """The recipe that the stages so far were trained with, whatever recipe.yaml says now."""
        held = self.state.recipe
        # Runs of older versions have no copy.
        return self.recipe if held is None else parse_recipe(held, str(self._file))

    @property
    def _file(self) -> Path:
        return self.path / "run.json"


def _state(file: Path, fields: Mapping[str, Any]) -> RunState:
    version = fields.get("schema_version")
    if version != SCHEMA_VERSION:
        raise EdgebError(f"{file} has schema version {version}", "update edgeb, or train again")
    try:
        return RunState.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        what = f"lacks '{field}'" if first["type"] == "missing" else f"has a wrong '{field}': {first['msg'].lower()}"
        raise EdgebError(f"{file} {what}", "the file is damaged; train again") from None


def saved_recipe(out: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The resolved recipe in a run folder, with `section.key=value` overrides.

    Raises:
        EdgebError: no recipe.yaml there, or not a recipe.
    """
    path = out / "recipe.yaml"
    if not path.is_file():
        raise EdgebError(f"{out} is not a run folder: it has no recipe.yaml", "start a run with `edgeb train`")
    # Runs of older versions name no method.
    return load_recipe(str(path), overrides, default_method=None)


def found_beside(name: str, run: Path) -> str:
    """A path as older versions recorded it, relative: looked up from here, then from the folders above the run.

    Returns:
        The absolute path where there is such a folder or file, else `name`.
    """
    given = expand_home(name)
    for folder in (Path.cwd(), *run.resolve().parents):
        if (folder / given).exists():
            return str((folder / given).resolve())
    return name


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
    """Write JSON atomically, see `write_text`."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically and sync it to disk: days of training may depend on it."""
    write_file(path, text, durable=True)


@contextmanager
def replaced_folder(out: Path) -> Iterator[Path]:
    """An empty folder to fill in the block; at its end it takes the place of `out`, whole or not at all."""
    with new_folder(out) as work:
        made = work / out.name
        made.mkdir()
        yield made
        put_folder(made, out, replace=True)
