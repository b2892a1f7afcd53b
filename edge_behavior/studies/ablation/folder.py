"""An ablation's folder: what was asked for, its runs, and which of them are done.

    asked.json       base recipe, dataset, studies and seeds, for later calls
    runs/, errors/   a run per variant and seed, see `runs.folder`
    ablation.json, ablation.md, ablation.html   the results

Trains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_behavior.errors import EdgebError
from edge_behavior.studies.ablation.studies import Plan, all_studies, chosen, make_plan
from edge_behavior.studies.runs.folder import RunsFolder
from edge_behavior.train.recipe import Recipe, parse_recipe
from edge_behavior.train.run.folder import read_json, write_json

SCHEMA_VERSION = 1


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


class AblationFolder(RunsFolder):
    """Paths and state of one ablation."""

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
