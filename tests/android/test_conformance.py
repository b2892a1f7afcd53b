"""The phone's code says what Python says: prompts, tries, scores, sessions, files, on this machine's JVM and JNI."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.litert.worker import check_packages
from edge_behavior.export.source import ExportSource
from edge_behavior.hf.architectures import load_tokenizer
from edge_behavior.hf.chat_template import chat_turns
from edge_behavior.hf.find import find_backbone
from tests import helpers, smollm2
from tests.android import host
from tests.android.goldens import write_goldens
from tests.android.litert_goldens import write_litert_goldens
from tests.android.project import ROOT, text_of

MAIN = "dev.edgeb.core.ConformanceKt"
WHY_NOT = host.missing()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


@pytest.fixture(scope="module")
def goldens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_goldens(tmp_path_factory.mktemp("goldens")).parent


@pytest.fixture(scope="module")
def built() -> host.Host:
    return host.build()


def changed(goldens: Path, folder: Path, change: Any) -> Path:
    """A copy of the goldens with one thing changed."""
    copy = shutil.copytree(goldens, folder / "changed", ignore=shutil.ignore_patterns("backbone", "python-*"))
    golden = json.loads((copy / "golden.json").read_text(encoding="utf-8"))
    change(golden)
    (copy / "golden.json").write_text(json.dumps(golden), encoding="utf-8")
    return copy


@pytest.fixture(scope="module")
def litert_goldens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        check_packages()
    except EdgebError as error:
        pytest.skip(str(error))
    return write_litert_goldens(tmp_path_factory.mktemp("litert")).parent


def test_reproduces_python(built: host.Host, goldens: Path) -> None:
    check_run(built.run(MAIN, goldens), goldens)


@pytest.mark.slow
def test_reproduces_python_on_litert(built: host.Host, litert_goldens: Path) -> None:
    """The same search, proofs and sessions over LiteRT bundles; JNI over the library that Python runs."""
    check_run(built.run(MAIN, litert_goldens, 0, "-", host.litert_library()), litert_goldens)


def test_litert_that_is_not_there(built: host.Host, goldens: Path, tmp_path: Path) -> None:
    done = built.run(MAIN, goldens, 0, "-", tmp_path / "libLiteRt.so")
    assert done.returncode == 1
    assert "LiteRT's library does not load" in done.stderr


def check_run(done: subprocess.CompletedProcess[str], goldens: Path) -> None:
    """All bundles agree, without a warning."""
    assert done.returncode == 0, done.stdout + done.stderr
    bundles = [b["file"] for b in json.loads((goldens / "golden.json").read_text(encoding="utf-8"))["bundles"]]
    assert [line.split(":")[0] for line in done.stdout.splitlines() if " checks" in line][: len(bundles)] == bundles
    found = re.search(r"^all (\d+) checks agree$", done.stdout, re.MULTILINE)
    assert found is not None
    assert int(found[1]) > 3000
    # -Xcheck:jni warns of every misuse of JNI.
    assert "WARNING" not in done.stdout
    assert "FATAL" not in done.stderr
    # It leaves nothing behind in the folder that it reads.
    assert not list(goldens.glob("kotlin-*"))


def swap_ranks(golden: Any) -> None:
    ranked = next(c for c in golden["bundles"][0]["calls"] if "found" in c)["found"]["ranked"]
    ranked[0][0], ranked[1][0] = ranked[1][0], ranked[0][0]


def move_probability(golden: Any) -> None:
    next(c for c in golden["bundles"][4]["calls"] if "found" in c)["found"]["ranked"][0][1] += 3e-5


def change_token(golden: Any) -> None:
    golden["bundles"][1]["prompts"][2]["ids"][-1] += 1


def change_cost(golden: Any) -> None:
    [c for c in golden["bundles"][0]["calls"] if c["do"] == "ask" and "found" in c][-1]["found"]["tokens"] += 1


def change_place(golden: Any) -> None:
    golden["places"][4][1] += "x"


def take_good_for_bad(golden: Any) -> None:
    golden["refused"].append(["stream.gguf", "."])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (swap_ranks, "stream.gguf call 1 .*rank 1"),
        (move_probability, "full.gguf call 1 .*rank 1"),
        (change_token, "prefix.gguf ids of prompt 2"),
        (change_cost, "stream.gguf call .* tokens"),
        (change_place, "place 'Café Zürich'"),
        (take_good_for_bad, "stream.gguf\n"),
    ],
)
def test_names_the_first_difference(built: host.Host, goldens: Path, tmp_path: Path, change: Any, named: str) -> None:
    done = built.run(MAIN, changed(goldens, tmp_path, change))
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(f"difference after \\d+ checks: {named}", done.stderr), done.stderr


def test_both_sides_pin_the_same_llama_cpp() -> None:
    pinned = re.search(r"llama-cpp-python==([0-9.]+)", text_of(ROOT / "pyproject.toml"))
    assert pinned is not None
    assert f"llama-cpp-python {pinned[1]}," in text_of(host.NATIVE / "CMakeLists.txt")


@pytest.mark.slow
@pytest.mark.parametrize("compiler", host.COMPILERS)
def test_every_compiler(compiler: str, goldens: Path) -> None:
    """Kotlin 1.3's syntax and K2's rules; what either makes does the same."""
    why_not = host.missing(compiler)
    if why_not is not None:
        pytest.skip(why_not)
    done = host.build(compiler).run(MAIN, goldens)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(smollm2.gguf() is None, reason=smollm2.WHY_NOT)
def test_reproduces_python_on_smollm2(built: host.Host, tmp_path: Path) -> None:
    """A real model as it is exported: three windows with a short prompt in its own chat template."""
    base = str(smollm2.gguf())
    chat = chat_turns(load_tokenizer(find_backbone(base)))
    layout = PromptLayout(history_length=3, list_candidates=False, chat=chat)
    labels = ["Short Video", "Instant Messaging", "Music", "Navigation", "Weather Check"]
    bundle = tmp_path / "smollm2.gguf"
    export_gguf(ExportSource(base, None, CandidateSet.of(labels), layout), bundle, helpers.profile("q4"))
    done = built.run(MAIN, write_goldens(tmp_path / "goldens", [bundle]).parent)
    assert done.returncode == 0, done.stdout + done.stderr
    checks = re.search(r"^exported-smollm2.gguf: (\d+) checks$", done.stdout, re.MULTILINE)
    assert checks is not None
    assert int(checks[1]) > 80
