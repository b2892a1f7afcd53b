"""`edgeb doctor`: what it prints."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.extras import needs_torch
from tests.unit.commands.conftest import document, run


class TestDoctor:
    @pytest.fixture(autouse=True)
    def no_accelerator(self, monkeypatch):
        monkeypatch.setattr("edge_behavior.bench.doctor._accelerator", lambda: "none")

    def test_json_names_what_is_installed(self):
        found = document("doctor")
        assert {"edgeb", "python", "cores", "memory", "runtime", "data", "train", "export", "accelerator"} <= set(found)
        assert f"numpy {np.__version__}" in found["runtime"]
        assert found["python"] == ".".join(map(str, sys.version_info[:3]))

    @needs_torch
    def test_a_missing_package_is_named_with_its_extra(self, monkeypatch):
        from edge_behavior.bench import doctor

        known = doctor._version
        monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("duckdb", "trl") else known(name))
        found = document("doctor")
        assert "missing duckdb: pip install 'edgeb[data]'" in found["data"]
        assert "missing trl: pip install 'edgeb[train]'" in found["train"]
        assert "missing" not in found["runtime"]

    def test_for_people(self):
        assert "edgeb doctor" in run("doctor").stdout

    @pytest.mark.parametrize(
        ("verdict", "words"),
        [
            (("not needed", "this CPU has no AMX"), "nothing to try"),
            (("works", "tried"), "tried, works"),
            (("crashes", "SIGSEGV"), "crashes on this CPU's AMX units (SIGSEGV), so models are loaded without"),
            (("wrong", "50% off"), "computes wrong numbers on this CPU's AMX units (50% off), so models"),
            (("untried", "it took longer than 60 s"), "could not be tried (it took longer than 60 s), so models"),
            (("unusable", "SIGILL"), "crashes on this CPU (SIGILL), so it is not used"),
        ],
    )
    def test_the_verdict_on_llama_cpp(self, monkeypatch, verdict, words):
        from edge_behavior.runtime.llama import build as llama_build

        monkeypatch.setattr(llama_build, "verdict", lambda: llama_build.Verdict(*verdict))
        monkeypatch.setattr(llama_build, "amx_flags", lambda: ("amx_int8", "amx_tile"))
        found = document("doctor")
        assert found["AMX"].startswith("the CPU has it, llama.cpp is built with")
        assert words in found["AMX"]
        assert (llama_build.REBUILD in found["AMX"]) is (verdict[0] not in ("not needed", "works"))
        assert "llama_cpp" in found["llama.cpp"]

    def test_a_library_that_cannot_be_loaded(self, tmp_path):
        """It is not there, or was built for another machine."""
        code = "from edge_behavior.bench import doctor; print(doctor._llama())"
        (tmp_path / "libllama.so").write_bytes(b"no library")
        for folder in (tmp_path, tmp_path / "none"):
            environment = {**os.environ, "LLAMA_CPP_LIB_PATH": str(folder)}
            command = [sys.executable, "-c", code]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
            assert "'llama.cpp': 'cannot be loaded: " in done.stdout.replace('"', "'")
