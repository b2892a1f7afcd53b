"""The ai-edge-litert package: loaded on first use, with a clear error where it is missing, and quiet.

Its libraries log every accelerator and plug-in to standard error, and the package has no switch for that. So there is
one environment per process, which is opened with standard error closed and never freed.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from edge_behavior.errors import EdgebError
from edge_behavior.runtime.accelerator import CPU, Accelerator

_HINT = "pip install 'edgeb[litert]'"
_STDOUT, _STDERR = 1, 2
# XNNPACK keeps packed weights for all signatures together, in memory; without a cache, it packs them for each.
_IN_MEMORY = ":memory"
# One caller at a time: two that take turns in a wrong order would leave standard error closed.
_lock = threading.Lock()
# By process: a forked child makes its own.
_environments: dict[int, Any] = {}
# Processes that have evaluated something.
_ran: set[int] = set()


def load_litert() -> Any:
    """The ai_edge_litert package, with the modules that are used of it.

    Raises:
        EdgebError: not installed, or its native library does not load.
    """
    try:
        import ai_edge_litert
        import ai_edge_litert.compiled_model
        import ai_edge_litert.environment
        import ai_edge_litert.hardware_accelerator
        import ai_edge_litert.options
        import ai_edge_litert.tensor_buffer
    except ImportError as error:
        if error.name == "ai_edge_litert":
            raise EdgebError("LiteRT bundles need ai-edge-litert, which is not installed", _HINT) from None
        raise EdgebError(f"ai-edge-litert does not load: {error}", _HINT) from None
    return ai_edge_litert


def open_model(litert: Any, path: str, threads: int, accelerator: Accelerator) -> Any:
    """A compiled model.

    Raises:
        RuntimeError: LiteRT cannot load the file, or an accelerator not all of it.
    """
    kinds = litert.hardware_accelerator.HardwareAccelerator
    options = litert.options.Options(
        hardware_accelerators={"cpu": kinds.CPU, "gpu": kinds.GPU}[accelerator],
        cpu_options=litert.options.CpuOptions(num_threads=threads, xnnpack_weight_cache_path=_IN_MEMORY),
        # Activations of a language model do not fit into 16 bits.
        gpu_options=litert.options.GpuOptions(enforce_f32=True),
    )
    # The GPU accelerator also writes to standard output, where a command's answer goes.
    streams = (_STDERR,) if accelerator == CPU else (_STDERR, _STDOUT)
    with _lock, _without(*streams):
        process = os.getpid()
        if process not in _environments:
            made = litert.environment.Environment.create()
            # It logs when it is freed, too.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(made.capsule))
            _environments[process] = made
        return litert.compiled_model.CompiledModel.from_file(path, environment=_environments[process], options=options)


@contextmanager
def quiet_run() -> Iterator[None]:
    """Run the block, which evaluates something; quietly the first time, when the package makes another environment."""
    process = os.getpid()
    if process in _ran:
        yield
        return
    with _lock, _without(_STDERR):
        yield
        _ran.add(process)


def quiet_exit() -> None:
    """Have this process end quietly: what LiteRT logs then is nothing that a command's user needs.

    Nothing is seen on standard error once Python begins to end: only for processes that are ours.
    """
    atexit.register(_end_stderr)


def _end_stderr() -> None:
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _STDERR)


@contextmanager
def _without(*streams: int) -> Iterator[None]:
    """Send what native code writes to these descriptors nowhere."""
    with ExitStack() as stack:
        for stream in streams:
            stack.enter_context(_closed(stream))
        yield


@contextmanager
def _closed(stream: int) -> Iterator[None]:
    try:
        saved = os.dup(stream)
    except OSError:
        # It is closed already.
        yield
        return
    try:
        _flush(stream)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream)
        os.close(nowhere)
        yield
    finally:
        _flush(stream)
        os.dup2(saved, stream)
        os.close(saved)


def _flush(stream: int) -> None:
    """Write what C's library holds back of standard output, which it does where that is no terminal."""
    flush = getattr(ctypes.pythonapi, "fflush", None)
    if stream == _STDOUT and flush is not None:
        flush(None)


def _renew_lock() -> None:
    """In a forked child: the thread that held the lock does not exist there."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
