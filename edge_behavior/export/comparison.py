"""Export from a comparison: which of the systems that it fitted, and where that fit lies.

A sequence model and an adapter are kept under `models/`; a tuned language model is one of its `runs/`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edge_behavior.baselines.kept_adapter import BACKBONE_RUN, read_adapter
from edge_behavior.baselines.kept_adapter import DESCRIPTION as ADAPTER
from edge_behavior.baselines.sequence.kept import DESCRIPTION as SEQUENCE
from edge_behavior.errors import EdgebError, nearest
from edge_behavior.export.run_source import run_source, without_folders
from edge_behavior.export.source import COMPARISON, ExportSource, is_comparison
from edge_behavior.train.run.folder import read_json
from edge_behavior.train.stage_list import TUNED, UNTUNED

_RUNS, _MODELS = "runs", "models"
# What makes a folder a fit, by where it lies.
_MARKS = ((_MODELS, SEQUENCE), (_MODELS, ADAPTER), (_RUNS, "run.json"))


@dataclass(frozen=True)
class ComparedFit:
    """A fit of a comparison.

    Attributes:
        comparison: The comparison's folder.
        system: Name of the system.
        folder: The fit's.
    """

    comparison: Path
    system: str
    folder: Path

    @property
    def is_sequence(self) -> bool:
        """Whether it is a sequence model, which `sequence.source` opens, and no language model."""
        return (self.folder / SEQUENCE).is_file()

    def language_source(self, stage: str = TUNED[-1], data: Path | None = None) -> ExportSource:
        """The language model: of a run, or the backbone that all rivals share with the adapter that was kept.

        Args:
            stage: As in `run_source`; an adapter that was kept has no other.
            data: As in `run_source`.

        Raises:
            EdgebError: see `run_source`; another stage, or an adapter that is damaged or without its backbone.
        """
        if not (self.folder / ADAPTER).is_file():
            return run_source(self.folder, stage, data)
        if stage != TUNED[-1]:
            raise EdgebError(f"'{self.system}' has no stages", "leave --stage out")
        origin, run = read_adapter(self.folder), self.comparison / _RUNS / BACKBONE_RUN
        if not (run / "run.json").is_file():
            raise EdgebError(f"{run} is gone, the backbone of {self.folder}", "export where it was compared")
        training = without_folders({**asdict(origin), **origin.recipe})
        del training["recipe"]
        return replace(run_source(run, UNTUNED, data), adapter=self.folder, training=training)


def compared_fit(comparison: Path, system: str | None, seed: int | None = None) -> ComparedFit:
    """A system that a comparison fitted.

    Args:
        comparison: The comparison's folder.
        system: Name of the system; None names none, which is refused with the names that there are.
        seed: Seed of the fit; None for the first.

    Raises:
        EdgebError: no comparison, a system that cannot be exported or was not fitted, or not with that seed.
    """
    if not is_comparison(comparison):
        raise EdgebError(
            f"{comparison} is no comparison, and --system names a system of one", "pass the --out of edgeb compare"
        )
    asked = read_json(comparison / COMPARISON).get("systems", [])
    fits = {name: found for name in asked if (found := _fits(comparison, name))}
    if system is None:
        there = f"it holds {', '.join(sorted(fits))}" if fits else "it holds none that can be"
        raise EdgebError(f"{comparison} is a comparison, of which one system is exported", f"--system NAME: {there}")
    if system not in asked:
        raise EdgebError(f"{comparison} has no system '{system}'", nearest(system, asked))
    if system not in fits:
        raise _not_there(comparison, system, sorted(fits))
    seeds = fits[system]
    if seed is not None and seed not in seeds:
        there = ", ".join(map(str, sorted(seeds)))
        raise EdgebError(f"{comparison} has no model of '{system}' with seed {seed}", f"seeds: {there}")
    return ComparedFit(comparison, system, seeds[min(seeds) if seed is None else seed])


def _fits(comparison: Path, system: str) -> dict[int, Path]:
    """Folders of a system's fits by seed."""
    found = {}
    for place, mark in _MARKS:
        for file in (comparison / place).glob(f"*-seed*/{mark}"):
            name, _, seed = file.parent.name.rpartition("-seed")
            if name == system and seed.isdecimal():
                found[int(seed)] = file.parent
    return found


def _not_there(comparison: Path, system: str, fitted: list[str]) -> EdgebError:
    there = f"it holds {', '.join(fitted)}" if fitted else "compare sasrec, for example"
    # Here, since they import torch.
    from edge_behavior.baselines.language.registry import RIVALS
    from edge_behavior.baselines.recipes import TUNED_SYSTEMS
    from edge_behavior.baselines.registry import SEQUENCE_SYSTEMS

    if system in RIVALS and RIVALS[system].unshipped:
        return EdgebError(f"the system '{system}' cannot be exported: {RIVALS[system].unshipped}", there)
    if system in {*RIVALS, *TUNED_SYSTEMS, *SEQUENCE_SYSTEMS}:
        return EdgebError(
            f"{comparison} holds no fitted '{system}': it failed, or an older edgeb compared it",
            "compare it in another folder",
        )
    return EdgebError(f"the system '{system}' cannot be exported: it is no model of its own", there)
