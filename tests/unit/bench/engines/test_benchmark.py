"""benchmarks.engines: goals, the page, docs between marks, and LiteRT-LM's protocol with a stand-in for the package."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edge_behavior.bench.engines.contender import Contender
from edge_behavior.bench.engines.options import TableOptions
from edge_behavior.bench.engines.windows import choose_windows
from edge_behavior.bundle.bundle import read_manifest
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from tests.unit.bench.engines.tables import row, table

pytest.importorskip("benchmarks.engines.goals", reason="not a checkout: there are no benchmarks")

from benchmarks.engines.bundles import Wanted
from benchmarks.engines.goals import goals
from benchmarks.engines.litert_lm import ScoringRival, scoring_rival, stock_export
from benchmarks.engines.page import page, update_docs

TEN, FOUR = [10.0] * 20, [4.0] * 20


def test_goals_are_met_or_missed_or_unknown() -> None:
    ours = row("q8.tflite", FOUR, TEN, wrong=1, over_bare={"empty": 1.2})
    held = {goal.what: goal for goal in goals(table([row("q4_0.gguf", TEN), ours], "q4_0.gguf"))}
    found = {what: goal.met for what, goal in held.items()}
    assert found["first candidate, from an empty cache: q8.tflite over q4_0.gguf"] is True
    assert found["first candidate, a session's prediction: q8.tflite over q4_0.gguf"] is True
    assert found["accuracy of q8.tflite, at least q4_0.gguf's"] is False
    assert found["q8.tflite, from an empty cache: over the same calls bare"] is False
    assert found["q8.tflite, a session's prediction: over the same calls bare"] is True
    alone = [goal.met for goal in goals(table([row("q4_0.gguf", TEN)], "q4_0.gguf"))]
    assert alone == [None, None, None, True, True]
    # Ratios to another bundle say nothing of these goals.
    other = goals(table([row("q4_0.gguf", TEN), ours], "q8.tflite"))
    assert [goal.met for goal in other[:2]] == [None, None]


def test_the_page_and_the_docs_say_what_was_measured(tmp_path: Path) -> None:
    made = table([row("q4_0.gguf", TEN, size=5), row("q8.tflite", FOUR, TEN)], "q4_0.gguf")
    gate = {
        "parity": {
            "windows": 64,
            "reference": {"accuracy": 0.5},
            "stages": {"merge": {}, "quantize": {"flips": 0.02, "mean_kl": 0.011, "accuracy": 0.48}},
        }
    }
    text = page("try", made, goals(made), {"q8.tflite": gate, "q4_0.gguf": {}}, ["an engine: not installed"], True)
    assert "This CPU has AMX, which was refused to every engine" in text
    for words in (
        "| a session's next prediction | q8.tflite | 4.00 ms | q4_0.gguf 10.0 ms |",
        "| the smallest file | q4_0.gguf |",
        "| q8.tflite | 64 | 2.0% | 0.011 | .480 | .500 |",
        "Not there: an engine: not installed.",
        "**missed**" if any(goal.met is False for goal in goals(made)) else "met",
    ):
        assert words in text
    doc = tmp_path / "engines.md"
    doc.write_text("# Engines\n\n<!-- benchmarks.engines: begin -->\nold\n<!-- benchmarks.engines: end -->\n\nrest\n")
    for _ in range(2):
        update_docs(doc, "try", made)
        found = doc.read_text(encoding="utf-8")
        assert found.startswith("# Engines\n\n<!-- benchmarks.engines: begin -->\nOn an abacus, 2 threads")
        assert found.endswith("Take the best.\n<!-- benchmarks.engines: end -->\n\nrest\n")
        assert "old" not in found
    doc.write_text("# Engines\n")
    with pytest.raises(EdgebError, match="has no marks"):
        update_docs(doc, "try", made)


def test_the_docs_have_the_marks() -> None:
    text = (Path(__file__).parents[4] / "docs" / "engines.md").read_text(encoding="utf-8")
    assert text.count("<!-- benchmarks.engines: begin -->") == text.count("<!-- benchmarks.engines: end -->") == 1


def test_bundles_are_named_by_format_and_type() -> None:
    assert [Wanted.parse(text).file for text in ("gguf-q4_0", "litert-q8", "onnx-q4")] == [
        "q4_0.gguf", "q8.tflite", "q4-onnx",
    ]  # fmt: skip
    for text in ("tflite-q8", "gguf", "gguf-"):
        with pytest.raises(EdgebError, match="is no FORMAT-QUANT"):
            Wanted.parse(text)


# Scores a label by its length, if the prompt's last token was given twice, and writes down what it is asked.
FAKE = """
import json, os
from types import SimpleNamespace

