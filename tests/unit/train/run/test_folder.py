"""A run folder's state: what is done, what is missing, and files that are never half-written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.run.folder import RunFolder, read_json, saved_recipe, write_json, write_text
from edge_behavior.train.stage_list import TUNED


def begun(path: Path, **fields: object) -> RunFolder:
    path.mkdir()
    run = RunFolder(path)
    run.update(
        backbone={"path": "backbone", "standin": True},
        candidates=[{"label": "Video", "count": 3}, {"label": "買い物", "count": 1}],
        layout=PromptLayout("prefix", history_length=7).to_dict(),
        **fields,
    )
    return run


class TestState:
    def test_a_run_is_what_was_begun(self, tmp_path):
        begun(tmp_path / "run")
        run = RunFolder.open(tmp_path / "run")
        assert run.candidates == CandidateSet(("Video", "買い物"), (3, 1))
        assert run.layout == PromptLayout("prefix", history_length=7)
        assert run.backbone == str(tmp_path / "run" / "backbone")
        assert run.state.schema_version == 1

    def test_a_name_with_a_revision_is_the_hubs_whatever_lies_here(self, tmp_path, monkeypatch):
        (tmp_path / "Qwen/Qwen2-1.5B").mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        run = begun(tmp_path / "run")
        run.update(backbone={"path": "Qwen/Qwen2-1.5B", "standin": False, "revision": "0" * 40})
        assert run.backbone == "Qwen/Qwen2-1.5B"
        # As older versions wrote it, it may be a folder.
        run.update(backbone={"path": "Qwen/Qwen2-1.5B", "standin": False})
        assert run.backbone == str((tmp_path / "Qwen/Qwen2-1.5B").resolve())

    def test_a_backbone_of_the_hub_stays_a_name(self, tmp_path):
        run = begun(tmp_path / "run")
        run.update(backbone={"path": "Qwen/Qwen2-1.5B", "standin": False})
        assert run.backbone == "Qwen/Qwen2-1.5B"

    def test_fields_are_merged(self, tmp_path):
        run = begun(tmp_path / "run", edgeb="0.1.0")
        run.update(edgeb="0.2.0", created="now")
        assert (run.state.edgeb, run.state.created, run.state.backbone.standin) == ("0.2.0", "now", True)

    def test_stages_are_finished_one_by_one(self, tmp_path):
        run = begun(tmp_path / "run")
        assert [run.done(stage) for stage in TUNED] == [None, None]
        run.finish("a_tuning", {"seconds": 1.5})
        assert RunFolder.open(run.path).done("a_tuning") == {"seconds": 1.5}
        assert run.done("b_tuning") is None
        run.finish("b_tuning", {})
        assert run.done("b_tuning") == {}
        assert run.done("a_tuning") == {"seconds": 1.5}

    def test_finishing_again_replaces(self, tmp_path):
        run = begun(tmp_path / "run")
        run.finish("a_tuning", {"loss": 2})
        run.finish("a_tuning", {"steps": 3})
        assert run.done("a_tuning") == {"steps": 3}


class TestUnfinished:
    @pytest.mark.parametrize(
        ("finished", "missing"), [([], "a_tuning"), (["a_tuning"], "b_tuning"), (["b_tuning"], "a_tuning")]
    )
    def test_the_missing_stage_is_named(self, tmp_path, finished, missing):
        run = begun(tmp_path / "run")
        for stage in finished:
            run.finish(stage, {})
        with pytest.raises(EdgebError, match=f"run: stage {missing} is not finished") as caught:
            _ = run.final_adapter
        assert "edgeb train --resume" in caught.value.hint

    def test_a_finished_run_has_its_last_adapter(self, tmp_path):
        run = begun(tmp_path / "run")
        for stage in TUNED:
            run.finish(stage, {})
        assert run.final_adapter == tmp_path / "run" / "b_tuning" / "adapter"
        assert run.adapter("a_tuning") == tmp_path / "run" / "a_tuning" / "adapter"


class TestOpen:
    def test_not_a_run(self, tmp_path):
        for path in (tmp_path, tmp_path / "absent"):
            with pytest.raises(EdgebError, match=r"is not a run folder: it has no run\.json") as caught:
                RunFolder.open(path)
            assert "--out" in caught.value.hint
        (tmp_path / "file.gguf").write_bytes(b"GGUF")
        with pytest.raises(EdgebError, match="is not a run folder"):
            RunFolder.open(tmp_path / "file.gguf")

    @pytest.mark.parametrize("version", [2, 0, "1", None])
    def test_another_version(self, tmp_path, version):
        file = begun(tmp_path / "run").path / "run.json"
        write_json(file, {**read_json(file), "schema_version": version})
        with pytest.raises(EdgebError, match=f"schema version {version}") as caught:
            RunFolder.open(tmp_path / "run")
        assert "update edgeb" in caught.value.hint

    @pytest.mark.parametrize(
        ("content", "message"), [("{", "not valid JSON"), ("", "not valid JSON"), ("[1]", "not a JSON object")]
    )
    def test_damaged(self, tmp_path, content, message):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(EdgebError, match=rf"run\.json is {message}") as caught:
            RunFolder.open(tmp_path)
        assert caught.value.hint

    def test_nothing_to_resume(self, tmp_path):
        with pytest.raises(EdgebError, match=r"absent is not a run folder: it has no recipe\.yaml") as caught:
            saved_recipe(tmp_path / "absent")
        assert "edgeb train" in caught.value.hint
        (tmp_path / "recipe.yaml").write_text("name: x\n")
        assert saved_recipe(tmp_path, ["seed=3"]) == Recipe(name="x", seed=3)

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("backbone", {"path": "b"}, r"lacks 'backbone\.standin'"),
            ("candidates", [{"label": "a", "count": "many"}], r"has a wrong 'candidates\.0\.count'"),
            ("made", {"a_tuning": {"files": {}}}, r"lacks 'made\.a_tuning\.key'"),
            ("more", [1], "has a wrong 'more'"),
        ],
    )
    def test_a_wrong_field_is_named(self, tmp_path, field, value, message):
        file = begun(tmp_path / "run").path / "run.json"
        write_json(file, {**read_json(file), field: value})
        with pytest.raises(EdgebError, match=rf"run\.json {message}") as caught:
            RunFolder.open(tmp_path / "run")
        assert "\n" not in caught.value.message

    def test_the_file_keeps_its_fields_and_their_order(self, tmp_path):
        """run.json of an older version, without `revision` and the later fields, is written back as it was."""
        run = begun(tmp_path / "run")
        before = run.path.joinpath("run.json").read_bytes()
        run.update()
        assert run.path.joinpath("run.json").read_bytes() == before
        assert list(read_json(run.path / "run.json")) == ["schema_version", "done", "candidates", "backbone", "layout"]
        assert read_json(run.path / "run.json")["backbone"] == {"path": "backbone", "standin": True}


class TestFiles:
    @pytest.mark.parametrize("value", [{}, {"a": [1, 2.5, None, True], "ü": {"買い物": "x\n"}}])
    def test_what_is_written_is_what_is_read(self, tmp_path, value):
        write_json(tmp_path / "x.json", value)
        assert read_json(tmp_path / "x.json") == value
        assert (tmp_path / "x.json").read_bytes().endswith(b"\n")
        assert [path.name for path in tmp_path.iterdir()] == ["x.json"]

    def test_text_is_utf8_whatever_the_locale(self, tmp_path):
        write_text(tmp_path / "x.txt", "ε, 買い物\n")
        assert (tmp_path / "x.txt").read_bytes() == "ε, 買い物\n".encode()

    def test_unreadable(self, tmp_path):
        with pytest.raises(EdgebError, match=r"cannot read .*absent\.json: No such file"):
            read_json(tmp_path / "absent.json")
        (tmp_path / "x.json").write_bytes(b'{"a": "\xff"}')
        with pytest.raises(EdgebError, match="not valid JSON"):
            read_json(tmp_path / "x.json")

    def test_a_value_that_is_no_json_leaves_the_old_file(self, tmp_path):
        write_json(tmp_path / "x.json", {"a": 1})
        with pytest.raises(TypeError):
            write_json(tmp_path / "x.json", {"a": 1, "b": object()})
        assert read_json(tmp_path / "x.json") == {"a": 1}
        assert [path.name for path in tmp_path.iterdir()] == ["x.json"]

    def test_a_full_disk_leaves_the_old_file(self, tmp_path, monkeypatch):
        write_json(tmp_path / "x.json", {"a": 1})
        whole = Path.write_bytes

        def half(self: Path, content: bytes) -> int:
            whole(self, content[: len(content) // 2])
            raise OSError(28, "No space left on device", str(self))

        monkeypatch.setattr(Path, "write_bytes", half)
        with pytest.raises(EdgebError, match=r"cannot write .*x\.json: the disk is full"):
            write_json(tmp_path / "x.json", {"a": list(range(1000))})
        assert read_json(tmp_path / "x.json") == {"a": 1}

    def test_the_name_appears_with_the_whole_content(self, tmp_path, monkeypatch):
        """At the moment of the rename the temporary file, in the same folder, is complete."""
        seen = []
        rename = os.replace

        def spy(made: Path, target: Path) -> None:
            seen.append((made.parent == target.parent, target.exists(), json.loads(made.read_text(encoding="utf-8"))))
            rename(made, target)

        monkeypatch.setattr(os, "replace", spy)
        write_json(tmp_path / "x.json", {"a": 1})
        assert seen == [(True, False, {"a": 1})]
