"""What the user made last, so that a bare `edgeb train` or `edgeb export` knows what to work on."""

from __future__ import annotations

import json
import os
from pathlib import Path

from edge_behavior.errors import EdgebError

_HINTS = {
    "dataset": "pass --data, or make one with `edgeb data import` or `edgeb data synth`",
    "run": "pass a run folder, or make one with `edgeb train`",
    "bundle": "pass a bundle, or make one with `edgeb export`",
}


def home() -> Path:
    """edgeb's own folder: $EDGEB_HOME, else the user's cache folder."""
    chosen = os.environ.get("EDGEB_HOME")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeb"


def _read() -> dict[str, str]:
    try:
        found = json.loads((home() / "last.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def remember(kind: str, path: Path) -> None:
    """Note the dataset, run or bundle that was just made. A home that cannot be written is no reason to fail."""
    try:
        last = {**_read(), kind: str(path.resolve())}
        home().mkdir(parents=True, exist_ok=True)
        temporary = home() / f"last.json.{os.getpid()}"
        temporary.write_text(json.dumps(last, indent=1), encoding="utf-8")
        temporary.replace(home() / "last.json")
    # Path.home raises RuntimeError where there is none.
    except (OSError, RuntimeError):
        return


def recall(kind: str) -> Path:
    """The last dataset, run or bundle.

    Raises:
        EdgebError: none was made, or it is gone.
    """
    path = _read().get(kind)
    if path is None:
        raise EdgebError(f"no {kind} was given and none was made before", _HINTS[kind])
    if not Path(path).exists():
        raise EdgebError(f"the last {kind}, {path}, is gone", _HINTS[kind])
    return Path(path)
