"""One tiny bundle for everything that is measured here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_behavior.bench.options import BenchOptions
from edge_behavior.bench.setup import Setup
from edge_behavior.core.candidates import CandidateSet
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.export.gguf.pipeline import export_gguf
from edge_behavior.export.source import ExportSource
from edge_behavior.runtime.llama.model import LlamaModel
from tests import helpers

LAYOUT = PromptLayout(history_length=6)


@pytest.fixture(scope="session")
def tokens() -> object:
    return helpers.tokenizer(layout=LAYOUT)


@pytest.fixture(scope="session")
def backbone(tokens: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return helpers.save(helpers.model(tokens), tokens, tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="session")
def export(backbone: Path) -> Callable[[Path, PromptLayout], Path]:
    """Writes a bundle of the tiny model with a layout."""

    def write(path: Path, layout: PromptLayout) -> Path:
        export_gguf(
            ExportSource(backbone, None, CandidateSet.of(helpers.LABELS), layout),
            path,
            helpers.profile("f16", prune="off"),
        )
        return path

    return write


@pytest.fixture(scope="session")
def bundle(export: Callable[[Path, PromptLayout], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("bundle") / "tiny.gguf", LAYOUT)


@pytest.fixture(scope="session")
def native(bundle: Path) -> Iterator[LlamaModel]:
    with LlamaModel(bundle) as model:
        yield model


@pytest.fixture
def setup(bundle: Path) -> Iterator[Setup]:
    with Setup(bundle, BenchOptions(repeats=3, compare=True, pp=16, tg=4)) as made:
        yield made
