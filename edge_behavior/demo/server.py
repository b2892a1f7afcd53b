"""A small HTTP server on a loopback address: the page's files and its JSON endpoints.

Other websites open in the same browser, and other users of the machine, must get no answers. So the Host header has to
name this server (DNS rebinding), a request that changes something has to come from this page (Origin, content type),
the address holds a random key, and the page may load nothing but its own files.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any

from edge_behavior.demo.api import GET, POST, read_fields
from edge_behavior.demo.assistant import Assistant
from edge_behavior.demo.views import View
from edge_behavior.errors import EdgebError

LOOPBACK = "127.0.0.1"
MAX_BODY = 64 * 1024
_MAX_MESSAGE = 300
_SECONDS = 30
_STATIC = Path(__file__).parent / "static"
_FILES = {
    "": ("index.html", "text/html; charset=utf-8"),
    "app.css": ("app.css", "text/css; charset=utf-8"),
    "app.js": ("app.js", "text/javascript; charset=utf-8"),
    "clock.js": ("clock.js", "text/javascript; charset=utf-8"),
    "view.js": ("view.js", "text/javascript; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
_JSON = "application/json"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class DemoServer(ThreadingHTTPServer):
    """Serves one assistant. `serve_forever` runs it, `server_close` ends it without waiting for open requests.

    Args:
        assistant: What to show.
        host: A loopback address.
        port: 0 for a free one.

    Raises:
        EdgebError: an address that other machines could reach, or one that is taken.
    """

    daemon_threads = True

    def __init__(self, assistant: Assistant, host: str = LOOPBACK, port: int = 0) -> None:
        self.assistant = assistant
        self.key = secrets.token_urlsafe(16)
        self.files = {name: (kind, (_STATIC / file).read_bytes()) for name, (file, kind) in _FILES.items()}
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        address = _loopback(host)
        try:
            super().__init__((address, port), _Handler)
        except OSError as error:
            raise EdgebError(
                f"cannot listen on {address} port {port}: {error.strerror}", "choose another --port, or leave it out"
            ) from None
        own = f"[{address}]" if ":" in address else address
        self.hosts = frozenset(f"{name}:{self.server_address[1]}" for name in (own, "localhost"))
        self.url = f"http://{own}:{self.server_address[1]}/{self.key}/"

    def server_bind(self) -> None:
        """Bind without the name lookup of `HTTPServer`."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore browsers that closed the connection."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: DemoServer
    server_version, sys_version = "edgeb", ""
    timeout = _SECONDS

    def do_GET(self) -> None:
        path = self._path()
        if path is None:
            return
        if path in self.server.files:
            self._send(HTTPStatus.OK, *self.server.files[path])
        elif path in GET:
            self._answer(lambda: GET[path](self.server.assistant))
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")

    def do_POST(self) -> None:
        # Read first: a connection closed with bytes unread may be reset before the answer arrives.
        body = self._body()
        path = self._path() if body is not None else None
        if body is None or path is None:
            return
        if self.headers.get("Origin") is None:
            self._refuse(HTTPStatus.FORBIDDEN, "a request that changes something needs an Origin header")
        elif self.headers.get_content_type() != _JSON:
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"send {_JSON}")
        elif path not in POST:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such endpoint")
        else:
            endpoint = POST[path]
            self._answer(lambda: endpoint.answer(self.server.assistant, read_fields(body, endpoint.fields)))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refusals of the base class (methods, malformed requests), in this server's form."""
        self._refuse(HTTPStatus(code), message or HTTPStatus(code).phrase)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: requests hold places and behaviors."""

    def _path(self) -> str | None:
        """The path below the key, once the request is known to come from this page's address."""
        hosts, origin = self.headers.get_all("Host", []), self.headers.get("Origin")
        if len(hosts) != 1 or hosts[0].lower() not in self.server.hosts:
            self._refuse(HTTPStatus.FORBIDDEN, "the Host header does not name this server")
            return None
        if self._is_foreign(origin, hosts[0]):
            self._refuse(HTTPStatus.FORBIDDEN, "the request comes from another site")
            return None
        parts = self.path.partition("?")[0].split("/", 2)
        if len(parts) != 3 or not secrets.compare_digest(parts[1].encode(), self.server.key.encode()):
            self._refuse(HTTPStatus.NOT_FOUND, "open the address that edgeb printed, with all of its path")
            return None
        return parts[2]

    def _is_foreign(self, origin: str | None, host: str) -> bool:
        """Whether another site's page sent this; following a link to this page is allowed."""
        if origin is not None and origin.lower() != f"http://{host.lower()}":
            return True
        followed = self.command == "GET" and self.headers.get("Sec-Fetch-Mode") == "navigate"
        return self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and not followed

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "send a Content-Length")
            return None
        if len(length) > len(str(MAX_BODY)) or int(length) > MAX_BODY:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"send at most {MAX_BODY} bytes")
            return None
        return self.rfile.read(int(length))

    def _answer(self, ask: Callable[[], View]) -> None:
        try:
            document = ask()
        except EdgebError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, error.message, error.hint)
        except Exception:
            # A bug: shown in the terminal, not on the page.
            traceback.print_exc()
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "edgeb failed; see its terminal")
        else:
            self._send(HTTPStatus.OK, _JSON, json.dumps(asdict(document)).encode())

    def _refuse(self, status: HTTPStatus, message: str, hint: str = "") -> None:
        said = {"error": _one_line(message), "hint": _one_line(hint)}
        self._send(status, _JSON, json.dumps(said).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_MAX_MESSAGE]


def _loopback(host: str) -> str:
    """The address of a loopback host.

    Raises:
        EdgebError: any other host.
    """
    try:
        address = ipaddress.ip_address(LOOPBACK if host == "localhost" else host)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise EdgebError(
            f"'{host}' is not a loopback address", f"use {LOOPBACK}; from another machine, forward the port with ssh -L"
        )
    return str(address)
