"""FSDP: the weights spread over two processes, and the result of one process all the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.numpy import load_file

from tests.command import edgeb_here
from tests.integration.small import SMALL, set_flags

ROOT = Path(__file__).resolve().parents[2]
STEPS = [
    "backbone.dtype=float32",
    "a_tuning.epochs=3",
    "b_tuning.learning_rate=0.003",
    "b_tuning.evals_per_epoch=2",
    "b_tuning.patience=9",
]


def environment(home: Path) -> dict[str, str]:
    """What `accelerate launch` tells its processes for the configuration that edgeb ships."""
    before = dict(os.environ)
    try:
        arguments = ["--config_file", str(ROOT / "train" / "accelerate" / "fsdp.yaml"), "-m", "edge_behavior"]
        told, *_ = _validate_launch_command(launch_command_parser().parse_args(arguments))
        sharding = {k: v for k, v in prepare_multi_gpu_env(told).items() if "FSDP" in k}
    finally:
        os.environ.clear()
        os.environ.update(before)
    return {**before, **sharding, "OMP_NUM_THREADS": "1", "EDGEB_HOME": str(home), "PYTHONPATH": str(ROOT)}


def launch(*arguments: object) -> list[str]:
    script = str(Path(__file__).with_name("sharded.py"))
    words = [*map(str, arguments), *set_flags((*SMALL, *STEPS))]
    return [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", script, *words]


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sharded") / "run"
    edgeb_here("train", "--recipe", "tiny", "--out", out, "--data", data, *set_flags((*SMALL, *STEPS)))
    return out


def assert_same(run: Path, other: Path) -> None:
    for stage in ("a_tuning", "b_tuning"):
        one, two = (load_file(r / stage / "adapter" / "adapter_model.safetensors") for r in (run, other))
        assert set(one) == set(two)
        assert max(float(np.abs(one[name] - two[name]).max()) for name in one) < 1e-5
        done = [json.loads((r / "run.json").read_text())["done"][stage] for r in (run, other)]
        assert done[0]["steps"] == done[1]["steps"]
        assert done[0]["best_step"] == done[1]["best_step"]
        assert done[0]["train_loss"] == pytest.approx(done[1]["train_loss"], abs=1e-4)
    first = load_file(run / "a_tuning" / "adapter" / "adapter_model.safetensors")
    second = load_file(run / "b_tuning" / "adapter" / "adapter_model.safetensors")
    assert max(float(np.abs(first[name] - second[name]).max()) for name in first) > 1e-3, "stage 2 changed nothing"


@pytest.mark.long
def test_sharded_weights_train_to_the_same_result(alone: Path, data: Path, tmp_path: Path) -> None:
    """Both stages, scoring in between and while training, best adapters gathered and kept."""
    arguments = ["train", "--recipe", "tiny", "--data", data, "--out", tmp_path / "run"]
    command = launch(*arguments, "--set", f"backbone.path={alone / 'backbone'}")
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    shards = re.findall(r"sharded (\d+) of (\d+)", done.stderr)
    assert len(shards) == 4  # two stages in two processes
    assert all(some == every != "0" for some, every in shards)
    assert_same(alone, tmp_path / "run")


@pytest.mark.slow
def test_killed_while_sharded_goes_on_to_the_same_result(alone: Path, data: Path, tmp_path: Path) -> None:
    """Every process gets SIGKILL when a checkpoint of each stage has just been finished."""
    run = tmp_path / "run"
    start = launch("train", "--recipe", "tiny", "--data", data, "--out", run)
    resume = [*start[: start.index("train")], "train", "--resume", "--out", str(run), "--data", str(data)]
    start += ["--set", f"backbone.path={alone / 'backbone'}"]
    for command, stage in ((start, "a_tuning"), (resume, "b_tuning")):
        pattern = f"{stage}/checkpoints/checkpoint-*/edgeb-complete.json"
        process = subprocess.Popen(command, env=environment(tmp_path), stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 300
        while not list(run.glob(pattern)):
            assert process.poll() is None, f"ended before {pattern} appeared\n{process.communicate()[1]}"
            assert time.monotonic() < deadline, pattern
            time.sleep(0.01)
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.communicate()
    done = subprocess.run(resume, env=environment(tmp_path), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert_same(alone, run)
