"""The demo's server under malformed requests: it answers or closes the connection, and keeps serving."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from tests import demo_bundle

_CHECKED_EVERY = 100
_TIMEOUT = 10.0
_JUNK: tuple[bytes, ...] = (
    b"",
    b"\x00",
    b"\xff" * 40,
    b"A" * 70_000,
    "é😀".encode(),
    b"../" * 20,
    b"%00%2e%2e",
    b"-1",
    b"9" * 30,
    b"\r\n",
)


def run(folder: Path, requests: int, advance: Callable[[], None]) -> dict[str, Any]:
    """Send `requests` malformed requests to a server process, and a valid one now and then."""
    bundle = demo_bundle.make(folder)
    log = (folder / "server.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_behavior", "demo", str(bundle), "--no-open", "--threads", "1"],
        stdout=subprocess.PIPE, stderr=log, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        watched, counts, failed = psutil.Process(process.pid), Counter[str](), []
        first = _state(url)
        memory = [watched.memory_info().rss]
        for number in range(requests):
            counts[_send(url, random.Random(number))] += 1
            if number % _CHECKED_EVERY == _CHECKED_EVERY - 1:
                if process.poll() is not None:
                    failed.append(f"request {number}: the server ended with {process.returncode}")
                    break
                if _state(url) != first:
                    failed.append(f"request {number}: the page's state has changed")
                memory.append(watched.memory_info().rss)
            advance()
        threads = watched.num_threads() if process.poll() is None else 0
    finally:
        process.kill()
        process.wait()
        log.close()
    tracebacks = (folder / "server.log").read_text().count("Traceback")
    return {
        "requests": requests,
        "answers": dict(sorted(counts.items())),
        "tracebacks": tracebacks,
        "failed": failed,
        "threads_at_the_end": threads,
        "resident_mib": [round(memory[0] / 2**20, 1), round(memory[-1] / 2**20, 1)],
        "bad": tracebacks + len(failed),
    }


def _state(url: str) -> str:
    with urllib.request.urlopen(url + "api/state", timeout=_TIMEOUT) as answer:
        return json.dumps(json.load(answer), sort_keys=True)


def _send(url: str, random_: random.Random) -> str:
    """Send one malformed request; the status of the answer, or how the connection ended."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    content = _request(random_, parts.netloc, parts.path, url)
    try:
        with socket.create_connection((parts.hostname, parts.port), timeout=_TIMEOUT) as connection:
            connection.sendall(content)
            # End of input, so that a server that waits for more bytes gives up.
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while chunk := connection.recv(65_536):
                answer += chunk
    except TimeoutError:
        return "no answer"
    except OSError:
        return "closed"
    status = answer.split(b" ", 2)[1:2]
    return status[0].decode("latin-1") if answer.startswith(b"HTTP/") and status else "closed"


def _request(random_: random.Random, host: str, key: str, url: str) -> bytes:

    def junk() -> bytes:
        return random_.choice(_JUNK)

    kind = random_.randrange(6)
    if kind == 0:
        return random_.randbytes(random_.randrange(1, 3000))
    if kind == 1:
        return random_.choice((b"GET", b"POST", b"BREW", junk())) + b" " + junk() + b" " + junk() + b"\r\n\r\n"
    origin = url.rstrip("/").rsplit("/", 1)[0]
    head = {
        b"Host": host.encode(),
        b"Origin": origin.encode(),
        b"Content-Type": b"application/json",
    }
    endpoint = random_.choice((b"predict", b"events", b"dismiss", b"restore", b"made-up-day", junk()))
    body = _body(random_)
    head[b"Content-Length"] = str(len(body) + random_.choice((0, 0, 0, 5, -1))).encode()
    if kind == 2:
        head[random_.choice(list(head))] = junk()
    if kind == 3:
        head[junk() or b"X"] = junk()
    # Only requests that are refused: `start-over` and a valid event would change the state.
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in head.items())
    return b"POST " + key.encode() + b"api/" + endpoint + b" HTTP/1.1\r\n" + lines + b"\r\n" + body


def _body(random_: random.Random) -> bytes:
    values: tuple[Any, ...] = (None, True, 1e308, -1, "", "x" * 1000, "\ud800", [], {}, [[[]]], "2024-99-99", "é")
    names = ("when", "place", "threshold", "precision", "coverage", "source", "behavior", "accepted", "day", "__x__")
    fields = {random_.choice(names): random_.choice(values) for _ in range(random_.randrange(1, 8))}
    text = json.dumps(fields).encode()
    kind = random_.randrange(5)
    if kind == 0:
        return text[: random_.randrange(len(text))] or b"{"
    if kind == 1:
        return b"[" * random_.choice((10, 30_000))
    if kind == 2:
        return random_.randbytes(200)
    return text
