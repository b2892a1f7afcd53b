"""The folder of NPU contexts: strict reading."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from edge_behavior.bundle.npu_chips import CHIPS, chosen_chips
from edge_behavior.bundle.npu_folder import NpuContext, NpuFolder
from edge_behavior.errors import EdgebError

VERSIONS = {"ai_edge_litert": "2.3.0", "onnxruntime_qnn": "2.7.0", "qnn": "2.51.0"}
CONTEXT = NpuContext(
    "sm8650", "v75", "v75.tflite", "a" * 64, 100, 20, 80, "qnn_partition_0", {"mask": "m"}, {"logits": "l"}, 7, 1000
)
FOLDER = NpuFolder("b" * 64, "int8", 32, VERSIONS, (CONTEXT,))


def test_round_trip() -> None:
    assert NpuFolder.from_json(FOLDER.to_json(), "npu.json") == FOLDER
    assert "inputs" not in FOLDER.summary()["contexts"][0]
    assert FOLDER.contexts[0].inputs == {"mask": "m"}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: f.update(schema_version=2), "was written by a newer edgeb"),
        (lambda f: f.update(schema_version=0), "'schema_version' or 'bundle_sha256' is none"),
        (lambda f: f.update(bundle_sha256="b"), "'schema_version' or 'bundle_sha256' is none"),
        (lambda f: f.update(size=0), "field 'size' is 0"),
        (lambda f: f.update(sizes=1), "unknown field 'sizes'"),
        (lambda f: f["compiler"].update(qnn="newest"), "qnn is 'newest', no version"),
        (lambda f: f["compiler"].pop("qnn"), "field 'qnn' is missing"),
        (lambda f: f.update(contexts=[]), "'contexts' is empty"),
        (lambda f: f.update(contexts=f["contexts"] * 2), "or has an architecture twice"),
        (lambda f: f["contexts"][0].update(architecture="v79"), "'sm8650' is no v79"),
        (lambda f: f["contexts"][0].update(chip="sm1"), "'sm1' is no v75"),
        (lambda f: f["contexts"][0].update(file="../v75.tflite"), "'file' or 'sha256' is none"),
        (lambda f: f["contexts"][0].update(context_bytes=81), "the context does not lie in its file"),
        (lambda f: f.update(quantization="int2"), "field 'quantization' is 'int2'"),
        (lambda f: f["contexts"][0].update(operators=0), "field 'operators' is 0"),
        (lambda f: f["contexts"][0].update(inputs={}), "field 'inputs' does not name tensors"),
        (lambda f: f["contexts"][0].update(outputs={"logits": 1}), "field 'outputs' does not name tensors"),
        (lambda f: f["contexts"][0].update(parity=1), "field 'parity' is 1"),
    ],
)
def test_damage(edit: Callable[[dict[str, Any]], object], message: str) -> None:
    fields = json.loads(FOLDER.to_json())
    edit(fields)
    with pytest.raises(EdgebError, match=message):
        NpuFolder.from_json(json.dumps(fields), "npu.json")


class TestChips:
    def test_chosen(self) -> None:
        assert chosen_chips("all") == chosen_chips("sm8650,ALL") == CHIPS
        assert [chip.name for chip in chosen_chips(" SM8750,sm8650,sm8750 ")] == ["sm8650", "sm8750"]
        assert len({chip.architecture for chip in CHIPS}) == len(CHIPS)

    @pytest.mark.parametrize(("names", "message"), [("sm8651", "there is no chip 'sm8651'"), (" , ", "names no chip")])
    def test_refused(self, names: str, message: str) -> None:
        with pytest.raises(EdgebError, match=message) as error:
            chosen_chips(names)
        assert "sm8650" in error.value.hint
