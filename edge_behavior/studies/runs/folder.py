"""A folder of runs: which of them are done, and why others failed.

    runs/NAME/       an ordinary run folder per run
    errors/NAME.txt  why something failed

Trains nothing.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import RunFolder, write_text
from edge_behavior.train.stage_list import STAGE_NAMES


class RunsFolder:
    """Paths and state of the runs of one study."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run_path(self, name: str) -> Path:
        """Folder of a run, whether or not it exists."""
        return self.path / "runs" / name

    def run(self, name: str) -> RunFolder | None:
        """A run that was started, finished or not. A folder whose start was interrupted is removed."""
        folder = self.run_path(name)
        if not folder.is_dir():
            return None
        if not ((folder / "run.json").is_file() and (folder / "recipe.yaml").is_file()):
            shutil.rmtree(folder)
            return None
        return RunFolder.open(folder)

    def finished(self, name: str, last: str = STAGE_NAMES[-1]) -> bool:
        """Whether a run has finished its stages up to `last`."""
        run = self.run(name)
        return run is not None and run.done(last) is not None

    def started_runs(self) -> list[tuple[RunFolder, Recipe]]:
        """All runs that were started, with their recipes."""
        found = []
        for folder in sorted((self.path / "runs").glob("*")):
            run = self.run(folder.name)
            if run is not None:
                found.append((run, run.recipe))
        return found

    def error_of(self, name: str) -> str | None:
        """First line of why something failed; None if nothing is on record."""
        file = self.path / "errors" / f"{name}.txt"
        return file.read_text(encoding="utf-8").split("\n", 1)[0] if file.is_file() else None

    def error(self, name: str) -> str | None:
        """First line of why a run failed; None if it did not, or has finished since."""
        return None if self.finished(name) else self.error_of(name)

    def note_error(self, name: str, text: str) -> None:
        """Record why something failed."""
        (self.path / "errors").mkdir(exist_ok=True)
        write_text(self.path / "errors" / f"{name}.txt", text.rstrip() + "\n")

    def forget_error(self, name: str) -> None:
        """Remove the record of a failure."""
        (self.path / "errors" / f"{name}.txt").unlink(missing_ok=True)
