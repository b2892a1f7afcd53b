"""Open a path as a `Predictor`: a bundle with its inference engine, a run or Hugging Face folder with PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edge_behavior.runtime.predictor import Predictor

AcceleratorOption = Annotated[
    str | None,
    typer.Option(
        help="For LiteRT bundles: what evaluates them, cpu, gpu, npu or npu-emulated. Default: cpu.", show_default=False
    ),
]

ChipOption = Annotated[
    str | None,
    typer.Option(
        help="On an NPU: whose context, like sm8650. Default: the only one, or the first emulated at export.",
        show_default=False,
    ),
]


def open_predictor(
    path: Path, threads: int | None = None, accelerator: str | None = None, chip: str | None = None
) -> Predictor:
    """Open a bundle, or the last stage of a finished run.

    Args:
        path: A bundle written by `edgeb export`, or a run folder of `edgeb train`.
        threads: CPU threads; None for the default.
        accelerator: As for `Predictor.load`.
        chip: Likewise.

    Raises:
        EdgebError: neither of them, damaged, written by a newer version, a run that is not finished or whose backbone
            or adapter has changed since training, too many threads, or an accelerator that cannot be had.
    """
    from edge_behavior.bundle.folder import MANIFEST_FILE, holds_safetensors
    from edge_behavior.runtime.accelerator import check_chip, chosen_accelerator
    from edge_behavior.runtime.litert.package import quiet_exit
    from edge_behavior.runtime.predictor import Predictor

    chosen = chosen_accelerator(path, accelerator)
    check_chip(chosen, chip)
    if (path / "run.json").is_file():
        return _run_predictor(path, threads)
    if (path / MANIFEST_FILE).is_file() and holds_safetensors(path):
        return _folder_predictor(path, threads)
    predictor = Predictor.load(path, threads=threads, accelerator=accelerator, chip=chip)
    if chosen is not None:
        quiet_exit()
    return predictor


def _folder_predictor(path: Path, threads: int | None) -> Predictor:
    from edge_behavior.bundle.bundle import read_population, verify_bundle
    from edge_behavior.commands.imports import libraries
    from edge_behavior.runtime.predictor import Predictor

    manifest = verify_bundle(path)
    with libraries():
        from edge_behavior.runtime.backends.torch import TorchBackend, limit_threads
        from edge_behavior.train.recipe import BackboneConfig
        from edge_behavior.train.trainer.backbone import load_model, load_tokenizer
    limit_threads(threads)
    model = load_model(path, BackboneConfig(path=str(path)))
    return Predictor(manifest, TorchBackend(model, load_tokenizer(path)), read_population(path))


def _run_predictor(path: Path, threads: int | None) -> Predictor:
    from edge_behavior.commands.imports import libraries
    from edge_behavior.train.run.folder import RunFolder
    from edge_behavior.train.stage_list import TUNED

    run = RunFolder.open(path)
    # Raises, naming the missing stage, unless the run is finished.
    _ = run.final_adapter
    settings = run.recipe.backbone
    with libraries():
        from edge_behavior.runtime.backends.torch import limit_threads
        from edge_behavior.runtime.torch_predictor import torch_predictor
        from edge_behavior.train.run.models import RunModels
        from edge_behavior.train.run.provenance import check_run
    limit_threads(threads)
    check_run(run, TUNED[-1:], settings.revision, trust_times=True)
    models = RunModels(run, settings)
    return torch_predictor(models.load(TUNED[-1]), models.tokenizer, run.candidates, run.layout)
