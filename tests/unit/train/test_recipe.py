"""Recipes: what ships loads, what is misspelled or mistyped is refused by name, what is resolved reads back equal."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.train.recipe import Recipe, find_recipe, load_recipe, parse_recipe, recipe_folders, recipe_names

CONFIGS = Path(__file__).resolve().parents[3] / "train" / "configs"
SHIPPED = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
REAL = [name for name in SHIPPED if not name.startswith("tiny")]


def recipe_file(folder: Path, text: str, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def all_fields(model: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, value in model.model_fields.items():
        section = isinstance(value.annotation, type) and issubclass(value.annotation, BaseModel)
        found += all_fields(value.annotation, f"{prefix}{name}.") if section else [prefix + name]
    return found


class TestShipped:
    def test_the_promised_ones_are_there(self):
        promised = {"tiny", "gemma3-270m", "qwen3-0.6b", "llama3.2-1b", "qwen2-1.5b", "llama3.1-8b"}
        assert promised <= set(SHIPPED)
        assert recipe_names() == SHIPPED
        assert CONFIGS in recipe_folders()

    @pytest.mark.parametrize("name", SHIPPED)
    def test_it_loads_by_name_and_by_file(self, name):
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe == load_recipe(str(CONFIGS / f"{name}.yaml"))
        assert recipe.layout.layout(True, None) == PromptLayout(
            recipe.layout.name, recipe.layout.list_candidates, recipe.layout.history_length
        )

    @pytest.mark.parametrize("name", SHIPPED)
    def test_its_first_line_is_the_command_that_runs_it(self, name):
        first = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
        words = shlex.split(first.removeprefix("#"))
        assert first.startswith("# ")
        assert words[:4] == ["edgeb", "train", "--recipe", name]
        assert words[4::2] == ["--data", "--out"]

    @pytest.mark.parametrize("name", SHIPPED)
    def test_it_says_nothing_twice(self, name):
        """A duplicate key would silently win over the first."""
        text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
        sections = re.findall(r"^(\w+):", text, re.M)
        assert len(sections) == len(set(sections))
        for body in re.split(r"^\w+:.*$", text, flags=re.M):
            keys = re.findall(r"^  (\w+):", body, re.M)
            assert len(keys) == len(set(keys))

    @pytest.mark.parametrize("name", ["paper-qwen2-1.5b", "paper-llama3.1-8b"])
    def test_the_papers_two_are_as_published(self, name):
        """§3.3, §4.1.4, §5.3: one label a prompt, the three wordings, and one rate for both stages."""
        recipe, ours = load_recipe(name), load_recipe(name.removeprefix("paper-"))
        assert recipe.method_title == "two-stage"
        assert recipe.layout.layout(True, None) == PromptLayout("instruct", history_length=20)
        for stage in (recipe.a_tuning, recipe.b_tuning):
            assert (stage.learning_rate, stage.min_learning_rate, stage.warmup_ratio) == (1e-4, 1e-6, 0.1)
            assert (stage.batch_size, stage.epochs) == (8, 8)
        assert (recipe.a_tuning.max_targets, recipe.a_tuning.draw) == (200_000, "fixed")
        assert (recipe.a_tuning.anchor_threshold, recipe.a_tuning.aux_ratio) == (0.01, 0.05)
        b = recipe.b_tuning
        assert (b.samples_per_behavior, b.difficulty_weight, b.selection) == (20, 0.5, "weighted-kmeans++")
        assert recipe.evaluation.per_behavior == 500
        assert (recipe.backbone.path, recipe.backbone.dtype) == (ours.backbone.path, ours.backbone.dtype)

    @pytest.mark.parametrize("name", ["qwen2-1.5b", "llama3.1-8b"])
    def test_ours_follow_the_paper_but_for_the_prompts(self, name):
        recipe = load_recipe(name, ["method=two-stage"])
        stage = recipe.a_tuning
        assert (stage.learning_rate, stage.min_learning_rate, stage.warmup_ratio) == (1e-4, 1e-6, 0.1)
        assert (stage.batch_size, stage.epochs, stage.aux_ratio, stage.targets) == (8, 8, 0.05, "anchors")
        assert (recipe.b_tuning.batch_size, recipe.b_tuning.epochs) == (8, 8)

    @pytest.mark.parametrize("name", REAL)
    def test_a_real_backbone_is_looked_at_several_times_an_epoch(self, name):
        """Stage 2 can lose the head within a fraction of an epoch, and only an evaluation shows it."""
        recipe = load_recipe(name)
        for stage in (recipe.a_tuning, recipe.b_tuning):
            assert stage.evals_per_epoch >= 3
            assert stage.patience >= 3

    @pytest.mark.parametrize("name", REAL)
    def test_a_real_backbones_header_says_what_it_takes(self, name):
        text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
        header = " ".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
        assert "--dry-run" in header
        assert re.search(r"\d (MiB|GiB)", header)
        assert load_recipe(name).backbone.path is not None

    @pytest.mark.parametrize("name", ["gemma3-270m", "llama3.2-1b", "llama3.1-8b", "paper-llama3.1-8b"])
    def test_a_gated_backbones_header_says_how_to_get_it(self, name):
        header = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").partition("backbone:")[0]
        path = load_recipe(name).backbone.path
        assert f"https://huggingface.co/{path}" in header
        assert "hf auth login" in header

    @pytest.mark.parametrize("name", [n for n in SHIPPED if n.startswith("tiny")])
    def test_the_tiny_ones_need_no_download(self, name):
        assert load_recipe(name).backbone.path is None


def test_defaults_are_those_of_the_method():
    recipe = Recipe()
    a, b = recipe.a_tuning, recipe.b_tuning
    assert (recipe.lora.rank, recipe.lora.alpha, recipe.lora.target_modules) == (8, 16, "all-linear")
    assert (a.aux_ratio, a.anchor_threshold, a.targets) == (0.05, 0.01, "anchors")
    assert (a.learning_rate, a.min_learning_rate, a.warmup_ratio, a.batch_size, a.epochs) == (1e-4, 1e-6, 0.1, 8, 8)
    assert (b.method, b.confusion, b.selection) == ("dpo", "intended", "weighted-kmeans++")
    assert (b.samples_per_behavior, b.difficulty_weight, b.dpo_beta) == (20, 0.5, 0.1)
    assert (recipe.layout.history_length, recipe.evaluation.per_behavior) == (20, 500)
    assert recipe.layout.layout(True, None) == PromptLayout()


class TestRoundTrip:
    @pytest.mark.parametrize("name", SHIPPED)
    def test_the_resolved_recipe_reads_back(self, tmp_path, name):
        recipe = load_recipe(name, ["seed=7"])
        file = recipe_file(tmp_path, recipe.to_yaml(), "recipe.yaml")
        assert load_recipe(file) == recipe

    def test_every_field_is_written_out(self):
        fields = yaml.safe_load(Recipe().to_yaml())
        written = [f"{s}.{k}" for s, v in fields.items() if isinstance(v, dict) for k in v]
        written += [k for k, v in fields.items() if not isinstance(v, dict)]
        assert sorted(written) == sorted(all_fields(Recipe))

    @settings(max_examples=50, deadline=None)
    @given(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x85"), max_size=40),
        st.floats(1e-9, 1.0),
        st.one_of(st.none(), st.integers(1, 10**9)),
        st.booleans(),
    )
    def test_any_value_survives(self, text, rate, steps, listed):
        recipe = parse_recipe(
            {
                "name": text,
                "layout": {"task": text, "list_candidates": listed},
                "a_tuning": {"learning_rate": rate, "max_steps": steps},
            },
            "test",
        )
        assert parse_recipe(yaml.safe_load(recipe.to_yaml()), "again") == recipe


class TestOverrides:
    def test_flag_over_file_over_default(self, tmp_path):
        file = recipe_file(tmp_path, "a_tuning:\n  epochs: 2\n  batch_size: 4\n")
        recipe = load_recipe(file, ["a_tuning.epochs=0.5", "lora.rank=16", "backbone.path=null", "name=other"])
        assert (recipe.a_tuning.epochs, recipe.a_tuning.batch_size) == (0.5, 4)
        assert (recipe.lora.rank, recipe.lora.alpha) == (16, 16)
        assert recipe.backbone.path is None
        assert recipe.name == "other"
        assert load_recipe(file).name == "mine"

    def test_the_last_one_wins(self, tmp_path):
        assert load_recipe(recipe_file(tmp_path, ""), ["seed=1", "seed=2"]).seed == 2

    @pytest.mark.parametrize(
        ("text", "section", "field", "value"),
        [
            ("a_tuning.learning_rate=1e-4", "a_tuning", "learning_rate", 1e-4),
            ("b_tuning.method=sft", "b_tuning", "method", "sft"),
            ("layout.list_candidates=false", "layout", "list_candidates", False),
            ("backbone.path=org/model=x", "backbone", "path", "org/model=x"),
            ("layout.role='Say: yes'", "layout", "role", "Say: yes"),
            (" lora.rank =4", "lora", "rank", 4),
        ],
    )
    def test_values_are_yaml(self, text, section, field, value):
        assert getattr(getattr(load_recipe("tiny", [text]), section), field) == value

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("lora.rank", "--set lora.rank: not of the form"),
            ("=4", "not of the form"),
            ("seed.rank=4", "'seed' is not a section|seed"),
            ("name.x.y=4", "'name' is not a section"),
            ("lora.rank=[1", "not a YAML value"),
            ("lora.rank=eight", "lora.rank = 'eight'"),
            ("lora.ranc=4", "unknown recipe key 'lora.ranc'"),
            ("lora=4", "lora = 4"),
        ],
    )
    def test_bad_overrides(self, text, message):
        with pytest.raises(EdgebError, match=message) as caught:
            load_recipe("tiny", [text])
        assert caught.value.hint
        assert "\n" not in str(caught.value)


class TestErrors:
    @pytest.mark.parametrize(
        ("key", "suggestion"),
        [
            ("a_tuning.epoch", "epochs"),
            ("a_tuning.learningrate", "learning_rate"),
            ("layout.histroy_length", "history_length"),
            ("dpo_beta", "b_tuning.dpo_beta"),
            ("rank", "lora.rank"),
            ("a_tuning.rank", "lora.rank"),
            ("sed", "seed"),
            ("a_tunning", "a_tuning"),
            ("backbon.path", "backbone"),
        ],
    )
    def test_an_unknown_key_names_the_nearest(self, tmp_path, key, suggestion):
        *sections, leaf = key.split(".")
        text = f"{sections[0]}:\n  {leaf}: 1\n" if sections else f"{leaf}: 1\n"
        with pytest.raises(EdgebError, match=r"mine\.yaml: unknown recipe key '") as caught:
            load_recipe(recipe_file(tmp_path, text))
        assert caught.value.hint == f"did you mean '{suggestion}'?"

    @pytest.mark.parametrize("field", all_fields(Recipe))
    def test_a_typo_in_any_key_is_found(self, field):
        section, _, leaf = field.rpartition(".")
        typo = leaf + leaf[-1]
        with pytest.raises(EdgebError, match="unknown recipe key") as caught:
            parse_recipe({section: {typo: 1}} if section else {typo: 1}, "r.yaml")
        assert re.search(rf"\b{leaf}\b", caught.value.hint), caught.value.hint

    def test_a_key_like_no_other_lists_the_section(self):
        with pytest.raises(EdgebError) as caught:
            parse_recipe({"lora": {"zzz": 1}}, "r.yaml")
        assert caught.value.hint == "valid: alpha, dropout, rank, target_modules"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("lora:\n  rank: eight\n", r"lora\.rank = 'eight': .*integer"),
            ("lora:\n  rank: 8.5\n", r"lora\.rank = 8\.5: .*integer"),
            ("lora:\n  rank: 0\n", r"lora\.rank = 0: .*greater than or equal to 1"),
            ("lora: [1]\n", r"lora = \[1\]: "),
            ("lora:\n", "lora = None: "),
            ("backbone:\n  path: 5\n", r"backbone\.path = 5: .*string"),
            ("a_tuning:\n  epochs: .nan\n", "a_tuning.epochs = nan: .*finite"),
            ("a_tuning:\n  warmup_ratio: 1\n", "a_tuning.warmup_ratio = 1: .*less than 1"),
            ("b_tuning:\n  method: ppo\n", "b_tuning.method = 'ppo': .*'dpo', 'sft' or 'none'"),
            ("a_tuning:\n  stretch_min: 9\n  stretch_max: 3\n", "stretch_min 9 is above stretch_max 3"),
            ("layout:\n  name: instruct\n  list_candidates: false\n", "instruct layout always lists"),
            ("layout:\n  name: prefix\nscoring:\n  windows: session\n", "needs the stream layout, not prefix"),
            ("scoring:\n  bound: 0\n", "scoring.bound = 0: .*greater than 0"),
            ("layout:\n  chat_template: true\n", "the stand-in has no chat template"),
            ("layout:\n  candidate_order: shuffled\n  list_candidates: false\n", "no candidate is listed"),
            ("method: plian\n", r"method = 'plian': there is no such method \(did you mean 'plain'\?\)"),
            ("method: [plain]\n", r"method = \['plain'\]: .*string"),
            ("- a\n- b\n", "a recipe is a mapping"),
            ("tiny\n", "a recipe is a mapping"),
        ],
    )
    def test_wrong_values_name_file_and_field(self, tmp_path, text, message):
        with pytest.raises(EdgebError, match=message) as caught:
            load_recipe(recipe_file(tmp_path, text))
        assert caught.value.message.startswith(f"{tmp_path}/mine.yaml: ")
        assert caught.value.hint
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("name: x\nlora:\n  rank: 8\n alpha: 16\n", 4),
            ("name: x\nseed: [1, 2\n", 3),
            ("name: 'x\n", 2),
            ("a: b: c\n", 1),
            ("lora:\n\trank: 8\n", 2),
        ],
    )
    def test_bad_yaml_names_the_line(self, tmp_path, text, line):
        with pytest.raises(EdgebError, match=rf"mine\.yaml:{line}: not valid YAML"):
            load_recipe(recipe_file(tmp_path, text))

    @pytest.mark.parametrize(
        "field",
        [
            "seed", "threads", "layout.history_length", "lora.rank", "a_tuning.max_targets", "a_tuning.stretch_max",
            "b_tuning.samples_per_behavior", "backbone.hidden_size", "backbone.vocab_size", "evaluation.per_user",
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("value", [10**11, 10**22])
    def test_numbers_that_no_library_takes_are_refused_by_name(self, field, value):
        with pytest.raises(EdgebError, match=f"--set: {field} = {value}: should be (at most|less than or equal to) "):
            load_recipe("tiny", [f"{field}={value}"])

    def test_files_that_are_not_text(self, tmp_path):
        (tmp_path / "mine.yaml").write_bytes(b"name: \xff\xfe\n")
        with pytest.raises(EdgebError, match=r"mine\.yaml: not valid YAML"):
            load_recipe(str(tmp_path / "mine.yaml"))

    def test_an_empty_file_is_all_defaults(self, tmp_path):
        assert load_recipe(recipe_file(tmp_path, "# nothing\n"), default_method=None) == Recipe(name="mine")

    def test_no_such_recipe(self, tmp_path):
        with pytest.raises(EdgebError, match="no recipe named 'tinny'") as caught:
            load_recipe("tinny")
        assert caught.value.hint == "did you mean 'tiny'?"
        with pytest.raises(EdgebError, match=r"no recipe file .*absent\.yaml") as caught:
            find_recipe(str(tmp_path / "absent.yaml"))
        assert "tiny" in caught.value.hint

    def test_a_recipe_cannot_be_changed_once_made(self):
        with pytest.raises(ValueError, match="frozen"):
            Recipe().lora.rank = 5


def test_the_dataset_decides_on_places() -> None:
    layout = load_recipe("tiny").layout
    assert [layout.layout(known, None).places for known in (True, False)] == [True, False]
    without = layout.model_copy(update={"places": False})
    assert not without.layout(True, None).places
    wanted = layout.model_copy(update={"places": True})
    assert wanted.layout(True, None).places
    with pytest.raises(EdgebError, match="the dataset has no places") as caught:
        wanted.layout(False, None)
    assert "layout.places=null" in str(caught.value.hint)
