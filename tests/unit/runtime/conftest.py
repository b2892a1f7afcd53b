"""One small f32 bundle for the runtime's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.source import ExportSource
from tests import helpers, litert_files


@pytest.fixture(scope="session", autouse=True)
def stand_ins() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        litert_files.run_stand_ins(patch)
        yield


@pytest.fixture(scope="session")
def small_tokens() -> object:
    return helpers.tokenizer()


@pytest.fixture(scope="session")
def small_backbone(small_tokens: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return helpers.save(helpers.model(small_tokens), small_tokens, tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="session")
def small_bundle(small_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model over `helpers.LABELS`, stream layout, f32."""
    out = tmp_path_factory.mktemp("bundle") / "small.gguf"
    source = ExportSource(small_backbone, None, CandidateSet.of(helpers.LABELS), PromptLayout())
    export_gguf(source, out, helpers.profile("f32"))
    return out
