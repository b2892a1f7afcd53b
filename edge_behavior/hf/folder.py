"""A backbone's files: where they are, which belong to it, and what their headers hold.

Reads configuration and file headers only. Knows nothing of architectures, adapters or GGUF.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from math import prod
from pathlib import Path
from typing import Any

from edge_behavior.errors import EdgebError

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")
SMALL_FILES = ["*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]
WEIGHT_FILES = ["*.safetensors"]


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a commit hash, which never changes."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def is_model_file(name: str) -> bool:
    """Whether a file of this name defines a model: configuration, tokenizer or weights."""
    hidden = name.startswith(".")
    return not hidden and any(fnmatch(name, pattern) for pattern in (*SMALL_FILES, *WEIGHT_FILES))


def model_files(folder: Path) -> list[str]:
    """Sorted names of the files in a folder that define the model."""
    return sorted(path.name for path in folder.iterdir() if is_model_file(path.name) and path.is_file())


def weight_files(model_dir: Path) -> list[Path]:
    """The safetensors files of a model folder, in name order.

    Raises:
        EdgebError: there are none (pickled weights are not read), or a shard in the index is missing.
    """
    # In Transformers' order: the single file first.
    if (model_dir / WEIGHTS_INDEX).is_file() and not (model_dir / WEIGHTS).is_file():
        index = read_model_json(model_dir / WEIGHTS_INDEX).get("weight_map")
        if not isinstance(index, dict) or not index:
            raise EdgebError(f"{model_dir / WEIGHTS_INDEX} has no weight_map", "download the model again")
        files = sorted({model_dir / str(name) for name in index.values()})
    else:
        files = [model_dir / WEIGHTS]
    for file in files:
        if not file.is_file():
            check_no_pickle(model_dir)
            raise EdgebError(f"weight file {file} is missing", "download or train the model again")
    return files


def check_no_pickle(model_dir: Path) -> None:
    """Refuse a folder whose only weights are pickled: reading them could run code.

    Raises:
        EdgebError: naming the file, with the command that converts it.
    """
    pickled = sorted(model_dir.glob("pytorch_model*.bin"))
    if pickled and not any(model_dir.glob(WEIGHT_FILES[0])):
        convert = f"AutoModelForCausalLM.from_pretrained({str(model_dir)!r}).save_pretrained({str(model_dir)!r})"
        raise EdgebError(
            f"{pickled[0]} is pickled, which is not read, and there are no safetensors beside it",
            f'convert it: python -c "from transformers import AutoModelForCausalLM; {convert}"',
        )


@contextmanager
def open_weights(file: Path) -> Iterator[Any]:
    """Open a safetensors file to read single tensors.

    Raises:
        EdgebError: a damaged or truncated file.
    """
    from safetensors import SafetensorError, safe_open

    hint = "download or train the model again"
    try:
        opened = safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise EdgebError(f"{file} is damaged: {first_line(error)}", hint) from None
    with opened as weights:
        try:
            yield weights
        except SafetensorError as error:
            raise EdgebError(f"{file} is damaged: {first_line(error)}", hint) from None


def count_parameters(files: list[Path]) -> int:
    """Number of weights in all files, from their headers."""
    total = 0
    for file in files:
        with open_weights(file) as weights:
            total += sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return total


def read_model_json(file: Path) -> dict[str, Any]:
    """A JSON object of a model folder.

    Raises:
        EdgebError: missing, unreadable, or not a JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgebError(f"cannot read {file}: {error.strerror}", "pass a folder written by save_pretrained") from None
    except ValueError as error:
        raise EdgebError(f"{file} is not JSON: {error}", "download or train the model again") from None
    if not isinstance(content, dict):
        raise EdgebError(f"{file} is not a JSON object", "download or train the model again")
    return content


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type: third-party messages can run to pages."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
