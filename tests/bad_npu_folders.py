"""What may be wrong with `npu.json`, and how Python and the phone refuse it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Damage:
    """A change that makes the file's fields wrong.

    Attributes:
        edit: Makes it.
        message: A part of Python's message, as a pattern.
        on_phone: Of the phone's, where it differs.
    """

    edit: Callable[[dict[str, Any]], object]
    message: str
    on_phone: str | None = None


def _one_byte_more(fields: dict[str, Any]) -> None:
    context = fields["contexts"][0]
    context["context_bytes"] = context["bytes"] - context["context_offset"] + 1


DAMAGES = [
    Damage(lambda f: f.update(schema_version=2, more=1), "was written by a newer edgeb"),
    Damage(
        lambda f: f.update(schema_version=0),
        "'schema_version' or 'bundle_sha256' is none",
        "field 'schema_version' is 0",
    ),
    Damage(
        lambda f: f.update(bundle_sha256="b"),
        "'schema_version' or 'bundle_sha256' is none",
        "'bundle_sha256' is none",
    ),
    Damage(lambda f: f.update(size=0), "field 'size' is 0"),
    Damage(lambda f: f.update(sizes=1), "unknown field 'sizes'"),
    Damage(lambda f: f["compiler"].update(qnn="newest"), "qnn is 'newest', no version"),
    Damage(lambda f: f["compiler"].pop("qnn"), "field 'qnn' is missing"),
    Damage(lambda f: f.update(contexts=[]), "'contexts' is empty"),
    Damage(lambda f: f.update(contexts=f["contexts"] * 2), "or has an architecture twice"),
    Damage(lambda f: f["contexts"][0].update(architecture="v79"), "'sm8650' is no v79"),
    Damage(lambda f: f["contexts"][0].update(chip="sm1"), "'sm1' is no v75"),
    Damage(lambda f: f["contexts"][0].update(file="../v75.tflite"), "'file' or 'sha256' is none"),
    Damage(lambda f: f["contexts"][0].update(sha256="x"), "'file' or 'sha256' is none"),
    Damage(_one_byte_more, "the context does not lie in its file"),
    Damage(lambda f: f.update(quantization="int2"), "field 'quantization' is 'int2'"),
    Damage(lambda f: f["contexts"][0].update(operators=0), "field 'operators' is 0"),
    Damage(lambda f: f["contexts"][0].update(inputs={}), "field 'inputs' does not name tensors"),
    Damage(lambda f: f["contexts"][0].update(outputs={"logits": 1}), "field 'outputs' does not name tensors"),
    Damage(lambda f: f["contexts"][0].update(parity=1), "field 'parity' is 1", "field 'parity' is"),
]
