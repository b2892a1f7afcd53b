"""The tiny model, the trial in a process of its own, and how its endings are read.

Libraries that crash are the real one, changed by a package in front of it (see `library`).
"""

from __future__ import annotations

import os
import signal
import sys

import pytest

from edge_behavior.bundle.gguf_header import GgufFile
from edge_behavior.runtime.llama import trial as llama_trial
from edge_behavior.runtime.llama.trial import Ending, run
from edge_behavior.runtime.llama.trial_file import write_trial_file
from tests.broken_llama import install


def test_the_file_is_the_same_every_time_and_whole(tmp_path):
    for name in "ab":
        write_trial_file(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with GgufFile(tmp_path / "a") as file:
        table = file.tensor_table()
        sizes = {0: (4, 1), 2: (18, 32), 8: (34, 32), 12: (144, 256), 13: (176, 256), 14: (210, 256)}
        last = table.tensors[-1]
        block, weights = sizes[last.kind]
        end = table.data_start + last.offset + last.elements // weights * block
        assert {tensor.kind for tensor in table.tensors} == set(sizes)
        assert 0 <= file.size - end < table.alignment


def test_amx_kernels_take_its_matrices(tmp_path):
    """The rules of supports_op in llama.cpp's amx.cpp."""
    write_trial_file(tmp_path / "x")
    with GgufFile(tmp_path / "x") as file:
        matrices = [t for t in file.tensor_table().tensors if len(t.shape) == 2 and t.name != "token_embd.weight"]
    assert len(matrices) == 8
    for tensor in matrices:
        width, rows = tensor.shape
        assert rows % 32 == 0
        assert width % {2: 32, 8: 32, 12: 256, 13: 256, 14: 256}[tensor.kind] == 0


def test_the_library_here_passes():
    ending = run()
    assert ending.plain
    assert ending.agree
    assert ending.crash is None
    assert ending.reason == ""


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGILL", "SIGBUS", "SIGFPE"])
def test_a_crash_with_extra_buffers(tmp_path, monkeypatch, name):
    install(tmp_path, monkeypatch, f"if extra and batch.n_tokens > 1: die({name!r})")
    assert run() == Ending(plain=True, crash=name)


def test_a_crash_whatever_is_asked(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "die('SIGILL')")
    assert run() == Ending(plain=False, crash="SIGILL")


def test_a_crash_while_the_library_is_loaded(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, at_import="die('SIGILL')")
    assert run() == Ending(plain=False, crash="SIGILL")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGABRT"])
def test_a_signal_that_is_not_the_processors(tmp_path, monkeypatch, name):
    """The kernel short of memory, a person, a library that gives up."""
    install(tmp_path, monkeypatch, f"if extra: die({name!r})")
    assert run() == Ending(plain=True, reason=f"it was ended by {name}")


@pytest.mark.parametrize(("factor", "agree"), [("-1", False), ("0", False), ("float('nan')", False), ("1.001", True)])
def test_wrong_numbers(tmp_path, monkeypatch, factor, agree):
    install(tmp_path, monkeypatch, after=f"if extra: rows(context)[:] *= {factor}")
    ending = run()
    assert ending.plain
    assert ending.apart is not None
    assert ending.agree is agree


def test_amx_is_seen_in_the_log(tmp_path, monkeypatch):
    """As llama.cpp puts it (llama-model.cpp)."""
    line = "load_tensors:          AMX model buffer size =     0.09 MiB\n"
    install(tmp_path, monkeypatch, at_load=f"if extra: log({line!r})")
    assert run().amx
    assert not llama_trial._ending(0, ["plain", '{"amx": false, "apart": 0.0}'], []).amx


def test_a_decode_that_fails(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "if extra: return 2")
    assert run() == Ending(plain=True, reason="llama.cpp could not evaluate 8 tokens (status 2)")


def test_a_child_that_hangs(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, at_import="import time; time.sleep(600)")
    monkeypatch.setattr(llama_trial, "_PATIENCE", 1)
    assert run() == Ending(reason="it took longer than 1 s")


def test_a_child_that_cannot_start(monkeypatch):
    for executable in ("", "/nowhere/python"):
        monkeypatch.setattr(sys, "executable", executable)
        ending = run()
        assert not ending.plain
        assert ending.crash is None
        assert ending.reason


def test_an_application_without_a_python_is_not_started_again(monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(llama_trial.subprocess, "run", lambda *_, **__: pytest.fail("started"))
    assert run() == Ending(reason="there is no Python to start")


def test_no_room_for_the_file(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert "gone" in run().reason


def test_a_child_that_says_nothing_or_nonsense(tmp_path, monkeypatch):
    for text in ("", "plain\\n[]", 'plain\\n{\\"amx\\": 1}', "plain\\nnonsense"):
        install(tmp_path, monkeypatch, at_import=f"import os, sys; print('{text}', flush=True); os._exit(0)")
        assert run().reason == "it gave no result"


def test_modules_in_the_current_folder_are_not_imported(tmp_path, monkeypatch):
    for name in ("json", "numpy", "llama_cpp", "subprocess"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert run().agree


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    install(tmp_path / "library", monkeypatch, "if extra: die('SIGSEGV')")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.chdir(scratch)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    assert run().crash == "SIGSEGV"
    assert os.listdir(scratch) == []


def test_signals_without_a_name():
    assert llama_trial._ending(-signal.SIGRTMIN - 5, [], []).reason.startswith("it was ended by ")
