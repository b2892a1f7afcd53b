"""A comparison keeps what it fitted and can ship; what is exported of it answers as the comparison measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from peft import AutoPeftModelForCausalLM, get_peft_model_state_dict
from safetensors.torch import load_file

from edge_behavior.baselines.language.tallrec import TallRec
from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.baselines.sequence.system import SequenceSystem
from edge_behavior.core.scoring import log_softmax
from edge_behavior.evaluation.bundles import bundle_log_probs
from edge_behavior.runtime.predictor import Predictor
from edge_behavior.studies.compare.contenders import Contender, Other
from edge_behavior.studies.compare.rivals import RivalContender
from edge_behavior.studies.compare.runner import run_compare
from edge_behavior.train.recipe import LoraSettings
from edge_behavior.train.run.folder import RunFolder
from tests.command import invoked
from tests.helpers import few_windows
from tests.unit.studies.compare.conftest import SIZES, Asking, Noisy, contenders

SMALL = SequenceConfig(hidden=16, layers=1, heads=2, epochs=1, least_steps=12, eval_steps=6, batch_size=16)


def test_a_kept_model_is_the_one_that_was_measured(asking: Asking, tmp_path: Path) -> None:
    systems = {**contenders(Noisy("good", 3.0)), "sasrec": Other(SequenceSystem("sasrec", SMALL))}
    sizes = replace(SIZES, rate_targets=0)
    bench, systems = asking(systems, seeds=(1,), sizes=sizes, sweeps=("targets=40",), cold=(0,))
    assert run_compare(bench, systems) == []
    # Not of a sweep's points, and not of systems that cannot ship.
    kept = sorted(path.name for path in (bench.folder.path / "models").iterdir())
    assert kept == ["sasrec-seed1"]
    assert not list(bench.folder.work.glob("fits/sasrec*"))
    cost = bench.folder.costs()["sasrec-seed1"]
    assert list(bench.folder.costs()) == ["sasrec-seed1"]
    assert cost.bytes == 4 * cost.parameters > 0
    # An epoch of stretches of five positions at most: every event once, and some that are only shown.
    events = len(bench.dataset.events("train"))
    assert cost.tokens is not None
    assert events <= cost.tokens <= 2 * 5 * events
    out = tmp_path / "sasrec.gguf"
    words = ("export", bench.folder.path, "--system", "sasrec", "--seed", 1, "--out", out, "--json")
    words += ("--no-habits", "--no-calibrate", "--no-population")
    report = json.loads(invoked(*words).stdout)
    assert (report["architecture"], report["quantization"]) == ("edgeb-sasrec", "F32")
    table = bench.dataset.events("test")
    with np.load(bench.folder.predictions("sasrec", 1, "test")) as held, Predictor.load(out) as predictor:
        assert predictor.manifest.training["seed"] == 1
        found = bundle_log_probs(predictor, table, bench.drawn.test)
        # Scores are kept in half precision.
        np.testing.assert_allclose(log_softmax(held["scores"].astype(np.float64)), found, atol=0.02)
    shown = json.loads(invoked("predict", out, "--history", _history(tmp_path), *_AT, "--json").stdout)
    assert len(shown["predictions"]) == 5


def test_a_kept_adapter_is_the_one_that_was_measured(asking: Asking, tmp_path: Path) -> None:
    """It is exported by the same words as a run of edgeb's own, and stock PEFT loads it."""
    settings = {"conversations": 4, "lora": LoraSettings(rank=3, alpha=6)}
    systems: dict[str, Contender] = {**contenders(), "tallrec": RivalContender(TallRec, settings)}
    sizes = replace(SIZES, windows=15, validation=10, rate_targets=0)
    bench, systems = asking(systems, seeds=(1,), sizes=sizes, cold=())
    assert run_compare(bench, systems) == []
    out = tmp_path / "tallrec.gguf"
    words = ("export", bench.folder.path, "--system", "tallrec", "--quant", "f32", "--profile", few_windows(tmp_path))
    report = json.loads(invoked(*words, *_OFF, "--out", out, "--json").stdout)
    assert (report["architecture"], report["quantization"]) == ("qwen2", "F32")
    assert report["parity"]["held_out"]
    table = bench.dataset.events("test")
    with np.load(bench.folder.predictions("tallrec", 1, "test")) as held, Predictor.load(out) as predictor:
        manifest = predictor.manifest
        assert {name: manifest.training[name] for name in ("system", "seed")} == {"system": "tallrec", "seed": 1}
        lora = LoraSettings(rank=3, alpha=6).model_dump()
        assert manifest.training["settings"] == {"conversations": 4, "lora": lora}
        assert (manifest.training["lora"], manifest.training["a_tuning"]["targets"]) == (lora, "all")
        assert str(tmp_path) not in manifest.to_json()
        found = log_softmax(bundle_log_probs(predictor, table, bench.drawn.test))
        # Scores are kept in half precision.
        np.testing.assert_allclose(log_softmax(held["scores"].astype(np.float64)), found, atol=0.03)
    _loads_in_stock_peft(bench.folder.kept_model("tallrec", 1), RunFolder.open(bench.folder.path / "runs" / "backbone"))


_OFF = ("--no-habits", "--no-calibrate", "--no-population", "--prune", "off")


def _loads_in_stock_peft(folder: Path, run: RunFolder) -> None:
    model = AutoPeftModelForCausalLM.from_pretrained(folder)
    assert model.peft_config["default"].r == 3
    assert Path(model.peft_config["default"].base_model_name_or_path) == Path(run.backbone)
    weights = get_peft_model_state_dict(model)
    kept = load_file(folder / "adapter_model.safetensors")
    assert weights.keys() == kept.keys()
    assert all(torch.equal(weights[name], kept[name]) for name in kept)
    assert {held.dtype for held in kept.values()} == {torch.float32}
    # Fitted, not fresh.
    assert all(held.any() for name, held in kept.items() if "lora_B" in name)


_AT = ("--at", "2024-03-18T20:05", "--place", "home")


def _history(folder: Path) -> Path:
    path = folder / "today.csv"
    path.write_text("timestamp,place,behavior\n2024-03-18T08:05,home,News\n", encoding="utf-8")
    return path
