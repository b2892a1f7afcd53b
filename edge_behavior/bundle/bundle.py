"""A bundle in any form, a GGUF or LiteRT file, an ONNX or Hugging Face folder: which, reading, verifying, size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from edge_behavior.bundle.folder import folder_bytes, read_folder_manifest, read_folder_population, verify_folder
from edge_behavior.bundle.gguf_file import read_gguf_manifest, read_gguf_population, verify_gguf
from edge_behavior.bundle.litert_file import SUFFIX, is_litert, read_litert, read_litert_population, verify_litert
from edge_behavior.bundle.manifest import Manifest
from edge_behavior.bundle.sequence_file import is_sequence
from edge_behavior.core.population import PopulationTable
from edge_behavior.errors import EdgebError

Form = Literal["folder", "litert", "sequence", "gguf"]
_NAMES = {"folder": "a folder", "litert": "a LiteRT file", "sequence": "a sequence model"}


def bundle_form(path: Path) -> Form:
    """In which form a bundle is; "gguf" also for what is none, which its reader refuses.

    A sequence model is a GGUF file, too, but none of a language model that llama.cpp runs.
    """
    if path.is_dir():
        return "folder"
    if path.suffix == SUFFIX or is_litert(path):
        return "litert"
    return "sequence" if is_sequence(path) else "gguf"


def read_manifest(path: Path) -> Manifest:
    """Read a bundle's manifest, without vocabulary or tensors.

    Raises:
        EdgebError: missing, truncated, not a bundle, or a manifest that this edgeb refuses.
    """
    form = bundle_form(path)
    if form == "folder":
        return read_folder_manifest(path)
    return read_litert(path).manifest if form == "litert" else read_gguf_manifest(path)


def read_population(path: Path) -> PopulationTable | None:
    """What people in general do, as the bundle has it; None where it has no table.

    Raises:
        EdgebError: as `read_manifest`, or a table that does not match its hash.
    """
    form = bundle_form(path)
    if form == "folder":
        return read_folder_population(path)
    return read_litert_population(path) if form == "litert" else read_gguf_population(path)


def verify_bundle(path: Path, progress: Callable[[int], None] | None = None) -> Manifest:
    """Verify every byte of a bundle against its manifest's hashes and return the manifest.

    Args:
        path: The bundle.
        progress: Called with the number of bytes just hashed.

    Raises:
        EdgebError: as `read_manifest`, or the bundle was truncated or changed since it was written.
    """
    form = bundle_form(path)
    if form == "folder":
        return verify_folder(path, progress)
    return verify_litert(path, progress) if form == "litert" else verify_gguf(path, progress)


def bundle_bytes(path: Path) -> int:
    """Size of a bundle in bytes."""
    return folder_bytes(path) if path.is_dir() else path.stat().st_size


def require_gguf(path: Path, why: str) -> None:
    """Refuse another form where only a language model's GGUF file works; `why` completes "…is a folder, and"."""
    form = bundle_form(path)
    if form != "gguf":
        kind = "language model's bundle" if form == "sequence" else "bundle exported with --format gguf"
        raise EdgebError(f"{path} is {_NAMES[form]}, and {why}", f"pass a {kind}")
