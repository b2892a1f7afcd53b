"""Contexts for NPUs as a part of the LiteRT export: compile, compare under emulation, put in place.

The bundle itself is another step's, and is in place before the comparison begins: it takes minutes, and what does not
pass is not written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from edge_behavior.bundle.litert_file import read_litert
from edge_behavior.bundle.litert_graph import LiteRtGraph
from edge_behavior.bundle.npu_chips import Chip
from edge_behavior.bundle.npu_folder import NPU_FILE, NpuContext, NpuFolder, npu_folder
from edge_behavior.core.scoring import Floats
from edge_behavior.errors import EdgebError
from edge_behavior.export.npu.compiler import Compiled, check_compiler, check_memory, compile_model
from edge_behavior.export.npu.gate import NpuParity, NpuParityError, measure
from edge_behavior.export.npu.options import NpuOptions, call_size
from edge_behavior.export.parity.samples import Samples
from edge_behavior.export.parity.scores import REFERENCE
from edge_behavior.export.profiles import ParitySettings
from edge_behavior.runtime.npu.emulator import EmulatorError
from edge_behavior.runtime.npu.package import find_package
from edge_behavior.runtime.npu.signatures import npu_graph
from edge_behavior.util.checksums import file_sha256
from edge_behavior.util.files import put_folder, write_file
from edge_behavior.util.progress import progress_bar

# Bytes per weight: as converted, and of a context, which is no larger than its model.
_FLOAT_BYTES = 4.2
_CONTEXT_BYTES = {"q4": 1.1, "q8": 1.1, "auto": 1.1, "f32": 2.1}
# Of a model as the compiler takes it.
_MODEL_BYTES = {"q4": 0.7, "q8": 1.1, "auto": 1.1, "f32": _FLOAT_BYTES}


@dataclass(frozen=True)
class ScoredWindows:
    """The windows of the bundle's own gate, and the labels' log-probabilities [n, B] on them, by stage."""

    samples: Samples
    by_stage: Mapping[str, Floats]
    settings: ParitySettings


class NpuExport:
    """The contexts of one export. In order: `graph_of`, `compile`, `finish`.

    Args:
        options: What is asked for.
        bundle: Where the bundle will be.
        force: Replace contexts that lie there.
        quant: The bundle's weight format, as it is asked for.
        parameters: Number of weights.

    Raises:
        EdgebError: packages are missing, memory does not suffice, or the folder beside the bundle is taken.
    """

    def __init__(self, options: NpuOptions, bundle: Path, force: bool, quant: str, parameters: int) -> None:
        self._options, self._bundle, self._force = options, bundle, force
        self._package = find_package()
        check_compiler()
        check_memory(parameters * _MODEL_BYTES[quant])
        self.folder = npu_folder(bundle)
        _check_folder(self.folder, force)
        self._compiled: dict[Chip, Compiled] = {}
        self._graph: LiteRtGraph | None = None

    def bytes_per_weight(self, quant: str) -> float:
        """What more lies on the disk meanwhile."""
        return _FLOAT_BYTES + _MODEL_BYTES[quant] + len(self._options.chips) * _CONTEXT_BYTES[quant]

    def graph_of(self, graph: LiteRtGraph) -> LiteRtGraph:
        """What is to be converted of the bundle's graph: one signature.

        Raises:
            EdgebError: the graph has no size that suits an NPU.
        """
        self._graph = npu_graph(graph, call_size(graph.sizes))
        return self._graph

    def compile(self, model: Path, scratch: Path) -> None:
        """Compile the converted and quantized graph for every chip.

        Args:
            model: The bundle's weights, RMSNorm as one operator, without embeddings.
            scratch: A folder to work in.

        Raises:
            EdgebError: the compiler fails, or leaves operators to the CPU.
        """
        contexts = scratch / "npu"
        contexts.mkdir()
        with progress_bar("Compiling for the NPU", len(self._options.chips)) as advance:
            for chip in self._options.chips:
                out = contexts / f"{chip.architecture}.tflite"
                self._compiled[chip] = compile_model(model, chip, out, self._package)
                advance(1)

    def finish(self, scratch: Path, windows: ScoredWindows) -> NpuFolder:
        """Compare every context under emulation, and put the folder in place beside the bundle, which is there.

        A context that the emulator does not take is marked as not emulated, as long as it takes another one.

        Raises:
            NpuParityError: the limits are enforced, and a context is beyond them. Nothing is written.
            EdgebError: the emulator takes none of them, or the folder cannot be written.
        """
        bundle = read_litert(self._bundle)
        assert self._graph is not None
        compiler = {
            "ai_edge_litert": version("ai-edge-litert"),
            "onnxruntime_qnn": self._package.version,
            "qnn": self._package.qnn,
        }
        contexts = tuple(_described(chip, compiled) for chip, compiled in self._compiled.items())
        found = NpuFolder(
            bundle.manifest.tensors_sha256, bundle.manifest.quantization, self._graph.sizes[0], compiler, contexts
        )
        # The backend reads it.
        write_file(scratch / "npu" / NPU_FILE, found.to_json())
        measured = self._measured(scratch / "npu", windows)
        parities = [None if one is None else one.to_dict() for one in measured]
        contexts = tuple(replace(one, parity=parity) for one, parity in zip(contexts, parities, strict=True))
        found = replace(found, contexts=contexts)
        write_file(scratch / "npu" / NPU_FILE, found.to_json())
        put_folder(scratch / "npu", self.folder, replace=self._force, durable=True)
        return found

    def _measured(self, folder: Path, windows: ScoredWindows) -> list[NpuParity | None]:
        count = min(self._options.windows, len(windows.samples))
        some = windows.samples.take(np.arange(len(windows.samples)) < count)
        stages = windows.by_stage
        rows = {"reference": stages[REFERENCE][:count], "cpu": list(stages.values())[-1][:count]}
        measured: list[NpuParity | None] = []
        refused: list[EmulatorError] = []
        with progress_bar("Emulating the NPU", count * len(self._compiled)) as advance:
            for chip in self._compiled:
                try:
                    parity = measure(self._bundle, folder, chip, some, rows, advance)
                except EmulatorError as error:
                    refused.append(error)
                    measured.append(None)
                    continue
                exceeded = parity.exceeded(windows.settings.max_kl)
                if exceeded and windows.settings.enforce:
                    raise NpuParityError(chip, self._bundle, exceeded)
                measured.append(parity)
        if len(refused) == len(measured):
            raise refused[0]
        return measured


def _check_folder(folder: Path, force: bool) -> None:
    """Refuse a place where contexts cannot be put."""
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / NPU_FILE).is_file()):
        raise EdgebError(f"{folder}, where the contexts belong, is something else", "choose another --out")
    if any(folder.iterdir()) and not force:
        raise EdgebError(f"{folder} already exists", "choose another --out, or pass --force to replace it")


def _described(chip: Chip, compiled: Compiled) -> NpuContext:
    file = compiled.file
    return NpuContext(
        chip=chip.name,
        architecture=chip.architecture,
        file=file.name,
        sha256=file_sha256(file),
        bytes=file.stat().st_size,
        context_offset=compiled.offset,
        context_bytes=compiled.bytes,
        graph=compiled.graph,
        inputs=compiled.inputs,
        outputs=compiled.outputs,
        operators=compiled.operators,
    )
