"""Fits and scores every system of a comparison; what is on disk is not done again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from edge_behavior.baselines.cost import measure_cost
from edge_behavior.baselines.system import CostedFit, Reporting, Shipping
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.studies.compare.contenders import Bench, Contender
from edge_behavior.studies.compare.folder import Asked
from edge_behavior.studies.compare.plan import Entry, entries
from edge_behavior.studies.compare.predictions import write_scores
from edge_behavior.studies.compare.windows import (
    Drawn,
    describe,
    draw,
    known_events,
    read_windows,
    targets_of,
    write_windows,
)
from edge_behavior.studies.runs.runner import attempted, check_one_process
from edge_behavior.util.terminal import open_console


def drawn_windows(asked: Asked, dataset: Dataset) -> Drawn:
    """The windows of a comparison.

    Raises:
        EdgebError: too few users for a protocol.
    """
    sizes, recipe = asked.sizes, asked.recipe
    length = recipe.layout.history_length
    return draw(dataset, length, sizes.protocol, sizes.windows, sizes.validation, recipe.seed)


def run_compare(bench: Bench, contenders: Mapping[str, Contender]) -> list[str]:
    """Fit and score whatever has no predictions yet. A failure is noted, and the others go on.

    Args:
        bench: The comparison; its folder has been asked.
        contenders: Every system that was asked for, by name.

    Returns:
        Names of what failed.

    Raises:
        EdgebError: started as one of several processes, or the windows are no longer those that were drawn.
    """
    check_one_process("edgeb compare")
    _keep_windows(bench)
    console, folder = open_console(stderr=True), bench.folder
    work = [(entry, seed) for entry in entries(bench.asked) for seed in entry.seeds]
    failed = []
    for number, (entry, seed) in enumerate(work, 1):
        name = f"{entry.name}-seed{seed}"
        missing = [held for held in entry.sets if not folder.predictions(entry.name, seed, held).is_file()]
        if not missing:
            folder.forget_error(name)
            continue
        console.print(f"{number} of {len(work)}: {name}")
        if not attempted(name, folder, partial(_score, bench, contenders[entry.system], entry, seed, missing)):
            failed.append(name)
    return failed


def _keep_windows(bench: Bench) -> None:
    file, recipe = bench.folder.windows, bench.asked.recipe
    if not file.is_file():
        length = recipe.layout.history_length
        write_windows(file, describe(bench.dataset, bench.drawn, length, recipe.a_tuning.anchor_threshold))
        return
    held, tables = read_windows(file), {name: bench.dataset.events(name) for name in ("test", "validation")}
    for part, name, targets in (
        (held.test, "test", bench.drawn.test),
        (held.validation, "validation", bench.drawn.validation),
    ):
        if not np.array_equal(part.truth, tables[name].behavior[targets]):
            raise EdgebError(
                f"{file} holds other windows than this version of edgeb draws", "compare again in another folder"
            )


def _score(bench: Bench, contender: Contender, entry: Entry, seed: int, missing: Sequence[str]) -> None:
    fitted = contender.fit(bench, seed, entry.point, _rate(bench, contender))
    try:
        fit = f"{entry.name}-seed{seed}"
        # Before scoring: where all windows are scored, nothing is fitted any more. Once: a later fit, which adds
        # windows, is not the one that the first windows were scored by.
        kept = bench.folder.kept_model(entry.system, seed)
        if entry.point is None and isinstance(fitted, Shipping) and not kept.exists():
            fitted.keep(kept)
        if entry.point is None and isinstance(fitted, CostedFit) and fit not in bench.folder.costs():
            bench.folder.note_cost(fit, measure_cost(fitted, bench.dataset.events("test"), bench.drawn.test))
        for window_set in missing:
            table = bench.dataset.events("validation" if window_set == "validation" else "test")
            scores = fitted.log_probs(table, targets_of(window_set, bench.drawn), known_events(window_set))
            if isinstance(fitted, Reporting):
                bench.folder.note_answers(fit, window_set, fitted.report())
            write_scores(bench.folder.predictions(entry.name, seed, window_set), scores)
    finally:
        fitted.close()
    contender.clean(bench, seed, entry.point)


def _rate(bench: Bench, contender: Contender) -> float | None:
    held = bench.folder.rates().get(contender.name)
    if held is not None:
        return float(held["rate"])
    found = contender.choose_rate(bench)
    if found is None:
        return None
    rate, measured = found
    bench.folder.note_rate(contender.name, rate, measured, bench.asked.sizes.rate_targets)
    open_console(stderr=True).print(f"{contender.name}: learning rate {rate:g} on validation users")
    return rate
