"""A comparison's folder: what was asked for, windows, raw predictions, and results.

    compare.json                    what was asked for, see `Asked`; no path of a machine
    windows.npz                     the windows, see `windows`
    rates.json                      learning rates that were chosen, and what was measured of each
    answers.json                    how an endpoint answered: kind of answers, how many outside the list
    costs.json                      what fitted systems weigh, and took, see `baselines.cost`
    predictions/NAME-seedN-SET.npz  raw scores
    results.json, results.md, compare.html

These are all that the report reads. The rest belongs to the machine that computes them: `runs/` and `errors/` (see
`runs.folder`), `models/`, fitted systems that `edgeb export --system` takes, and `work/`, which remembers the dataset's
path and keeps work in progress.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edge_behavior import __version__
from edge_behavior.baselines.cost import SystemCost
from edge_behavior.core.fields import read_fields
from edge_behavior.errors import EdgebError
from edge_behavior.studies.runs.folder import RunsFolder
from edge_behavior.train.recipe import Recipe, parse_recipe
from edge_behavior.train.run.folder import read_json, write_json

SCHEMA_VERSION = 1
_DAMAGED = "the file is damaged; compare again in another folder"


@dataclass(frozen=True)
class Sizes:
    """How much is measured, and on what each choice stands.

    Attributes:
        protocol: natural, balanced or both.
        windows: Test windows per protocol, at most.
        validation: Validation windows, for rates, mixing weights and the balance of the prior.
        rate_targets: Training targets that each candidate rate is tried with; 0: no search.
        rates: Candidate rates of tuned models; empty for thirds, once and three times the recipe's.
        small_targets: Training targets of systems that are no tuned models; 0: all there are.
    """

    protocol: str = "both"
    windows: int = 150
    validation: int = 100
    rate_targets: int = 1000
    rates: tuple[float, ...] = ()
    small_targets: int = 0


@dataclass(frozen=True)
class Asked:
    """What a comparison was asked for, over all calls to it.

    Attributes:
        recipe: The base recipe of tuned models; its seed is the first.
        fingerprint: The dataset's.
        dataset_name: The name of its source; `source` its format.
        systems: Names of the systems.
        titles: As tables show them, by name.
        learned: Those that learn: they run once per seed.
        seeds: All seeds; those of a system are `seeds_of`.
        cold: Events known in the cold start.
        sizes: How much is measured.
        sweeps: Values per sweep.
        swept: The systems that each sweep changes.
        endpoint: Which endpoint and model were asked, see `EndpointConfig.identity`; empty without one.
        settings: By system, those that are not its own by default, see `registry.system_settings`.
        own_seeds: By system, its seeds; those that are not there have all.
        edgeb: Version that began it.
    """

    recipe: Recipe
    fingerprint: str
    dataset_name: str
    systems: tuple[str, ...]
    titles: Mapping[str, str]
    learned: tuple[str, ...]
    seeds: tuple[int, ...]
    cold: tuple[int, ...]
    sizes: Sizes
    sweeps: Mapping[str, tuple[str, ...]]
    swept: Mapping[str, tuple[str, ...]]
    endpoint: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    source: str = ""
    own_seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    edgeb: str = __version__

    def seeds_of(self, system: str) -> tuple[int, ...]:
        """The seeds of a system: the first one alone where it learns nothing."""
        return self.own_seeds.get(system, self.seeds) if system in self.learned else self.seeds[:1]

    @property
    def shown_recipe(self) -> dict[str, Any]:
        """The recipe's fields without the folders of this machine: a local backbone or file by its own name."""
        held = self.recipe.model_dump()
        for section, name in (("backbone", "path"), ("a_tuning", "aux_path")):
            value = held[section][name]
            if value is not None and Path(value).is_absolute():
                held[section][name] = Path(value).name
        return held

    def to_dict(self) -> dict[str, Any]:
        """Content of compare.json."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            "schema_version": SCHEMA_VERSION,
            **held,
            "recipe": self.shown_recipe,
            "sizes": asdict(self.sizes),
            "titles": dict(self.titles),
            "sweeps": {name: list(values) for name, values in self.sweeps.items()},
            "swept": {name: list(systems) for name, systems in self.swept.items()},
            "endpoint": dict(self.endpoint),
            "settings": {name: dict(held) for name, held in self.settings.items()},
            "own_seeds": {name: list(seeds) for name, seeds in self.own_seeds.items()},
        }


class CompareFolder(RunsFolder):
    """Paths and state of one comparison."""

    @property
    def started(self) -> bool:
        """Whether a comparison was started here."""
        return self._asked.is_file()

    @property
    def windows(self) -> Path:
        """The file of the windows."""
        return self.path / "windows.npz"

    @property
    def work(self) -> Path:
        """Folder of work in progress."""
        return self.path / "work"

    def kept_model(self, name: str, seed: int) -> Path:
        """Folder of a fitted system that may be exported."""
        return self.path / "models" / f"{name}-seed{seed}"

    def predictions(self, name: str, seed: int, window_set: str) -> Path:
        """The file of one system's raw scores."""
        return self.path / "predictions" / f"{name}-seed{seed}-{window_set}.npz"

    def read(self) -> Asked:
        """What was asked for so far.

        Raises:
            EdgebError: no comparison, a damaged one, or one of a newer version.
        """
        if not self.started:
            raise EdgebError(f"{self.path} holds no comparison", "start one with `edgeb compare --data …`")
        held = read_json(self._asked)
        if held.get("schema_version") != SCHEMA_VERSION:
            raise EdgebError(
                f"{self._asked} has schema version {held.get('schema_version')}", "update edgeb, or start over"
            )
        kinds = {"schema_version": int, **{f.name: _KINDS.get(f.name, list) for f in fields(Asked)}}
        found = read_fields(held, kinds, str(self._asked), _DAMAGED)
        sizes = read_fields(found["sizes"], [f.name for f in fields(Sizes)], f"{self._asked}: sizes", _DAMAGED)
        del found["schema_version"]
        return Asked(
            **{
                **found,
                **{name: tuple(found[name]) for name in ("systems", "learned", "seeds", "cold")},
                "recipe": parse_recipe(found["recipe"], str(self._asked)),
                "sizes": Sizes(**{**sizes, "rates": tuple(sizes["rates"])}),
                "sweeps": {name: tuple(values) for name, values in found["sweeps"].items()},
                "swept": {name: tuple(systems) for name, systems in found["swept"].items()},
                "own_seeds": {name: tuple(seeds) for name, seeds in found["own_seeds"].items()},
            }
        )

    def local(self) -> tuple[Recipe, Path] | None:
        """The recipe with this machine's paths, and the dataset; None in a copy from elsewhere."""
        file = self.work / "local.json"
        if not file.is_file():
            return None
        held = read_fields(read_json(file), {"recipe": dict, "dataset": str}, str(file), _DAMAGED)
        return parse_recipe(held["recipe"], str(file)), Path(held["dataset"])

    def joined(self, asked: Asked) -> Asked:
        """What is asked for and what was asked for before: systems, seeds, cold starts and sweeps may grow.

        Raises:
            EdgebError: the folder holds something else, or was started with another recipe, dataset or windows.
        """
        if self.started:
            return _joined(self.read(), asked, self.path)
        if self.path.exists() and any(self.path.iterdir()):
            raise EdgebError(f"{self.path} exists and holds no comparison", "choose another --out")
        return asked

    def ask(self, asked: Asked, dataset: Path) -> Asked:
        """Record what is `joined`, and return it.

        Raises:
            EdgebError: see `joined`.
        """
        asked = self.joined(asked)
        self.work.mkdir(parents=True, exist_ok=True)
        local = {"recipe": asked.recipe.model_dump(), "dataset": str(dataset.resolve())}
        write_json(self.work / "local.json", local)
        write_json(self._asked, asked.to_dict())
        return asked

    def rates(self) -> dict[str, Any]:
        """What rates.json holds, by system: `rate`, and `measured`: the loss of each candidate."""
        file = self.path / "rates.json"
        return read_json(file) if file.is_file() else {}

    def note_rate(self, system: str, rate: float, measured: Mapping[float, float], targets: int) -> None:
        """Record the rate that was chosen for a system."""
        # A rate at which training diverged has no loss.
        held = {f"{candidate:g}": loss if math.isfinite(loss) else None for candidate, loss in measured.items()}
        entry = {"rate": rate, "measured": held, "targets": targets}
        write_json(self.path / "rates.json", {**self.rates(), system: entry})

    def answers(self) -> dict[str, Any]:
        """What answers.json holds, by NAME-seedN and set of windows; see `baselines.system.Reporting`."""
        file = self.path / "answers.json"
        return read_json(file) if file.is_file() else {}

    def note_answers(self, fit: str, window_set: str, report: Mapping[str, Any]) -> None:
        """Record what a system said of its answers at a set of windows."""
        held = self.answers()
        entry = {**held.get(fit, {}), window_set: dict(report)}
        write_json(self.path / "answers.json", {**held, fit: entry})

    def costs(self) -> dict[str, SystemCost]:
        """What costs.json holds, by NAME-seedN.

        Raises:
            EdgebError: it is damaged.
        """
        file = self.path / "costs.json"
        held = read_json(file) if file.is_file() else {}
        return {fit: SystemCost.from_dict(one, f"{file}: {fit}", _DAMAGED) for fit, one in held.items()}

    def note_cost(self, fit: str, cost: SystemCost) -> None:
        """Record what a fitted system costs."""
        held = {**self.costs(), fit: cost}
        write_json(self.path / "costs.json", {name: one.to_dict() for name, one in held.items()})

    @property
    def _asked(self) -> Path:
        return self.path / "compare.json"


