"""llama.cpp builds that misbehave: the real package, loaded by one of the same name that changes its decode."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import pytest

_PACKAGE = """
import ctypes, importlib.util, os, signal, sys
from pathlib import Path


def die(name):
    os.kill(os.getpid(), getattr(signal, name))


{at_import}
folder = Path({folder!r})
path = folder / "__init__.py"
spec = importlib.util.spec_from_file_location("llama_cpp", path, submodule_search_locations=[str(folder)])
package = sys.modules["llama_cpp"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)

real = package.llama_cpp
load, decode, log_set = real.llama_model_load_from_file, real.llama_decode, real.llama_log_set
system_info = real.llama_print_system_info
extra = False
listener = None


def listen(callback, data):
    global listener
    listener = callback
    log_set(callback, data)


def log(line):
    listener(2, line.encode(), None)


def rows(context):
    import numpy as np

    return np.ctypeslib.as_array(real.llama_get_logits(context), shape=(8, 64))


def load_and_note(path, options):
    global extra
    extra = options.use_extra_bufts
    {at_load}
    return load(path, options)


def decode_or_not(context, batch):
    {at_decode}
    status = decode(context, batch)
    {after}
    return status


for holder in (package, real):
    holder.llama_model_load_from_file = load_and_note
    holder.llama_decode = decode_or_not
    holder.llama_log_set = listen
    holder.llama_print_system_info = lambda: system_info() + b"AMX_INT8 = 1 | "
"""


def install(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    at_decode: str = "pass",
    *,
    at_import: str = "",
    at_load: str = "pass",
    after: str = "pass",
) -> Path:
    """Put such a package in front of sys.path, where processes of their own find it; this one has the real one.

    Args:
        at_decode: A statement before every decode, of `context` and `batch`; `extra` says how the model was loaded,
            `die(name)` ends the process by a signal.
        at_import: A statement before the library is loaded.
        at_load: A statement before a model is loaded; `log(line)` is llama.cpp's log.
        after: A statement after every decode; `rows(context)` are its first logits.

    Returns:
        The folder for sys.path.
    """
    place = folder / "in-front" / "llama_cpp"
    place.mkdir(parents=True, exist_ok=True)
    text = _PACKAGE.format(
        folder=str(Path(llama_cpp.__file__).parent),
        at_decode=at_decode,
        at_import=at_import,
        at_load=at_load,
        after=after,
    )
    (place / "__init__.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(place.parent))
    return place.parent
