"""A fitted sequence model on disk, as a comparison keeps it for an export: `sequence.json` and its weights.

The weights are those of a plain SASRec or BERT4Rec, whatever system trained them. The folder names the log's places: it
belongs to the machine, and only an export leaves it. Imports torch only to build the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.baselines.sequence.inputs import ContextVocabulary
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.fields import NULL, naming, parse_json, read_fields, read_list
from edge_behavior.core.license import License
from edge_behavior.errors import EdgebError

if TYPE_CHECKING:
    import torch

    from edge_behavior.baselines.sequence.model import EventTransformer

DESCRIPTION, WEIGHTS = "sequence.json", "model.safetensors"
SCHEMA_VERSION = 2
_HINT = "the folder is damaged: fit the system again"


@dataclass(frozen=True)
class Log:
    """What a model knows of the log it was fitted to.

    Attributes:
        candidates: Labels and training counts.
        places: Whether the log has places.
    """

    candidates: CandidateSet
    places: bool


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    Attributes:
        system: The system's name.
        seed: Of the fit.
        rate: Its learning rate.
        targets: Training targets, at most; 0 for all.
        dataset: Path of the dataset's folder.
        fingerprint: The dataset's.
    """

    system: str
    seed: int
    rate: float
    targets: int
    dataset: str
    fingerprint: str


@dataclass(frozen=True)
class LabelSource:
    """The language model that a model's vectors of labels were computed with.

    Attributes:
        name: Its hub name, or that of its folder.
        license: Its license, whose terms may reach the vectors; None where it states none.
    """

    name: str
    license: License | None


@dataclass(frozen=True)
class KeptModel:
    """A fitted model without its weights.

    Attributes:
        architecture: `sasrec` or `bert4rec`.
        config: Shape and training.
        length: L, events that it sees.
        vocabulary: Numbers its contexts.
        log: What it knows of its log.
        origin: Where it comes from.
        labels: Where its vectors of labels come from; None where they are its own.
    """

    architecture: str
    config: SequenceConfig
    length: int
    vocabulary: ContextVocabulary
    log: Log
    origin: Origin
    labels: LabelSource | None = None


def keep_model(folder: Path, model: KeptModel, weights: Mapping[str, torch.Tensor]) -> None:
    """Write a model into a folder, whole or not at all; another in its place is replaced.

    Raises:
        EdgebError: the folder cannot be written.
    """
    from safetensors.torch import save_file

    from edge_behavior.train.run.folder import replaced_folder, write_json

    description = {
        "schema_version": SCHEMA_VERSION,
        "architecture": model.architecture,
        "config": model.config.to_dict(),
        "length": model.length,
        "hour_bucket": model.vocabulary.hour_bucket,
        "places": list(model.vocabulary.places),
        "labels": list(model.log.candidates.labels),
        "counts": list(model.log.candidates.counts),
        "has_places": model.log.places,
        "origin": asdict(model.origin),
        "label_source": None if model.labels is None else _source_fields(model.labels),
    }
    with replaced_folder(folder) as made:
        save_file({name: held.detach().cpu().contiguous() for name, held in weights.items()}, made / WEIGHTS)
        write_json(made / DESCRIPTION, description)


def read_kept(folder: Path) -> KeptModel:
    """Read a model's description strictly.

    Raises:
        EdgebError: no such folder, damaged, or written by a newer version.
    """
    file = folder / DESCRIPTION
    try:
        content = file.read_bytes()
    except OSError as error:
        raise EdgebError(f"cannot read {file}: {error.strerror}", _HINT) from None
    held = parse_json(content, str(file), _HINT)
    version = held.get("schema_version") if isinstance(held, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise EdgebError(f"{file} was written by a newer edgeb (schema {version})", "update edgeb")
    kinds: dict[str, Any] = {"schema_version": int, "architecture": str, "config": dict, "length": int}
    kinds |= {"hour_bucket": int, "places": list, "labels": list, "counts": list, "has_places": bool, "origin": dict}
    kinds |= {"label_source": (dict, NULL)} if version != 1 else {}
    found = read_fields(held, kinds, str(file), _HINT)
    config = read_fields(found["config"], [f.name for f in fields(SequenceConfig)], f"{file}: config", _HINT)
    names = {"system": str, "seed": int, "rate": float, "targets": int, "dataset": str, "fingerprint": str}
    origin = read_fields(found["origin"], names, f"{file}: origin", _HINT)
    with naming(str(file)):
        labels = tuple(read_list(found["labels"], "labels", str))
        candidates = CandidateSet(labels, tuple(read_list(found["counts"], "counts", int)))
        return KeptModel(
            found["architecture"],
            SequenceConfig(**config),
            found["length"],
            ContextVocabulary(found["hour_bucket"], tuple(read_list(found["places"], "places", str))),
            Log(candidates, found["has_places"]),
            Origin(**origin),
            _read_source(found.get("label_source"), f"{file}: label_source"),
        )


def _source_fields(source: LabelSource) -> dict[str, Any]:
    return {"name": source.name, "license": None if source.license is None else source.license.to_dict()}


def _read_source(held: object, where: str) -> LabelSource | None:
    if held is None:
        return None
    found = read_fields(held, {"name": str, "license": (dict, NULL)}, where, _HINT)
    stated = found["license"]
    return LabelSource(found["name"], None if stated is None else License.from_dict(stated, f"{where}: license"))


def load_network(folder: Path, model: KeptModel) -> EventTransformer:
    """The network with its weights, for evaluation.

    Raises:
        EdgebError: the weights are missing, damaged, or of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from edge_behavior.baselines.sequence.model import Bert4Rec, SasRec

    kinds = {"sasrec": SasRec, "bert4rec": Bert4Rec}
    if model.architecture not in kinds:
        raise EdgebError(f"{folder}: unknown architecture '{model.architecture}'", _HINT)
    shape = (len(model.log.candidates), model.length + 1, model.vocabulary.sizes, model.config)
    network = kinds[model.architecture](*shape)
    try:
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EdgebError(f"{folder / WEIGHTS} does not hold the model's weights: {reason}", _HINT) from None
    return network.eval()
