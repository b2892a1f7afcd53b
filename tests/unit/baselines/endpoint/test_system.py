"""The endpoint against a server in this process: every kind of answer, and every way to fail."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_behavior.baselines.endpoint import client
from edge_behavior.baselines.endpoint.client import KEY_VARIABLE, Endpoint, EndpointConfig
from edge_behavior.baselines.endpoint.system import EndpointSystem, FittedEndpoint
from edge_behavior.baselines.registry import systems
from edge_behavior.baselines.system import Budget
from edge_behavior.data.dataset import Dataset
from edge_behavior.data.windows import natural_windows
from edge_behavior.errors import EdgebError
from edge_behavior.studies.compare import registry

LENGTH = 4
# Status and body (or raw bytes) for a request.
Reply = Callable[[str, dict[str, Any]], tuple[int, Any]]


class Server:
    """Answers with `reply`; keeps what it was asked."""

    def __init__(self, url: str) -> None:
        self.url, self.asked = url, list[tuple[str, dict[str, Any]]]()
        self.headers: list[dict[str, str]] = []
        self.reply: Reply = lambda path, body: (404, {"error": {"message": "nothing here"}})
        self.extra: dict[str, str] = {}


@contextmanager
def serving() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.asked.append((self.path.removeprefix("/v1/"), body))
            state.headers.append(dict(self.headers))
            status, found = state.reply(*state.asked[-1])
            content = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(status)
            for name, value in state.extra.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            # The client of a late answer has gone.
            with suppress(OSError):
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Server(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with serving() as state:
        yield state


def chosen(label: str) -> float:
    """The log-probability that this model gives to a label."""
    return -0.1 * sum(map(ord, label)) / 10


def echo(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """A model of characters, whose label probabilities depend on the label only."""
    if path != "completions":
        return 404, {"error": "no chat"}
    text = body["prompt"]
    assert (body["max_tokens"], body["echo"]) == (1, True)
    label = text.rpartition(",")[2].strip().removesuffix(")")
    per_character = chosen(label) / (len(label) + 3)
    scores = [None, *([per_character] * (len(text) - 1)), -1.0]
    held = {"tokens": [*text, "x"], "token_logprobs": scores, "text_offset": [*range(len(text) + 1)]}
    held["top_logprobs"] = [None, *([{"x": -0.1}] * len(text))]
    return 200, {"choices": [{"text": text + "x", "logprobs": held}]}


def fit(server: Server, dataset: Dataset, folder: Path, **fields: Any) -> FittedEndpoint:
    system = EndpointSystem(EndpointConfig(server.url, "small", **fields))
    found = system.fit(dataset, LENGTH, Budget(0, 0, 0, folder), None)
    assert isinstance(found, FittedEndpoint)
    return found


def few(dataset: Dataset, count: int = 3) -> Any:
    table = dataset.events("test")
    return table, natural_windows(table, LENGTH, limit=count)


def test_echoed_log_probabilities_are_exact(server: Server, dataset: Dataset, tmp_path: Path) -> None:
    server.reply = echo
    found = fit(server, dataset, tmp_path)
    table, targets = few(dataset)
    rows = found.log_probs(table, targets)
    scores = np.array([chosen(label) for label in dataset.candidates.labels])
    wanted = scores - np.log(np.exp(scores).sum())
    assert np.allclose(rows, wanted)
    assert len(server.asked) == 5 + 3 * len(wanted)
    assert found.report() == {"kind": "echo", "windows": 3, "outside": 0}


def test_answers_are_kept_without_the_questions(server: Server, dataset: Dataset, tmp_path: Path) -> None:
    server.reply = echo
    table, targets = few(dataset)
    rows = fit(server, dataset, tmp_path).log_probs(table, targets)
    asked = len(server.asked)
    again = fit(server, dataset, tmp_path)
    assert (again.log_probs(table, targets) == rows).all()
    assert len(server.asked) == asked
    text = "".join(file.read_text() for file in tmp_path.rglob("*.json"))
    assert not any(label in text for label in dataset.candidates.labels)


def test_an_endpoint_that_fails_midway_is_continued(server: Server, dataset: Dataset, tmp_path: Path) -> None:
    table, targets = few(dataset)
    server.reply = lambda path, body: echo(path, body) if len(server.asked) < 50 else (500, {})
    with pytest.raises(EdgebError, match="answers with HTTP 500, also after 0 more tries"):
        fit(server, dataset, tmp_path, retries=0).log_probs(table, targets)
    server.reply = echo
    rows = fit(server, dataset, tmp_path).log_probs(table, targets)
    assert np.allclose(np.exp(rows).sum(1), 1)
    # One failed, and none was asked twice.
    assert len(server.asked) == 5 + 1 + 3 * len(dataset.candidates)


def test_echoes_of_other_tokens_are_not_used(server: Server, dataset: Dataset, tmp_path: Path) -> None:
    def shifted(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """What is likeliest before a label depends on the label."""
        status, found = echo(path, body)
        held = found["choices"][0]["logprobs"]
        held["top_logprobs"] = [{"x": -float(ord(token))} for token in (*held["tokens"][1:], "x")]
        return status, found

    server.reply = lambda path, body: shifted(path, body) if "echo" in body else (400, {"error": "no"})
    with pytest.raises(EdgebError, match="HTTP 400: no"):
        fit(server, dataset, tmp_path)


def chat(answer: str, alternatives: dict[str, float] | None = None) -> Reply:
    def reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path != "chat/completions":
            return 404, {"error": {"message": "no completions"}}
        choice: dict[str, Any] = {"message": {"role": "assistant", "content": answer}}
        if alternatives is not None and body.get("logprobs"):
            top = [{"token": token, "logprob": math.log(p)} for token, p in alternatives.items()]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        return 200, {"choices": [choice]}

    return reply


def test_a_chats_alternatives_are_used(server: Server, dataset: Dataset, tmp_path: Path) -> None:
    first, second = dataset.candidates.labels[:2]
    server.reply = chat(first, {first: 0.5, second: 0.3})
    found = fit(server, dataset, tmp_path)
    assert found.kind == "chat alternatives"
    rows = found.log_probs(*few(dataset))
    assert np.allclose(np.exp(rows[:, :2]), np.array([0.5, 0.3]) + 0.2 / len(dataset.candidates))
    path, body = server.asked[-1]
    assert (path, body["model"], body["temperature"]) == ("chat/completions", "small", 0)
    assert "candidate set" in body["messages"][0]["content"]


def test_text_counts_what_is_outside_the_list(server: Server, dataset: Dataset, tmp_path: Path) -> None:
    server.reply = chat(dataset.candidates.labels[3])
    inside = fit(server, dataset, tmp_path / "a")
    assert inside.kind == "chat text"
    assert (inside.log_probs(*few(dataset)).argmax(1) == 3).all()
    assert inside.outside == 0
    server.reply = chat("I cannot know that.")
    outside = fit(server, dataset, tmp_path / "b")
    rows = outside.log_probs(*few(dataset))
    assert np.allclose(rows, -math.log(len(dataset.candidates)))
    assert (outside.outside, outside.answered) == (3, 3)


def test_completions_without_log_probabilities_give_text(server: Server, dataset: Dataset, tmp_path: Path) -> None:
    label = dataset.candidates.labels[2]

    def reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path != "completions" or "logprobs" in body:
            return 400, {"error": "logprobs are not supported"}
        return 200, {"choices": [{"text": f" {label})\n(Mon 8"}]}

    server.reply = reply
    found = fit(server, dataset, tmp_path)
    assert found.kind == "completion text"
    assert (found.log_probs(*few(dataset)).argmax(1) == 2).all()


@pytest.mark.parametrize("known", [0, 2])
def test_cold_start_shows_so_many_events(known: int, server: Server, dataset: Dataset, tmp_path: Path) -> None:
    server.reply = chat(dataset.candidates.labels[0])
    found = fit(server, dataset, tmp_path)
    table, targets = few(dataset, 1)
    found.log_probs(table, targets, known)
    history = table.history(int(targets[0]), LENGTH)
    text = server.asked[-1][1]["messages"][0]["content"]
    assert text.count(")\n") == known
    for event in history[LENGTH - known :]:
        assert f" {event.behavior})\n" in text


class TestTheClient:
    def post(self, server: Server, **fields: Any) -> dict[str, Any]:
        self.pauses: list[float] = []
        config = EndpointConfig(server.url, "small", **fields)
        return Endpoint(config, self.pauses.append).post("completions", {"prompt": "x"})

    def test_a_busy_endpoint_is_asked_again_with_growing_pauses(self, server: Server) -> None:
        server.reply = lambda path, body: (503, {}) if len(server.asked) < 4 else (200, {"choices": []})
        assert self.post(server) == {"choices": []}
        assert self.pauses == [1, 2, 4]

    def test_it_waits_as_long_as_it_is_told(self, server: Server) -> None:
        server.extra = {"Retry-After": "7"}
        server.reply = lambda path, body: (429, {}) if len(server.asked) < 2 else (200, {})
        assert self.post(server) == {}
        assert self.pauses == [7]

    def test_one_that_is_down_is_named(self, server: Server) -> None:
        server.url = "http://127.0.0.1:1/v1"
        with pytest.raises(EdgebError, match=r"127\.0\.0\.1:1/v1/completions cannot be reached") as caught:
            self.post(server, retries=2)
        assert "also after 2 more tries" in caught.value.message
        assert self.pauses == [1, 2]

    def test_one_that_is_slow_is_named(self, server: Server) -> None:
        held = threading.Event()

        def late(path: str, body: dict[str, Any]) -> tuple[int, Any]:
            held.wait(5)
            return 200, {}

        server.reply = late
        try:
            with pytest.raises(EdgebError, match=r"does not answer within 0\.05 s"):
                self.post(server, retries=0, timeout=0.05)
        finally:
            held.set()

    @pytest.mark.parametrize(
        ("status", "content", "message"),
        [
            (401, {"error": {"message": "bad key"}}, "HTTP 401: bad key"),
            (404, {"error": "no such model"}, "HTTP 404: no such model"),
            (200, b"<html>", "does not answer with a JSON object"),
            (200, b"[1]", "does not answer with a JSON object"),
            (200, b'{"a": 1', "does not answer with a JSON object"),
        ],
    )
    def test_what_asking_again_does_not_help_is_said_at_once(
        self, server: Server, status: int, content: Any, message: str
    ) -> None:
        server.reply = lambda path, body: (status, content)
        with pytest.raises(EdgebError, match=message):
            self.post(server)
        assert len(server.asked) == 1

    def test_the_key_is_the_variables_and_goes_to_no_other_machine(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(KEY_VARIABLE, "secret")
        with serving() as other:
            server.extra = {"Location": f"{other.url}/completions"}
            server.reply = lambda path, body: (307, {})
            with pytest.raises(EdgebError, match="HTTP 307") as caught:
                self.post(server)
            assert other.asked == []
        assert server.headers[0]["Authorization"] == "Bearer secret"
        assert "secret" not in str(caught.value)

    def test_an_answer_without_end_is_not_read(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(client, "_MOST_BYTES", 100)
        server.reply = lambda path, body: (200, {"choices": "x" * 1000})
        with pytest.raises(EdgebError, match="does not answer with a JSON object"):
            self.post(server)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("host/v1", "is no URL"),
        ("ftp://host/v1", "is no URL"),
        ("https://", "is no URL"),
        ("https://host:port/v1", "is no URL"),
        ("https://me:key@host/v1", "holds a password"),
        ("https://host/v1?key=1", "holds a password, a query"),
        ("http://host/v1", "unencrypted"),
        ("http://127.0.0.1.host/v1", "unencrypted"),
    ],
)
def test_bad_urls_are_refused(url: str, message: str) -> None:
    with pytest.raises(EdgebError, match=message):
        EndpointConfig(url, "small")


@pytest.mark.parametrize(
    "url", ["https://host/v1", "http://localhost:8000/v1", "http://127.0.0.2/v1", "http://[::1]/v1"]
)
def test_https_and_this_machine_need_no_flag(url: str) -> None:
    assert EndpointConfig(url, "small").url == url
    assert EndpointConfig("http://host/v1", "small", insecure=True).insecure


def test_the_endpoint_is_a_system_only_where_one_is_given() -> None:
    given = EndpointConfig("https://host/v1", "small")
    assert "endpoint" not in systems()
    assert systems(given)["endpoint"].title == "small (endpoint)"
    with pytest.raises(EdgebError, match="needs an endpoint"):
        registry.chosen(registry.all_contenders(), ["endpoint"])
    with pytest.raises(EdgebError, match="no system named 'sasrek'") as caught:
        registry.chosen(registry.all_contenders(), ["sasrek"])
    assert "sasrec" in caught.value.hint
    assert registry.chosen(registry.all_contenders(), ["bert4rec"])["bert4rec"].title == "BERT4Rec"
    assert [name for name, system in systems(given).items() if system.name != name] == []
