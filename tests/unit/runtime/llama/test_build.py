"""The verdict on a build of llama.cpp: when it is tried, what is remembered, what is said, and what models get.

Libraries that crash are stand-ins loaded by processes of their own (tests/broken_llama.py); this process plays a CPU
with AMX and a library that has code for it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import llama_cpp
import pytest

from edge_behavior.bench.native import stock_llama
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.backends.llama import LlamaBackend, LlamaOptions
from edge_behavior.runtime.llama import build as llama_build
from edge_behavior.runtime.llama import trial as llama_trial
from edge_behavior.runtime.llama.build import (
    CRASHES,
    NOT_NEEDED,
    UNTRIED,
    UNUSABLE,
    WORKS,
    WRONG,
    Verdict,
    amx_flags,
    has_amx_code,
    library_files,
    verdict,
)
from edge_behavior.runtime.llama.model import LlamaModel
from edge_behavior.runtime.llama.trial import Ending
from edge_behavior.runtime.llama.trial_file import write_trial_file
from edge_behavior.util.workspace import home
from tests.broken_llama import install

GOOD = Ending(plain=True, amx=True, apart=0.003)
CRASHED = Ending(plain=True, crash="SIGSEGV")


@pytest.fixture(autouse=True)
def a_fresh_process(tmp_path, monkeypatch):
    """Nothing known, a CPU with AMX and a library with code for it."""
    monkeypatch.setenv("EDGEB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(llama_build, "amx_flags", lambda: ("amx_bf16", "amx_int8", "amx_tile"))
    monkeypatch.setattr(llama_build, "has_amx_code", lambda: True)
    llama_build._verdict.cache_clear()
    yield
    llama_build._verdict.cache_clear()


def start_again() -> Verdict:
    """What the next process finds."""
    llama_build._verdict.cache_clear()
    return verdict()


@pytest.fixture
def trials(monkeypatch):
    """Trials that end as `trials.ending` says; `trials.count` of them were started."""

    class Trials:
        ending, count = GOOD, 0

        def run(self):
            self.count += 1
            return self.ending

    made = Trials()
    monkeypatch.setattr(llama_trial, "run", made.run)
    return made


class TestWhenItIsTried:
    def test_no_amx_no_child(self, trials, monkeypatch):
        for flags in ((), ("amx_fp16",), ("amx_tile",), ("amx_bf16", "amx_tile"), ("amx_int8",)):
            monkeypatch.setattr(llama_build, "amx_flags", lambda flags=flags: flags)
            assert start_again() == Verdict(NOT_NEEDED, "this CPU has no AMX")
        assert trials.count == 0
        assert not home().exists()

    def test_a_library_without_amx_code(self, trials, monkeypatch):
        monkeypatch.setattr(llama_build, "has_amx_code", lambda: False)
        assert verdict() == Verdict(NOT_NEEDED, "llama.cpp is built without AMX")
        assert trials.count == 0

    def test_once_and_remembered(self, trials):
        assert verdict() == verdict() == Verdict(WORKS, "tried")
        assert start_again() == Verdict(WORKS, "tried")
        assert trials.count == 1

    def test_eight_threads_try_it_once(self, trials):
        with ThreadPoolExecutor(8) as pool:
            assert {found.outcome for found in pool.map(lambda _: verdict(), range(8))} == {WORKS}
        assert trials.count == 1

    def test_loading_a_tokenizer_tries_nothing(self, trials, tmp_path):
        write_trial_file(tmp_path / "x.gguf")
        LlamaModel(tmp_path / "x.gguf", vocab_only=True).close()
        assert trials.count == 0


class TestWhatIsKnownOfThisMachine:
    def test_the_files_are_those_that_are_loaded(self):
        files = library_files()
        folder = Path(llama_cpp.__file__).parent / "lib"
        assert {path.name.partition(".")[0] for path in files} >= {"libllama", "libggml", "libggml-base"}
        assert all(path.resolve().is_relative_to(folder.resolve()) for path in files)
        assert any(path.name.startswith("libggml-cpu") for path in files)

    @pytest.mark.parametrize(
        ("name", "ours"),
        [
            ("libllama.so", True),
            ("libggml.so.0", True),
            ("libggml-base.so.0.25.3", True),
            ("libggml-cpu-sapphirerapids.so", True),
            ("libggml-cuda.so", False),
            ("libllama.so (deleted)", False),
            ("libllamas.so", False),
        ],
    )
    def test_names_of_libraries(self, name, ours):
        assert (llama_build._LIBRARY.fullmatch(name) is not None) is ours

    def test_what_the_library_says(self, monkeypatch):
        monkeypatch.undo()
        said = llama_cpp.llama_print_system_info()
        assert has_amx_code() is (b"AMX_INT8" in said)
        monkeypatch.setattr(llama_cpp, "llama_print_system_info", lambda: b"CPU : AVX2 = 1 | AMX_INT8 = 1 | ")
        assert has_amx_code()

    @pytest.mark.parametrize(
        ("text", "flags"),
        [
            ("processor\t: 0\nflags\t\t: fpu amx_tile avx512f amx_int8\nflags : amx_fp16\n", ("amx_int8", "amx_tile")),
            ("processor\t: 0\nFeatures\t: fp asimd\n", ()),
            ("", ()),
        ],
    )
    def test_cpuinfo(self, monkeypatch, tmp_path, text, flags):
        monkeypatch.undo()
        (tmp_path / "cpuinfo").write_text(text, encoding="utf-8")
        monkeypatch.setattr(llama_build, "Path", lambda _: tmp_path / "cpuinfo")
        assert amx_flags() == flags

    def test_no_proc(self, monkeypatch, tmp_path):
        """macOS, or a sandbox that shows none."""
        monkeypatch.undo()
        monkeypatch.setattr(llama_build, "Path", lambda _: tmp_path / "none")
        assert amx_flags() == ()
        assert library_files() == []


class TestWhatIsRemembered:
    def test_by_the_library(self, trials, monkeypatch, tmp_path):
        library = tmp_path / "libllama.so"
        library.write_bytes(b"one")
        monkeypatch.setattr(llama_build, "library_files", lambda: [library])
        trials.ending = CRASHED
        assert start_again().outcome == start_again().outcome == CRASHES
        assert trials.count == 1
        library.write_bytes(b"two")
        trials.ending = GOOD
        assert start_again().outcome == start_again().outcome == WORKS
        assert trials.count == 2
        # Back to the first build, by way of other files.
        library.unlink()
        library = tmp_path / "elsewhere.so"
        library.write_bytes(b"one")
        assert start_again().outcome == CRASHES
        assert trials.count == 2

    def test_untouched_files_are_not_hashed_again(self, trials, monkeypatch, tmp_path):
        library = tmp_path / "libllama.so"
        library.write_bytes(b"one")
        monkeypatch.setattr(llama_build, "library_files", lambda: [library])
        verdict()
        os.utime(library, (1, 1))
        assert start_again().outcome == WORKS
        monkeypatch.setattr("edge_behavior.runtime.llama.verdicts.files_sha256", lambda *_: pytest.fail("hashed"))
        assert start_again().outcome == WORKS
        assert trials.count == 1

    def test_another_cpu_is_tried_too(self, trials, monkeypatch):
        """One home on machines of several kinds."""
        verdict()
        monkeypatch.setattr(llama_build, "amx_flags", lambda: ("amx_fp16", "amx_int8", "amx_tile"))
        trials.ending = CRASHED
        assert start_again().outcome == CRASHES
        monkeypatch.setattr(llama_build, "amx_flags", lambda: ("amx_bf16", "amx_int8", "amx_tile"))
        assert start_again().outcome == WORKS
        assert trials.count == 2

    @pytest.mark.parametrize(
        ("ending", "outcome", "detail"),
        [
            (Ending(plain=True, reason="it took longer than 60 s"), UNTRIED, "it took longer than 60 s"),
            (Ending(plain=True, reason="it was ended by SIGKILL"), UNTRIED, "it was ended by SIGKILL"),
            (Ending(reason="there is no Python to start"), UNTRIED, "there is no Python to start"),
            (Ending(crash="SIGILL"), UNUSABLE, "SIGILL"),
            (Ending(plain=True, amx=False, apart=0.0), NOT_NEEDED, "llama.cpp does not use AMX here"),
        ],
    )
    def test_what_may_change_is_not(self, trials, ending, outcome, detail):
        trials.ending = ending
        assert start_again() == start_again() == Verdict(outcome, detail)
        assert trials.count == 2
        assert not home().exists()

    @pytest.mark.parametrize("apart", [0.5, float("inf")])
    def test_wrong_numbers_are(self, trials, apart):
        trials.ending = Ending(plain=True, amx=True, apart=apart)
        assert start_again().outcome == start_again().outcome == WRONG
        assert trials.count == 1

    @pytest.mark.parametrize(
        "text",
        ["", "{", "null", "{}", "[1]", "[null, []]", "\0\0", '[{"files": 3}]', '[{"outcome": "works"}]', "\udcff"],
    )
    def test_a_damaged_file(self, trials, text):
        verdict()
        (home() / "llama-cpp.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        assert start_again().outcome == WORKS
        assert trials.count == 2
        assert start_again().outcome == WORKS
        assert trials.count == 2

    def test_an_outcome_that_nobody_knows(self, trials):
        verdict()
        file = home() / "llama-cpp.json"
        file.write_text(file.read_text(encoding="utf-8").replace('"works"', '"splendid"'), encoding="utf-8")
        assert start_again().outcome == WORKS
        assert trials.count == 2

    def test_no_home_to_write_to(self, trials, monkeypatch, tmp_path):
        (tmp_path / "file").write_text("", encoding="utf-8")
        monkeypatch.setenv("EDGEB_HOME", str(tmp_path / "file" / "home"))
        assert start_again().outcome == start_again().outcome == WORKS
        assert trials.count == 2

    def test_a_library_that_is_gone(self, trials, monkeypatch, tmp_path):
        """An upgrade while the process runs."""
        for files in ([], [tmp_path / "gone.so"]):
            monkeypatch.setattr(llama_build, "library_files", lambda files=files: files)
            assert start_again().outcome == WORKS
        assert not home().exists()

    def test_it_is_one_file_and_does_not_grow_without_end(self, trials, monkeypatch, tmp_path):
        library = tmp_path / "libllama.so"
        monkeypatch.setattr(llama_build, "library_files", lambda: [library])
        for build in range(40):
            library.write_bytes(b"%d" % build)
            start_again()
        assert os.listdir(home()) == ["llama-cpp.json"]
        assert len(json.loads((home() / "llama-cpp.json").read_text(encoding="utf-8"))) == 16
        assert start_again().outcome == WORKS
        assert trials.count == 40


class TestWhatIsSaid:
    @pytest.mark.parametrize(
        ("ending", "words"),
        [
            (CRASHED, "crashes on this CPU's AMX units (SIGSEGV)"),
            (Ending(plain=True, amx=True, apart=0.5), "computes wrong numbers on this CPU's AMX units (50% off)"),
            (Ending(plain=True, reason="it took longer than 60 s"), "could not be tried (it took longer than 60 s)"),
        ],
    )
    def test_one_line_once(self, trials, capsys, ending, words):
        trials.ending = ending
        verdict()
        verdict()
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        for part in (words, "half the speed", "-mno-amx-int8", f"llama-cpp-python=={llama_cpp.__version__}"):
            assert part in err

    def test_not_when_it_is_remembered(self, trials, capsys):
        trials.ending = CRASHED
        verdict()
        capsys.readouterr()
        start_again()
        assert capsys.readouterr().err == ""

    def test_nothing_where_all_is_well(self, trials, capsys):
        verdict()
        assert capsys.readouterr() == ("", "")

    def test_nobody_to_tell(self, trials, monkeypatch, capsys):
        trials.ending = CRASHED
        monkeypatch.setattr(sys, "stderr", None)
        assert verdict().outcome == CRASHES
        assert capsys.readouterr().out == ""
        with (home().parent / "closed").open("w") as closed:
            monkeypatch.setattr(sys, "stderr", closed)
        (home() / "llama-cpp.json").unlink()
        assert start_again().outcome == CRASHES


@pytest.fixture
def loaded(monkeypatch, tmp_path):
    """Whether each model that is opened has extra buffers, and a file to open."""
    seen: list[bool] = []
    for module in (llama_cpp, llama_cpp.llama_cpp):
        original = module.llama_model_load_from_file

        def load(path, options, original=original):
            seen.append(bool(options.use_extra_bufts))
            return original(path, options)

        monkeypatch.setattr(module, "llama_model_load_from_file", load)
    write_trial_file(tmp_path / "tiny.gguf")
    return seen, tmp_path / "tiny.gguf"


OPENERS = {
    "predictions": lambda path: LlamaBackend(path, LlamaOptions(64, threads=1)),
    "checks": LlamaModel,
    "peers": lambda path: stock_llama(path, n_ctx=64, n_threads=1, verbose=False),
}


@pytest.mark.parametrize("opener", OPENERS)
class TestEveryWayToOpenAModel:
    @pytest.mark.parametrize(("ending", "extra"), [(GOOD, True), (CRASHED, False), (Ending(reason="no"), False)])
    def test_follows_the_verdict(self, trials, loaded, opener, ending, extra):
        trials.ending = ending
        OPENERS[opener](loaded[1]).close()
        assert loaded[0] == [extra]

    def test_without_amx_nothing_changes(self, trials, loaded, monkeypatch, opener):
        monkeypatch.setattr(llama_build, "amx_flags", lambda: ())
        OPENERS[opener](loaded[1]).close()
        assert loaded[0] == [True]
        assert trials.count == 0

    def test_a_build_that_crashes_anyway_is_refused(self, trials, loaded, opener):
        trials.ending = Ending(crash="SIGILL")
        with pytest.raises(EdgebError, match=r"crashes on this CPU \(SIGILL\)") as caught:
            OPENERS[opener](loaded[1])
        assert "pip install" in caught.value.hint
        assert loaded[0] == []


def test_no_other_code_loads_models():
    """Whoever opens a model goes by the verdict."""
    package = Path(llama_build.__file__).parents[2]
    loaders = {
        "/".join(path.parts[-2:])
        for path in package.rglob("*.py")
        if "llama_model_load_from_file" in (text := path.read_text(encoding="utf-8")) or "llama_cpp.Llama(" in text
    }
    assert loaders == {"llama/model.py", "llama/trial.py", "bench/native.py"}


PREDICT = """
import os, sys
from edge_behavior.runtime.backends.llama import LlamaBackend, LlamaOptions
from edge_behavior.runtime.llama import build
build.amx_flags = lambda: ("amx_int8", "amx_tile")
backend = LlamaBackend(sys.argv[1], LlamaOptions(64, threads=1))
row, _ = backend.prefill([1, 2, 3, 4, 5, 6, 7, 8])
print(repr(float(row[0])))
"""


def test_a_library_that_crashes_predicts_all_the_same(tmp_path, monkeypatch):
    """The whole way: a real trial dies, and this and the next process predict what a sound library does."""
    write_trial_file(tmp_path / "tiny.gguf")
    front = install(tmp_path, monkeypatch, "if extra and batch.n_tokens > 1: die('SIGSEGV')")

    def predict(*first: str) -> subprocess.CompletedProcess[str]:
        places = os.pathsep.join([*first, *filter(None, sys.path[1:])])
        return subprocess.run(
            [sys.executable, "-c", PREDICT, str(tmp_path / "tiny.gguf")],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": places},
            check=False,
        )

    first, second = predict(str(front)), predict(str(front))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert "SIGSEGV" in first.stderr
    assert first.stderr.count("\n") == 1
    assert second.stderr == ""
    monkeypatch.setattr(llama_build, "amx_flags", lambda: ())
    sound = LlamaBackend(tmp_path / "tiny.gguf", LlamaOptions(64, threads=1))
    expected = float(sound.prefill([1, 2, 3, 4, 5, 6, 7, 8])[0][0])
    sound.close()
    assert [float(first.stdout), float(second.stdout)] == pytest.approx([expected, expected], rel=1e-2)


def test_the_stand_in_does_kill(tmp_path, monkeypatch):
    """Without the verdict the process of the test before would not live."""
    write_trial_file(tmp_path / "tiny.gguf")
    front = install(tmp_path, monkeypatch, "if extra and batch.n_tokens > 1: die('SIGSEGV')")
    code = PREDICT.replace('lambda: ("amx_int8", "amx_tile")', "lambda: ()")
    places = os.pathsep.join([str(front), *filter(None, sys.path[1:])])
    command = [sys.executable, "-c", code, str(tmp_path / "tiny.gguf")]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONPATH": places}, check=False)
    assert done.returncode == -signal.SIGSEGV
