"""What shows in a backbone's small files is refused before torch and Transformers are imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import pytest
from transformers import AutoModelForCausalLM, Gemma2Config

from edge_behavior.errors import EdgebError
from edge_behavior.hf.architectures import ARCHITECTURES
from edge_behavior.hf.gguf_vocab import PRE_TOKENIZERS
from edge_behavior.train.first_look import check_logits, first_look
from edge_behavior.train.recipe import BackboneConfig
from edge_behavior.train.trainer.backbone import open_backbone
from tests import bad_backbones, helpers
from tests.command import edgeb_here

HEAVY = ("torch", "transformers", "peft", "trl", "accelerate", "datasets")
# Of `bad_backbones`, what the small files show.
EARLY = (
    *("mistral", "no architecture", "own code", "other type", "quantized", "gelu", "sliding window"),
    *("no config", "broken config", "list as config", "broken tokenizer", "normalizer", "whitespace", "regex"),
    "pickled",
)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bad_backbones.good(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions") / "data"
    edgeb_here("data", "synth", "--users", 20, "--days", 5, "--seed", 1, "--out", folder)
    return folder


def refusal(path: Path, **settings: Any) -> EdgebError:
    with pytest.raises(EdgebError) as caught:
        first_look(BackboneConfig(path=str(path), **settings))
    assert caught.value.hint
    assert "\n" not in f"{caught.value.message}{caught.value.hint}"
    return caught.value


def a_gguf(path: Path, architecture: str = "llama", model: str = "gpt2", pre: str = "smollm", parts: int = 1) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([f"t{i}" for i in range(50)])
    if parts > 1:
        writer.add_uint16("split.no", 0)
        writer.add_uint16("split.count", parts)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return path


@pytest.mark.parametrize("name", ["qwen2", "llama"])
def test_a_good_one_passes(name: str, bases: Path) -> None:
    for export in ("gguf", "onnx", "none"):
        first_look(BackboneConfig(path=str(bases / name), export=export))
    first_look(BackboneConfig(path=None))


@pytest.mark.parametrize("name", EARLY)
def test_it_says_what_the_whole_check_says(name: str, bases: Path, tmp_path: Path) -> None:
    base = bad_backbones.made(bases, name, tmp_path / "base")
    early = refusal(base)
    with pytest.raises(EdgebError) as late:
        open_backbone(BackboneConfig(path=str(base)))
    # What is no JSON is worded by who reads it.
    if name != "broken tokenizer":
        assert (early.message, early.hint) == (late.value.message, late.value.hint)


def test_what_is_never_exported_needs_no_known_tokenizer(bases: Path, tmp_path: Path) -> None:
    base = bad_backbones.made(bases, "whitespace", tmp_path / "base")
    assert "backbone.export=none" in refusal(base).hint
    first_look(BackboneConfig(path=str(base), export="none"))


@pytest.mark.parametrize("export", ["gguf", "none"])
def test_pickled_weights_say_how_they_are_converted(export: str, bases: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    helpers.save(helpers.model(helpers.tokenizer()), helpers.tokenizer(), base)
    weights = AutoModelForCausalLM.from_pretrained(base).state_dict()
    (base / "model.safetensors").unlink()
    import torch

    torch.save(weights, base / "pytorch_model.bin")
    found = refusal(base, export=export)
    assert f"{base}/pytorch_model.bin is pickled" in found.message
    # The hint is a command; its Python runs.
    code = found.hint.removeprefix('convert it: python -c "').removesuffix('"')
    exec(compile(code, "hint", "exec"), {})
    first_look(BackboneConfig(path=str(base), export=export))
    assert open_backbone(BackboneConfig(path=str(base), export=export))[0].model_type == "qwen2"


@pytest.mark.parametrize(
    ("made", "message", "listed"),
    [
        ({"architecture": "mamba"}, "unsupported architecture mamba", [a.gguf for a in ARCHITECTURES.values()]),
        ({"pre": "tekken"}, "unsupported pre-tokenizer 'tekken'", [p.name for p in PRE_TOKENIZERS]),
        ({"model": "bert"}, "unsupported tokenizer model 'bert'", ["gpt2", "llama"]),
        ({"parts": 3}, "is part 1 of 3", ["llama-gguf-split"]),
    ],
)
def test_gguf_files_are_known_by_their_header(
    made: dict[str, Any], message: str, listed: list[str], tmp_path: Path
) -> None:
    found = refusal(a_gguf(tmp_path / "model.gguf", **made))
    assert message in found.message
    assert all(name in found.hint for name in listed)
    # There is no way to train what cannot be unpacked.
    assert "backbone.export=none" not in found.hint
    first_look(BackboneConfig(path=str(a_gguf(tmp_path / "good.gguf"))))


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no GGUF at all, only text", b"GGUF\x03\0\0\0\xff\xff\xff"])
def test_damaged_gguf_files(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    assert "edgeb export" not in refusal(file).hint


@pytest.mark.parametrize(
    "fields",
    [
        {"final_logit_softcapping": 30.0},
        {"attn_logit_softcapping": 50.0},
        {"logit_scale": 0.0625},
        {"logits_scaling": 8.0},
        {"text_config": {"final_logit_softcapping": 30.0}},
    ],
)
def test_scaled_logits_are_refused_also_where_nothing_is_exported(
    fields: dict[str, Any], bases: Path, tmp_path: Path
) -> None:
    base = bad_backbones.made(bases, "mistral", tmp_path / "base")
    first_look(BackboneConfig(path=str(base), export="none"))
    bad_backbones.edit(base, "config.json", **fields)
    name = str(fields.get("text_config", fields)).split("'")[1]
    assert f"{name} = " in refusal(base, export="none").message


def test_what_transformers_takes_by_default_is_looked_at_as_well(bases: Path, tmp_path: Path) -> None:
    """A Gemma 2 whose config.json does not say that it caps its logits."""
    with pytest.raises(EdgebError, match=r"final_logit_softcapping = 30\.0 scales or caps logits"):
        check_logits(Gemma2Config().to_dict(), "config.json")
    base = bad_backbones.made(bases, "mistral", tmp_path / "base")
    bad_backbones.edit(base, "config.json", architectures=["Gemma2ForCausalLM"], model_type="gemma2")
    with pytest.raises(EdgebError, match="final_logit_softcapping"):
        open_backbone(BackboneConfig(path=str(base), export="none"))


def test_layers_that_are_not_scored_are_refused_at_the_start(
    bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_behavior.train.trainer import backbone

    config = SimpleNamespace(model_type="odd", layer_types=["full_attention", "chunked_attention"], to_dict=dict)
    config.get_text_config = lambda: config
    monkeypatch.setattr(backbone, "read_config", lambda _: config)
    with pytest.raises(EdgebError, match="odd has layers of chunked_attention"):
        open_backbone(BackboneConfig(path=str(bases / "qwen2"), export="none"))


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("what", ["mistral", "regex", "pickled", "gguf"])
def test_the_command_refuses_before_it_imports_torch(
    what: str, dry_run: bool, bases: Path, data: Path, tmp_path: Path
) -> None:
    if what == "gguf":
        base = a_gguf(tmp_path / "model.gguf", architecture="mamba")
    else:
        base = bad_backbones.made(bases, what, tmp_path / "base")
    words = ["train", "--recipe", "tiny", "--data", str(data), "--out", str(tmp_path / "run"), "--set"]
    words += [f"backbone.path={base}", *(["--dry-run"] if dry_run else [])]
    code = (
        f"import json, sys\nsys.argv = ['edgeb', *{words!r}]\nfrom edge_behavior.cli import main\n"
        "try:\n    main()\nexcept SystemExit as exit:\n    code = exit.code\n"
        f"print(json.dumps([code, [name for name in {HEAVY!r} if name in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [2, []]
    assert done.stderr.startswith("edgeb: unknown pre-tokenizer regex" if what == "regex" else f"edgeb: {base}")
    assert not (tmp_path / "run").exists()
