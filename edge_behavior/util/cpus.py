"""How many threads pay: the CPUs this process may use, by affinity and by the quota of its control group (cgroup).

One thread too many slows all of them down, because they wait for each other at every step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from numbers import Integral
from pathlib import Path, PurePosixPath
from time import perf_counter, sleep
from typing import Any

from edge_behavior.errors import EdgebError

_ROOT = Path("/")


def allowed_cpus(root: Path = _ROOT) -> int:
    """CPUs that this process may use: its affinity, capped by its quota rounded up; at least 1.

    Args:
        root: Where /proc and /sys lie.
    """
    return max(1, min([len(_affinity()), *_quotas(root)]))


def physical_cores(root: Path = _ROOT) -> int:
    """Cores of `allowed_cpus`: two threads on one core are hardly faster than one.

    Args:
        root: Where /proc and /sys lie.
    """
    import psutil

    cores: set[str] = set()
    for cpu in _affinity():
        # The CPUs of one core, the same text at each of them.
        siblings = _read(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        if siblings is None:
            return min(psutil.cpu_count(logical=False) or allowed_cpus(root), allowed_cpus(root))
        cores.add(siblings)
    return min(len(cores), allowed_cpus(root))


def free_cpus(seconds: float = 0.25) -> int:
    """CPUs of `allowed_cpus` that other processes leave free, over a short look; at least 1.

    Args:
        seconds: How long to look; the caller should be idle, its own work does not count.
    """
    import psutil

    cpus, own = _affinity(), psutil.Process()

    def busy() -> float:
        every = psutil.cpu_times(percpu=True)
        used = sum(_busy_seconds(every[cpu]) for cpu in cpus if cpu < len(every))
        return used - sum(own.cpu_times()[:2])

    before, started = busy(), perf_counter()
    sleep(seconds)
    others = (busy() - before) / (perf_counter() - started)
    return max(1, min(allowed_cpus(), round(len(cpus) - max(0.0, others))))


def _busy_seconds(times: Any) -> float:
    """Seconds in which a CPU was not to be had. What runs with `nice` gives way, and does not count."""
    return float(sum(getattr(times, name, 0.0) for name in ("user", "system", "irq", "softirq", "steal")))


def chosen_threads(asked: int | None, own: int, what: str = "threads") -> int:
    """Threads to use: those asked for, else `own`, capped by what this process may use.

    Args:
        asked: The user's choice; None for none.
        own: The default.
        what: The option's name, for error messages.

    Raises:
        EdgebError: not a whole number, less than 1, or more than this process may use.
    """
    allowed = allowed_cpus()
    if asked is None:
        return min(own, allowed)
    count = "1 thread" if allowed == 1 else f"1 to {allowed} threads"
    if isinstance(asked, bool) or not isinstance(asked, Integral) or asked < 1:
        raise EdgebError(f"{what} is {str(asked)[:40]}", f"use {count}")
    if asked > allowed:
        cpus = "1 CPU" if allowed == 1 else f"{allowed} CPUs"
        raise EdgebError(f"{what} is {str(asked)[:40]}, but this process may use {cpus}", f"use {count}")
    return int(asked)


def usable_threads(asked: int | None, own: int) -> int:
    """`chosen_threads` for an engine that uses OpenMP: 1 in a process that lost OpenMP's thread pool in a fork.

    Raises:
        EdgebError: as `chosen_threads`, or several threads are asked for after such a fork.
    """
    global _pooled
    chosen = chosen_threads(asked, 1 if _pool_lost else own)
    if chosen > 1 and _pool_lost:
        raise EdgebError(
            f"threads is {chosen}, but this process was forked from one that had computed with several",
            "use 1 thread, or start the process with multiprocessing's 'spawn'",
        )
    _pooled = _pooled or chosen > 1
    return chosen


# Read by the OpenMP runtimes of GCC and LLVM when a library loads them.
_WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


def wait_passively() -> None:
    """Have OpenMP's threads sleep while they wait for each other, unless the environment says how they wait.

    By default they spin, and take from other processes the CPU that they wait for. Call it before torch is imported.
    """
    if not any(name in os.environ for name in (*_WAITING, "GOMP_SPINCOUNT")):
        os.environ.update(_WAITING)


# OpenMP starts its threads once and keeps them. A forked child has none of them, but would wait for them forever.
_pooled = _pool_lost = False


def _after_fork() -> None:
    global _pool_lost
    _pool_lost = _pool_lost or _pooled


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _affinity() -> Sequence[int]:
    """Numbers of the CPUs that the process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)


def _quotas(root: Path) -> Iterator[int]:
    """CPUs that each control group with a limit grants this process, rounded up."""
    for folder in _group_folders(root):
        # Version 2: "150000 100000" or "max 100000".
        both = (_read(folder / "cpu.max") or "").split()
        if len(both) != 2:
            # Version 1: -1 for no limit.
            both = [_read(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
        if both[0].isdecimal() and both[1].isdecimal() and int(both[1]) > 0:
            yield -(-int(both[0]) // int(both[1]))


def _group_folders(root: Path) -> Iterator[Path]:
    """Folders of this process's control groups and of their parents: each may set a limit."""
    # Root within the hierarchy, mount point, version, controllers.
    mounts: list[tuple[PurePosixPath, PurePosixPath, str, set[str]]] = []
    for line in (_read(root / "proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) > 4 and len(kind) > 2 and kind[0] in ("cgroup", "cgroup2"):
            mounts.append((PurePosixPath(fields[3]), PurePosixPath(fields[4]), kind[0], set(kind[2].split(","))))
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for inner, place, kind_name, options in mounts:
            is_two = number == "0" and kind_name == "cgroup2"
            is_one = "cpu" in controllers.split(",") and kind_name == "cgroup" and "cpu" in options
            if is_two or is_one:
                yield from _upwards(root, place, inner, PurePosixPath(path))


def _upwards(root: Path, place: PurePosixPath, inner: PurePosixPath, path: PurePosixPath) -> Iterator[Path]:
    """From a group's folder up to the mount point; a container sees its own group as the top."""
    top = root / place.relative_to("/")
    below = path.relative_to(inner) if path.is_relative_to(inner) and ".." not in path.parts else PurePosixPath()
    for part in (below, *below.parents):
        yield top / part


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
