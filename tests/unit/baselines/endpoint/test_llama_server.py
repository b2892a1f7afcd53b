"""The endpoint against llama.cpp's server for Python, on a random model; the oracle is the model in torch."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_behavior.baselines.endpoint.answers import positions_of
from edge_behavior.baselines.endpoint.client import Endpoint, EndpointConfig
from edge_behavior.baselines.endpoint.system import AskedEndpoint, FittedEndpoint
from edge_behavior.core.prompts import PromptLayout
from edge_behavior.export.gguf.writer import write_gguf
from tests import helpers

for _needed in ("fastapi", "uvicorn", "sse_starlette", "starlette_context", "pydantic_settings"):
    pytest.importorskip(_needed, reason='llama.cpp\'s server needs pip install "llama-cpp-python[server]"')

LENGTH = 3
TABLE = helpers.event_table([helpers.LABELS])


@pytest.fixture(scope="module")
def tokens() -> Any:
    return helpers.tokenizer()


@pytest.fixture(scope="module")
def model(tokens: Any) -> Any:
    return helpers.model(tokens)


@pytest.fixture(scope="module")
def url(model: Any, tokens: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    write_gguf(helpers.save(model, tokens, folder / "model"), folder / "model.gguf", "f32")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "--logits_all", "true", "--n_ctx", "2048"]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(folder / "model.gguf"), *options]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}/v1"
        while True:
            assert server.poll() is None, (folder / "log").read_text()
            try:
                with urllib.request.urlopen(f"{address}/models", timeout=5):
                    break
            except (OSError, urllib.error.URLError):
                time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def found(url: str, tmp_path: Path) -> FittedEndpoint:
    asked = AskedEndpoint(Endpoint(EndpointConfig(url, "small", timeout=300)), tmp_path)
    return FittedEndpoint(asked, TABLE.candidates, LENGTH, places=True)


def test_what_it_echoes_is_of_other_tokens_and_not_used(found: FittedEndpoint) -> None:
    """See abetlen/llama-cpp-python issue 1983; once it is mended, this kind is `echo`."""
    assert found.kind in ("chat alternatives", "completion alternatives")
    rows = found.log_probs(TABLE, np.array([5, 8]))
    assert np.allclose(np.exp(rows).sum(1), 1)
    assert found.report()["windows"] == 2


def test_its_alternatives_are_the_models(found: FittedEndpoint, model: Any, tokens: Any) -> None:
    layout, event = PromptLayout(history_length=LENGTH), TABLE.event(5)
    prompt = layout.prompt(TABLE.history(5, LENGTH), event.time, event.place, TABLE.candidates.labels).text
    positions = positions_of(found._generated("completion alternatives", prompt))
    assert positions
    ids = tokens(prompt, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        wanted = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0, -1].double(), -1)
    # A random model's likeliest tokens are parts of characters, which the server cannot name.
    listed = np.array(list(positions[0].alternatives.values()))
    assert listed.max() == pytest.approx(float(wanted.max()), abs=2e-3)
    assert (np.abs(listed[:, None] - wanted.numpy()).min(1) < 2e-3).all()
