"""The whole path as its user runs it: log, train, export, predict, evaluate, bench. A small stand-in, real commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.command import edgeb, edgeb_here
from tests.integration.small import LOG, SMALL, set_flags

# Its NLL is compared with that of bundles, which score every label.
RECIPE = [*SMALL, "scoring.bound=null"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("path")


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    edgeb(*LOG, "--out", folder / "data", home=folder / "home")
    return folder / "data"


@pytest.fixture(scope="module")
def run(folder: Path, data: Path) -> Path:
    done = edgeb(
        "train", "--recipe", "tiny", "--out", folder / "run", "--json", *set_flags(RECIPE), home=folder / "home"
    )
    document = json.loads(done.stdout)
    assert document["run"] == str(folder / "run")
    assert set(document["metrics"]["models"]) == {"untuned", "a_tuning", "b_tuning"}
    return folder / "run"


@pytest.fixture(scope="module")
def bundle(folder: Path, run: Path) -> Path:
    edgeb("export", "--quant", "q4", "--out", folder / "m.gguf", home=folder / "home")
    return folder / "m.gguf"


@pytest.fixture(scope="module")
def history(folder: Path) -> Path:
    path = folder / "today.csv"
    path.write_text("timestamp,place,behavior\n2024-03-18T08:10,home,Short Video\n2024-03-18T08:30,home,Short Video\n")
    return path


def test_run_folder_holds_everything(run: Path) -> None:
    for name in (
        "recipe.yaml", "run.json", "metrics.json", "pairs.jsonl", "report.html", "README.md",
        "backbone/model.safetensors",
        "a_tuning/adapter/adapter_model.safetensors", "b_tuning/adapter/adapter_model.safetensors",
    ):  # fmt: skip
        assert (run / name).stat().st_size > 0, name
    pickled = [p for p in run.rglob("*") if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert pickled == []
    pairs = [json.loads(line) for line in (run / "pairs.jsonl").read_text().splitlines()]
    assert pairs
    assert all(pair["chosen"] != pair["rejected"] and 0 <= pair["difficulty"] <= 1 for pair in pairs)


def test_stock_peft_loads_both_adapters(run: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run / "backbone")
    for stage in ("a_tuning", "b_tuning"):
        base = AutoModelForCausalLM.from_pretrained(run / "backbone")
        model = PeftModel.from_pretrained(base, run / stage / "adapter")
        ids = tokenizer("(Tue 20, home,", return_tensors="pt").input_ids
        assert model.generate(input_ids=ids, max_new_tokens=2).shape[1] == ids.shape[1] + 2


def test_stock_llama_cpp_loads_the_bundle(bundle: Path) -> None:
    from edge_behavior.bench.native import stock_llama

    llm = stock_llama(bundle, n_ctx=256, verbose=False)
    assert json.loads(llm.metadata["edgeb.manifest"])["layout"]["name"] == "stream"
    assert llm("(Mon 9, home,", max_tokens=3, temperature=0)["choices"][0]["text"]


def labels_of(data: Path) -> list[str]:
    found: list[str] = json.loads((data / "dataset.json").read_text())["candidates"]["labels"]
    return found


def test_predict(bundle: Path, history: Path, data: Path) -> None:
    arguments = ("predict", bundle, "--history", history, "--at", "2024-03-18T09:00", "--place", "home")
    document = json.loads(edgeb(*arguments, "--top", 0, "--json").stdout)
    assert set(document) == {
        *(
            "predictions",
            "scoring",
            "source",
            "balance",
            "calibrated",
            "unexpanded",
            "tokens_evaluated",
            "latency_ms",
            "accelerator",
            "bundle",
        ),
        "skipped_events",
    }
    probabilities = [p["probability"] for p in document["predictions"]]
    assert sorted(p["behavior"] for p in document["predictions"]) == sorted(labels_of(data))
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1)
    table = edgeb_here(*arguments, "--top", 3).stdout
    assert document["predictions"][0]["behavior"] in table


@pytest.mark.parametrize(
    ("name", "flags"),
    [("f16.gguf", ("--quant", "f16", "--no-habits", "--no-calibrate")), ("hf", ("--format", "hf"))],
    ids=["gguf", "hf"],
)
def test_bundle_scores_like_the_run(name: str, flags: tuple[str, ...], run: Path, data: Path, folder: Path) -> None:
    """An unquantized bundle, in llama.cpp or as a Hugging Face folder, against the adapter on the same windows."""
    edgeb_here("export", run, *flags, "--out", folder / name, home=folder / "home")
    common = ("--data", data, "--limit", 40, "--json")
    ours = json.loads(edgeb_here("evaluate", folder / name, *common).stdout)
    assert ours["source"] == "model"
    theirs = json.loads(edgeb_here("evaluate", run, "--no-untuned", *common).stdout)
    for protocol in ("natural", "balanced"):
        assert ours[protocol]["windows"] == theirs[protocol]["windows"] > 0
        assert ours[protocol]["nll"] == pytest.approx(theirs[protocol]["nll"], abs=0.02)
        assert ours["baselines"]["place_hour_backoff"][protocol] == theirs["baselines"]["place_hour_backoff"][protocol]


def test_several_models_in_one_table(
    run: Path, bundle: Path, data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the runs measured themselves is not scored again: their metrics stand beside the bundle's."""
    plain = [*RECIPE, "method=plain", f"backbone.path={run / 'backbone'}", "a_tuning.epochs=1"]
    edgeb_here("train", "--recipe", "tiny", "--data", data, "--out", folder / "plain", *set_flags(plain))
    own = ("--per-user", 3, "--per-behavior", 2)
    ask = ("evaluate", run, folder / "plain", bundle, "--data", data, "--json")
    with monkeypatch.context() as patch:
        patch.setattr("edge_behavior.train.evaluate_run.stage_scorer", None)
        done = edgeb_here(*ask, *own)
    systems = json.loads(done.stdout)["systems"]
    models = {name: json.loads((folder / name / "metrics.json").read_text())["models"] for name in ("run", "plain")}
    # Both runs have the same untuned backbone, and plain fine-tuning has one model.
    of_runs = {"untuned", "run/a_tuning", "run/b_tuning", "plain/tuned"}
    assert {name for name in systems if "tuned" in name or name.startswith(("run/", "plain/"))} == of_runs
    assert systems["untuned"] == models["run"]["untuned"]
    assert systems["run/a_tuning"] == models["run"]["a_tuning"]
    assert systems["plain/tuned"] == models["plain"]["b_tuning"]
    assert {"m.gguf/model", "m.gguf/habits"} <= set(systems)
    assert done.stderr.count("scored on these windows before") == 2
    # Other windows are not on record.
    fresh = edgeb_here("evaluate", run, "--data", data, *own, "--seed", 5, "--no-untuned", "--json")
    assert "before" not in fresh.stderr
    assert json.loads(fresh.stdout)["natural"] != models["run"]["b_tuning"]["natural"]


