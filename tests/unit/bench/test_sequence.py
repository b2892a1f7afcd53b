"""`edgeb bench` on a sequence model, alone and beside a language model that predicts the same labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_behavior.baselines.sequence.config import SequenceConfig
from edge_behavior.bench.engines.measure import measure_table
from edge_behavior.bench.engines.options import TableOptions
from edge_behavior.bench.engines.report import heading
from edge_behavior.bench.engines.work import read_work
from edge_behavior.bench.latency import measure
from edge_behavior.bench.options import BenchOptions
from edge_behavior.bench.report import footing
from edge_behavior.bundle.gguf_file import write_bundle
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.errors import EdgebError
from edge_behavior.export.gguf.writer import write_gguf
from tests import helpers, sequence_files
from tests.command import invoked
from tests.unit.runtime.engines import manifest_of

LENGTH = 6


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = sequence_files.described(length=LENGTH, config=SequenceConfig(hidden=16, heads=2))
    return sequence_files.bundle(model, sequence_files.network(model), tmp_path_factory.mktemp("s") / "sasrec.gguf")


def test_a_sequence_model_alone(path: Path) -> None:
    found = measure(path, BenchOptions(repeats=2, threads=1, cold_starts=1))
    # It has no static prompt to evaluate or restore, and nothing of llama.cpp answers.
    assert set(found.scenarios) == {"cold_start", "warm", "session", "session_top5", "session_full"}
    assert f"; numpy {np.__version__}; exact scoring" in footing(found)
    parts = found.scenarios["cold_start"].parts_ms
    assert parts is not None
    assert parts["import_ms"] > 0
    assert found.scenarios["session"].tokens_per_prediction == LENGTH + 1
    with pytest.raises(EdgebError, match=r"is a sequence model, and --compare measures llama.cpp"):
        invoked("bench", path, "--compare")


def test_a_sequence_model_beside_a_language_model(path: Path, tmp_path: Path) -> None:
    tokens = helpers.tokenizer()
    base = helpers.save(helpers.model(tokens), tokens, tmp_path / "base")
    write_gguf(base, tmp_path / "plain.gguf", "f32")
    candidates = sequence_files.described().log.candidates
    bundle = tmp_path / "language.gguf"
    write_bundle(tmp_path / "plain.gguf", manifest_of(tokens, candidates, PromptLayout(history_length=LENGTH)), bundle)
    found = measure_table([bundle, path], TableOptions(windows=6, threads=1, limits=False))
    language, sequence = found.bundles
    assert heading(found).startswith("2 bundles, qwen2, edgeb-sasrec: 9 candidates")
    assert "numpy" in sequence.engine
    assert sequence.bytes < language.bytes
    assert {name: cost.tokens for name, cost in sequence.costs.items()} == dict.fromkeys(sequence.costs, LENGTH + 1.0)
    assert all(cost.bare_ms.value > 0 for cost in sequence.costs.values())
    other = sequence_files.described(length=LENGTH + 1, config=SequenceConfig(hidden=16, heads=2))
    longer = sequence_files.bundle(other, sequence_files.network(other), tmp_path / "longer.gguf")
    with pytest.raises(EdgebError, match="'history_length' differs"):
        measure_table([bundle, longer], TableOptions(windows=6, threads=1, limits=False))


def test_work_is_that_of_the_matrices(path: Path) -> None:
    found = read_work(path)
    # Two blocks of query, key, value, output and two linear layers; nine labels and the start.
    assert found.per_token == 2 * 6 * 16 * 16
    assert found.per_row == 10 * 16
    assert found.weight_bytes == 4 * (found.per_token + found.per_row)
