"""A bundle on an NPU or its emulator: embeddings by LiteRT on the CPU, everything else by the compiled context."""

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
from edge_behavior.runtime.npu.child import NpuChild
from edge_behavior.runtime.npu.package import find_package


class NpuSignatures:
    """What `CompiledGraph` is, for one context.

    Args:
        path: The bundle.
        threads: CPU threads, for the embeddings.
        size: New tokens per call.
        child: With the context.
        runs_on: What runs it, in words.
        on_call: See `NpuRunOptions`.

    Attributes:
        engine: Packages and versions.

    Raises:
        EdgebError: see `CompiledGraph`.
    """

    def __init__(
        self,
        path: Path,
        threads: int,
        size: int,
        child: NpuChild,
        runs_on: str,
        on_call: Callable[[], None] | None = None,
    ) -> None:
        self._on_call = on_call
        self._lookup = CompiledGraph(path, threads, [embed_name(size)])
        self._child, self._step = child, step_name(size)
        self.engine = f"{self._lookup.engine}, {runs_on}"

    def bind(
        self, name: str, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> Callable[[], None]:
        """See `CompiledGraph.bind`; starts the child for the one signature that it has."""
        if name == self._step:
            run, on_call = self._child.bind(inputs, outputs), self._on_call
            if on_call is None:
                return run

            def told() -> None:
                run()
                on_call()

            return told
        return self._lookup.bind(name, inputs, outputs)

    def close(self) -> None:
        """End the child, free the model."""
        self._child.close()
        self._lookup.close()


def npu_graph(graph: LiteRtGraph, size: int) -> LiteRtGraph:
    """A bundle's graph as an NPU has it: calls of one size, all of them with the cache."""
    return replace(graph, sizes=(size,), first_sizes=())


@dataclass(frozen=True)
class NpuRunOptions:
    """How a bundle is opened on an NPU.

    Attributes:
        folder: Its contexts; None for those beside it.
        chip: Whose context; None for the only one, or under emulation for the first that was emulated at export.
        checked: Whether the bundle's known rows are compared first, as always but in the export itself.
        on_call: Called after each call of the NPU.
    """

    folder: Path | None = None
    chip: Chip | None = None
    checked: bool = True
    on_call: Callable[[], None] | None = None


DEFAULT_NPU = NpuRunOptions()


@dataclass(frozen=True)
class OpenedNpu:
    """A bundle on an NPU.

    Attributes:
        signatures: The embeddings and the context.
        graph: What they are.
        known_rows_tolerance: How far the context may be from the bundle's known rows, nats; None for the bundle's own.
    """

    signatures: NpuSignatures
    graph: LiteRtGraph
    known_rows_tolerance: float | None


def open_npu(path: Path, bundle: LiteRtBundle, threads: int, options: NpuRunOptions, emulates: bool) -> OpenedNpu:
    """Open a bundle on this machine's NPU, or on an emulated one.

    Args:
        path: The bundle's file.
        bundle: What it says of itself.
        threads: CPU threads.
        options: Which context.
        emulates: Whether the NPU is emulated.

    Raises:
        EdgebError: the machine has no such NPU, there is no such folder or context, it is damaged or another bundle's,
            compiled by a newer version, or packages are missing.
    """
    package = find_package(emulates)
    folder, chip = options.folder or npu_folder(path), options.chip
    found = read_npu(path, bundle.manifest.tensors_sha256, folder)
    context = _default(found, folder, emulates) if chip is None else found.context_for(chip, folder)
    if found.size not in bundle.graph.embed_sizes:
        raise EdgebError(f"{folder} has calls of {found.size} tokens, {path} has none", "export it again with --npu")
    check_run_time(found, package.qnn, folder)
    child = NpuChild(package, verify_context(folder, context), context)
    runs_on = f"QNN {package.qnn} {'emulating' if emulates else 'on'} {context.architecture}"
    signatures = NpuSignatures(path, threads, found.size, child, runs_on, options.on_call)
    return OpenedNpu(signatures, npu_graph(bundle.graph, found.size), found.known_rows_tolerance)


def _default(found: NpuFolder, folder: Path, emulates: bool) -> NpuContext:
    """The context to take where no chip is named."""
    if len(found.contexts) == 1:
        return found.contexts[0]
    if not emulates:
        there = ", ".join(context.chip for context in found.contexts)
        raise EdgebError(f"{folder} has contexts for {there}, and this machine's chip is not known", "name the chip")
    for context in found.contexts:
        if context.parity is not None:
            return context
    raise EdgebError(f"{folder}: no context was emulated at export", "name the chip whose context is to be used")
