"""`edgeb` as typed: exit codes, one line per error, and a start that loads nothing heavy."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from edge_behavior import __version__, cli
from edge_behavior.commands.imports import libraries
from edge_behavior.errors import EdgebError, GateError

COMMANDS = ("train", "evaluate", "export", "inspect", "relabel", "predict", "demo", "bench", "doctor")
DATA_COMMANDS = ("import", "synth", "describe")


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def edgeb(monkeypatch, capsys):
    """Runs `main` as the console script does; returns exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edgeb", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        return left.value.code or 0, out, err

    return run


def one_line_error(result: tuple[int, str, str], code: int = 2) -> str:
    """The error of a run that failed properly: nothing on stdout, one line on stderr with a hint."""
    assert result[:2] == (code, "")
    assert result[2].endswith("\n")
    lines = [line for line in result[2].splitlines() if line.strip()]
    assert len(lines) == 1, result[2]
    assert re.fullmatch(r"edgeb: .+ \(.+\)", lines[0]), lines[0]
    return lines[0]


class TestStart:
    def test_help_is_light(self):
        """Fresh interpreters: `edgeb --help` and every command's help load none of the heavy packages."""
        code = """
import contextlib, io, json, sys
from edge_behavior import cli
shown = {}
for words in json.loads(sys.argv[1]):
    sys.argv = ["edgeb", *words, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        cli.main()
    shown[" ".join(words)] = out.getvalue()
print(json.dumps({"shown": shown, "modules": sorted({m.split(".")[0] for m in sys.modules})}))
"""
        words = [[], ["data"], *([c] for c in COMMANDS), *(["data", c] for c in DATA_COMMANDS)]
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(words)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
        )
        found = json.loads(done.stdout)
        heavy = "torch transformers duckdb pandas matplotlib llama_cpp pyarrow peft trl gguf sklearn scipy numpy"
        assert not set(found["modules"]) & set(heavy.split())
        for name, text in found["shown"].items():
            assert "Usage: edgeb" in text, name
            # Every command shows how it is called.
            assert name in ("", "data") or f"edgeb {name} " in text.split("Usage:")[1].split("\n", 1)[1] + " ", name
        for command in (*COMMANDS, "data"):
            assert command in found["shown"][""]
        for command in DATA_COMMANDS:
            assert command in found["shown"]["data"]

    def test_a_wrong_dataset_is_told_before_torch_is_imported(self):
        code = """
import sys
from edge_behavior import cli
sys.argv = ["edgeb", "train", "--recipe", "tiny", "--data", "nowhere"]
try:
    cli.main()
finally:
    print("torch" in sys.modules)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "False\n")
        assert "no dataset at nowhere" in done.stderr

    def test_garbage_is_collected_again_after_importing(self):
        with contextlib.suppress(ImportError), libraries():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled()

    def test_as_a_module(self):
        done = subprocess.run([sys.executable, "-m", "edge_behavior", "--version"], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"edgeb {__version__}\n", "")

    def test_version(self, edgeb):
        assert edgeb("--version") == (0, f"edgeb {__version__}\n", "")

    def test_bare_shows_help(self, edgeb):
        code, out, err = edgeb()
        assert code in (0, 2)
        assert "Usage" in out + err
        assert "predict" in out + err


class TestExitCodes:
    @pytest.mark.parametrize(
        ("error", "code", "message"),
        [
            (EdgebError("log.csv:3: no time", "write ISO 8601"), 2, "edgeb: log.csv:3: no time (write ISO 8601)"),
            (EdgebError("two\nlines\tof  text", "a\nhint"), 2, "edgeb: two lines of text (a hint)"),
            (GateError("parity failed", "see the report"), 1, "edgeb: parity failed (see the report)"),
            (
                OSError(28, "No space left on device", "/data/x"),
                2,
                "edgeb: /data/x: the disk is full (free some space, or choose a place on another disk)",
            ),
            (
                PermissionError(13, "Permission denied", "runs"),
                2,
                "edgeb: runs: permission denied (check the permissions of the file and of the folders above it)",
            ),
            (OSError("odd"), 2, "edgeb: odd (check the path and its permissions)"),
            (
                OSError(errno.EROFS, "x", "d/x"),
                2,
                "edgeb: d/x: the disk is read-only (choose a place that can be written)",
            ),
            (
                OSError(errno.EMFILE, "x", "d/x"),
                2,
                "edgeb: d/x: too many files are open (close other programs, or raise the limit with `ulimit -n`)",
            ),
            (
                OSError(errno.ENAMETOOLONG, "x", b"d/\xff"),
                2,
                "edgeb: d/\\xff: the name is too long (use a shorter name)",
            ),
            (
                OSError(errno.ELOOP, "x", "d/x"),
                2,
                "edgeb: d/x: a link leads to itself (remove the link, or name the file itself)",
            ),
            (
                FileNotFoundError(errno.ENOENT, "No such file or directory"),
                2,
                "edgeb: the current folder is gone (change to a folder that exists)",
            ),
            (MemoryError(), 2, "edgeb: out of memory (close other programs, or use a machine with more memory)"),
            (
                UnicodeEncodeError("utf-8", "/d/alt\udcfc", 6, 7, "surrogates not allowed"),
                2,
                "edgeb: /d/alt\\xfc: the name is not UTF-8 (rename the file or folder)",
            ),
            (
                ModuleNotFoundError("No module named 'torch'", name="torch"),
                2,
                "edgeb: the package 'torch' is not installed (pip install 'edgeb[train]')",
            ),
            (
                ModuleNotFoundError("No module named 'pyarrow.parquet'", name="pyarrow.parquet"),
                2,
                "edgeb: the package 'pyarrow.parquet' is not installed (pip install 'edgeb[data]')",
            ),
            (
                ModuleNotFoundError("No module named 'gguf'", name="gguf"),
                2,
                "edgeb: the package 'gguf' is not installed (pip install 'edgeb[export]')",
            ),
            (
                ModuleNotFoundError("No module named 'onnx'", name="onnx"),
                2,
                "edgeb: the package 'onnx' is not installed (pip install 'edgeb[onnx]')",
            ),
            *(
                (error, 2, f"edgeb: llama-cpp-python does not work: {error} ({cli._reinstall_hint()})")
                for error in (
                    FileNotFoundError("Shared library with base name 'llama' not found"),
                    RuntimeError("Failed to load shared library 'libllama.so': version `GLIBC_2.99' not found"),
                )
            ),
        ],
    )
    def test_what_a_command_raises(self, edgeb, monkeypatch, error, code, message):
        def fail() -> None:
            raise error

        monkeypatch.setattr("edge_behavior.bench.doctor.examine", fail)
        found, out, err = edgeb("doctor")
        assert (found, out, err.strip()) == (code, "", message)

    @pytest.mark.parametrize(
        "error",
        [
            ModuleNotFoundError("x", name="edge_behavior.records.missing"),
            ZeroDivisionError("a bug"),
            RuntimeError("another"),
            UnicodeEncodeError("ascii", "é", 0, 1, "a bug"),
        ],
        ids=str,
    )
    def test_a_bug_is_not_dressed_up_as_the_users_fault(self, monkeypatch, error):
        def fail() -> None:
            raise error

        monkeypatch.setattr("edge_behavior.bench.doctor.examine", fail)
        monkeypatch.setattr(sys, "argv", ["edgeb", "doctor"])
        with pytest.raises(type(error)):
            cli.main()

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["bogus"], "No such command 'bogus'"),
            (["predict", "x.gguf"], "Missing option"),
            (["predict"], "Missing argument"),
            (["train", "--bogus", "1"], "No such option"),
            (["bench", "x", "--repeats", "many"], "--repeats"),
            (["data", "import"], "Missing"),
        ],
    )
    def test_usage_errors(self, edgeb, arguments, reason):
        code, out, err = edgeb(*arguments)
        assert (code, out) == (2, "")
        assert reason in err
        assert "Traceback" not in err

    def test_interrupted_in_a_fresh_process(self):
        code = (
            "import sys, signal, os; from edge_behavior import cli; import edge_behavior.bench.doctor as d\n"
            # A shell's background jobs start with Ctrl-C ignored.
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "d.examine = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
            "sys.argv = ['edgeb', 'doctor']; cli.main()"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (130, "")
        assert done.stderr.strip().startswith("edgeb: interrupted")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_the_signal_handlers_of_before_come_back(edgeb):
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGHUP)]
    edgeb("--version")
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGHUP)] == before


class TestPaths:
    def test_home_is_spelled_out(self, edgeb, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        at = ["--at", "2012-05-01T18:00", "--place", "home"]
        for arguments in (
            ["inspect", "~/x"],
            ["predict", "b", "--history", "~/x", *at],
            ["predict", "b", "--history=~/x", *at],
            ["data", "import", "~/x", "--format", "csv", "--out", "d"],
            ["train", "--recipe", "tiny", "--data", "~/x"],
            ["train", "--recipe", "~/x.yaml", "--data", str(tmp_path)],
            ["bench", "~/x"],
            ["evaluate", "~/x", "--data", "~/x"],
        ):
            line = one_line_error(edgeb(*arguments))
            assert str(tmp_path / "x") in line, arguments
            assert "~" not in line

    def test_other_options_keep_it(self, edgeb, tmp_path):
        line = one_line_error(edgeb("relabel", tmp_path / "x.gguf", "--out", tmp_path / "y", "--add", "~/x"))
        assert str(tmp_path / "x.gguf") in line

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are UTF-8")
    def test_a_name_that_is_not_utf8(self, tmp_path):
        odd = os.fsencode(tmp_path) + b"/alt\xfc"
        for arguments in ([b"inspect", odd], [b"data", b"describe", odd], [b"train", b"--data", odd]):
            done = subprocess.run([sys.executable, "-m", "edge_behavior", *arguments], capture_output=True, check=False)
            assert (done.returncode, done.stdout) == (2, b"")
            assert len(done.stderr.splitlines()) == 1
            assert b"alt\\xfc" in done.stderr


class TestBadInput:
    """Every command, with what a user may get wrong before any work begins."""

    def test_history(self, edgeb, tmp_path):
        question = ["--at", "2012-05-01T18:00", "--place", "home"]
        line = one_line_error(edgeb("predict", "x.gguf", "--history", tmp_path / "no.csv", *question))
        assert "no.csv: No such file" in line
        (tmp_path / "h.csv").write_text("timestamp,place,behavior\nnoon,home,Video\n")
        assert "h.csv:2: 'noon'" in one_line_error(edgeb("predict", "x", "--history", tmp_path / "h.csv", *question))

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [("--at", "tomorrow", "--at: 'tomorrow' is not a time"), ("--scoring", "exakt", "did you mean 'exact'")],
    )
    def test_prediction_options(self, edgeb, option, value, message):
        arguments = {"--history": "h.csv", "--at": "2012-05-01T18:00", "--place": "home", option: value}
        line = one_line_error(edgeb("predict", "x.gguf", *(word for pair in arguments.items() for word in pair)))
        assert message in line

    @pytest.mark.parametrize("content", [None, b"", b"GGUF", b"PK\x03\x04 some zip archive"])
    def test_a_file_that_is_not_a_bundle(self, edgeb, tmp_path, content):
        path = tmp_path / "x.gguf"
        if content is not None:
            path.write_bytes(content)
        (tmp_path / "h.csv").write_text("timestamp,place,behavior\n")
        question = ["--history", tmp_path / "h.csv", "--at", "2012-05-01T18:00", "--place", "home"]
        for arguments in (["inspect", path], ["predict", path, *question], ["bench", path]):
            assert "x.gguf" in one_line_error(edgeb(*arguments))

    def test_recipe(self, edgeb, tmp_path):
        for words, message in (
            (["--recipe", "tinny"], "did you mean 'tiny'"),
            (["--recipe", "tiny", "--set", "a_tuning.epoch=1"], "unknown recipe key 'a_tuning.epoch'"),
            (["--recipe", "tiny", "--set", "lora.rank=x"], "lora.rank = 'x'"),
            (["--resume", "--recipe", "tiny", "--out", tmp_path], "--resume uses the run's own recipe"),
            (["--resume", "--out", tmp_path], "is not a run folder: it has no recipe.yaml"),
        ):
            assert message in one_line_error(edgeb("train", "--data", tmp_path, *words))

    def test_nothing_made_before(self, edgeb, tmp_path):
        for arguments, message in (
            (["train"], "no dataset was given"),
            (["evaluate", tmp_path], "no dataset was given"),
            (["bench"], "no bundle was given"),
        ):
            assert message in one_line_error(edgeb(*arguments))

    @pytest.mark.parametrize(
        ("words", "said", "hint"),
        [
            (["evaluat"], "No such command 'evaluat'", "edgeb --help"),
            (["train", "--sed", "3"], "No such option: --sed", "edgeb train --help"),
            (["evaluate"], "Missing argument", "edgeb evaluate --help"),
            (["evaluate", "x", "--seed", "-1"], "'--seed'", "edgeb evaluate --help"),
            (["evaluate", "x", "--limit", "0"], "'--limit'", "edgeb evaluate --help"),
            (["evaluate", "x", "--limit", "-1"], "'--limit'", "edgeb evaluate --help"),
            (["evaluate", "x", "--per-behavior", "0"], "'--per-behavior'", "edgeb evaluate --help"),
            (["evaluate", "x", "--per-user", "many"], "'--per-user'", "edgeb evaluate --help"),
            (["data", "describe", "x", "--top", "-1"], "'--top'", "edgeb data describe --help"),
        ],
    )
    def test_how_it_is_called(self, edgeb, words, said, hint):
        line = one_line_error(edgeb(*words))
        assert said in line
        assert line.endswith(f"(see {hint})")

    def test_dataset(self, edgeb, tmp_path):
        for arguments in (["data", "describe", tmp_path], ["evaluate", "x.gguf", "--data", tmp_path]):
            assert "is not a dataset folder" in one_line_error(edgeb(*arguments))
        line = one_line_error(edgeb("data", "import", "log.csv", "--format", "csvv", "--out", tmp_path / "d"))
        assert "did you mean 'csv'" in line
        assert not (tmp_path / "d").exists()
