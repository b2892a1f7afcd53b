"""Many prompts through one bundle: an engine of one thread per core, each with prompts of its own.

The threads of one engine wait for each other at every layer of every small batch; engines side by side never do
(`benchmarks/export_speed.py --engines` compares them). A prediction that somebody waits for is another matter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from edge_behavior.runtime.predictor import SMALL_BUNDLE
from edge_behavior.util.cpus import physical_cores

# Share of the free memory that all engines together may fill with weights.
_MEMORY_SHARE = 0.5

_Engine = TypeVar("_Engine")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def engine_count(bundle: Path) -> int:
    """How many engines of one thread to open: one per core of a single file, as far as memory goes.

    One for a small bundle, which Python keeps busy anyway, and for an ONNX folder. Where it is one, it may use all
    threads.
    """
    import psutil

    if not bundle.is_file() or bundle.stat().st_size < SMALL_BUNDLE:
        return 1
    room = int(_MEMORY_SHARE * psutil.virtual_memory().available / bundle.stat().st_size)
    return max(1, min(physical_cores(), room))


def side_by_side(
    engines: Sequence[_Engine], items: Iterable[_Item], work: Callable[[_Engine, _Item], _Result]
) -> Generator[_Result, None, None]:
    """Results of `work` in the order of the items; each engine does one item at a time.

    Items are taken one by one as engines become free, so that an iterator may end early. Closing the iterator, or an
    exception, waits for what has begun.
    """
    if len(engines) == 1:
        for item in items:
            yield work(engines[0], item)
        return
    free, begun = deque(engines), deque[tuple[Future[_Result], _Engine]]()
    with ThreadPoolExecutor(len(engines), thread_name_prefix="edgeb-engine") as pool:
        for item in items:
            engine = free.popleft()
            begun.append((pool.submit(work, engine, item), engine))
            if not free:
                future, engine = begun.popleft()
                result = future.result()
                free.append(engine)
                yield result
        for future, _ in begun:
            yield future.result()
