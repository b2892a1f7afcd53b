"""A user's events as training rows of A-Tuning.

In the `stream` layout a row is a stretch of consecutive events with a loss at every eligible behavior from the second
on; in the other layouts a row is one prompt with a loss on its label.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from itertools import accumulate, chain, count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.core.encoding import PromptEncoder
from edge_behavior.core.events import BehaviorEvent
from edge_behavior.data.dataset import EventTable
from edge_behavior.data.windows import balanced_windows, eligible, positions
from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import ATuning, Recipe
from edge_behavior.train.rows.lazy import IGNORED, NO_CLASS, Row, Rows
from edge_behavior.train.rows.orders import Orders

_WEEK = 168  # hours
_BLOCK = 10_000  # random numbers drawn at once


def target_mask(settings: ATuning, table: EventTable) -> NDArray[np.bool_]:
    """[B] mask of the labels that carry a loss in A-Tuning.

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


class BehaviorRows(Rows):
    """Rows over the events of one table: which events, and how long each row is.

    Segments are tokenized one by one, so a row's length is a sum over its events, and events of the same place,
    weekday and hour have contexts of the same length.

    Attributes:
        starts: int64 [n], the first event of each row.
        stops: int64 [n], the event after its last.
        targets: int32 [n], behaviors with a loss.
        drawn: bool [events of the table], the training sample D: the rows' targets, and the events drawn with them that
            carry no loss.
        classed: Whether a row says which behavior each of its labels is of (`classes`).
    """

    targets: NDArray[np.int32]
    classed = False

    def __init__(
        self,
        table: EventTable,
        encoder: PromptEncoder,
        starts: NDArray[np.int64],
        stops: NDArray[np.int64],
        drawn: NDArray[np.bool_],
        shuffle: int | None,
    ) -> None:
        self.table, self.encoder, self.starts, self.stops, self.drawn = table, encoder, starts, stops, drawn
        self._orders = Orders(encoder, len(starts), shuffle)
        labels = table.candidates.labels
        self._answers = np.array([len(encoder.label_ids(label)) for label in labels])

    @abstractmethod
    def lines(self, index: int) -> list[int]:
        """Where in a row's ids the line of each of its events begins; that of the last one asked for is the question.

        One place for every event from the row's first to its last.
        """

    def _row(self, ids: list[int], targets: Iterable[tuple[int, int, int]]) -> Row:
        """A row with a loss at `targets`: first token, the one after the last, and code of each."""
        row = {"input_ids": ids, "labels": [IGNORED] * len(ids)}
        if self.classed:
            row["classes"] = [NO_CLASS] * len(ids)
        for first, last, code in targets:
            row["labels"][first:last] = ids[first:last]
            if self.classed:
                row["classes"][first:last] = [code] * (last - first)
        return row

    def _event_tokens(self, stops: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of the past events from `starts` to `stops`, [n]."""
        table, encoder = self.table, self.encoder
        behavior = np.array([len(encoder.segment(encoder.layout.mention(label))) for label in table.candidates.labels])
        # Above zero between the start and the end of any row.
        depth = np.zeros(len(table) + 1, dtype=np.int32)
        np.add.at(depth, self.starts, 1)
        np.subtract.at(depth, stops, 1)
        used = np.flatnonzero(np.cumsum(depth, out=depth))
        tokens = behavior[table.behavior[used]] + _counted(
            _contexts(table, used), lambda i: _around_behavior(encoder, table.event(int(used[i])))
        )
        return _within(tokens, np.searchsorted(used, self.starts), np.searchsorted(used, stops))


class StreamRows(BehaviorRows):
    """Stretches of events with a loss at every behavior of `mask` [B] from the second event on."""

    def __init__(
        self,
        table: EventTable,
        encoder: PromptEncoder,
        starts: NDArray[np.int64],
        stops: NDArray[np.int64],
        mask: NDArray[np.bool_],
        drawn: NDArray[np.bool_],
        shuffle: int | None,
    ) -> None:
        super().__init__(table, encoder, starts, stops, drawn, shuffle)
        self._mask = mask
        self.lengths = (self._orders.static + self._event_tokens(stops)).astype(np.int32)
        carried = np.where(mask, self._answers, 0)[table.behavior]
        self.labelled = _within(carried, starts + 1, stops).astype(np.int32)
        self.targets = _within(carried > 0, starts + 1, stops).astype(np.int32)

    def read(self, index: int) -> Row:
        """Encode one stretch."""
        start, stop = int(self.starts[index]), int(self.stops[index])
        stretch = self.encoder.stretch(self.table.between(start, stop), self._orders.of(index))
        codes = self.table.behavior[start:stop].tolist()
        spans = [(*span, code) for span, code in zip(stretch.targets, codes, strict=True) if self._mask[code]]
        # No loss at the first event.
        return self._row(stretch.ids, spans[1:] if self._mask[codes[0]] else spans)

    def lines(self, index: int) -> list[int]:
        """See `BehaviorRows.lines`."""
        events = self.table.between(int(self.starts[index]), int(self.stops[index]) - 1)
        return _line_starts(self.encoder, len(self.encoder.static_for(self._orders.of(index))), events)


class PromptRows(BehaviorRows):
    """Whole prompts, each with a loss on the answer only."""

    def __init__(
        self,
        table: EventTable,
        encoder: PromptEncoder,
        events: NDArray[np.int64],
        formats: NDArray[np.int64],
        drawn: NDArray[np.bool_],
        shuffle: int | None,
    ) -> None:
        first = table.user_offsets[table.user_of(events)]
        starts = np.maximum(events - encoder.layout.history_length, first)
        super().__init__(table, encoder, starts, events + 1, drawn, shuffle)
        self._formats, orders = formats.astype(np.int8), self._orders
        answers = self._answers[table.behavior[events]]
        frames = _counted(
            (_contexts(table, events) * encoder.layout.formats + formats) * len(orders) + orders.which,
            lambda i: _frame(encoder, table.event(int(events[i])), int(formats[i]), orders.of(i)),
        )
        self.lengths = (orders.static + self._event_tokens(events) + frames + answers).astype(np.int32)
        self.labelled, self.targets = answers.astype(np.int32), np.ones(len(events), dtype=np.int32)

    def read(self, index: int) -> Row:
        """Encode one prompt and its answer."""
        target = int(self.stops[index]) - 1
        prompt = window_prompt(self.table, self.encoder, target, int(self._formats[index]), self._orders.of(index))
        code = int(self.table.behavior[target])
        ids = prompt + self.encoder.label_ids(self.table.candidates.labels[code])
        return self._row(ids, [(len(prompt), len(ids), code)])

    def lines(self, index: int) -> list[int]:
        """See `BehaviorRows.lines`."""
        target, listed = int(self.stops[index]) - 1, self._orders.of(index)
        return window_lines(self.table, self.encoder, target, int(self._formats[index]), listed)


def _contexts(table: EventTable, events: NDArray[np.int64]) -> NDArray[np.int64]:
    """One number for all a layout says of an event besides its behavior: place, weekday and hour."""
    hours = table.time[events].astype("datetime64[h]").astype(np.int64)
    return np.asarray(table.place[events].astype(np.int64) * _WEEK + hours % _WEEK)


def _around_behavior(encoder: PromptEncoder, event: BehaviorEvent) -> int:
    before, _, after = encoder.layout.line(event)
    return len(encoder.segment(before)) + len(encoder.segment(after))


def _frame(encoder: PromptEncoder, event: BehaviorEvent, format_index: int, listed: tuple[str, ...] | None) -> int:
    return sum(len(ids) for ids in encoder.frame_ids(event.time, event.place, format_index, listed))


def _counted(keys: NDArray[np.int64], tokens: Callable[[int], int]) -> NDArray[np.int64]:
    """`tokens(i)` for every position i of `keys` [n], computed once per distinct key."""
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    found = np.fromiter((tokens(i) for i in first.tolist()), dtype=np.int64, count=len(first))
    return np.asarray(found[which])


def _within(
    values: NDArray[np.integer[Any] | np.bool_], starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Sums of `values` from each start to its stop."""
    total = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=total[1:])
    return np.asarray(total[stops] - total[starts])