LOG = os.environ["FAKE_LITERT_LM_LOG"]


def note(*what):
    with open(LOG, "a") as file:
        file.write(json.dumps(what) + "\\n")


def set_min_log_severity(severity):
    pass


class LogSeverity:
    FATAL = 4


class Backend:
    def CPU(thread_count):
        return thread_count


class Session:
    _ptr = 7

    def __init__(self):
        self.given = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run_prefill(self, texts):
        note("prefill", *texts)
        self.given += texts

    def run_text_scoring(self, texts):
        if self.given[-1] != self.given[0].split(" ")[-1]:
            raise RuntimeError("the last token was not given again")
        return SimpleNamespace(scores=[-float(len(texts[0]))])


class Rewind:
    def __call__(self, pointer, step):
        note("rewind", pointer, step)
        return 0


class Engine:
    def __init__(self, model, backend):
        print("chatter on standard output")
        self._lib = SimpleNamespace(litert_lm_session_rewind_to_step=Rewind())
        note("open", os.path.basename(model), backend)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        note("close")

    def tokenize(self, text):
        return text.split(" ")

    def detokenize(self, tokens):
        return " ".join(tokens)

    def create_session(self, apply_prompt_template):
        assert apply_prompt_template is False
        return Session()
"""


@pytest.mark.parametrize("share", [False, True])
def test_litert_lm_scores_every_label(
    share: bool, gguf: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    (tmp_path / "litert_lm.py").write_text(FAKE)
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_LITERT_LM_LOG", str(log))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    manifest = read_manifest(gguf)
    windows = choose_windows(manifest, TableOptions(windows=6, data=dataset.path))
    with Contender(gguf, manifest, 1, "exact") as contender:
        make = scoring_rival(tmp_path / "x.litertlm", sys.executable, 2, every=4, share=share)
        rival = make({"a": contender}, windows)
    assert isinstance(rival, ScoringRival)
    try:
        log.write_text("")
        assert rival.time(2) > 0
    finally:
        rival.close()
    labels = manifest.candidates.labels
    # The shortest label scores best.
    assert labels[rival.firsts[2]] == min(labels, key=len)
    assert (rival.every, rival.scenario, rival.on) == (4, "all", "x.litertlm")
    said = [json.loads(line) for line in log.read_text().splitlines()]
    prompt = manifest.layout.prompt(windows[2].history, windows[2].when, windows[2].place, labels).text
    whole = [words for words in said if words == ["prefill", prompt]]
    rewound = [words for words in said if words[0] == "rewind"]
    assert len(whole) == (1 if share else len(labels))
    assert rewound == ([["rewind", 7, len(prompt.split(" ")) - 1]] * (len(labels) - 1) if share else [])
    assert said[-1] == ["close"]


def test_without_its_packages_litert_lm_is_left_out(tmp_path: Path) -> None:
    with pytest.raises(EdgebError, match="LiteRT-LM: nothing writes its file"):
        stock_export(tmp_path, tmp_path / "out", None, 512, (32,))
    with pytest.raises(EdgebError, match="litert-lm-api is not installed"):
        scoring_rival(tmp_path / "x", None, 1, 1, share=False)({}, [])
    with pytest.raises(EdgebError, match="does not start"):
        stock_export(tmp_path, tmp_path / "out", str(tmp_path / "no-python"), 512, (32,))
