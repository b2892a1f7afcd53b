"""Snapshots of a bundle's evaluated static prompt, kept on disk.

A snapshot is keyed by model, prompt and inference engine. One that is damaged, or keyed differently, is evaluated again
and replaced.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from edge_behavior.errors import EdgebError
from edge_behavior.runtime.backends.base import Backend
from edge_behavior.runtime.state_file import read_state, write_state

KEPT_SNAPSHOTS = 16


class PrefixCache:
    """Snapshots in a folder.

    Args:
        folder: Created with the first snapshot.
        model: Hash of everything that decides the model's logits (`Manifest.tensors_sha256`).
    """

    def __init__(self, folder: Path, model: str) -> None:
        self._folder, self._model = folder, model

    def warm(self, backend: Backend, ids: Sequence[int]) -> bool:
        """Load `ids` into the backend's cache: from a snapshot, or else evaluated and saved as one.

        Returns:
            Whether the snapshot was used.
        """
        key: dict[str, object] = {"model": self._model, "ids": list(ids), "engine": backend.fingerprint}
        path = self._folder / f"{_hash(key)}.state"
        try:
            header, state = read_state(path)
            if header == key and backend.load_state(ids, state):
                return True
        except EdgebError:
            pass  # missing, unreadable or damaged: rebuilt below
        backend.prefill(ids)
        state = backend.save_state()
        if not state:
            return False  # an inference engine that cannot save its cache
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_state(path, key, state, durable=False)
            self._limit()
        except (EdgebError, OSError):
            pass  # a snapshot that cannot be written is no reason to fail
        return False

    def _limit(self) -> None:
        """Delete the oldest snapshots: those of bundles exported again are never used."""
        files = sorted(self._folder.glob("*.state"), key=lambda file: file.stat().st_mtime)
        for file in files[:-KEPT_SNAPSHOTS]:
            file.unlink(missing_ok=True)


def _hash(key: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
