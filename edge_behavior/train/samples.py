"""Training sequences of A-Tuning: event tables in, token rows with masked labels out.

In the `stream` layout one row is a stretch of a user's events with a loss at every eligible behavior from the
second on; in the other layouts one row is one prompt with the loss on its label.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edge_behavior.data.dataset import EventTable
from edge_behavior.data.windows import eligible
from edge_behavior.encoding import PromptEncoder
from edge_behavior.errors import EdgebError
from edge_behavior.recipes import ATuning

Row = dict[str, list[int]]
IGNORED = -100


def target_mask(settings: ATuning, table: EventTable) -> NDArray[np.bool_]:
    """[B] mask of the labels that carry a loss in stage 1.

    Raises:
        EdgebError: no label is left.
    """
    candidates = table.candidates
    groups = np.array(candidates.groups(anchor=settings.anchor_threshold))
    mask = {
        "anchors": candidates.anchors(settings.anchor_threshold),
        "all": np.ones(len(candidates), dtype=np.bool_),
        "tail": groups == "tail",
        "medium_and_tail": groups != "head",
    }[settings.targets]
    if not (mask & (np.asarray(candidates.counts) > 0)).any():
        raise EdgebError(
            f"a_tuning.targets={settings.targets} leaves no behavior with a training event",
            f"lower a_tuning.anchor_threshold (now {settings.anchor_threshold})",
        )
    return np.asarray(mask, dtype=np.bool_)


def stream_rows(
    table: EventTable, encoder: PromptEncoder, settings: ATuning, mask: NDArray[np.bool_], targets: int, seed: int
) -> list[Row]:
    """Cut users' events into consecutive random stretches until they carry `targets` supervised behaviors.

    Users come in random order and every event is used at most once, so one call is one epoch.
    """
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for start, stop in _cuts(table, settings, rng):
        if targets <= 0:
            break
        stretch = encoder.stretch([table.event(i) for i in range(start, stop)])
        labels = [IGNORED] * len(stretch.ids)
        carried = 0
        for i, (first, last) in list(enumerate(stretch.targets, start))[1:]:
            if mask[table.behavior[i]]:
                labels[first:last] = stretch.ids[first:last]
                carried += 1
        if carried:
            rows.append({"input_ids": stretch.ids, "labels": labels})
            targets -= carried
    return rows


def _cuts(table: EventTable, settings: ATuning, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Stretches [start, stop) of all users, in random order, each at least `stretch_min` events long."""
    cuts: list[tuple[int, int]] = []
    offsets = table.user_offsets
    for user in range(len(offsets) - 1):
        at, end = int(offsets[user]), int(offsets[user + 1])
        while end - at >= settings.stretch_min:
            size = min(int(rng.integers(settings.stretch_min, settings.stretch_max + 1)), end - at)
            cuts.append((at, at + size))
            # The next stretch starts at this one's last event: a stretch's first event carries no loss.
            at += size - 1
    for i in rng.permutation(len(cuts)):
        yield cuts[i]


def prompt_rows(
    table: EventTable, encoder: PromptEncoder, mask: NDArray[np.bool_], targets: int, seed: int
) -> list[Row]:
    """One row per target: the whole prompt, loss on the label and its terminator only."""
    rng = np.random.default_rng(seed)
    windows = eligible(table, encoder.layout.history_length)
    windows = windows[mask[table.behavior[windows]]]
    if len(windows) > targets:
        windows = rng.choice(windows, targets, replace=False)
    rows = []
    for target in rng.permutation(windows):
        prompt = window_prompt(table, encoder, int(target), int(rng.integers(encoder.layout.formats)))
        answer = encoder.label_ids(table.candidates.labels[table.behavior[target]])
        rows.append({"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer})
    return rows


def behavior_rows(table: EventTable, encoder: PromptEncoder, settings: ATuning, targets: int, seed: int) -> list[Row]:
    """One epoch of stage 1 rows in the encoder's layout.

    Raises:
        EdgebError: the table has no target the settings allow.
    """
    mask = target_mask(settings, table)
    if encoder.layout.name == "stream":
        rows = stream_rows(table, encoder, settings, mask, targets, seed)
    else:
        rows = prompt_rows(table, encoder, mask, targets, seed)
    if not rows:
        raise EdgebError("no supervised target among these users", "import more events, or widen a_tuning.targets")
    return rows


def supervised_targets(rows: list[Row], encoder: PromptEncoder) -> int:
    """Number of behaviors that carry a loss in behavior rows."""
    end = encoder.terminator_ids[-1]
    return sum(
        label == end and (i + 1 == len(row["labels"]) or row["labels"][i + 1] == IGNORED)
        for row in rows
        for i, label in enumerate(row["labels"])
    )


def window_prompt(table: EventTable, encoder: PromptEncoder, target: int, format_index: int = 0) -> list[int]:
    """Prompt ids of the window that ends before event `target`."""
    event = table.event(target)
    history = table.history(target, encoder.layout.history_length)
    return encoder.prompt_ids(history, event.time, event.place, format_index)
