"""A run that was stopped goes on, as it was or with other settings; what no longer fits is refused in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.train.pipeline import train
from edge_behavior.train.recipe import Recipe, load_recipe
from edge_behavior.train.run import checkpoints
from edge_behavior.train.run.checkpoints import MarkComplete
from edge_behavior.train.run.folder import RunFolder, read_json, saved_recipe
from tests.command import edgeb_here
from tests.integration.small import SMALL

STEPS = [
    "a_tuning.epochs=3", "b_tuning.epochs=2", "b_tuning.evals_per_epoch=2", "b_tuning.patience=9",
    "b_tuning.pool_per_behavior=2", "b_tuning.samples_per_behavior=2", "evaluation.per_user=1",
    "evaluation.per_behavior=1", "layout.history_length=8",
]  # fmt: skip
ADAPTER = "adapter/adapter_model.safetensors"


def stopped(recipe: Recipe, data: Path, out: Path, stage: str, resume: bool, step: int = 0) -> Path:
    """Train until a stage has saved its first checkpoint from a step on."""
    mark = MarkComplete.on_save

    def then_stop(self: MarkComplete, args, state, control, **more) -> None:
        mark(self, args, state, control, **more)
        if Path(str(args.output_dir)).parent.name == stage and state.global_step >= step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MarkComplete, "on_save", then_stop)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, Dataset.open(data), out, resume)
    assert list((out / stage / "checkpoints").glob("checkpoint-*"))
    return out


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("tiny", [*SMALL, *STEPS])


@pytest.fixture(scope="module")
def in_a_tuning(recipe: Recipe, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stopped(recipe, data, tmp_path_factory.mktemp("a") / "run", "a_tuning", False)


@pytest.fixture(scope="module")
def in_b_tuning(recipe: Recipe, data: Path, in_a_tuning: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("b") / "run"
    shutil.copytree(in_a_tuning, out)
    return stopped(recipe, data, out, "b_tuning", True)


@pytest.fixture(scope="module")
def finished(recipe: Recipe, data: Path, in_b_tuning: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("c") / "run"
    shutil.copytree(in_b_tuning, out)
    return train(recipe, Dataset.open(data), out, resume=True).path


Resume = Callable[..., RunFolder]


@pytest.fixture
def resume(data: Path, tmp_path: Path) -> Resume:
    """Go on with a copy of a run, as `edgeb train --resume --set …` does."""

    def act(run: Path, *overrides: str, name: str = "run") -> RunFolder:
        out = tmp_path / name
        if run != out:
            shutil.copytree(run, out)
        return train(saved_recipe(out, overrides), Dataset.open(data), out, resume=True)

    return act


def difference(run: Path, other: Path, stage: str) -> float:
    one, two = (load_file(r / stage / ADAPTER) for r in (run, other))
    return max(float(np.abs(one[name] - two[name]).max()) for name in one)


@pytest.mark.long
def test_less_memory_from_a_checkpoint_on_is_the_same_training(
    finished: Path, in_a_tuning: Path, resume: Resume, capsys: pytest.CaptureFixture[str]
) -> None:
    run = resume(in_a_tuning, "a_tuning.gradient_checkpointing=true", "report_to=[]")
    assert "starts over" not in capsys.readouterr().err
    assert difference(run.path, finished, "a_tuning") < 1e-5
    for key in ("steps", "best_step"):
        assert (run.done("a_tuning") or {})[key] == (RunFolder(finished).done("a_tuning") or {})[key]
    [entry] = run.state.changes
    assert entry.fields == {"report_to": (["tensorboard"], []), "a_tuning.gradient_checkpointing": (False, True)}


@pytest.mark.parametrize("stage", ["a_tuning", "b_tuning"])
def test_a_kill_between_two_validations_goes_on_from_there(
    stage: str,
    recipe: Recipe,
    data: Path,
    finished: Path,
    in_a_tuning: Path,
    resume: Resume,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Checkpoints come by the clock, too: here after every step, and every second or fourth one is validated."""
    monkeypatch.setattr(checkpoints, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "_TIMED_STEPS", 0)
    shutil.copytree(in_a_tuning, tmp_path / "cut")
    stopped(recipe, data, tmp_path / "cut", stage, True, step=3)
    assert (tmp_path / "cut" / stage / "checkpoints" / "checkpoint-3").is_dir()
    monkeypatch.undo()
    run = resume(tmp_path / "cut")
    assert (run.path / stage / ADAPTER).read_bytes() == (finished / stage / ADAPTER).read_bytes()


