"""Contexts for NPUs as a part of the LiteRT export: compile, compare under emulation, put in place.

The bundle itself is another step's, and is in place before the comparison begins: it takes minutes, and what does not
pass is not written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from edge_behavior.bundle.litert_file import read_litert
from edge_behavior.bundle.litert_graph import LiteRtGraph
from edge_behavior.bundle.npu_chips import Chip
from edge_behavior.bundle.npu_folder import NPU_FILE, NpuContext, NpuFolder, npu_folder
from edge_behavior.core.scoring import Floats
from edge_behavior.errors import EdgebError
from edge_behavior.export.npu.compiler import check_compiler, check_memory, compile_model
from edge_behavior.export.npu.gate import Expected, NpuParity, NpuParityError, measure
from edge_behavior.export.npu.options import QUANTS, NpuOptions, call_size
from edge_behavior.export.parity.samples import Samples
from edge_behavior.export.profiles import ParitySettings
from edge_behavior.runtime.npu.child import NpuRunError
from edge_behavior.runtime.npu.package import find_package
from edge_behavior.runtime.npu.signatures import npu_graph
from edge_behavior.util.files import put_folder, write_file
from edge_behavior.util.progress import progress_bar

# Bytes per weight: as converted, and of a context, which is no larger than its model.
_FLOAT_BYTES = 4.2
_CONTEXT_BYTES = {"q8": 1.1, "f16": 2.1}
# Of a model as the compiler takes it.
_MODEL_BYTES = {"q8": 1.1, "f16": _FLOAT_BYTES}


@dataclass(frozen=True)
class ScoredWindows:
    """Windows as a session sees them, the trained model's log-probabilities [n, B] on them, and the limits."""

    samples: Samples
    trained: Floats
    settings: ParitySettings


class NpuExport:
    """The contexts of one export. In order: `graph_of`, `compile`, `finish`.

    Args:
        options: What is asked for.
        bundle: Where the bundle will be.
        force: Replace contexts that lie there.
        quant: The bundle's weight format, as it is asked for.
        parameters: Number of weights.
        enforce: Whether nothing may be written that was not compared.

    Attributes:
        windows: How many windows are to be compared; None for an evening.
        quant: Weight format of the contexts.
        folder: Where they will be.

    Raises:
        EdgebError: nothing would be compared, though it has to be; packages are missing; memory does not suffice; the
            folder beside the bundle is taken.
    """

    def __init__(
        self, options: NpuOptions, bundle: Path, force: bool, quant: str, parameters: int, enforce: bool
    ) -> None:
        if options.windows == 0 and enforce:
            raise EdgebError(
                "--npu-windows 0 would write contexts that nothing was compared of", "add --allow-loss, or leave it out"
            )
        self._options, self._bundle, self._force = options, bundle, force
        self.windows, self.quant = options.windows, options.quant_for(quant)
        self._package = find_package()
        check_compiler()
        check_memory(parameters * _MODEL_BYTES[self.quant])
        self.folder = npu_folder(bundle)
        _check_folder(self.folder, force)
        self._compiled: dict[Chip, NpuContext] = {}
        self._graph: LiteRtGraph | None = None

    @property
    def bytes_per_weight(self) -> float:
        """What more lies on the disk meanwhile."""
        return _FLOAT_BYTES + _MODEL_BYTES[self.quant] + len(self._options.chips) * _CONTEXT_BYTES[self.quant]

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
            model: The weights in the contexts' format, RMSNorm as one operator, without embeddings.
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

    def finish(self, scratch: Path, windows: ScoredWindows | None) -> NpuFolder:
        """Compare every context under emulation, and put the folder in place beside the bundle, which is there.

        A context that the emulator does not take is marked as not emulated, as long as it takes another one.

        Args:
            scratch: The folder that `compile` worked in.
            windows: What to compare on; None to compare nothing.

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
        found = NpuFolder(
            bundle_sha256=bundle.manifest.tensors_sha256,
            quantization=QUANTS[self.quant],
            size=self._graph.sizes[0],
            compiler=compiler,
            contexts=tuple(self._compiled.values()),
        )
        # The backend reads it.
        write_file(scratch / "npu" / NPU_FILE, found.to_json())
        if windows is not None:
            measured = self._measured(scratch / "npu", windows, found.size)
            parities = [None if one is None else one.to_dict() for one in measured]
            contexts = zip(found.contexts, parities, strict=True)
            found = replace(found, contexts=tuple(replace(one, parity=parity) for one, parity in contexts))
            write_file(scratch / "npu" / NPU_FILE, found.to_json())
        put_folder(scratch / "npu", self.folder, replace=self._force, durable=True)
        return found

    def _measured(self, folder: Path, windows: ScoredWindows, size: int) -> list[NpuParity | None]:
        expected = Expected.by_bundle(self._bundle, windows.samples, windows.trained, size)
        measured: list[NpuParity | None] = []
        refused: list[NpuRunError] = []
        with progress_bar("Emulating the NPU", expected.calls * len(self._compiled)) as advance:
            for chip in self._compiled:
                try:
                    parity = measure(self._bundle, folder, chip, expected, advance)
                except NpuRunError as error:
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
