"""What of a run folder is exported."""

from __future__ import annotations

from pathlib import Path

import yaml

from edge_behavior.errors import EdgebError, nearest
from edge_behavior.export.pipeline import ExportSource
from edge_behavior.runs import STAGES, RunFolder, read_json


def run_source(path: Path, stage: str = STAGES[-1]) -> ExportSource:
    """The weights of a stage with the run's candidates, layout, recipe and metrics.

    Raises:
        EdgebError: not a run, unknown stage, or a stage that is not finished.
    """
    choices = ("untuned", *STAGES)
    if stage not in choices:
        raise EdgebError(f"unknown stage '{stage}'", nearest(stage, choices))
    run = RunFolder.open(path)
    adapter = None
    if stage != "untuned":
        if run.done(stage) is None:
            raise EdgebError(f"{path}: stage {stage} is not finished", "continue it with `edgeb train --resume`")
        adapter = run.adapter(stage)
    metrics = path / "metrics.json"
    evaluation = {}
    if metrics.is_file():
        found = read_json(metrics)["models"].get(stage, {})
        # The bundle carries the headline numbers; per-behavior rows stay in the run.
        evaluation = {
            protocol: {key: value for key, value in numbers.items() if key != "per_behavior"}
            for protocol, numbers in found.items()
        }
    recipe = yaml.safe_load((path / "recipe.yaml").read_text(encoding="utf-8"))
    local = recipe["backbone"]["path"]
    if local is not None and Path(local).is_dir():
        # A bundle is shipped: it names the backbone, not where it lay.
        recipe["backbone"]["path"] = Path(local).name
    return ExportSource(
        base=run.backbone,
        adapter=adapter,
        candidates=run.candidates,
        layout=run.layout,
        training=recipe,
        evaluation=evaluation,
    )
