"""A LiteRT bundle's compiled NPU contexts: a folder beside it, with `npu.json` and a stock `.tflite` per architecture.

Such a file holds one signature, `step_N` of the bundle's graph, as a single dispatch operation and the context binary
that it names. Embeddings are the bundle's to look up, so that the folder is nothing without it. Reads, writes and
verifies; knows no engine and no compiler.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_behavior.bundle.npu_chips import CHIPS, Chip, chip_named
from edge_behavior.core.fields import DAMAGED_HINT, NULL, Kind, is_whole, parse_json, read_fields, read_list
from edge_behavior.errors import EdgebError
from edge_behavior.util.checksums import file_sha256

NPU_FILE = "npu.json"
SCHEMA = 1
QUANTIZATIONS = ("int8", "f16")
_FIELDS: Mapping[str, Kind] = {
    "schema_version": int,
    "bundle_sha256": str,
    "quantization": str,
    "size": int,
    "compiler": dict,
    "contexts": list,
}
_CONTEXT_FIELDS: Mapping[str, Kind] = {
    "chip": str,
    "architecture": str,
    "file": str,
    "sha256": str,
    "bytes": int,
    "context_offset": int,
    "context_bytes": int,
    "graph": str,
    "inputs": dict,
    "outputs": dict,
    "operators": int,
    "memory": int,
    "parity": (dict, NULL),
}
_HASH, _NAME = re.compile(r"[0-9a-f]{64}"), re.compile(r"v\d+\.tflite")
_VERSION = re.compile(r"\d+(\.\d+)*")
_COMPILER = ("ai_edge_litert", "onnxruntime_qnn", "qnn")
_MOST = 1 << 40
_EXPORT_HINT = "export it again with --npu"


@dataclass(frozen=True)
class NpuContext:
    """What was compiled for one architecture.

    Attributes:
        chip: The chip it was compiled for.
        architecture: The chip's, like "v75".
        file: Name of the `.tflite` in the folder.
        sha256: Its hash.
        bytes: Its size.
        context_offset: Where the context binary begins in it.
        context_bytes: Size of the context binary.
        graph: Name of the graph in the binary.
        inputs: Names of the binary's tensors, in its order, by the signature's names (`bundle.litert_graph`).
        outputs: Likewise.
        operators: How many operators of the bundle's graph it holds: all of them.
        memory: Most bytes of memory that the compiler held meanwhile.
        parity: What the gate measured under emulation; None where it was compiled and not emulated.
    """

    chip: str
    architecture: str
    file: str
    sha256: str
    bytes: int
    context_offset: int
    context_bytes: int
    graph: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    operators: int
    memory: int
    parity: Mapping[str, Any] | None = None

    @classmethod
    def from_dict(cls, values: object, where: str) -> NpuContext:
        """Read one strictly.

        Raises:
            EdgebError: a field that is missing, unknown or has a bad value.
        """
        found = read_fields(values, _CONTEXT_FIELDS, where)
        for name in ("bytes", "context_offset", "context_bytes", "operators", "memory"):
            if not is_whole(found[name], 1, _MOST):
                raise EdgebError(f"{where}: field '{name}' is {str(found[name])[:40]}", DAMAGED_HINT)
        if found["context_offset"] + found["context_bytes"] > found["bytes"]:
            raise EdgebError(f"{where}: the context does not lie in its file", DAMAGED_HINT)
        known = {chip.name: chip.architecture for chip in CHIPS}
        if known.get(found["chip"]) != found["architecture"]:
            raise EdgebError(f"{where}: '{found['chip'][:40]}' is no {found['architecture'][:40]}", DAMAGED_HINT)
        if not _HASH.fullmatch(found["sha256"]) or not _NAME.fullmatch(found["file"]):
            raise EdgebError(f"{where}: 'file' or 'sha256' is none", DAMAGED_HINT)
        for name in ("inputs", "outputs"):
            if not found[name] or not all(isinstance(value, str) for value in found[name].values()):
                raise EdgebError(f"{where}: field '{name}' does not name tensors", DAMAGED_HINT)
        return cls(**found)


@dataclass(frozen=True)
class NpuFolder:
    """The content of `npu.json`.

    Attributes:
        bundle_sha256: The manifest's `tensors_sha256` of the bundle that it was compiled from.
        quantization: Weight format of the contexts, of `QUANTIZATIONS`; activations are float16.
        size: New tokens per call.
        compiler: Versions: ai_edge_litert, onnxruntime_qnn, and qnn, which the phone's run time must not be below.
        contexts: One per architecture.
    """

    bundle_sha256: str
    quantization: str
    size: int
    compiler: Mapping[str, str]
    contexts: tuple[NpuContext, ...]

    def context_for(self, chip: Chip, where: Path) -> NpuContext:
        """The context that a chip runs.

        Raises:
            EdgebError: none was compiled for its architecture.
        """
        for context in self.contexts:
            if context.architecture == chip.architecture:
                return context
        there = ", ".join(f"{context.chip} ({context.architecture})" for context in self.contexts)
        raise EdgebError(
            f"{where} has no context for {chip.name} ({chip.architecture}), but for {there}",
            f"export it again with --npu {chip.name}",
        )

    @property
    def known_rows_tolerance(self) -> float | None:
        """How far its contexts may be from the bundle's known rows, nats; None where none was emulated."""
        measured = [context.parity["known_rows_tolerance"] for context in self.contexts if context.parity is not None]
        return max(measured, default=None)

    def summary(self) -> dict[str, Any]:
        """Everything but the names of tensors, for reports."""
        contexts = [asdict(context) for context in self.contexts]
        for context in contexts:
            del context["inputs"], context["outputs"]
        return {**asdict(self), "contexts": contexts}

    def to_json(self) -> str:
        """The text of `npu.json`."""
        return json.dumps({"schema_version": SCHEMA, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, content: bytes | str, where: str) -> NpuFolder:
        """Read the text strictly.

        Raises:
            EdgebError: not JSON, a newer schema, or a field that is missing, unknown or has a bad value.
        """
        fields = parse_json(content, where)
        if isinstance(fields, dict) and is_whole(fields.get("schema_version"), SCHEMA + 1, _MOST):
            raise EdgebError(f"{where} was written by a newer edgeb", "update edgeb")
        found = read_fields(fields, _FIELDS, where)
        if found.pop("schema_version") != SCHEMA or not _HASH.fullmatch(found["bundle_sha256"]):
            raise EdgebError(f"{where}: 'schema_version' or 'bundle_sha256' is none", DAMAGED_HINT)
        if found["quantization"] not in QUANTIZATIONS:
            raise EdgebError(f"{where}: field 'quantization' is '{found['quantization'][:40]}'", DAMAGED_HINT)
        if not is_whole(found["size"], 1, 1 << 16):
            raise EdgebError(f"{where}: field 'size' is {found['size']}", DAMAGED_HINT)
        versions = read_fields(found["compiler"], dict.fromkeys(_COMPILER, str), f"{where}: compiler")
        for name, version in versions.items():
            if not _VERSION.match(version):
                raise EdgebError(f"{where}: compiler: {name} is '{version[:40]}', no version", DAMAGED_HINT)
        listed = read_list(found["contexts"], f"{where}: contexts")
        contexts = tuple(NpuContext.from_dict(one, f"{where}: contexts[{i}]") for i, one in enumerate(listed))
        if not contexts or len({one.architecture for one in contexts}) != len(contexts):
            raise EdgebError(f"{where}: 'contexts' is empty, or has an architecture twice", DAMAGED_HINT)
        return cls(**{**found, "compiler": versions, "contexts": contexts})


def npu_folder(bundle: Path) -> Path:
    """Where a bundle's contexts lie: `mine-npu` beside `mine.tflite`."""
    return bundle.with_name(f"{bundle.stem}-npu")


def read_npu(bundle: Path, bundle_sha256: str, folder: Path | None = None) -> NpuFolder:
    """What `npu.json` of a bundle's contexts says; the contexts stay unread.

    Args:
        bundle: The bundle's file.
        bundle_sha256: `tensors_sha256` of its manifest.
        folder: Where they lie; None for the folder beside the bundle.

    Raises:
        EdgebError: there is none, it cannot be read, is damaged, or was compiled from another bundle.
    """
    path = (folder or npu_folder(bundle)) / NPU_FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise EdgebError(f"{bundle} has no contexts for an NPU: there is no {path}", _EXPORT_HINT) from None
    except OSError as error:
        raise EdgebError(f"cannot read {path}: {error.strerror}", "check its permissions") from None
    found = NpuFolder.from_json(content, str(path))
    if found.bundle_sha256 != bundle_sha256:
        raise EdgebError(f"{path.parent} was compiled from another bundle than {bundle}", _EXPORT_HINT)
    return found


def has_contexts(bundle: Path) -> bool:
    """Whether contexts lie beside a bundle."""
    return not bundle.is_dir() and (npu_folder(bundle) / NPU_FILE).is_file()


def find_contexts(bundle: Path, bundle_sha256: str) -> NpuFolder | None:
    """What lies beside a bundle, every byte of it checked; None where there is nothing.

    Raises:
        EdgebError: see `read_npu` and `verify_context`.
    """
    if not has_contexts(bundle):
        return None
    folder, found = npu_folder(bundle), read_npu(bundle, bundle_sha256)
    for context in found.contexts:
        verify_context(folder, context)
    return found


def verify_context(folder: Path, context: NpuContext) -> Path:
    """The context's file, once every byte of it has been checked.

    Raises:
        EdgebError: it is missing, cut short, or changed.
    """
    path = folder / context.file
    try:
        size = path.stat().st_size
        if size < context.bytes:
            raise EdgebError(f"{path} is cut short: {size} of {context.bytes} bytes", "copy or export it again")
        if size != context.bytes or file_sha256(path) != context.sha256:
            raise EdgebError(f"{path} does not match its hash", DAMAGED_HINT)
    except OSError as error:
        raise EdgebError(f"cannot read {path}: {error.strerror}", "copy or export it again") from None
    return path


def check_run_time(found: NpuFolder, version: str, where: Path) -> None:
    """Refuse contexts that a run time may not take: those of a newer compiler.

    Args:
        found: The folder's content.
        version: The run time's version of QNN, like "2.51.0".
        where: The folder.

    Raises:
        EdgebError: the compiler's version is above the run time's.
    """
    compiled = found.compiler["qnn"]
    if _parts(compiled) > _parts(version):
        raise EdgebError(
            f"{where} was compiled by QNN {compiled}, the run time here is {version}",
            f"install a run time of {compiled} or newer, or export it again with an older onnxruntime-qnn",
        )


def described(context: NpuContext) -> str:
    """A context in words: chip, architecture, whether it was emulated."""
    how = "compiled, not emulated" if context.parity is None else "compiled and emulated"
    return f"{chip_named(context.chip).sold_as} ({context.chip}, {context.architecture}): {how}"


def _parts(version: str) -> tuple[int, ...]:
    """Major, minor and patch; what is missing is 0."""
    found = [int(part) for part in re.findall(r"\d+", version)[:3]]
    return tuple(found + [0] * (3 - len(found)))
