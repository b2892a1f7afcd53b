"""Fixtures every test may use. Nothing is downloaded; real data is read from ../shared where it exists."""

from __future__ import annotations

import gc
import os
import re
import signal
import tempfile
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tests neither read nor write the user's own snapshots and last paths.
os.environ["EDGEB_HOME"] = tempfile.mkdtemp(prefix="edgeb-tests-")

# A shell that starts `make test` in the background ignores SIGINT, and children inherit that; tests press Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# An environment without the training packages (a Python that has none of them yet) still runs the other tests.
NO_TORCH = find_spec("torch") is None
if NO_TORCH:
    parts = ("bench", "demo", "export", "runtime", "train")
    collect_ignore = ["android", "integration", *(f"unit/{part}" for part in parts)]


def pytest_report_header() -> str | None:
    return f"no torch, and so not collected: {', '.join(collect_ignore)}" if NO_TORCH else None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A file that needs torch or what comes with it is skipped where there is none."""
    report = yield
    found = re.search(r"No module named '([\w.]+)'", str(report.longrepr)) if NO_TORCH and report.failed else None
    if found:
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, f"Skipped: no torch, and so no {found[1]}")
    return report


def pytest_collection_finish() -> None:
    """What importing torch made stays: without it a collection, of which every stage of a run does one, is quick."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Extension modules look at exit whether their objects are gone."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def no_plots() -> Generator[None]:
    """Runs trained in this process report without drawings; see `drawn_plots`."""
    if NO_TORCH:
        yield
        return
    from tests import undrawn

    with pytest.MonkeyPatch.context() as patch:
        undrawn.patched(patch, draws=False)
        yield


@pytest.fixture(scope="module")
def drawn_plots() -> Generator[None]:
    """Reports are drawn, as they are by every process of its own."""
    from tests import undrawn

    with pytest.MonkeyPatch.context() as patch:
        undrawn.patched(patch, draws=True)
        yield


SHARED = Path(os.environ.get("EDGEB_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and tokenizers beside a developer's checkout; a user's clone has none."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"real data not present beside the checkout (set EDGEB_SHARED to its folder; looked in {SHARED})")
    return SHARED
