"""The server over real sockets: who may ask, what comes back, and that a bad request is one line and nothing more."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from edge_behavior.demo.api import POST
from edge_behavior.demo.assistant import Assistant
from edge_behavior.demo.server import MAX_BODY, POLICY, DemoServer
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.predictor import Predictor
from tests.demo_bundle import LABELS, LENGTH, MARKUP

ASK: dict[str, Any] = {
    "when": "2024-03-18T20:05", "place": "home", "threshold": 0.1, "precision": None, "coverage": None,
    "source": None, "balance": 0, "exhaustive": False,
}  # fmt: skip
EVENT: dict[str, Any] = {"behavior": LABELS[0], "place": "home", "when": "2024-03-18T20:05", "accepted": False}


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


class Client:
    def __init__(self, server: DemoServer) -> None:
        self.port, self.key, self.url = server.server_address[1], server.key, server.url
        self.host = f"127.0.0.1:{self.port}"

    def send(
        self, method: str, path: str, body: object = None, *, raw: bytes | None = None, **headers: str | None
    ) -> Answer:
        """A request as the page sends it, changed by `headers`; a value of None leaves one out."""
        given = {"Host": self.host}
        if method == "POST":
            given |= {"Origin": f"http://{self.host}", "Content-Type": "application/json"}
            raw = json.dumps(body).encode() if raw is None else raw
            given["Content-Length"] = str(len(raw))
        for name, value in headers.items():
            given.pop(name.replace("_", "-"), None)
            if value is not None:
                given[name.replace("_", "-")] = value
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in given.items():
                connection.putheader(name, value)
            connection.endheaders(raw)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str | None) -> Answer:
        return self.send("GET", f"/{self.key}/{path}", **headers)

    def post(self, path: str, body: object, **headers: str | None) -> Answer:
        return self.send("POST", f"/{self.key}/{path}", body, **headers)


@pytest.fixture
def client(predictor: Predictor) -> Iterator[Client]:
    server = DemoServer(Assistant(predictor, "<b>tiny</b>.gguf"))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Client(server)
    server.shutdown()
    thread.join()
    server.server_close()


def refused(answer: Answer, status: int) -> str:
    """The one-line message of a refusal."""
    assert answer.status == status, answer.body
    assert set(answer.document) == {"error", "hint"}
    for text in answer.document.values():
        assert "\n" not in text
        assert len(text) <= 300
    assert "Traceback" not in answer.body.decode()
    return str(answer.document["error"])


class TestPage:
    @pytest.mark.parametrize(
        ("path", "kind", "holds"),
        [
            ("", "text/html; charset=utf-8", b"<!doctype html>"),
            ("app.css", "text/css; charset=utf-8", b":root"),
            ("app.js", "text/javascript; charset=utf-8", b"import"),
            ("view.js", "text/javascript; charset=utf-8", b"import"),
            ("clock.js", "text/javascript; charset=utf-8", b"export"),
            ("icon.svg", "image/svg+xml", b"<svg"),
        ],
    )
    def test_files(self, client: Client, path: str, kind: str, holds: bytes) -> None:
        answer = client.get(path)
        assert (answer.status, answer.headers["Content-Type"]) == (200, kind)
        assert holds in answer.body

    @pytest.mark.parametrize("path", ["", "app.js", "api/state", "nothing"])
    def test_every_answer_is_locked_down(self, client: Client, path: str) -> None:
        headers = client.get(path).headers
        assert headers["Content-Security-Policy"] == POLICY
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Access-Control-Allow-Origin"] is None
        assert "Python" not in headers["Server"]

    def test_the_policy_lets_nothing_else_in(self) -> None:
        rules = dict(part.strip().partition(" ")[::2] for part in POLICY.split(";"))
        assert rules["default-src"] == "'none'"
        sources = {word for name, rule in rules.items() if name.endswith("-src") for word in rule.split()}
        assert sources == {"'none'", "'self'"}
        assert (rules["frame-ancestors"], rules["form-action"], rules["base-uri"]) == ("'none'",) * 3

    @pytest.mark.parametrize("path", ["../server.py", "..%2fserver.py", "static/app.js", "app.js/", "//app.js", "\0"])
    def test_no_other_file(self, client: Client, path: str) -> None:
        refused(client.get(path.replace("\0", "%00")), 404)

    def test_bundle_and_state(self, client: Client) -> None:
        assert client.get("api/bundle").document["name"] == "<b>tiny</b>.gguf"
        assert client.get("api/bundle?x=1").document["labels"] == LABELS
        assert client.get("api/state").document["events"] == []


class TestWhoMayAsk:
    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "[::1]:{port}", "", None]
    )
    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_host(self, client: Client, host: str | None, method: str) -> None:
        """A name that was rebound to this machine is not this machine."""
        named = None if host is None else host.replace("{port}", str(client.port))
        path = f"/{client.key}/" + ("api/state" if method == "GET" else "api/restore")
        assert "Host" in refused(client.send(method, path, {}, Host=named), 403)

    def test_two_hosts(self, client: Client) -> None:
        with socket.create_connection(("127.0.0.1", client.port)) as raw:
            lines = f"GET /{client.key}/ HTTP/1.1\r\nHost: {client.host}\r\nHost: evil.example\r\n\r\n"
            raw.sendall(lines.encode())
            assert raw.makefile("rb").read().startswith(b"HTTP/1.0 403 ")

    def test_localhost_is_a_name_of_it(self, client: Client) -> None:
        named = f"LocalHost:{client.port}"
        assert client.get("api/state", Host=named).status == 200
        assert client.post("api/restore", {}, Host=named, Origin=f"http://localhost:{client.port}").status == 200

    @pytest.mark.parametrize(
        "origin", ["http://evil.example", "null", "https://{host}", "http://localhost:{port}", None]
    )
    def test_origin(self, client: Client, origin: str | None) -> None:
        given = origin and origin.replace("{host}", client.host).replace("{port}", str(client.port))
        refused(client.post("api/events", EVENT, Origin=given), 403)
        assert client.get("api/state").document["events"] == []

    def test_another_site_may_not_read_either(self, client: Client) -> None:
        refused(client.get("api/state", Origin="http://evil.example"), 403)
        refused(client.get("app.js", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors"), 403)
        refused(client.get("api/state", Sec_Fetch_Site="same-site", Sec_Fetch_Mode="cors"), 403)

    def test_a_link_to_the_page_may_be_followed(self, client: Client) -> None:
        assert client.get("", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate").status == 200
        answer = client.post("api/restore", {}, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
        refused(answer, 403)

    @pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
    def test_only_json_which_a_form_cannot_send(self, client: Client, kind: str | None) -> None:
        refused(client.post("api/events", EVENT, Content_Type=kind), 415)

    @pytest.mark.parametrize("path", ["/", "/api/state", "/wrong/", "/wrong/api/state", "/{key}", "/{key}x/", "*"])
    def test_the_key(self, client: Client, path: str) -> None:
        assert "address" in refused(client.send("GET", path.replace("{key}", client.key)), 404)

    def test_a_key_that_is_not_ascii(self, client: Client) -> None:
        with socket.create_connection(("127.0.0.1", client.port)) as raw:
            raw.sendall(f"GET /{client.key}é/ HTTP/1.1\r\nHost: {client.host}\r\n\r\n".encode())
            assert raw.makefile("rb").read().startswith(b"HTTP/1.0 404 ")

    def test_keys_are_not_used_twice(self, predictor: Predictor) -> None:
        servers = [DemoServer(Assistant(predictor, "tiny")) for _ in range(2)]
        for server in servers:
            server.server_close()
        assert servers[0].key != servers[1].key
        assert len(servers[0].key) >= 20

    @pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "TRACE", "HEAD"])
    def test_other_methods(self, client: Client, method: str) -> None:
        answer = client.send(method, f"/{client.key}/api/state")
        assert answer.status == 501
        assert answer.headers["Access-Control-Allow-Origin"] is None


class TestBadRequests:
    @pytest.mark.parametrize(
        "raw",
        [
            b"", b"{", b"[]", b"3", b'"x"', b"null", b"\xff\xfe", b"[" * 60_000, b'{"when": NaN}', b'{"a": ' * 5_000,
            b'{"threshold": ' + b"9" * 5_000 + b"}", b'{"threshold": 1e999}',
        ],
    )  # fmt: skip
    def test_no_json_object(self, client: Client, raw: bytes) -> None:
        refused(client.send("POST", f"/{client.key}/api/predict", raw=raw), 400)

    @pytest.mark.parametrize("name", sorted(POST["api/predict"].fields))
    def test_a_missing_field(self, client: Client, name: str) -> None:
        body = {key: value for key, value in ASK.items() if key != name}
        assert refused(client.post("api/predict", body), 400) == f"field '{name}' is missing"

    @pytest.mark.parametrize("path", sorted(POST))
    def test_an_unknown_field(self, client: Client, path: str) -> None:
        assert "unknown field 'x'" in refused(client.post(path, {"x": 1}), 400)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("when", 5), ("when", "noon"), ("when", "2024-03-18T20:05Z"), ("when", "x" * 9_000), ("when", "\ud800"),
            ("place", None), ("place", ["home"]), ("threshold", "0.5"), ("threshold", True), ("threshold", -1),
            ("threshold", 1e308), ("precision", 0.6), ("precision", "0.5"), ("precision", 10**400),
            ("precision", 1e308), ("coverage", 2), ("coverage", -(10**400)), ("source", "stars"), ("source", 1),
            ("balance", None), ("balance", "fitted"), ("balance", -0.1), ("balance", 1e308),
            ("exhaustive", 1), ("exhaustive", "yes"),
        ],
    )  # fmt: skip
    def test_a_bad_value(self, client: Client, name: str, value: object) -> None:
        refused(client.post("api/predict", {**ASK, name: value}), 400)
        assert client.post("api/predict", ASK).status == 200

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("behavior", "Vidio"),
            ("behavior", ""),
            ("behavior", "\n\n" * 400),
            ("behavior", MARKUP * 99),
            ("behavior", " "),
            ("behavior", "Vi\ud800"),
            ("accepted", 0),
        ],
    )
    def test_a_bad_event(self, client: Client, name: str, value: object) -> None:
        refused(client.post("api/events", {**EVENT, name: value}), 400)
        assert client.get("api/state").document["events"] == []

    def test_time_goes_back_as_clocks_do(self, client: Client) -> None:
        assert client.post("api/events", EVENT).status == 200
        assert client.post("api/events", {**EVENT, "when": "2024-03-18T19:10"}).status == 200
        early = {**EVENT, "when": "2024-03-17T12:00"}
        assert "before the last event" in refused(client.post("api/events", early), 400)
        assert "before the last event" in refused(client.post("api/predict", {**ASK, "when": early["when"]}), 400)

    @pytest.mark.parametrize("length", [None, "-1", "x", "1e3", "²"])
    def test_no_length(self, client: Client, length: str | None) -> None:
        refused(client.post("api/restore", {}, Content_Length=length and length.encode().decode("latin-1")), 411)

    @pytest.mark.parametrize("length", [MAX_BODY + 1, 10**30])
    def test_too_long(self, client: Client, length: int) -> None:
        refused(client.post("api/restore", {}, Content_Length=str(length)), 413)

    @pytest.mark.parametrize(
        "line", [b"\x00\x01", b"GET", b"GET / HTTP/9.9", b"G" * 70_000, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200]
    )
    def test_no_http(self, client: Client, line: bytes) -> None:
        with socket.create_connection(("127.0.0.1", client.port), timeout=30) as raw:
            raw.sendall(line + b"\r\n\r\n")
            raw.shutdown(socket.SHUT_WR)
            try:
                said = raw.makefile("rb").read()
            # Closed with some of the request unread.
            except ConnectionResetError:
                said = b""
        assert b"Traceback" not in said
        assert client.get("api/state").status == 200

    def test_a_fault_of_the_program(
        self, client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert client.post("api/dismiss", {"behavior": LABELS[0]}).status == 200
        monkeypatch.setattr(Assistant, "dismiss", lambda *_: 1 / 0)
        refused(client.post("api/dismiss", {"behavior": LABELS[0]}), 500)
        assert "ZeroDivisionError" in capsys.readouterr().err


class TestDay:
    def test_predict_add_accept_dismiss(self, client: Client) -> None:
        first = client.post("api/predict", ASK).document["ranked"]
        assert len(first) == 5
        state = client.post("api/dismiss", {"behavior": first[0]["behavior"]}).document
        assert state["dismissed"] == [first[0]["behavior"]]
        second = client.post("api/predict", ASK).document["ranked"]
        assert second[0]["behavior"] == first[1]["behavior"]
        assert client.post("api/restore", {}).document["dismissed"] == []
        state = client.post("api/events", {**EVENT, "behavior": first[0]["behavior"], "accepted": True}).document
        assert [event["origin"] for event in state["events"]] == ["accepted"]
        assert state["now"] == "2024-03-18T20:20"
        assert client.post("api/undo", {}).document["events"] == []
        assert refused(client.post("api/undo", {}), 400)
        day = client.post("api/made-up-day", {"day": "2024-03-18"}).document["events"]
        assert {event["origin"] for event in day} == {"made up"}
        assert client.post("api/start-over", {}).document["events"] == []

    def test_threshold(self, client: Client) -> None:
        nothing = client.post("api/predict", {**ASK, "threshold": 1}).document["ranked"]
        everything = client.post("api/predict", {**ASK, "threshold": 0}).document["ranked"]
        assert {item["suggested"] for item in nothing} == {False}
        assert {item["suggested"] for item in everything} == {True}

    def test_hostile_names_come_through_as_they_are(self, client: Client) -> None:
        event = client.post("api/events", {**EVENT, "behavior": MARKUP, "place": MARKUP}).document["events"][0]
        assert event["behavior"] == MARKUP
        assert "<" not in event["place"]

    def test_from_several_threads(self, client: Client) -> None:
        """Every event arrives once, and every prediction is a whole one, while the window overflows."""

        def work(i: int) -> Answer:
            if i % 2:
                return client.post("api/events", EVENT)
            return client.post("api/predict", ASK)

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(work, range(80)))
        assert [a.status for a in answers] == [200] * 80
        assert len(client.get("api/state").document["events"]) == 40
        for answer in answers[::2]:
            probabilities = [item["probability"] for item in answer.document["ranked"]]
            assert len(probabilities) == 5
            assert probabilities == sorted(probabilities, reverse=True)
            assert answer.document["window"] <= LENGTH + 20
        alone = [client.post("api/predict", {**ASK, "exhaustive": True}).document["ranked"] for _ in range(2)]
        assert [a["probability"] for a in alone[0]] == pytest.approx([a["probability"] for a in alone[1]], abs=1e-6)


class TestAddress:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "8.8.8.8", "example.com", "", "127.0.0.1:80"])
    def test_no_other_machine_can_reach_it(self, predictor: Predictor, host: str) -> None:
        with pytest.raises(EdgebError, match="loopback"):
            DemoServer(Assistant(predictor, "tiny"), host)

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
    def test_what_it_listens_on(self, predictor: Predictor, host: str) -> None:
        server = DemoServer(Assistant(predictor, "tiny"), host)
        address, port = server.server_address[:2]
        server.server_close()
        assert address == ("127.0.0.1" if host == "localhost" else host)
        assert server.url == f"http://{address}:{port}/{server.key}/"

    def test_ipv6(self, predictor: Predictor) -> None:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
        server = DemoServer(Assistant(predictor, "tiny"), "::1")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            connection = http.client.HTTPConnection("::1", server.server_address[1], timeout=30)
            connection.request("GET", f"/{server.key}/api/state")
            assert connection.getresponse().status == 200
            connection.close()
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def test_a_port_that_is_taken(self, predictor: Predictor) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(EdgebError, match="cannot listen"):
            DemoServer(Assistant(predictor, "tiny"), port=taken.getsockname()[1])
