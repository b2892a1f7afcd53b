"""The last dataset, run and bundle: the defaults of `edgeb train`, `edgeb export` and other commands."""

from __future__ import annotations

import json
import os
from pathlib import Path

from edge_behavior.errors import EdgebError
from edge_behavior.util.files import expand_home, write_file

_HINTS = {
    "dataset": "pass --data, or make one with `edgeb data import` or `edgeb data synth`",
    "run": "pass a run folder, or make one with `edgeb train`",
    "bundle": "pass a bundle, or make one with `edgeb export`",
}


def home() -> Path:
    """edgeb's own folder: $EDGEB_HOME, else in the user's cache folder; whoever writes there makes it.

    It only holds conveniences, so callers go on where it cannot be read or written. Without any home folder, the path
    is one that no system can create.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification ignores relative paths.
    chosen = os.environ.get("EDGEB_HOME") or os.path.join(cache if os.path.isabs(cache) else "~/.cache", "edgeb")
    found = expand_home(chosen)
    return Path(os.devnull, "edgeb") if found.parts[:1] and found.parts[0].startswith("~") else found


def _read() -> dict[str, str]:
    try:
        found = json.loads((home() / "last.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def remember(kind: str, path: Path) -> None:
    """Note the dataset, run or bundle that was just made; does nothing where the home cannot be written."""
    try:
        last = {**_read(), kind: str(path.resolve())}
        home().mkdir(parents=True, exist_ok=True)
        write_file(home() / "last.json", json.dumps(last, indent=1))
    except (OSError, EdgebError):
        return


def recall(kind: str) -> Path:
    """The last dataset, run or bundle.

    Raises:
        EdgebError: none was made, or it is gone.
    """
    path = _read().get(kind)
    if path is None:
        raise EdgebError(f"no {kind} was given and none was made before", _HINTS[kind])
    # Not Path.exists: it raises where the parent folder is not readable.
    if not os.path.exists(path):
        raise EdgebError(f"the last {kind}, {path}, is gone", _HINTS[kind])
    return Path(path)
