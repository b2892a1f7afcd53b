"""Several engines at once: every item once, results in order, an early end, and nothing left running."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from edge_behavior.runtime import side_by_side as module
from edge_behavior.runtime.predictor import SMALL_BUNDLE
from edge_behavior.runtime.side_by_side import engine_count, side_by_side


class Engine:
    """Notes who is in it; two at a time are a mistake."""

    def __init__(self) -> None:
        self.lock, self.done = threading.Lock(), list[int]()

    def square(self, item: int) -> int:
        assert self.lock.acquire(blocking=False)
        try:
            self.done.append(item)
            return item * item
        finally:
            self.lock.release()


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("items", [0, 1, 2, 17])
def test_every_item_once_and_in_order(count: int, items: int) -> None:
    engines = [Engine() for _ in range(count)]
    assert list(side_by_side(engines, range(items), Engine.square)) == [i * i for i in range(items)]
    assert sorted(i for engine in engines for i in engine.done) == list(range(items))
    if items == 17:
        assert all(engine.done for engine in engines)


def test_engines_work_at_the_same_time() -> None:
    meet = threading.Barrier(2, timeout=30)

    def wait(engine: Engine, item: int) -> int:
        meet.wait()
        return item

    assert list(side_by_side([Engine(), Engine()], range(4), wait)) == [0, 1, 2, 3]


def test_items_are_taken_as_engines_become_free() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    found = side_by_side([Engine(), Engine()], items(), Engine.square)
    assert next(found) == 0
    assert len(taken) == 2
    found.close()
    assert len(taken) == 2


def test_a_failure_is_passed_on() -> None:
    def fail(engine: Engine, item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    with pytest.raises(ValueError, match="three"):
        list(side_by_side([Engine(), Engine()], range(9), fail))


def test_as_many_engines_as_cores_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "physical_cores", lambda: 4)
    bundle = tmp_path / "b.gguf"
    assert engine_count(tmp_path) == engine_count(bundle) == 1
    for size, free, expected in ((SMALL_BUNDLE - 1, 2**40, 1), (SMALL_BUNDLE, 2**40, 4), (10**9, 5 * 10**9, 2)):
        with bundle.open("wb") as file:
            file.truncate(size)
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free))
        assert engine_count(bundle) == expected
