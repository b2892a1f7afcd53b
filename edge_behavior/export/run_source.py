"""Export from a run folder: the weights of a stage with the run's candidates, layout, recipe and metrics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_behavior.errors import EdgebError, nearest
from edge_behavior.export.source import ExportSource, is_comparison
from edge_behavior.train.run.folder import RunFolder, read_json
from edge_behavior.train.run.provenance import check_run
from edge_behavior.train.stage_list import MODELS, TUNED, UNTUNED
from edge_behavior.util.checksums import sha256_with_bar

if TYPE_CHECKING:
    from edge_behavior.data.dataset import Dataset


def run_source(path: Path, stage: str = TUNED[-1], data: Path | None = None) -> ExportSource:
    """The weights of a stage with the run's candidates, layout, recipe and metrics.

    Args:
        path: A run folder.
        stage: a_tuning, b_tuning or untuned.
        data: A dataset with the run's candidates; None takes the run's own, where it is still there.

    Raises:
        EdgebError: not a run, unknown stage, a stage that is not finished, a `data` that does not belong to it, or a
            backbone, adapter, metrics or dataset that have changed since the training.
    """
    if stage not in MODELS:
        raise EdgebError(f"unknown stage '{stage}'", nearest(stage, MODELS))
    if is_comparison(path.parent.parent) and not (path / "run.json").is_file():
        raise EdgebError(f"{path} is part of a comparison", f"pass {path.parent.parent} and --system")
    run = RunFolder.open(path)
    adapter = None
    if stage != UNTUNED:
        if run.done(stage) is None:
            raise EdgebError(f"{path}: stage {stage} is not finished", "continue it with `edgeb train --resume`")
        adapter = run.adapter(stage)
    recipe = run.recipe.model_dump()
    revision = recipe["backbone"]["revision"]
    check_run(run, (stage, "evaluation"), revision, sha256_with_bar)
    metrics = path / "metrics.json"
    evaluation = {}
    if metrics.is_file():
        found = read_json(metrics)["models"].get(stage, {})
        # The bundle carries the headline numbers; per-behavior rows stay in the run.
        evaluation = {
            protocol: {key: value for key, value in numbers.items() if key != "per_behavior"}
            for protocol, numbers in found.items()
        }
    dataset, note = _dataset(run, data)
    return ExportSource(
        base=run.backbone,
        revision=revision,
        adapter=adapter,
        candidates=run.candidates,
        layout=run.layout,
        training=without_folders(recipe),
        evaluation=evaluation,
        data=None if dataset is None else dataset.path,
        places=_places(run, dataset),
        data_note=note,
        own_data=dataset is None or dataset.fingerprint == run.state.fingerprint,
    )


def without_folders(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe's fields as a bundle ships them: they name backbone and conversations, not their folders."""
    found = dict(recipe)
    for section, field in (("backbone", "path"), ("a_tuning", "aux_path")):
        place = found[section][field]
        if place is not None and (Path(place).is_absolute() or Path(place).is_dir()):
            found[section] = {**found[section], field: Path(place).name}
    return found


def _places(run: RunFolder, dataset: Dataset | None) -> tuple[str, ...] | None:
    """Place names that prompts may hold; None if they are not known."""
    if not run.layout.places:
        return ()
    return None if dataset is None else tuple(dataset.places)


def _dataset(run: RunFolder, chosen: Path | None) -> tuple[Dataset | None, str]:
    """The dataset to export with, or None and the reason."""
    recorded = run.state.dataset
    path = chosen or (None if recorded is None else Path(recorded.path))
    if path is None or (chosen is None and not path.exists()):
        return None, "the run's dataset is gone"
    # Here, since an export without a dataset needs no pyarrow.
    from edge_behavior.data.dataset import Dataset
    from edge_behavior.data.verify import verify
    from edge_behavior.evaluation.protocols import check_dataset_fits

    dataset = Dataset.open(path)
    if chosen is not None:
        check_dataset_fits(run.candidates, run.layout, dataset, str(run.path))
    elif recorded is None or dataset.fingerprint != recorded.fingerprint:
        raise EdgebError(
            f"the dataset {path} has changed since {run.path} was trained",
            "put it back, or name a dataset with the same labels with --data",
        )
    verify(dataset)
    return dataset, ""