def test_smaller_micro_batches_from_a_checkpoint_on_are_the_same_training(
    finished: Path, in_b_tuning: Path, resume: Resume, capsys: pytest.CaptureFixture[str]
) -> None:
    run = resume(in_b_tuning, "b_tuning.micro_batch_size=2")
    assert "starts over" not in capsys.readouterr().err
    assert difference(run.path, finished, "b_tuning") < 1e-5
    assert (run.path / "a_tuning" / ADAPTER).read_bytes() == (finished / "a_tuning" / ADAPTER).read_bytes()


@pytest.mark.long
def test_another_method_starts_the_stage_over_and_keeps_what_is_finished(
    finished: Path, in_b_tuning: Path, resume: Resume, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same as a stage that had not begun: its checkpoints do not show in the result."""
    run = resume(in_b_tuning, "b_tuning.learning_rate=0.01", "b_tuning.batch_size=4")
    assert "b_tuning starts over" in " ".join(capsys.readouterr().err.split())
    shutil.copytree(finished, tmp_path / "afresh")
    shutil.rmtree(tmp_path / "afresh" / "b_tuning")
    afresh = resume(tmp_path / "afresh", "b_tuning.learning_rate=0.01", "b_tuning.batch_size=4", name="afresh")
    assert difference(run.path, afresh.path, "b_tuning") == 0.0
    assert difference(run.path, finished, "b_tuning") > 1e-4
    assert difference(run.path, finished, "a_tuning") == 0.0
    assert [entry.started_over for r in (run, afresh) for entry in r.state.changes] == [True, False]
    assert "0.01" in (run.path / "recipe.yaml").read_text()


def test_a_deleted_stage_is_made_again_with_all_that_follows(finished: Path, resume: Resume, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "a_tuning")
    run = resume(tmp_path / "run")
    for stage in ("a_tuning", "b_tuning"):
        assert (run.path / stage / ADAPTER).read_bytes() == (finished / stage / ADAPTER).read_bytes()
    assert read_json(run.path / "metrics.json") == read_json(finished / "metrics.json")


def test_the_command_refuses_in_one_line(in_b_tuning: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(in_b_tuning, run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    done = edgeb_here("train", "--resume", "--out", run, "--data", data, "--set", "lora.rank=4", code=2)
    [line] = [line for line in done.stderr.splitlines() if "lora.rank" in line]
    assert "lora.rank was 8 when a_tuning ran, which is finished, and cannot become 4" in line
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_a_damaged_adapter_of_a_finished_stage_is_named(in_b_tuning: Path, resume: Resume, tmp_path: Path) -> None:
    shutil.copytree(in_b_tuning, tmp_path / "run")
    weights = tmp_path / "run" / "a_tuning" / ADAPTER
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(EdgebError, match=r"adapter_model\.safetensors is not the file that a_tuning wrote"):
        resume(tmp_path / "run")


def test_a_recipe_edited_by_hand_is_no_way_around(finished: Path, data: Path, resume: Resume, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    file = tmp_path / "run" / "recipe.yaml"
    file.write_text(file.read_text().replace("rank: 8", "rank: 4"))
    with pytest.raises(EdgebError, match=r"lora\.rank was 8 when a_tuning ran"):
        resume(tmp_path / "run")


def test_events_that_changed_under_a_run_are_noticed(
    in_b_tuning: Path, recipe: Recipe, data: Path, tmp_path: Path
) -> None:
    other = tmp_path / "data"
    shutil.copytree(data, other)
    file = other / "events" / "train.parquet"
    table = pq.read_table(file)
    index = table.schema.get_field_index("behavior")
    # The same codes in another order: counts are those of before.
    codes = pa.array(table.column("behavior").to_numpy()[::-1])
    pq.write_table(table.set_column(index, table.schema.field(index), codes), file)
    for out, go_on in ((in_b_tuning, True), (tmp_path / "run", False)):
        with pytest.raises(EdgebError, match=r"train\.parquet, column behavior, has changed"):
            train(recipe, Dataset.open(other), out, go_on)
    assert not (tmp_path / "run").exists()
