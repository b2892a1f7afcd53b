"""Can the installed llama.cpp be trusted with this CPU's AMX units?

Some builds cannot: Debian 12's GCC 12.2 miscompiles llama.cpp's AMX code, which then crashes on every decode of
several tokens of a quantized file. If the library has such code and the CPU has AMX, a trial in a process of its own
tells, once per library. Knows nothing of bundles or predictions.
"""

from __future__ import annotations

import functools
import math
import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import llama_cpp

from edge_behavior.runtime.llama import trial as llama_trial
from edge_behavior.runtime.llama.log import captured_log
from edge_behavior.runtime.llama.verdicts import VerdictFile

# Outcomes. Not needed: library or CPU have no AMX, or llama.cpp does not use it here.
NOT_NEEDED, WORKS, CRASHES, WRONG, UNUSABLE, UNTRIED = "not needed", "works", "crashes", "wrong", "unusable", "untried"
REBUILD = (
    'CMAKE_ARGS="-DCMAKE_C_FLAGS=-mno-amx-int8 -DCMAKE_CXX_FLAGS=-mno-amx-int8" '
    f"pip install --force-reinstall --no-deps --no-cache-dir llama-cpp-python=={llama_cpp.__version__}"
)
# The cost is measured in benchmarks/results/extra_buffers.md.
REMEDY = (
    "models are loaded without its extra buffers: same answers, but q4_0 bundles at half the speed of a sound build; "
    f"to fix it: {REBUILD}"
)
# Decided by library and CPU alone, so they hold next time.
_LASTING = (WORKS, CRASHES, WRONG)
_UNITS = {"amx_int8", "amx_tile"}
# The CPU's alone: libraries for other devices may be large, and nothing runs on those.
_LIBRARY = re.compile(r"lib(?:llama|ggml|ggml-base|ggml-cpu[\w-]*)\.so[.\d]*")
_LOCK = Lock()


@dataclass(frozen=True)
class Verdict:
    """What is known of this llama.cpp on this CPU: one of the outcomes above, and what was observed."""

    outcome: str
    detail: str

    @property
    def extra_buffers(self) -> bool:
        """Whether models may be loaded with llama.cpp's extra buffers: weights repacked for the CPU, or for AMX."""
        return self.outcome in (NOT_NEEDED, WORKS)

    @property
    def fault(self) -> str:
        """What is wrong with this build, in one line; only for outcomes that are faults."""
        return {
            CRASHES: f"this build of llama.cpp crashes on this CPU's AMX units ({self.detail})",
            WRONG: f"this build of llama.cpp computes wrong numbers on this CPU's AMX units ({self.detail})",
            UNUSABLE: f"this build of llama.cpp crashes on this CPU ({self.detail})",
            UNTRIED: f"whether this build of llama.cpp crashes on AMX could not be tried ({self.detail})",
        }[self.outcome]


def verdict() -> Verdict:
    """The verdict on this process's llama.cpp.

    For a library not seen before, on a CPU with AMX, this runs the trial (half a second) and says on stderr if AMX is
    not to be used. Later calls and later processes remember.
    """
    with _LOCK:
        return _verdict()


def amx_flags() -> tuple[str, ...]:
    """The CPU's AMX features as Linux names them, sorted; empty without /proc/cpuinfo."""
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("flags"):
                return tuple(sorted(flag for flag in line.split() if flag.startswith("amx_")))
    return ()


def has_amx_code() -> bool:
    """Whether llama.cpp was built with AMX kernels, by its own account."""
    with captured_log():
        llama_cpp.llama_backend_init()
    return b"AMX_INT8 = 1" in llama_cpp.llama_print_system_info()


def library_files() -> list[Path]:
    """Files of llama.cpp's CPU code in this process, sorted; empty without /proc."""
    try:
        mapped = Path("/proc/self/maps").read_bytes().splitlines()
    except OSError:
        return []
    # A process maps hundreds of files.
    names = {fields[5] for line in mapped if b"/lib" in line and len(fields := line.split(None, 5)) == 6}
    return sorted(path for name in names if _LIBRARY.fullmatch((path := Path(os.fsdecode(name))).name))


@functools.cache
def _verdict() -> Verdict:
    if not has_amx_code():
        return Verdict(NOT_NEEDED, "llama.cpp is built without AMX")
    flags = amx_flags()
    if not _UNITS.issubset(flags):
        return Verdict(NOT_NEEDED, "this CPU has no AMX")
    kept = VerdictFile(library_files(), " ".join(flags))
    known = kept.recall()
    if known is not None and known[0] in _LASTING:
        return Verdict(*known)
    found = _judged(llama_trial.run())
    if found.outcome in _LASTING:
        kept.remember(found.outcome, found.detail)
    if found.outcome in (CRASHES, WRONG, UNTRIED):
        _say(found)
    return found


def _judged(ending: llama_trial.Ending) -> Verdict:
    if ending.crash is not None:
        return Verdict(CRASHES if ending.plain else UNUSABLE, ending.crash)
    if ending.apart is None:
        return Verdict(UNTRIED, ending.reason)
    if not ending.agree:
        return Verdict(WRONG, f"{ending.apart:.0%} off" if math.isfinite(ending.apart) else "some are not finite")
    return Verdict(WORKS, "tried") if ending.amx else Verdict(NOT_NEEDED, "llama.cpp does not use AMX here")


def _say(found: Verdict) -> None:
    # A prediction does not fail for lack of a stderr.
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(f"edgeb: {found.fault}, so {REMEDY}", file=sys.stderr)
