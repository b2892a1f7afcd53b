"""Whether a run's backbone, adapters and metrics are still the files that run.json has checksums of.

Runs of older versions have fewer checksums; what has none is not looked at. Knows no trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from edge_behavior.errors import EdgebError
from edge_behavior.hf.folder import find_backbone, is_model_file, model_files
from edge_behavior.train.run.folder import RunFolder
from edge_behavior.util.checksums import file_sha256

# What later stages or the user read. The report is nobody's input, and its texts may be edited.
MADE = {
    "backbone": "backbone",
    "a_tuning": "a_tuning/adapter",
    "b_tuning": "b_tuning/adapter",
    "evaluation": "metrics.json",
}
BACKBONE_FIELD = "backbone.path"
_HINT = "put it back, or train again"


def check_run(
    run: RunFolder,
    stages: Collection[str],
    revision: str | None = None,
    checksum: Callable[[Path], str] = file_sha256,
    trust_times: bool = False,
) -> None:
    """See that a run's backbone, and what some of its stages made, are the files of the training.

    Args:
        run: The run.
        stages: Whose files to look at, beside the backbone's.
        revision: Hub revision of the backbone.
        checksum: SHA-256 of a file; it may show progress.
        trust_times: Take a backbone's file of the same size and time of change for the same file, unread.

    Raises:
        EdgebError: naming the first file that is another, that is gone, or that is new.
    """
    state = run.state
    made = state.get("made", {})
    for stage in MADE:
        recorded = made.get(stage, {}).get("files", {})
        if recorded and stage in {"backbone", *stages}:
            _compare(recorded, made_files(run, stage, checksum), run.path, run)
    before = state.get("inputs", {}).get(BACKBONE_FIELD)
    if before is None:
        return
    folder = find_backbone(run.backbone, revision)
    recorded = {name: entry["sha256"] for name, entry in before.items()}
    now = {name: _checksum(folder / name, before.get(name, {}), checksum, trust_times) for name in model_files(folder)}
    _compare(recorded, now, folder, run)


def made_files(run: RunFolder, stage: str, checksum: Callable[[Path], str] = file_sha256) -> dict[str, str]:
    """Checksums of what a stage left, by path in the run folder."""
    if not leaves_files(run, stage):
        return {}
    place = run.path / MADE[stage]
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    return {path.relative_to(run.path).as_posix(): checksum(path) for path in files}


def leaves_files(run: RunFolder, stage: str) -> bool:
    """Whether a stage makes files that others read."""
    return stage in MADE and (stage != "backbone" or bool(run.state["backbone"]["standin"]))


def _checksum(file: Path, before: Mapping[str, Any], checksum: Callable[[Path], str], trust_times: bool) -> str:
    status = file.stat()
    if before and before["size"] != status.st_size:
        return "another size"
    if trust_times and before and before["mtime_ns"] == status.st_mtime_ns:
        return str(before["sha256"])
    return checksum(file)


def _compare(recorded: Mapping[str, str], now: Mapping[str, str], folder: Path, run: RunFolder) -> None:
    for name in sorted({*recorded, *now}):
        # A card beside the weights may be edited, and file managers leave files of their own.
        if recorded.get(name) == now.get(name) or not is_model_file(Path(name).name):
            continue
        if name not in now:
            raise EdgebError(f"{folder / name} is gone, which {run.path} was trained with", _HINT)
        if name not in recorded:
            raise EdgebError(f"{folder / name} was not there when {run.path} was trained", "move it elsewhere")
        raise EdgebError(f"{folder / name} has changed since {run.path} was trained", _HINT)