def test_bench_and_inspect(bundle: Path, data: Path) -> None:
    document = json.loads(edgeb("bench", bundle, "--repeats", 3, "--cold-starts", 1, "--json").stdout)
    scenarios = document["scenarios"]
    assert scenarios["warm"]["tokens_per_prediction"] > scenarios["session"]["tokens_per_prediction"] > 5
    assert document["file_bytes"] == bundle.stat().st_size
    assert scenarios["cold_start"]["p50_ms"] > scenarios["cold_start"]["parts_ms"]["first_ms"] > 0
    assert document["peak_rss_bytes"]["session"] > bundle.stat().st_size
    flags = ("--repeats", 2, "--cold-starts", 1, "--compare", "--label-repeats", 1, "--pp", 32, "--tg", 8)
    assert "(a)" in edgeb("bench", bundle, *flags).stdout
    manifest = json.loads(edgeb_here("inspect", bundle, "--json").stdout)
    assert manifest["candidates"]["labels"] == labels_of(data)
    assert set(manifest["evaluation"]) == {"natural", "balanced"}


def test_existing_outputs_are_refused_and_kept(run: Path, bundle: Path, data: Path, folder: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (run / "metrics.json", bundle)}
    failed = edgeb_here("train", "--recipe", "tiny", "--data", data, "--out", run, code=2)
    assert "already exists" in failed.stderr
    assert "--resume" in failed.stderr
    assert "exists" in edgeb_here("export", run, "--out", bundle, code=2).stderr
    assert "exists" in edgeb_here("data", "synth", "--users", 30, "--out", data, code=2).stderr
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_interrupted_run_is_continued_to_the_same_result(run: Path, data: Path, folder: Path) -> None:
    """Stopped after stage 1, resumed: stage 1 is not done again, and the end is the uninterrupted run's."""
    again = folder / "again"
    shutil.copytree(run, again)
    state = json.loads((again / "run.json").read_text())
    for stage in ("b_tuning", "evaluation", "report"):
        del state["done"][stage]
    (again / "run.json").write_text(json.dumps(state))
    shutil.rmtree(again / "b_tuning")
    stage1 = (again / "a_tuning" / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    assert "b_tuning is not finished" in edgeb_here("evaluate", again, "--data", data, code=2).stderr
    assert "b_tuning is not finished" in edgeb_here("export", again, "--out", folder / "no.gguf", code=2).stderr
    edgeb_here("train", "--resume", "--out", again, "--data", data)
    assert (again / "a_tuning" / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == stage1
    ours, theirs = (json.loads((r / "metrics.json").read_text())["models"]["b_tuning"] for r in (again, run))
    for protocol in ("natural", "balanced"):
        np.testing.assert_allclose(ours[protocol]["nll"], theirs[protocol]["nll"], rtol=1e-4)


def test_resume_refuses_another_recipe_or_dataset(run: Path, data: Path, folder: Path) -> None:
    assert (
        "own recipe" in edgeb_here("train", "--resume", "--recipe", "tiny", "--out", run, "--data", data, code=2).stderr
    )
    other = folder / "other"
    edgeb_here("data", "synth", "--users", 30, "--days", 12, "--seed", 4, "--out", other)
    assert "has changed" in edgeb_here("train", "--resume", "--out", run, "--data", other, code=2).stderr


def test_dry_run_counts_what_the_run_did(run: Path, data: Path) -> None:
    plan: dict[str, Any] = json.loads(
        edgeb_here("train", "--recipe", "tiny", "--data", data, "--dry-run", "--json", *set_flags(SMALL)).stdout
    )
    did = json.loads((run / "run.json").read_text())["done"]
    assert plan["a_tuning_targets_per_epoch"] == did["a_tuning"]["targets_per_epoch"]
    assert plan["pool_windows"] == did["b_tuning"]["pool"]
    assert plan["a_tuning_steps_at_most"] >= did["a_tuning"]["steps"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--recipe", "tiny", "--data", "nowhere"), "no dataset at nowhere"),
        (("train", "--recipe", "tiny", "--data", "DATA", "--set", "backbone.path=./nowhere"), "does not exist"),
        (("train", "--recipe", "tiny", "--data", "DATA", "--set", "a_tuning.epochs=many"), "a_tuning.epochs"),
        (("train", "--recipe", "tiny", "--data", "DATA", "--set", "a_tuning.epoch=1"), "did you mean 'epochs'"),
        (("train", "--recipe", "tinny", "--data", "DATA"), "did you mean 'tiny'"),
        (
            (
                "train",
                "--recipe",
                "tiny",
                "--method",
                "two-stage",
                "--data",
                "DATA",
                "--set",
                "a_tuning.aux_path=no.jsonl",
            ),
            "no.jsonl",
        ),
        (("train", "--recipe", "tiny", "--data", "DATA", "--set", "a_tuning.aux_path=no.jsonl"), "no conversations"),
        (("predict", "HISTORY", "--history", "HISTORY", "--at", "2024-03-18T09:00", "--place", "x"), "not a GGUF"),
        (("predict", "BUNDLE", "--history", "HISTORY", "--at", "nine", "--place", "x"), "--at: 'nine' is not a time"),
        (("predict", "BUNDLE", "--history", "no.csv", "--at", "2024-03-18T09:00", "--place", "x"), "no.csv"),
        (("predict", "BUNDLE", "--history", "HISTORY", "--at", "2020-01-01T09:00", "--place", "x"), "before the last"),
        (("evaluate", "nowhere", "--data", "DATA"), "nowhere"),
        (("export", "nowhere"), "not a run folder"),
        (("export", "RUN", "--quant", "q3", "--out", "x.gguf"), "q3"),
        (("export", "RUN", "--format", "tflite", "--out", "x.gguf"), "unknown format 'tflite'"),
        (("inspect", "HISTORY"), "not a GGUF"),
        (("bench", "HISTORY"), "not a GGUF"),
    ],
)
def test_bad_input_is_one_line_with_a_hint(
    arguments: tuple[str, ...],
    message: str,
    run: Path,
    data: Path,
    bundle: Path,
    history: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"DATA": data, "RUN": run, "BUNDLE": bundle, "HISTORY": history}
    failed = edgeb_here(*(names.get(a, a) for a in arguments), code=2, home=tmp_path / "home")
    assert failed.stdout == ""
    [line] = [x for x in failed.stderr.splitlines() if x.startswith("edgeb: ")]
    assert message in line
    assert line.endswith(")")
    assert not (tmp_path / "runs").exists()


def test_unknown_behavior_in_a_history(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "h.csv"
    path.write_text("timestamp,place,behavior\n2024-03-18T08:10,home,Short Vidio\n")
    asked = ("predict", bundle, "--history", path, "--at", "2024-03-18T09:00", "--place", "home", "--json")
    failed = edgeb_here(*asked, code=2)
    assert "no event's behavior is in the candidate set: 'Short Vidio' (line 2)" in failed.stderr
    assert "did you mean 'Short Video'?" in failed.stderr
    with path.open("a") as file:
        file.write("2024-03-18T08:30,home,Music\n")
    done = edgeb_here(*asked)
    assert "1 event was skipped, not in the candidate set: 'Short Vidio' (line 2)" in done.stderr
    assert json.loads(done.stdout)["skipped_events"] == [{"line": 2, "behavior": "Short Vidio"}]
    failed = edgeb_here(*asked, "--unknown", "refuse", code=2)
    assert "h.csv:2: 'Short Vidio' is not in the candidate set (did you mean 'Short Video'?)" in failed.stderr
