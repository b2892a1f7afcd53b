"""Whether a run's backbone, adapters and metrics are still the files that run.json has checksums of.

Runs of older versions have fewer checksums; files without one are not checked. Knows no trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from edge_behavior.errors import EdgebError
from edge_behavior.hf.find import find_backbone
from edge_behavior.hf.folder import is_model_file, model_files
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.train.run.state import InputFile
from edge_behavior.train.stage_list import BACKBONE_FIELD, STAGE_NAMES, stage_named
from edge_behavior.util.checksums import file_sha256

_HINT = "put it back, or train again"


def check_run(
    run: RunFolder,
    stages: Collection[str],
    revision: str | None = None,
    checksum: Callable[[Path], str] = file_sha256,
    trust_times: bool = False,
) -> None:
    """Check that a run's backbone, and what some of its stages made, are the files of the training.

    Args:
        run: The run.
        stages: Whose output to check, beside the backbone.
        revision: Hub revision of the backbone.
        checksum: SHA-256 of a file; it may show progress.
        trust_times: Take a backbone file of the same size and mtime for the same file, without reading it.

    Raises:
        EdgebError: naming the first file that has changed, is gone, or is new.
    """
    state = run.state
    for stage in STAGE_NAMES:
        if stage in {"backbone", *stages} and stage in state.made and state.made[stage].files:
            _compare(state.made[stage].files, made_files(run, stage, checksum), run.path, run)
    before = state.inputs.get(BACKBONE_FIELD)
    if before is None:
        return
    folder = find_backbone(run.backbone, revision)
    recorded = {name: file.sha256 for name, file in before.items()}
    now = {name: _checksum(folder / name, before.get(name), checksum, trust_times) for name in model_files(folder)}
    _compare(recorded, now, folder, run)


def output_of(run: RunFolder, stage: str) -> Path | None:
    """File or folder of a stage's output; None where it leaves nothing that others read."""
    output = stage_named(stage).output
    if output is None or (stage == "backbone" and not run.state.backbone.standin):
        return None
    return run.path / output


def made_files(run: RunFolder, stage: str, checksum: Callable[[Path], str] = file_sha256) -> dict[str, str]:
    """Checksums of a stage's output, by path in the run folder."""
    place = output_of(run, stage)
    if place is None:
        return {}
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    return {path.relative_to(run.path).as_posix(): checksum(path) for path in files}


def _checksum(file: Path, before: InputFile | None, checksum: Callable[[Path], str], trust_times: bool) -> str:
    status = file.stat()
    if before is not None and before.size != status.st_size:
        return "another size"
    if before is not None and trust_times and before.mtime_ns == status.st_mtime_ns:
        return before.sha256
    return checksum(file)


def _compare(recorded: Mapping[str, str], now: Mapping[str, str], folder: Path, run: RunFolder) -> None:
    for name in sorted({*recorded, *now}):
        # A card beside the weights may be edited, and file managers leave files of their own.
        if recorded.get(name) == now.get(name) or not is_model_file(Path(name).name):
            continue
        if name not in now:
            raise EdgebError(f"{folder / name} is gone; {run.path} was trained with it", _HINT)
        if name not in recorded:
            raise EdgebError(f"{folder / name} was not there when {run.path} was trained", "move it elsewhere")
        raise EdgebError(f"{folder / name} has changed since {run.path} was trained", _HINT)
