"""Export from a comparison: a sequence model that it fitted, with the dataset that it compared on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_behavior.baselines.sequence.kept import DESCRIPTION, KeptModel, read_kept
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError, nearest
from edge_behavior.export.source import COMPARISON, ExportSource, is_comparison
from edge_behavior.train.run.folder import read_json

if TYPE_CHECKING:
    from edge_behavior.data.dataset import Dataset

_RUNS, _MODELS = "runs", "models"
# Systems whose fits are kept.
_CAN = ("sasrec", "sasrec_published", "bert4rec", "bert4rec_published", "alphafuse")


@dataclass(frozen=True)
class SequenceSource:
    """What to export.

    Attributes:
        folder: The fitted model's.
        model: Its description.
        common: What an export of any kind asks for: candidates, layout, dataset.
    """

    folder: Path
    model: KeptModel
    common: ExportSource


def sequence_source(
    comparison: Path, system: str | None, seed: int | None = None, data: Path | None = None
) -> SequenceSource:
    """A sequence model that a comparison fitted.

    Args:
        comparison: The comparison's folder.
        system: Name of the system; None names none, which is refused with the names that there are.
        seed: Seed of the fit; None for the first.
        data: A dataset with the same candidates; None takes the comparison's own, where it is still there.

    Raises:
        EdgebError: no comparison, a system that cannot be exported or was not fitted, a damaged fit, a `data` that does
            not belong to it, or a dataset that has changed since.
    """
    if not is_comparison(comparison):
        raise EdgebError(
            f"{comparison} is no comparison, and --system names a system of one", "pass the --out of edgeb compare"
        )
    kept = _kept(comparison)
    if system is None or system not in kept:
        raise _not_there(comparison, system, sorted(kept))
    seeds = kept[system]
    if seed is not None and seed not in seeds:
        there = ", ".join(map(str, sorted(seeds)))
        raise EdgebError(f"{comparison} has no model of '{system}' with seed {seed}", f"seeds: {there}")
    folder = seeds[min(seeds) if seed is None else seed]
    model = read_kept(folder)
    dataset, note = _dataset(model, folder, data)
    # Prompts are events here; without a list of candidates nothing in them is about other labels.
    layout = PromptLayout(list_candidates=False, history_length=model.length, places=model.log.places)
    training = {
        **{name: value for name, value in asdict(model.origin).items() if name not in ("dataset", "fingerprint")},
        "config": model.config.to_dict(),
    }
    common = ExportSource(
        base=folder,
        adapter=None,
        candidates=model.log.candidates,
        layout=layout,
        training=training,
        data=None if dataset is None else dataset.path,
        places=None if dataset is None else tuple(dataset.places) if model.log.places else (),
        data_note=note,
        own_data=dataset is None or dataset.fingerprint == model.origin.fingerprint,
    )
    return SequenceSource(folder, model, common)


def _kept(comparison: Path) -> dict[str, dict[int, Path]]:
    """Folders of fitted models by system and seed."""
    found: dict[str, dict[int, Path]] = {}
    for file in sorted((comparison / _MODELS).glob(f"*/{DESCRIPTION}")):
        name, _, seed = file.parent.name.rpartition("-seed")
        if name and seed.isdecimal():
            found.setdefault(name, {})[int(seed)] = file.parent
    return found


def _not_there(comparison: Path, system: str | None, kept: list[str]) -> EdgebError:
    there = f"it holds {', '.join(kept)}" if kept else f"compare one of {', '.join(_CAN)}"
    if system is None:
        return EdgebError(f"{comparison} is a comparison, of which one system is exported", f"--system NAME: {there}")
    asked = read_json(comparison / COMPARISON).get("systems", [])
    run = next(iter(sorted((comparison / _RUNS).glob(f"{system}-seed*"))), None)
    if run is not None:
        return EdgebError(f"'{system}' is a language model", f"export its run: edgeb export {run}")
    if system in asked and system in _CAN:
        return EdgebError(
            f"{comparison} holds no fitted '{system}': it failed, or an older edgeb compared it",
            "compare it in another folder",
        )
    if system in asked:
        return EdgebError(f"the system '{system}' cannot be exported", there)
    return EdgebError(f"{comparison} has no system '{system}'", nearest(system, asked) if asked else there)


def _dataset(model: KeptModel, folder: Path, chosen: Path | None) -> tuple[Dataset | None, str]:
    """The dataset to export with, or None and the reason."""
    path = chosen or Path(model.origin.dataset)
    if chosen is None and not path.exists():
        return None, "the comparison's dataset is gone"
    # Here, since an export without a dataset needs no pyarrow.
    from edge_behavior.data.dataset import Dataset
    from edge_behavior.data.verify import verify
    from edge_behavior.evaluation.protocols import check_dataset_fits

    dataset = Dataset.open(path)
    if chosen is not None:
        layout = PromptLayout(history_length=model.length, places=model.log.places)
        check_dataset_fits(model.log.candidates, layout, dataset, str(folder))
    elif dataset.fingerprint != model.origin.fingerprint:
        raise EdgebError(
            f"the dataset {path} has changed since {folder} was fitted",
            "put it back, or name a dataset with the same labels with --data",
        )
    verify(dataset)
    return dataset, ""
