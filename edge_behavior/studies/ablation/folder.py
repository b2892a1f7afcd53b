"""An ablation's folder: what was asked for, its runs, and which of them are done.

    asked.json       base recipe, dataset, studies and seeds, for later calls
    runs/NAME/       an ordinary run folder per variant and seed
    errors/NAME.txt  why a run failed
    ablation.json, ablation.md, ablation.html   the results

Trains nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_behavior.errors import EdgebError
from edge_behavior.studies.ablation.studies import Plan, all_studies, chosen, make_plan
from edge_behavior.train.recipe import Recipe, parse_recipe
from edge_behavior.train.run.folder import RunFolder, read_json, write_json, write_text

SCHEMA_VERSION = 1
_LAST_STAGE = "report"


@dataclass(frozen=True)
class Asked:
    """What an ablation was asked for, over all calls to it.

    Attributes:
        recipe: The base recipe.
        dataset: Path of the dataset.
        fingerprint: The dataset's.
        studies: Names of the studies.
        seeds: Seeds of every variant.
        auxiliary: Conversation files of the study of auxiliary data, by name.
    """

    recipe: Recipe
    dataset: Path
    fingerprint: str
    studies: tuple[str, ...]
    seeds: tuple[int, ...]
    auxiliary: Mapping[str, str]

    def plan(self, only: Sequence[str] | None = None, seeds: Sequence[int] | None = None) -> Plan:
        """The runs of some studies and seeds; by default of all that were asked for."""
        studies = all_studies(self.auxiliary)
        wanted = chosen(studies, self.studies if only is None else only)
        return make_plan(self.recipe, studies, wanted, self.seeds if seeds is None else seeds)


class AblationFolder:
    """Paths and state of one ablation."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def started(self) -> bool:
        """Whether an ablation was started here."""
        return (self.path / "asked.json").is_file()

    def read(self) -> Asked:
        """What was asked for so far.

        Raises:
            EdgebError: no ablation, a damaged one, or one from a newer version.
        """
        if not self.started:
            raise EdgebError(f"{self.path} holds no ablation", "start one with `edgeb ablate --recipe … --data …`")
        file = self.path / "asked.json"
        held = read_json(file)
        if held.get("schema_version") != SCHEMA_VERSION:
            raise EdgebError(f"{file} has schema version {held.get('schema_version')}", "update edgeb, or start over")
        try:
            return Asked(
                parse_recipe(held["recipe"], str(file)),
                Path(held["dataset"]["path"]),
                held["dataset"]["fingerprint"],
                tuple(held["studies"]),
                tuple(held["seeds"]),
                held["auxiliary"],
            )
        except (KeyError, TypeError) as error:
            raise EdgebError(f"{file} lacks {error}", "the file is damaged; start over in another folder") from None

    def ask(self, asked: Asked) -> Asked:
        """Add what is asked for to what was asked for before.

        Raises:
            EdgebError: the folder holds something else, or was started with another recipe, dataset or file.
        """
        if self.started:
            before = self.read()
            # A method is a name for fields; folders of older versions have none.
            if before.recipe != asked.recipe.model_copy(update={"method": before.recipe.method}):
                raise EdgebError(
                    f"{self.path} was started with another recipe",
                    "continue without --recipe and --set, or use another --out",
                )
            if before.fingerprint != asked.fingerprint:
                raise EdgebError(
                    f"{asked.dataset} is not the dataset {self.path} was started with", "use another --out"
                )
            for name, file in asked.auxiliary.items():
                if before.auxiliary.get(name, file) != file:
                    raise EdgebError(
                        f"--aux {name}: was {before.auxiliary[name]} when {self.path} was started", "give another name"
                    )
            auxiliary = {**before.auxiliary, **asked.auxiliary}
            known = [study.name for study in all_studies(auxiliary)]
            both = {*before.studies, *asked.studies}
            asked = Asked(
                asked.recipe,
                asked.dataset,
                asked.fingerprint,
                tuple(name for name in known if name in both),
                tuple(sorted({*before.seeds, *asked.seeds})),
                auxiliary,
            )
        elif self.path.exists() and any(self.path.iterdir()):
            raise EdgebError(f"{self.path} exists and holds no ablation", "choose another --out")
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(
            self.path / "asked.json",
            {
                "schema_version": SCHEMA_VERSION,
                "recipe": asked.recipe.model_dump(),
                "dataset": {"path": str(asked.dataset), "fingerprint": asked.fingerprint},
                "studies": list(asked.studies),
                "seeds": list(asked.seeds),
                "auxiliary": dict(asked.auxiliary),
            },
        )
        return asked

    def run_path(self, name: str) -> Path:
        """Folder of a run, whether or not it exists."""
        return self.path / "runs" / name

    def run(self, name: str) -> RunFolder | None:
        """A run that was started, finished or not. A folder whose start was interrupted is removed."""
        folder = self.run_path(name)
        if not folder.is_dir():
            return None
        if not ((folder / "run.json").is_file() and (folder / "recipe.yaml").is_file()):
            shutil.rmtree(folder)
            return None
        return RunFolder.open(folder)

    def finished(self, name: str) -> bool:
        """Whether a run has finished all its stages."""
        run = self.run(name)
        return run is not None and run.done(_LAST_STAGE) is not None

    def started_runs(self) -> list[tuple[RunFolder, Recipe]]:
        """All runs that were started, with their recipes."""
        found = []
        for folder in sorted((self.path / "runs").glob("*")):
            run = self.run(folder.name)
            if run is not None:
                found.append((run, run.recipe))
        return found

    def error(self, name: str) -> str | None:
        """First line of why a run failed; None if it did not, or has finished since."""
        file = self.path / "errors" / f"{name}.txt"
        if not file.is_file() or self.finished(name):
            return None
        return file.read_text(encoding="utf-8").split("\n", 1)[0]

    def note_error(self, name: str, text: str) -> None:
        """Record why a run failed."""
        (self.path / "errors").mkdir(exist_ok=True)
        write_text(self.path / "errors" / f"{name}.txt", text.rstrip() + "\n")

    def forget_error(self, name: str) -> None:
        """Remove the record of a failure."""
        (self.path / "errors" / f"{name}.txt").unlink(missing_ok=True)