def stream_rows(
    table: EventTable,
    encoder: PromptEncoder,
    settings: ATuning,
    mask: NDArray[np.bool_],
    targets: int,
    seed: int,
    shuffled: bool = False,
) -> StreamRows:
    """Cut users' events into consecutive random stretches until they carry `targets` supervised behaviors.

    Users come in random order and every event is used at most once, so one call is one epoch. With `shuffled`, each
    stretch lists the candidates in a random order.
    """
    rng = np.random.default_rng(seed)
    starts, stops = _cuts(table, settings, rng)
    order = rng.permutation(len(starts))
    starts, stops = starts[order], stops[order]
    carried = _within(mask[table.behavior], starts + 1, stops)
    enough = int(np.searchsorted(np.cumsum(carried), targets)) + 1
    drawn = np.zeros(len(table), dtype=np.bool_)
    drawn[positions(starts[:enough] + 1, stops[:enough])] = True
    kept = np.flatnonzero(carried[:enough])
    return StreamRows(table, encoder, starts[kept], stops[kept], mask, drawn, seed if shuffled else None)


def _cuts(
    table: EventTable, settings: ATuning, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Stretches [start, stop) of all users, each at least `stretch_min` events long."""
    starts, stops = array("q"), array("q")
    low, high = settings.stretch_min, settings.stretch_max + 1
    # A copy draws in blocks, since only the end shows how many are needed; then `rng` draws that many.
    ahead = deepcopy(rng)
    sizes = chain.from_iterable(ahead.integers(low, high, _BLOCK).tolist() for _ in count())
    # From the event before the first target: a stretch's first event carries no loss.
    begins = np.maximum(table.user_offsets[:-1], table.target_starts - 1)
    for at, end in zip(begins.tolist(), table.user_offsets[1:].tolist(), strict=True):
        while end - at >= settings.stretch_min:
            size = min(next(sizes), end - at)
            starts.append(at)
            stops.append(at + size)
            # The next stretch starts at this one's last event, for the same reason.
            at += size - 1
    rng.integers(low, high, len(starts))
    return np.array(starts, dtype=np.int64), np.array(stops, dtype=np.int64)


def prompt_rows(
    table: EventTable,
    encoder: PromptEncoder,
    mask: NDArray[np.bool_],
    targets: int,
    seed: int,
    shuffled: bool = False,
) -> PromptRows:
    """One row per target: the whole prompt, loss on the label and its terminator only.

    With `shuffled`, each lists the candidates in a random order.
    """
    rng = np.random.default_rng(seed)
    windows = rng.permutation(eligible(table, encoder.layout.history_length))
    supervised = mask[table.behavior[windows]]
    windows = windows[: int(np.searchsorted(np.cumsum(supervised), targets)) + 1]
    drawn = np.zeros(len(table), dtype=np.bool_)
    drawn[windows] = True
    windows = windows[supervised[: len(windows)]]
    formats = rng.integers(encoder.layout.formats, size=len(windows))
    return PromptRows(table, encoder, windows, formats, drawn, seed if shuffled else None)


def behavior_rows(
    table: EventTable, encoder: PromptEncoder, settings: ATuning, targets: int, seed: int, shuffled: bool = False
) -> BehaviorRows:
    """One epoch of A-Tuning rows in the encoder's layout.

    Args:
        targets: Supervised behaviors, at most.
        shuffled: Each row lists the candidates in a random order instead of the layout's.

    Raises:
        EdgebError: the table has no target the settings allow.
    """
    mask = target_mask(settings, table)
    rows: BehaviorRows
    if encoder.layout.name == "stream":
        rows = stream_rows(table, encoder, settings, mask, targets, seed, shuffled)
    else:
        rows = prompt_rows(table, encoder, mask, targets, seed, shuffled)
    rows.classed = settings.class_weights != "none"
    if not len(rows):
        raise EdgebError("no supervised target among these users", "import more events, or widen a_tuning.targets")
    return rows


def pool_windows(table: EventTable, encoder: PromptEncoder, recipe: Recipe) -> NDArray[np.int64]:
    """Targets of B-Tuning's pool: of A-Tuning's sample, or of all events with `a_tuning.draw: fresh`."""
    stage, cap = recipe.a_tuning, recipe.b_tuning.pool_per_behavior
    among = None
    if stage.draw == "fixed":
        among = behavior_rows(table, encoder, stage, stage.max_targets, recipe.seed).drawn
    return balanced_windows(table, cap or len(table), encoder.layout.history_length, recipe.seed, among)


def supervised_targets(rows: Iterable[Row], encoder: PromptEncoder) -> int:
    """Number of behaviors with a loss, counted on the labels of behavior rows."""
    end = encoder.terminator_ids[-1]
    return sum(
        label == end and (i + 1 == len(row["labels"]) or row["labels"][i + 1] == IGNORED)
        for row in rows
        for i, label in enumerate(row["labels"])
    )


def window_prompt(
    table: EventTable,
    encoder: PromptEncoder,
    target: int,
    format_index: int = 0,
    listed: tuple[str, ...] | None = None,
    shown: int | None = None,
) -> list[int]:
    """Prompt ids of the window that ends before event `target`, see `PromptEncoder.prompt_ids`.

    Args:
        shown: At most so many of the layout's L events are shown; None for all.
    """
    event, length = table.event(target), encoder.layout.history_length
    history = table.history(target, length if shown is None else min(shown, length))
    return encoder.prompt_ids(history, event.time, event.place, format_index, listed)


def window_lines(
    table: EventTable,
    encoder: PromptEncoder,
    target: int,
    format_index: int = 0,
    listed: tuple[str, ...] | None = None,
) -> list[int]:
    """Where in the ids of `window_prompt` each past event's line begins, and last the question that follows them."""
    event = table.event(target)
    before, _ = encoder.frame_ids(event.time, event.place, format_index, listed)
    first = len(encoder.static_for(listed)) + len(before)
    return _line_starts(encoder, first, table.history(target, encoder.layout.history_length))


def _line_starts(encoder: PromptEncoder, first: int, events: Sequence[BehaviorEvent]) -> list[int]:
    """Where each event's line begins when the first does at `first`, and where the last one ends."""
    return list(accumulate((len(encoder.line_ids(event)) for event in events), initial=first))
