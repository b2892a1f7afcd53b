"""State files: a JSON header and a blob of bytes, hashed, written atomically.

Damage is detected before anything reaches native code. Knows nothing of what header and blob mean.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from edge_behavior.core.fields import parse_json
from edge_behavior.errors import EdgebError
from edge_behavior.util.files import write_file

MAGIC = b"EDGEBST\x01"
_LENGTH_BYTES = 8
_HASH_BYTES = 32
_DAMAGED_HINT = "the file is damaged: delete it"


def write_state(path: Path, header: dict[str, Any], blob: bytes, *, durable: bool = True) -> None:
    """Write a state file atomically, replacing any other.

    Args:
        path: A file, a link to one, or a new name.
        header: JSON-ready; `read_state` returns it.
        blob: Bytes that belong to it.
        durable: Sync to disk before the old file is replaced.

    Raises:
        EdgebError: the file cannot be written; the old one is kept.
    """
    text = json.dumps(header, allow_nan=False).encode()
    body = MAGIC + len(text).to_bytes(_LENGTH_BYTES, "little") + text + blob
    write_file(path, body + _digest(body), durable=durable)


def read_state(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and blob of a state file.

    Raises:
        EdgebError: unreadable, not a state file of this version, truncated or changed, or a header that is not JSON.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EdgebError(f"cannot read {path}: {error.strerror or error}", "check the path") from None
    if content[: len(MAGIC) - 1] != MAGIC[:-1]:
        raise EdgebError(f"{path} is not a state file of edgeb", "pass a file written by Session.save")
    if content[: len(MAGIC)] != MAGIC:
        raise EdgebError(f"{path} was written by another version of edgeb", "start a new session")
    body, digest = content[:-_HASH_BYTES], content[-_HASH_BYTES:]
    start = len(MAGIC) + _LENGTH_BYTES
    length = int.from_bytes(body[len(MAGIC) : start], "little")
    if digest != _digest(body) or start + length > len(body):
        raise EdgebError(f"{path} was changed or cut short", _DAMAGED_HINT)
    return parse_json(body[start : start + length], f"{path}: the header", _DAMAGED_HINT), body[start + length :]


def _digest(body: bytes) -> bytes:
    # Twice as fast as SHA-256 on CPUs without SHA instructions.
    return hashlib.blake2b(body, digest_size=_HASH_BYTES).digest()
