"""Every bundle of a run, exported once: what is in the work folder already is taken from there."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_behavior.errors import EdgebError, nearest
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.hf.pipeline import export_hf
from edge_behavior.export.litert.options import LiteRtOptions
from edge_behavior.export.litert.pipeline import export_litert
from edge_behavior.export.onnx.options import OnnxOptions
from edge_behavior.export.onnx.pipeline import export_onnx
from edge_behavior.export.profiles import ExportProfile
from edge_behavior.export.report import ExportReport
from edge_behavior.export.source import ExportSource

_SUFFIXES = {"gguf": ".gguf", "litert": ".tflite", "onnx": "-onnx"}


@dataclass(frozen=True)
class Wanted:
    """A bundle to compare: `format` is gguf, litert or onnx, `quant` as `edgeb export --quant` takes it."""

    format: str
    quant: str

    @classmethod
    def parse(cls, text: str) -> Wanted:
        """Read FORMAT-QUANT.

        Raises:
            EdgebError: another format.
        """
        format_, _, quant = text.partition("-")
        if format_ not in _SUFFIXES or not quant:
            raise EdgebError(f"'{text}' is no FORMAT-QUANT", nearest(text, [f"{name}-q8" for name in _SUFFIXES]))
        return cls(format_, quant)

    @property
    def file(self) -> str:
        """Its name in the work folder."""
        return f"{self.quant}{_SUFFIXES[self.format]}"


class Exporter:
    """Exports one source into a folder.

    Args:
        source: The model.
        work: The folder; a bundle that is there is not made again.
        windows: Validation windows that each format is compared with the trained model on.
        prune: Whether to drop unused tokens, as in a profile.
    """

    def __init__(self, source: ExportSource, work: Path, windows: int, prune: str) -> None:
        self._source, self._work = source, work
        # The table compares the model alone: nothing is fitted.
        self._fields: dict[str, Any] = {
            "prune": prune,
            "habits": "off",
            "calibrate": "off",
            "population": "off",
            "recover": {"mode": "off"},
            "parity": {"windows": windows, "per_behavior": 0, "enforce": False},
        }

    def all(self, wanted: Sequence[Wanted], say: Callable[[str], None]) -> tuple[dict[str, Path], list[str]]:
        """Paths by file name, and why some are missing: a format whose packages are not installed is left out."""
        made, missing = {}, []
        for each in wanted:
            path = self._work / each.file
            try:
                if not path.exists():
                    say(f"export {each.format} {each.quant}")
                    self._keep(path, self._export(each, path))
                made[each.file] = path
            except EdgebError as error:
                missing.append(f"{each.file}: {error}")
        return made, missing

    def folder(self, say: Callable[[str], None]) -> Path:
        """The merged model as a Hugging Face folder in float32, for other tools."""
        path = self._work / "hf"
        if not path.exists():
            say("export a Hugging Face folder")
            export_hf(self._source, path, "f32", ExportProfile(**self._fields))
        return path

    def report(self, file: str) -> dict[str, Any]:
        """What the export said of a bundle; empty if it was put there by hand."""
        path = self._work / f"{file}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def _export(self, wanted: Wanted, path: Path) -> ExportReport:
        profile = ExportProfile(**self._fields)
        if wanted.format == "gguf":
            return export_gguf(self._source, path, ExportProfile(quant=wanted.quant, **self._fields))
        if wanted.format == "litert":
            return export_litert(self._source, path, LiteRtOptions(wanted.quant), profile)
        return export_onnx(self._source, path, OnnxOptions(wanted.quant), profile)

    def _keep(self, path: Path, report: ExportReport) -> None:
        text = json.dumps(report.to_dict(), indent=1, default=str)
        (self._work / f"{path.name}.json").write_text(text + "\n", encoding="utf-8")
