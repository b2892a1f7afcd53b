"""GGUF files that the phone's code must not take for bundles."""

from __future__ import annotations

from pathlib import Path

from edge_behavior.bundle.gguf_file import KEY_MANIFEST_HASH, KEY_POPULATION, KEY_VERSION
from tests.android.golden.refusals import listed


def refused(folder: Path) -> list[list[str]]:
    """Files that no bundle may be taken for, with a part of the message."""
    good = (folder / "stream.gguf").read_bytes()
    tail, head = len(good) - 9, good.index(b"edgeb.manifest")

    def patched(at: int, new: bytes) -> bytes:
        return good[:at] + new + good[at + len(new) :]

    after_version = good.index(KEY_VERSION.encode()) + len(KEY_VERSION) + 4
    after_hash = good.index(KEY_MANIFEST_HASH.encode()) + len(KEY_MANIFEST_HASH) + 12
    token = good.index(b"tokenizer.ggml.tokens") + 60
    made = {
        "empty": (b"", "not a GGUF file|empty"),
        "text": (b"hello, this is text", "not a GGUF file"),
        "gguf-9": (patched(4, (9).to_bytes(4, "little")), "has GGUF version 9"),
        "no-bundle": ((folder / "plain.gguf").read_bytes(), "not an edgeb bundle"),
        "newer": (patched(after_version, (2).to_bytes(4, "little")), "newer edgeb"),
        "edited": (patched(good.index(b"edgeb test"), b"edgeb best"), "manifest does not match its hash"),
        "hash": (patched(after_hash, b"0000"), "manifest does not match its hash"),
        "tensors": (patched(tail, bytes([good[tail] ^ 1])), "tensors do not match"),
        "token": (patched(token, bytes([good[token] ^ 1])), "do not match|damaged|cut short|too large|bytes"),
        "cut-tail": (good[:-40], "tensors do not match|cut short"),
        "cut-head": (good[: head + 200], "cut short"),
        "long-key": (patched(24, (1 << 40).to_bytes(8, "little")), "has 1099511627776 bytes|cut short"),
        "many": (patched(16, (1 << 62).to_bytes(8, "little")), "cut short|damaged|has .* bytes|match"),
    }
    held = (folder / "full.gguf").read_bytes()
    counts, key = bytearray(held), bytearray(held)
    counts[held.index(b"EDGEBPOP") + 100] ^= 1
    key[held.index(KEY_POPULATION.encode()) + len(KEY_POPULATION) - 1] ^= 1
    made |= {
        "population": (bytes(counts), "population's table does not match its hash"),
        "population-key": (bytes(key), "need each other"),
    }
    sequence = (folder / "sasrec.gguf").read_bytes()
    flipped = bytearray(sequence)
    flipped[-40] ^= 1
    made |= {
        "sequence-tensors": (bytes(flipped), "tensors do not match"),
        "sequence-cut": (sequence[:-64], "tensors do not match|cut short"),
        "sequence-bare": ((folder / "plain-sasrec.gguf").read_bytes(), "not an edgeb bundle"),
    }
    return listed(folder, {f"bad-{name}.gguf": case for name, case in made.items()})
