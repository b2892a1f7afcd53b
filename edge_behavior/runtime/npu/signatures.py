"""A bundle on the emulated NPU: embeddings by LiteRT on the CPU, everything else by the compiled context."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edge_behavior.bundle.litert_file import LiteRtBundle
from edge_behavior.bundle.litert_graph import LiteRtGraph, embed_name, step_name
from edge_behavior.bundle.npu_chips import Chip
from edge_behavior.bundle.npu_folder import (
    NpuContext,
    NpuFolder,
    check_run_time,
    npu_folder,
    read_npu,
    verify_context,
)
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.litert.compiled import CompiledGraph
from edge_behavior.runtime.npu.emulator import Emulator
from edge_behavior.runtime.npu.package import find_package


class NpuSignatures:
    """What `CompiledGraph` is, for one context under emulation.

    Args:
        path: The bundle.
        threads: CPU threads, for the embeddings.
        size: New tokens per call.
        emulator: With the context.
        runs_on: The emulator's version and architecture, in words.

    Attributes:
        engine: Packages and versions.

    Raises:
        EdgebError: see `CompiledGraph`.
    """

    def __init__(self, path: Path, threads: int, size: int, emulator: Emulator, runs_on: str) -> None:
        self._lookup = CompiledGraph(path, threads, [embed_name(size)])
        self._emulator, self._step = emulator, step_name(size)
        self.engine = f"{self._lookup.engine}, {runs_on}"

    def bind(
        self, name: str, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> Callable[[], None]:
        """See `CompiledGraph.bind`; starts the emulator for the one signature that it has."""
        if name == self._step:
            return self._emulator.bind(inputs, outputs)
        return self._lookup.bind(name, inputs, outputs)

    def close(self) -> None:
        """End the emulator, free the model."""
        self._emulator.close()
        self._lookup.close()


def npu_graph(graph: LiteRtGraph, size: int) -> LiteRtGraph:
    """A bundle's graph as an NPU has it: calls of one size, all of them with the cache."""
    return replace(graph, sizes=(size,), first_sizes=())


@dataclass(frozen=True)
class OpenedNpu:
    """A bundle on the emulated NPU.

    Attributes:
        signatures: The embeddings and the context.
        graph: What they are.
        context: What the folder says of the context.
    """

    signatures: NpuSignatures
    graph: LiteRtGraph
    context: NpuContext


def open_npu(
    path: Path, bundle: LiteRtBundle, threads: int, folder: Path | None = None, chip: Chip | None = None
) -> OpenedNpu:
    """Open a bundle on the emulated NPU.

    Args:
        path: The bundle's file.
        bundle: What it says of itself.
        threads: CPU threads.
        folder: Its contexts; None for those beside it.
        chip: Whose context; None for the first one that was emulated at export.

    Raises:
        EdgebError: there is no such folder or context, it is damaged or another bundle's, compiled by a newer version,
            or packages are missing.
    """
    folder = folder or npu_folder(path)
    found = read_npu(path, bundle.manifest.tensors_sha256, folder)
    context = _emulated(found, folder) if chip is None else found.context_for(chip, folder)
    if found.size not in bundle.graph.embed_sizes:
        raise EdgebError(f"{folder} has calls of {found.size} tokens, {path} has none", "export it again with --npu")
    package = find_package()
    check_run_time(found, package.qnn, folder)
    emulator = Emulator(package, verify_context(folder, context), context)
    runs_on = f"QNN {package.qnn} emulating {context.architecture}"
    signatures = NpuSignatures(path, threads, found.size, emulator, runs_on)
    return OpenedNpu(signatures, npu_graph(bundle.graph, found.size), context)


def _emulated(found: NpuFolder, folder: Path) -> NpuContext:
    for context in found.contexts:
        if context.parity is not None:
            return context
    raise EdgebError(f"{folder}: no context was emulated at export", "export it again with --npu")
