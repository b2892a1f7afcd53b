"""The trial: a child process, which may crash, evaluates a tiny quantized model without and with extra buffers.

`run` starts the child and reports how it ended; `main` runs in it. It calls llama.cpp directly, since `LlamaModel` asks
for the verdict that the trial is to find. Knows nothing of what follows from the result.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_behavior.runtime.llama.trial_file import POSITIONS, VOCABULARY, write_trial_file

# Signals for faults of the code. Other signals come from people, limits and a lack of memory.
_CRASHES = {signal.SIGSEGV, signal.SIGILL, signal.SIGBUS, signal.SIGFPE}
_PATIENCE = 60
# AMX has a kernel for fewer than 32 tokens and one for 32; a single token uses neither.
_TOKENS = (8, 40)
# Both ways quantize activations to 8 bits and round differently: 0.3 % apart here; unrelated results would be 140 %.
_APART = 0.1
# The child imports the same files as this process, and nothing from its working folder.
_CODE = "import sys; sys.path[:] = sys.argv[2:]; from edge_behavior.runtime.llama.trial import main; main(sys.argv[1])"


@dataclass(frozen=True)
class Ending:
    """How the trial ended.

    Attributes:
        plain: Evaluating without extra buffers succeeded.
        amx: llama.cpp repacked weights for AMX.
        crash: Name of the fault's signal, like "SIGSEGV".
        apart: Distance of the two results, relative to the first; None without a second, infinite if that has values
            that are not finite.
        reason: Why there is neither a crash nor a result.
    """

    plain: bool = False
    amx: bool = False
    crash: str | None = None
    apart: float | None = None
    reason: str = ""

    @property
    def agree(self) -> bool:
        """Whether there are both results and they are equal to rounding."""
        return self.apart is not None and self.apart < _APART


def run() -> Ending:
    """Run the trial; takes half a second."""
    if getattr(sys, "frozen", False) or not sys.executable:
        return Ending(reason="there is no Python to start")
    try:
        with TemporaryDirectory(prefix="edgeb-") as folder:
            model = Path(folder) / "trial.gguf"
            write_trial_file(model)
            command = [sys.executable, "-c", _CODE, str(model), *(part for part in sys.path if isinstance(part, str))]
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_PATIENCE
            )
    except subprocess.TimeoutExpired:
        return Ending(reason=f"it took longer than {_PATIENCE} s")
    except (OSError, ValueError) as error:
        return Ending(reason=str(error) or type(error).__name__)
    return _ending(done.returncode, done.stdout.splitlines(), done.stderr.splitlines())


def main(model: str) -> None:
    """Evaluate the file both ways; prints "plain" after the first, a line of JSON after the second."""
    import resource

    # An expected crash leaves no core file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    expected, _ = _logits(model, extra=False)
    print("plain", flush=True)
    found, amx = _logits(model, extra=True)
    apart = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    print(json.dumps({"amx": amx, "apart": apart if math.isfinite(apart) else None}), flush=True)


def _ending(code: int, out: Sequence[str], err: Sequence[str]) -> Ending:
    plain = "plain" in out
    if code < 0:
        name = _signal_name(-code)
        return Ending(plain, crash=name) if -code in _CRASHES else Ending(plain, reason=f"it was ended by {name}")
    if code > 0:
        return Ending(plain, reason=err[-1].strip() if err else f"it ended with exit code {code}")
    try:
        result = json.loads(out[-1])
        apart = math.inf if result["apart"] is None else float(result["apart"])
        return Ending(plain, bool(result["amx"]), apart=apart)
    except (IndexError, KeyError, TypeError, ValueError):
        return Ending(plain, reason="it gave no result")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _logits(path: str, extra: bool) -> tuple[NDArray[np.float32], bool]:
    """Logits [tokens, VOCABULARY] of the trial's decodes, and whether weights were repacked for AMX."""
    import llama_cpp

    from edge_behavior.runtime.llama.log import captured_log

    lines: list[str] = []
    with captured_log(lines.append) as errors:
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.n_gpu_layers, options.use_extra_bufts = 0, extra
        model: Any = llama_cpp.llama_model_load_from_file(os.fsencode(path), options)
        if not model:
            sys.exit(f"llama.cpp cannot load its model: {errors[0] if errors else 'no reason given'}")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = POSITIONS
        settings.n_threads = settings.n_threads_batch = 1
        context: Any = llama_cpp.llama_init_from_model(model, settings)
        if not context:
            sys.exit(f"llama.cpp makes no context: {errors[0] if errors else 'no reason given'}")
        rows = [_decode(context, count) for count in _TOKENS]
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)
    return np.concatenate(rows), any("AMX model buffer" in line for line in lines)


def _decode(context: Any, count: int) -> NDArray[np.float32]:
    import llama_cpp

    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    batch = llama_cpp.llama_batch_init(count, 0, 1)
    batch.n_tokens = count
    for i in range(count):
        batch.token[i], batch.pos[i], batch.logits[i] = i * 7 % VOCABULARY, i, True
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    status = llama_cpp.llama_decode(context, batch)
    llama_cpp.llama_batch_free(batch)
    if status != 0:
        sys.exit(f"llama.cpp could not evaluate {count} tokens (status {status})")
    rows = llama_cpp.llama_get_logits(context)
    return np.ctypeslib.as_array(rows, shape=(count, VOCABULARY)).copy()
