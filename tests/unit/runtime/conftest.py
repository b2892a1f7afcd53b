"""One small f32 bundle for the runtime's tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge_behavior.bundle.bundle import read_manifest
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.source import ExportSource
from tests import helpers, litert_files
from tests.unit.runtime.engines import CACHE, IN_TORCH, LITERT, litert_bundle


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


@pytest.fixture(scope="session", params=["gguf", IN_TORCH, LITERT])
def any_bundle(
    request: pytest.FixtureRequest, small_backbone: Path, small_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """`small_bundle`, and the same for the other engines whose cache can be saved."""
    if request.param == "gguf":
        return small_bundle
    manifest = replace(read_manifest(small_bundle), context_length=CACHE)
    out = tmp_path_factory.mktemp("bundle") / "small.tflite"
    return litert_bundle(request.param, small_backbone, small_bundle, manifest, out)


@pytest.fixture
def native_bundle(request: pytest.FixtureRequest, any_bundle: Path) -> Path:
    """`any_bundle`, but for the stand-in, whose memory is PyTorch's."""
    if IN_TORCH in request.node.callspec.params.values():
        pytest.skip("PyTorch's memory is not ours")
    return any_bundle