_KINDS = {
    **{"recipe": dict, "fingerprint": str, "dataset_name": str, "titles": dict, "sizes": dict, "sweeps": dict},
    **{"swept": dict, "endpoint": dict, "settings": dict, "source": str, "own_seeds": dict, "edgeb": str},
}


def _joined(before: Asked, asked: Asked, path: Path) -> Asked:
    if before.shown_recipe != asked.shown_recipe:
        raise EdgebError(
            f"{path} was started with another recipe", "continue without --recipe and --set, or use another --out"
        )
    if before.fingerprint != asked.fingerprint:
        raise EdgebError(f"{path} was started with another dataset", "use another --out")
    for name in (f.name for f in fields(Sizes)):
        old, new = getattr(before.sizes, name), getattr(asked.sizes, name)
        if old != new:
            flag = "--" + name.replace("_", "-")
            raise EdgebError(f"{path} was started with {flag} {_text(old)}, not {_text(new)}", "use another --out")
    if before.endpoint and asked.endpoint and before.endpoint != asked.endpoint:
        old, new = before.endpoint["model"], asked.endpoint["model"]
        other = "another --endpoint" if old == new else f"--endpoint-model {old}, not {new}"
        raise EdgebError(f"{path} was started with {other}", "compare another model in another --out")
    for name in asked.systems:
        if name in before.systems and before.settings.get(name, {}) != asked.settings.get(name, {}):
            raise EdgebError(
                f"{path} was started with other settings of '{name}'",
                "continue without --authors and --set, or use another --out",
            )
    return replace(
        asked,
        endpoint=before.endpoint or asked.endpoint,
        systems=_union(before.systems, asked.systems),
        titles={**before.titles, **asked.titles},
        learned=_union(before.learned, asked.learned),
        seeds=tuple(sorted({*before.seeds, *asked.seeds})),
        cold=tuple(sorted({*before.cold, *asked.cold})),
        sweeps=_joined_lists(before.sweeps, asked.sweeps),
        swept=_joined_lists(before.swept, asked.swept),
        settings={**before.settings, **asked.settings},
        own_seeds={name: _seeds(name, before, asked) for name in _union(before.learned, asked.learned)},
        edgeb=before.edgeb,
    )


def _seeds(name: str, before: Asked, asked: Asked) -> tuple[int, ...]:
    """The seeds that a system has had, and those that are asked of it now."""
    held = [one.seeds_of(name) for one in (before, asked) if name in one.learned]
    return tuple(sorted({seed for seeds in held for seed in seeds}))


def _joined_lists(
    before: Mapping[str, tuple[str, ...]], now: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    return {name: _union(before.get(name, ()), now.get(name, ())) for name in (*before, *now)}


def _union(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))


def _text(value: object) -> str:
    return ",".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)
