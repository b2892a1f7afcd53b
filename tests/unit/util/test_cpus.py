"""How many threads a process may use, read off a system folder made up for the purpose."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_behavior.errors import EdgebError
from edge_behavior.util import cpus
from edge_behavior.util.cpus import (
    allowed_cpus,
    chosen_threads,
    free_cpus,
    physical_cores,
    usable_threads,
    wait_passively,
)

V2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
)


def system(root: Path, mounts: str, groups: str, files: dict[str, str]) -> Path:
    """A root folder with /proc/self and control group files."""
    for name, text in {"proc/self/mountinfo": mounts, "proc/self/cgroup": groups, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "_affinity", lambda: range(16))


@pytest.mark.usefixtures("sixteen")
class TestQuota:
    @pytest.mark.parametrize(
        ("limit", "allowed"),
        [
            ("max 100000", 16),
            ("100000 100000", 1),
            ("150000 100000", 2),
            ("20000 100000", 1),
            ("800000 100000", 8),
            ("6400000 100000", 16),
            ("", 16),
            ("nonsense", 16),
            ("100000 0", 16),
        ],
    )
    def test_version_2(self, limit: str, allowed: int, tmp_path: Path) -> None:
        assert allowed_cpus(system(tmp_path, V2, "0::/\n", {"sys/fs/cgroup/cpu.max": limit})) == allowed

    @pytest.mark.parametrize(("quota", "allowed"), [("-1", 16), ("250000", 3), ("50000", 1), ("100000", 1)])
    def test_version_1(self, quota: str, allowed: int, tmp_path: Path) -> None:
        files = {f"sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_{name}_us": value for name, value in
                 (("quota", quota), ("period", "100000"))}  # fmt: skip
        assert allowed_cpus(system(tmp_path, V1, "4:memory:/\n3:cpu,cpuacct:/job\n", files)) == allowed

    def test_a_group_above_may_be_the_narrower_one(self, tmp_path: Path) -> None:
        files = {"sys/fs/cgroup/a/cpu.max": "300000 100000", "sys/fs/cgroup/a/b/cpu.max": "500000 100000"}
        assert allowed_cpus(system(tmp_path, V2, "0::/a/b\n", files)) == 3

    @pytest.mark.parametrize("group", ["/docker/abc", "/../../other", "/"])
    def test_a_container_sees_its_group_as_the_top(self, group: str, tmp_path: Path) -> None:
        mounts = V2.replace(" / /sys", " /docker/abc /sys")
        assert allowed_cpus(system(tmp_path, mounts, f"0::{group}\n", {"sys/fs/cgroup/cpu.max": "200000 100000"})) == 2

    def test_both_versions_side_by_side(self, tmp_path: Path) -> None:
        mounts = V1 + V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified ")
        files = {
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/unified/cpu.max": "max 100000",
        }
        assert allowed_cpus(system(tmp_path, mounts, "3:cpu,cpuacct:/\n0::/\n", files)) == 4

    def test_no_control_groups(self, tmp_path: Path) -> None:
        assert allowed_cpus(tmp_path) == 16


@given(quota=st.integers(1, 10**8), period=st.integers(1000, 10**6), cpu_count=st.integers(1, 512))
def test_between_one_and_the_affinity(quota: int, period: int, cpu_count: int, tmp_path_factory: object) -> None:
    root = system(
        tmp_path_factory.mktemp("root"),  # type: ignore[attr-defined]
        V2,
        "0::/\n",
        {"sys/fs/cgroup/cpu.max": f"{quota} {period}"},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpus, "_affinity", lambda: range(cpu_count))
        found = allowed_cpus(root)
    assert 1 <= found <= cpu_count
    # As many as the quota keeps busy, and no more than that asks for.
    assert found == cpu_count or (found - 1) * period < quota <= found * period


class TestCores:
    def siblings(self, root: Path, pairs: list[str]) -> Path:
        for cpu, text in enumerate(pairs):
            path = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
            path.parent.mkdir(parents=True)
            path.write_text(f"{text}\n")
        return root

    @pytest.mark.parametrize(
        ("allowed", "cores"), [([0, 1, 2, 3], 2), ([0, 2], 1), ([0, 1], 2), ([3], 1), ([1, 2, 3], 2)]
    )
    def test_of_the_cpus_that_are_allowed(
        self, allowed: list[int], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cpus, "_affinity", lambda: allowed)
        assert physical_cores(self.siblings(tmp_path, ["0,2", "1,3", "0,2", "1,3"])) == cores

    def test_the_quota_holds_for_them_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cpus, "_affinity", lambda: range(4))
        root = self.siblings(tmp_path, ["0", "1", "2", "3"])
        assert physical_cores(system(root, V2, "0::/\n", {"sys/fs/cgroup/cpu.max": "120000 100000"})) == 2

    def test_where_the_system_does_not_say(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cpus, "_affinity", lambda: range(8))
        monkeypatch.setattr(psutil, "cpu_count", lambda logical: 4)
        assert physical_cores(tmp_path) == 4
        monkeypatch.setattr(cpus, "_affinity", lambda: range(3))
        assert physical_cores(tmp_path) == 3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_affinity_of_this_process() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert allowed_cpus() == physical_cores() == chosen_threads(None, 8) == 1
        with pytest.raises(EdgebError, match="threads is 2, but this process may use 1 CPU"):
            chosen_threads(2, 1)
    finally:
        os.sched_setaffinity(0, before)


class TestFree:
    """Eight CPUs, of which the process may use four, looked at for two seconds of a clock made up."""

    @pytest.mark.parametrize(
        ("others", "own", "free"),
        [(0.0, 0.0, 4), (0.3, 0.0, 4), (1.0, 0.0, 3), (2.6, 0.0, 1), (4.0, 0.0, 1), (2.0, 1.0, 3), (0.0, 4.0, 4)],
    )
    def test_what_others_leave(self, others: float, own: float, free: int, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = [100.0]
        # All load is on the CPUs that the process may use; the others are busy all the time.
        spent = lambda cpu: (clock[0] - 100) * (others / 4 if cpu < 4 else 1)  # noqa: E731
        times = [SimpleNamespace(user=0.0, system=0.0, nice=0.0) for _ in range(8)]

        def read(percpu: bool) -> list[SimpleNamespace]:
            for cpu, found in enumerate(times):
                found.user, found.nice = spent(cpu), 5 * spent(cpu)
            return times

        process = SimpleNamespace(cpu_times=lambda: (0.75 * own * (clock[0] - 100), 0.25 * own * (clock[0] - 100)))
        monkeypatch.setattr(cpus, "_affinity", lambda: range(4))
        monkeypatch.setattr(cpus, "allowed_cpus", lambda: 4)
        monkeypatch.setattr(psutil, "cpu_times", read)
        monkeypatch.setattr(psutil, "Process", lambda: process)
        monkeypatch.setattr(cpus, "perf_counter", lambda: clock[0])
        monkeypatch.setattr(cpus, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
        assert free_cpus(2.0) == free

    def test_on_this_machine(self) -> None:
        assert 1 <= free_cpus(0.01) <= allowed_cpus()


class TestWaiting:
    def test_passive_unless_the_user_says_otherwise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "environ", {})
        wait_passively()
        assert os.environ == {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
        monkeypatch.setattr(os, "environ", {"GOMP_SPINCOUNT": "1000"})
        wait_passively()
        assert os.environ == {"GOMP_SPINCOUNT": "1000"}


class TestChoice:
    @pytest.fixture(autouse=True)
    def four(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cpus, "allowed_cpus", lambda root=None: 4)

    @pytest.mark.parametrize(("asked", "own", "found"), [(None, 2, 2), (None, 64, 4), (1, 2, 1), (4, 2, 4)])
    def test_asked_or_own(self, asked: int | None, own: int, found: int) -> None:
        assert chosen_threads(asked, own) == found

    def test_numpy_counts_too(self) -> None:
        assert type(chosen_threads(np.int64(3), 1)) is int  # type: ignore[arg-type]

    @pytest.mark.parametrize("asked", [0, -1, -(10**30), True, 2.0, "2", [1], float("nan")])
    def test_no_number_of_threads(self, asked: int) -> None:
        with pytest.raises(EdgebError, match="--threads is ") as caught:
            chosen_threads(asked, 1, "--threads")
        assert caught.value.hint == "use 1 to 4 threads"

    @pytest.mark.parametrize("asked", [5, 8000, 10**40])
    def test_more_than_allowed(self, asked: int) -> None:
        with pytest.raises(EdgebError, match="but this process may use 4 CPUs"):
            chosen_threads(asked, 1)

    def test_after_a_fork_that_lost_the_pool(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cpus, "_pooled", False)
        monkeypatch.setattr(cpus, "_pool_lost", False)
        usable_threads(1, 1)
        cpus._after_fork()
        assert usable_threads(None, 3) == 3, "one thread is no pool"
        cpus._after_fork()
        assert usable_threads(None, 3) == 1
        with pytest.raises(EdgebError, match="forked"):
            usable_threads(2, 1)
