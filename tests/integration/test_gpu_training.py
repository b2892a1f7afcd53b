"""The script that measures training on a GPU runs through on a CPU, counts right, and survives a line that fails."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest
import torch
from trl.trainer.utils import compute_flops_per_token

SFT_FIELDS = {
    "seconds", "sequences", "tokens", "padded_tokens", "label_tokens", "targets", "mean_length", "tokens_per_second",
    "targets_per_second", "flops_per_token", "lora_flops_per_token", "peak_flops", "mfu_percent", "mfu_lora_percent",
    "attention", "adapter_dtype", "weights_dtype", "warm_up_steps", "steps", "line_seconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def script() -> Any:
    return importlib.import_module("benchmarks.gpu_training")


@pytest.fixture(scope="module")
def smoke(script: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The document of a smoke test of one model, in which one line runs out of memory."""
    out = tmp_path_factory.mktemp("gpu") / "smoke"
    packed = script.Bench.packed

    def no_memory(bench: Any, length: int) -> Any:
        if length == 4096 and not bench.recipe.a_tuning.gradient_checkpointing:
            raise torch.OutOfMemoryError("out of memory, says the test")
        return packed(bench, length)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script.Bench, "packed", no_memory)
        script.main(["--smoke", "--model", "llama3.1-8b", "--out", str(out)])
    document: dict[str, Any] = json.loads(out.with_name("smoke.json").read_text())
    document["page"] = out.with_name("smoke.md").read_text()
    return document


def test_every_line(script: Any, smoke: dict[str, Any]) -> None:
    lines = smoke["models"]["llama3.1-8b"]["lines"]
    assert list(lines) == list(script.LINES)
    for name in ("a_tuning", "packed 1024", "packed 4096, checkpointing", "b_tuning"):
        assert set(lines[name]) >= SFT_FIELDS, lines[name]
        assert lines[name]["tokens_per_second"] == pytest.approx(lines[name]["tokens"] / lines[name]["seconds"])
        assert lines[name]["tokens"] <= lines[name]["padded_tokens"]
    assert lines["labels"]["windows"] == 1
    assert lines["labels"]["forward_passes"] == 37
    assert lines["labels"]["max_difference"] < 1e-3
    assert lines["pool"]["windows"] > 0
    assert lines["pool"]["windows_per_second"] > 0


def test_counts(smoke: dict[str, Any]) -> None:
    """One timed step: two rows of the shortened length with a loss on every token; two pairs of two answers."""
    lines = smoke["models"]["llama3.1-8b"]["lines"]
    assert (lines["packed 1024"]["sequences"], lines["packed 1024"]["tokens"]) == (2, 2 * 1024 // 8)
    whole = lines["packed 4096, checkpointing"]
    assert whole["label_tokens"] == whole["tokens"] == 2 * 4096 // 8
    assert lines["a_tuning"]["sequences"] == 2
    assert 0 < lines["a_tuning"]["targets"] < lines["a_tuning"]["label_tokens"] < lines["a_tuning"]["tokens"]
    assert (lines["b_tuning"]["targets"], lines["b_tuning"]["sequences"]) == (2, 4)


def test_a_failing_line_is_recorded_and_the_rest_goes_on(smoke: dict[str, Any]) -> None:
    lines = smoke["models"]["llama3.1-8b"]["lines"]
    assert lines["packed 4096"]["error"] == {"type": "OutOfMemoryError", "message": "out of memory, says the test"}
    assert "error" not in lines["packed 4096, checkpointing"]
    assert "error" not in lines["b_tuning"]
    assert "failed: OutOfMemoryError" in smoke["page"]


def test_a_whole_run_is_composed_of_its_parts(script: Any, smoke: dict[str, Any]) -> None:
    """200,000 targets at the measured rate in every epoch, and what the dry run counts for the rest."""
    found = smoke["models"]["llama3.1-8b"]
    whole, lines, counts = found["whole_run"], found["lines"], found["counts"]
    assert whole["epochs"] == 8
    assert whole["seconds"]["a_tuning"] == pytest.approx(8 * 200_000 / lines["a_tuning"]["targets_per_second"])
    rate = lines["pool"]["windows_per_second"]
    for part in ("pool", "evaluation"):
        assert whole["seconds"][part] == pytest.approx(counts[f"{part}_windows"] / rate)
        assert whole["seconds"][part] > 0
    assert whole["seconds"]["b_tuning_validation"] == pytest.approx(counts["validation_windows"] / rate)
    assert whole["seconds"]["b_tuning"] > 0
    assert whole["total_hours"] == pytest.approx(sum(whole["seconds"].values()) / 3600)
    times = rate / lines["labels"]["windows_per_second"]
    row = smoke["page"].splitlines()[-1]
    assert row.startswith("| llama3.1-8b |")
    assert row.endswith(f"| **{whole['total_hours']:.2f}** | {times:.1f} |")


def test_without_a_rate_there_is_no_whole_run(script: Any) -> None:
    failed = {"a_tuning": {"targets_per_second": 9.0}, "pool": {"error": {}}, "b_tuning": {"targets_per_second": 9.0}}
    assert script.gpu_total.composed(script.load_recipe("llama3.1-8b"), None, failed) is None
    assert script.gpu_total.times_labels(failed) is None
    page = script.gpu_total.summary({"llama3.1-8b": {"lines": failed, "whole_run": None}})
    assert page[-1].endswith("| llama3.1-8b |" + " – |" * 8)


def test_a_line_that_fails_in_its_build_reports_no_other_line_s_peak(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(script, "reset_memory", lambda: calls.append("reset"))

    def make() -> Any:
        calls.append("build")
        raise torch.OutOfMemoryError("no room for the weights")

    assert script.measured("pool", make)["error"]["type"] == "OutOfMemoryError"
    assert calls == ["reset", "build"]


def test_says_that_it_measures_nothing(smoke: dict[str, Any]) -> None:
    assert smoke["smoke"] is True
    assert smoke["page"].startswith("# Smoke test of gpu_training.py: measures nothing")
    assert smoke["command"] == "python -m benchmarks.gpu_training --smoke --model llama3.1-8b --out FOLDER"


def test_real_geometries(script: Any) -> None:
    """Parameter counts of the published models, from shapes alone."""
    counts = {}
    for name, geometry in script.GEOMETRIES.items():
        with torch.device("meta"):
            model = script.gpu_lines.AutoModelForCausalLM.from_config(geometry())
        counts[name] = model.num_parameters()
    assert counts == {"qwen2-1.5b": 1_543_714_304, "llama3.1-8b": 8_030_261_248}


def test_flops_of_frozen_weights(script: Any) -> None:
    """Two of TRL's three passes for the layers, all three for attention scores, the head where there are labels."""
    config = script.GEOMETRIES["llama3.1-8b"]()
    per_layer = 2 * 4096 * (4096 + 2 * 1024 + 4096 + 3 * 14_336)
    scores, head = 4 * 32 * 4096 * 512, 2 * 128_256 * 4096
    assert compute_flops_per_token(config, 512) == 3 * (32 * per_layer + scores + head)
    found = script.gpu_lines.lora_flops_per_token(config, 512, 0.25)
    assert found == pytest.approx(2 * 32 * per_layer + 3 * scores + 2 * head * 0.25)


def test_without_a_gpu_it_asks_for_smoke(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="2"):
        script.main([])
    assert "--smoke" in capsys.readouterr().err
