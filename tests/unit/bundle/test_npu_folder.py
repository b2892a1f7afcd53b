"""The folder of NPU contexts: strict reading."""

from __future__ import annotations

import json

import pytest

from edge_behavior.bundle.npu_chips import CHIPS, chosen_chips
from edge_behavior.bundle.npu_folder import NpuContext, NpuFolder
from edge_behavior.errors import EdgebError
from tests.bad_npu_folders import DAMAGES, Damage

VERSIONS = {"ai_edge_litert": "2.3.0", "onnxruntime_qnn": "2.7.0", "qnn": "2.51.0"}
CONTEXT = NpuContext(
    "sm8650", "v75", "v75.tflite", "a" * 64, 100, 20, 80, "qnn_partition_0", {"mask": "m"}, {"logits": "l"}, 7, 1000
)
FOLDER = NpuFolder("b" * 64, "int8", 32, VERSIONS, (CONTEXT,))


def test_round_trip() -> None:
    assert NpuFolder.from_json(FOLDER.to_json(), "npu.json") == FOLDER
    assert "inputs" not in FOLDER.summary()["contexts"][0]
    assert FOLDER.contexts[0].inputs == {"mask": "m"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage(damage: Damage) -> None:
    fields = json.loads(FOLDER.to_json())
    damage.edit(fields)
    with pytest.raises(EdgebError, match=damage.message):
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
