"""The result of a run depends neither on kills and --resume nor on how many processes share it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from edge_behavior.train import preflight
from tests.command import edgeb, edgeb_here
from tests.integration.small import SMALL, set_flags

STEPS = [
    "a_tuning.epochs=3", "b_tuning.epochs=2", "b_tuning.evals_per_epoch=2", "b_tuning.patience=9",
    "b_tuning.pool_per_behavior=2", "b_tuning.samples_per_behavior=2", "evaluation.per_user=1",
    "evaluation.per_behavior=1", "layout.history_length=8",
]  # fmt: skip
# What has just appeared when the process is killed: half-written checkpoints, shards, a best adapter, a report.
EVERYWHERE = (
    "logs/backbone/*",
    "a_tuning/checkpoints/checkpoint-*",
    "a_tuning/checkpoints/checkpoint-*/edgeb-complete.json",
    "b_tuning/pool/*.safetensors",
    "b_tuning/best/step-0",
    "b_tuning/checkpoints/checkpoint-*",
    "evaluation/*/*.safetensors",
    "metrics.json",
)


def command(out: Path, data: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "edge_behavior", "train", "--out", str(out), "--data", str(data), *more]


def kill_when(pattern: str, arguments: list[str], out: Path, home: Path) -> None:
    """Start training and kill it as soon as `pattern` shows something new in the run folder."""
    before = set(out.glob(pattern))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "EDGEB_HOME": str(home)}
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not set(out.glob(pattern)) - before:
        assert process.poll() is None, f"ended before {pattern} appeared\n{process.communicate()[1]}"
        assert time.monotonic() < deadline, pattern
        time.sleep(0.002)
    process.kill()
    process.communicate()


def settings() -> list[str]:
    return set_flags((*SMALL, *STEPS))


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kill") / "run"
    edgeb_here("train", "--recipe", "tiny", "--out", out, "--data", data, *settings())
    return out


@pytest.mark.long
def test_two_processes_do_what_one_does(undisturbed: Path, data: Path, tmp_path: Path) -> None:
    """torchrun with two CPU processes: same batches, shared scoring, one run folder, one table on stdout."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    arguments = command(tmp_path / "run", data, "--recipe", "tiny", "--json", *settings())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "EDGEB_HOME": str(tmp_path)}
    done = subprocess.run([*launch, *arguments[1:]], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    alone = json.loads((undisturbed / "metrics.json").read_text())
    for model, protocols in alone["models"].items():
        for protocol, values in protocols.items():
            for key in ("weighted_recall", "overall", "nll"):
                assert metrics["models"][model][protocol][key] == pytest.approx(values[key], abs=1e-4), (model, key)
    for stage in ("a_tuning", "b_tuning"):
        one, two = (
            load_file(r / stage / "adapter" / "adapter_model.safetensors") for r in (undisturbed, tmp_path / "run")
        )
        assert max(float(np.abs(one[name] - two[name]).max()) for name in one) < 1e-5
        assert max(float(np.abs(one[name]).max()) for name in one) > 1e-2
    reports = [json.loads((r / "run.json").read_text())["done"]["a_tuning"] for r in (undisturbed, tmp_path / "run")]
    assert reports[1]["best_validation_loss"] == pytest.approx(reports[0]["best_validation_loss"], abs=1e-4)
    assert reports[1]["steps"] == reports[0]["steps"]
    pairs = [[json.loads(x)["target"] for x in (r / "pairs.jsonl").open()] for r in (undisturbed, tmp_path / "run")]
    assert pairs[0] == pairs[1]


def test_a_batch_that_processes_cannot_share_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "world_size", lambda: 2)
    asked = ("--recipe", "tiny", *settings(), "--set", "a_tuning.batch_size=7")
    done = edgeb_here("train", "--out", tmp_path / "run", "--data", data, *asked, code=2)
    assert "a_tuning.batch_size 7 cannot be shared by 2 processes" in done.stderr
    assert not (tmp_path / "run").exists()


def assert_same(run: Path, other: Path) -> None:
    for stage in ("a_tuning", "b_tuning"):
        name = f"{stage}/adapter/adapter_model.safetensors"
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    assert json.loads((run / "metrics.json").read_text()) == json.loads((other / "metrics.json").read_text())
    assert (run / "pairs.jsonl").read_text() == (other / "pairs.jsonl").read_text()
    for stage in ("a_tuning", "b_tuning"):
        done = [json.loads((r / "run.json").read_text())["done"][stage] for r in (run, other)]
        for key in ("steps", "train_loss", "best_step"):
            assert done[0][key] == done[1][key], (stage, key)
    left = [p for p in other.rglob("*") if p.name.startswith("checkpoint") or p.suffix in (".pt", ".pth", ".bin")]
    assert left == []


@pytest.mark.long
def test_killed_in_both_stages_with_a_damaged_checkpoint(undisturbed: Path, data: Path, tmp_path: Path) -> None:
    out, home = tmp_path / "run", tmp_path / "home"
    mark = "a_tuning/checkpoints/checkpoint-*/edgeb-complete.json"
    kill_when(mark, command(out, data, "--recipe", "tiny", *settings()), out, home)
    [checkpoint] = [path.parent for path in out.glob(mark)]
    weights = checkpoint / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    failed = edgeb_here("train", "--resume", "--out", out, "--data", data, home=home, code=2)
    assert f"{checkpoint.name} is damaged: adapter_model.safetensors" in failed.stderr
    weights.write_bytes(whole)
    kill_when("b_tuning/checkpoints/checkpoint-*", command(out, data, "--resume"), out, home)
    edgeb_here("train", "--resume", "--out", out, "--data", data, home=home)
    assert_same(undisturbed, out)


@pytest.mark.slow
def test_killed_everywhere(undisturbed: Path, data: Path, tmp_path: Path) -> None:
    out, home = tmp_path / "run", tmp_path / "home"
    for i, point in enumerate(EVERYWHERE):
        arguments = ["--resume"] if i else ["--recipe", "tiny", *settings()]
        kill_when(point, command(out, data, *arguments), out, home)
    edgeb("train", "--resume", "--out", out, "--data", data, home=home)
    assert_same(undisturbed, out)
