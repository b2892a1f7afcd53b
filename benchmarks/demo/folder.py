"""The demo's folder: with which settings it was begun, and what of it is done. Knows no command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge_behavior.errors import EdgebError
from edge_behavior.util.files import write_file

SMOLLM2, STANDIN = "smollm2", "standin"


@dataclass
class State:
    """The content of demo.json.

    Attributes:
        asked: The settings of the command line.
        backbone: What is tuned: the stand-in, too, where SmolLM2 was asked for and cannot be had.
        done: Finished steps.
        seconds: Spent on every step so far, interrupted attempts included.
        plans: `edgeb train --dry-run --json` of both trainings.
    """

    asked: dict[str, Any]
    backbone: str
    done: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)

    def save(self, out: Path) -> None:
        """Write demo.json, whole or not at all."""
        write_file(out / "demo.json", json.dumps(asdict(self), indent=1) + "\n")


def open_folder(out: Path, asked: dict[str, Any], install: Callable[[], str]) -> State:
    """Begin the demo in a new or empty folder, or take up what was begun there.

    Where SmolLM2 cannot be had, a demo that begins says so and takes the stand-in.

    Args:
        out: The folder.
        asked: The settings of the command line.
        install: Makes SmolLM2 available; returns "" or why it cannot be had.

    Raises:
        EdgebError: the folder was begun with other settings, or is not a demo's; or the wheel has gone meanwhile.
    """
    file, again = out / "demo.json", f"remove {out}, or choose another OUT"
    if file.is_file():
        try:
            state = State(**json.loads(file.read_text(encoding="utf-8")))
            changed = [f"{k} was {state.asked[k]}, now {now}" for k, now in asked.items() if state.asked[k] != now]
        except (ValueError, TypeError, KeyError):
            raise EdgebError(f"{file} is damaged, or another version's", again) from None
        if not changed:
            if state.backbone == SMOLLM2 and (why := install()):
                raise EdgebError(f"SmolLM2 was installed when {out} was begun, and cannot be now: {why}", again)
            return state
        # Nothing that depends on the settings has been made before the first training.
        if (out / "run").exists():
            raise EdgebError(f"{out} was begun with other settings: {'; '.join(changed)}", again)
    elif out.exists() and any(out.iterdir()):
        raise EdgebError(f"{out} exists and holds no demo", again)
    state = State(asked, asked["backbone"])
    if state.backbone == SMOLLM2 and (why := install()):
        print(f"demo: SmolLM2 cannot be installed ({why}): a stand-in takes its place", file=sys.stderr)
        state.backbone = STANDIN
    out.mkdir(parents=True, exist_ok=True)
    state.save(out)
    return state
