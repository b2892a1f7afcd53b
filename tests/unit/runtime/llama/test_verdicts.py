"""The file of verdicts: whatever stands in it, asking and remembering go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_behavior.runtime.llama.verdicts import NAME, VerdictFile
from edge_behavior.util.workspace import home

KEYS = st.sampled_from(["library", "cpu", "trial", "files", "outcome", "detail", "other"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["amx", "works"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=7),
    max_leaves=12,
)


@pytest.fixture
def library(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EDGEB_HOME", str(tmp_path / "home"))
    home().mkdir()
    (tmp_path / "libllama.so").write_bytes(b"a build")
    return tmp_path / "libllama.so"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(content=st.binary(max_size=30) | st.lists(VALUES, max_size=4).map(lambda found: json.dumps(found).encode()))
def test_any_content(library, content):
    (home() / NAME).write_bytes(content)
    kept = VerdictFile([library], "amx")
    assert kept.recall() is None
    kept.remember("crashes", "SIGSEGV")
    assert kept.recall() == ("crashes", "SIGSEGV")
    assert VerdictFile([library], "another").recall() is None
    assert [path.name for path in home().iterdir()] == [NAME]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(said=st.dictionaries(st.binary(min_size=1, max_size=4), st.sampled_from(["works", "crashes"]), max_size=16))
def test_every_build_has_its_own(library, said):
    (home() / NAME).unlink(missing_ok=True)
    for build, outcome in said.items():
        library.write_bytes(build)
        VerdictFile([library], "amx").remember(outcome, "seen")
    for build, outcome in said.items():
        library.write_bytes(build)
        assert VerdictFile([library], "amx").recall() == (outcome, "seen")
