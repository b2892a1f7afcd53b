"""Whatever export refuses of a backbone, training refuses when it starts, in the same words, before it writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.source import ExportSource
from edge_behavior.hf.architectures import ARCHITECTURES, check_backbone, check_onnx
from edge_behavior.train.plan.plan import plan
from edge_behavior.train.preflight import check_inputs
from edge_behavior.train.recipe import Recipe, load_recipe
from edge_behavior.train.run.inputs import located
from tests import bad_backbones, helpers
from tests.command import edgeb_here

NONE = "backbone.export=none"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bad_backbones.good(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module")
def plain(bases: Path) -> Path:
    return bases / "qwen2"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions") / "data"
    edgeb_here("data", "synth", "--users", 20, "--days", 5, "--seed", 1, "--out", folder)
    return folder


def recipe(base: Path | str, *overrides: str) -> Recipe:
    fields = ["b_tuning.batch_size=1", "a_tuning.max_targets=20", "layout.history_length=4"]
    return load_recipe("tiny", [*fields, f"backbone.path={base}", *overrides])


def flags(base: Path | str) -> list[str]:
    return ["--recipe", "tiny", "--set", "b_tuning.batch_size=1", "--set", f"backbone.path={base}"]


def refusal(action: Any, *arguments: Any, **named: Any) -> EdgebError:
    with pytest.raises(EdgebError) as caught:
        action(*arguments, **named)
    assert caught.value.hint
    assert "\n" not in f"{caught.value.message}{caught.value.hint}"
    return caught.value


def exported(base: Path, out: Path) -> EdgebError:
    source = ExportSource(base, None, CandidateSet.of(helpers.LABELS), PromptLayout())
    return refusal(export_gguf, source, out / "x.gguf")


@pytest.mark.parametrize("name", ["qwen2", "llama"])
def test_a_good_one_passes(name: str, bases: Path, data: Path) -> None:
    assert check_backbone(bases / name).config.model_type == name
    check_inputs(recipe(bases / name), Dataset.open(data))
    assert plan(recipe(bases / name), Dataset.open(data), "24GiB").refusal is None


@pytest.mark.parametrize("name", bad_backbones.ALL)
def test_what_export_refuses_training_refuses_first(name: str, bases: Path, data: Path, tmp_path: Path) -> None:
    base = bad_backbones.made(bases, name, tmp_path / "base")
    before = sorted(path.name for path in tmp_path.iterdir())
    said, dataset = exported(base, tmp_path), Dataset.open(data)
    assert said.message == refusal(check_inputs, recipe(base), dataset).message
    if name not in bad_backbones.UNPLANNED:
        assert said.message == refusal(plan, recipe(base), dataset, "24GiB").message
    with pytest.raises(EdgebError, match=bad_backbones.ALL[name][1]):
        check_backbone(base)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("dry_run", [True, False])
def test_the_command_says_it_in_a_line_and_writes_nothing(
    bases: Path, data: Path, tmp_path: Path, dry_run: bool
) -> None:
    base, out = bad_backbones.made(bases, "mistral", tmp_path / "base"), tmp_path / "run"
    words = ["train", *flags(base), "--data", data, "--out", out, *(["--dry-run"] if dry_run else [])]
    lines = edgeb_here(*words, code=2).stderr.strip().splitlines()
    assert lines[-1].startswith(f"edgeb: {base}: unsupported architecture MistralForCausalLM")
    assert all(name in lines[-1] for name in (*ARCHITECTURES, NONE))
    assert not out.exists()


@pytest.mark.parametrize("name", ["yarn", "whitespace", "adapter inside"])
def test_what_is_never_exported_may_be_trained(name: str, bases: Path, data: Path, tmp_path: Path) -> None:
    base = bad_backbones.made(bases, name, tmp_path / "base")
    if name != "adapter inside":
        assert NONE in refusal(check_inputs, recipe(base), Dataset.open(data)).hint
    check_inputs(recipe(base, NONE), Dataset.open(data))


@pytest.mark.parametrize("name", ["no config", "broken config", "no tokenizer", "broken tokenizer"])
def test_what_cannot_be_loaded_is_refused_all_the_same(name: str, bases: Path, data: Path, tmp_path: Path) -> None:
    base = bad_backbones.made(bases, name, tmp_path / "base")
    refusal(check_inputs, recipe(base, NONE), Dataset.open(data))


def test_a_tokenizers_own_code_is_never_run(plain: Path, data: Path, tmp_path: Path) -> None:
    base, ran = tmp_path / "base", tmp_path / "ran"
    shutil.copytree(plain, base)
    bad_backbones.edit(base, "tokenizer_config.json", auto_map={"AutoTokenizer": ["tok.Own", "tok.Own"]})
    (base / "tok.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own: pass\n")
    for chosen in (recipe(base), recipe(base, NONE)):
        check_inputs(chosen, Dataset.open(data))
    assert not ran.exists()


def test_onnx_has_a_question_of_its_own(data: Path, tmp_path: Path) -> None:
    from tests.unit.export.conftest import llama, llama3_tokenizer, save

    tokens = llama3_tokenizer()
    rope = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    base = save(llama(len(tokens), rope_parameters=rope, max_position_embeddings=4096), tokens, tmp_path / "base")
    check_inputs(recipe(base), Dataset.open(data))
    said = refusal(check_inputs, recipe(base, "backbone.export=onnx"), Dataset.open(data))
    assert said.message == refusal(check_onnx, check_backbone(base).config).message


@pytest.mark.parametrize(
    "base", ["./nowhere", "nowhere/", "/nowhere/at/all", "~/nowhere-at-all", "a/b/c", "nowhere", "..x/y", "./a/b"]
)
def test_what_looks_like_a_folder_is_never_asked_of_the_hub(
    base: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    assert f"the backbone folder {base} does not exist" == refusal(located, recipe(base)).message
    assert "does not exist" in refusal(plan, recipe(base), Dataset.open(data), "24GiB").message


def test_a_hub_name_that_cannot_be_had_is_a_line(data: Path, tmp_path: Path) -> None:
    words = ["train", *flags("no-such-org/no-such-model"), "--data", data, "--out", tmp_path / "run"]
    for more in ([], ["--dry-run"]):
        said = edgeb_here(*words, *more, code=2).stderr.strip().splitlines()[-1]
        assert said.startswith("edgeb: 'no-such-org/no-such-model' is not a folder, and the hub download failed: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("wanted", [".*(q_proj|lm_head)", "lm_head", ".*embed_tokens", ".*(embed_tokens|up_proj)"])
def test_adapters_on_embedding_or_output_are_refused(wanted: str, tied: bool, data: Path, tmp_path: Path) -> None:
    tokens = helpers.tokenizer()
    model = helpers.model(tokens)
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 2)
    base = helpers.save(model, tokens, tmp_path / "base")
    assert json.loads((base / "config.json").read_text())["tie_word_embeddings"] is tied
    chosen = recipe(base, f"lora.target_modules={wanted}")
    said = refusal(plan, chosen, Dataset.open(data), "24GiB")
    assert said.message == refusal(check_inputs, chosen, Dataset.open(data)).message
    assert f"matches '{'lm_head' if 'lm_head' in wanted else 'model.embed_tokens'}'" in said.message
    check_inputs(recipe(base, "lora.target_modules=.*(q_proj|up_proj)"), Dataset.open(data))


@pytest.mark.parametrize("positions", [40, 4096])
def test_prompts_longer_than_the_backbone_are_refused(plain: Path, data: Path, tmp_path: Path, positions: int) -> None:
    base = tmp_path / "base"
    shutil.copytree(plain, base)
    bad_backbones.edit(base, "config.json", max_position_embeddings=positions)
    if positions == 4096:
        check_inputs(recipe(base), Dataset.open(data))
        return
    said = refusal(check_inputs, recipe(base), Dataset.open(data))
    assert said.message == refusal(plan, recipe(base), Dataset.open(data), "24GiB").message
    assert said.message.startswith("with layout.history_length 4, a prompt and its label have ")
    assert "tokens, the backbone has 40 positions" in said.message


SMALL = [
    "a_tuning.max_targets=20", "a_tuning.max_steps=1", "b_tuning.pool_per_behavior=1",
    "b_tuning.samples_per_behavior=1", "b_tuning.max_steps=1", "evaluation.per_user=1",
    "evaluation.per_behavior=1", "evaluation.validation_targets=10",
    "lora.rank=2", "threads=1", "layout.history_length=4", "method=two-stage",
]  # fmt: skip


def trained(base: str, data: Path, out: Path, code: int = 0) -> str:
    words = [word for field in SMALL for word in ("--set", field)]
    return edgeb_here("train", *flags(base), *words, "--data", data, "--out", out, code=code).stderr


def test_weights_that_are_no_numbers_stop_the_first_stage(data: Path, tmp_path: Path) -> None:
    tokens = helpers.tokenizer()
    model = helpers.model(tokens)
    model.model.layers[1].mlp.down_proj.weight.data[0, 0] = float("nan")
    base = helpers.save(model, tokens, tmp_path / "base")
    said = trained(str(base), data, tmp_path / "run", code=2).strip().splitlines()[-1]
    assert "not finite numbers in its own weight 'model.layers.1.mlp.down_proj.weight'" in said
    assert "learning rate" not in said
    assert not (tmp_path / "run" / "a_tuning" / "adapter").exists()


def test_a_run_on_a_relative_backbone_is_used_from_anywhere(
    plain: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And weights that f16 cannot hold are told when training starts, with what exports them."""
    tokens = helpers.tokenizer()
    model = helpers.model(tokens)
    model.model.layers[0].mlp.up_proj.weight.data[3, 4] = 70000.0
    helpers.save(model, tokens, tmp_path / "bb")
    monkeypatch.chdir(tmp_path)
    said = trained("./bb", data, Path("run"))
    assert "own weight 'model.layers.0.mlp.up_proj.weight': does not fit f16: export with --quant f32" in said
    assert "./bb" not in (tmp_path / "run/recipe.yaml").read_text()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    words = ["export", "../run", "--data", data, "--no-habits", "--no-calibrate", "--out", "x.gguf"]
    words += ["--profile", helpers.few_windows(tmp_path)]
    refused = edgeb_here(*words, "--quant", "f16", code=2).stderr.strip().splitlines()[-1]
    assert "does not fit f16 (export with --quant f32)" in refused
    edgeb_here(*words, "--quant", "f32")
    assert str(tmp_path) not in edgeb_here("inspect", "x.gguf", "--json").stdout
    shutil.rmtree(tmp_path / "bb")
    gone = edgeb_here(*words, "--quant", "f32", "--force", code=2).stderr.strip().splitlines()[-1]
    assert gone.startswith(f"edgeb: the backbone folder {tmp_path.resolve()}/bb does not exist")
