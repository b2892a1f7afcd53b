"""Export from a comparison: a sequence model that it fitted, with the dataset that it compared on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_behavior.baselines.sequence.kept import KeptModel, read_kept
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.export.source import ExportSource

if TYPE_CHECKING:
    from edge_behavior.data.dataset import Dataset


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


def sequence_source(folder: Path, data: Path | None = None) -> SequenceSource:
    """A sequence model that a comparison kept, see `comparison.compared_fit`.

    Args:
        folder: The fitted model's.
        data: A dataset with the same candidates; None takes the comparison's own, where it is still there.

    Raises:
        EdgebError: a damaged fit, a `data` that does not belong to it, or a dataset that has changed since.
    """
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
