"""Requests to an OpenAI-compatible endpoint: timeouts, retries with growing pauses, one-line errors.

Knows JSON and HTTP, nothing of behaviors. The key comes from an environment variable only, and no redirect is followed,
so that it reaches no other machine.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from edge_behavior.errors import EdgebError

KEY_VARIABLE = "EDGEB_ENDPOINT_KEY"
_TRANSIENT = (408, 409, 425, 429, 500, 502, 503, 504)
_UNSUPPORTED = (400, 404, 405, 415, 422, 501)
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_MOST_BYTES = 64 * 2**20


class UnsupportedError(EdgebError):
    """The endpoint answers, but does not take this kind of request."""


@dataclass(frozen=True)
class EndpointConfig:
    """Where and how to ask.

    Attributes:
        url: Base of the API, like https://host/v1.
        model: As the endpoint names it.
        timeout: Seconds to wait for the connection, and for every piece of the answer.
        retries: Further tries where the endpoint is down, slow or busy.
        insecure: Allow http:// to other machines, where anybody on the way can read key and events.
    """

    url: str
    model: str
    timeout: float = 60.0
    retries: int = 4
    insecure: bool = False

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise EdgebError(f"the endpoint {self.url} is no URL", "pass one like https://host/v1") from None
        if parts.scheme not in ("http", "https") or not host:
            raise EdgebError(f"the endpoint {self.url} is no URL", "pass one like https://host/v1")
        if parts.username is not None or parts.query or parts.fragment:
            raise EdgebError(
                "the endpoint's URL holds a password, a query or a fragment",
                f"pass only its address, and the key in the variable {KEY_VARIABLE}",
            )
        if parts.scheme == "http" and not is_local(host) and not self.insecure:
            raise EdgebError(
                f"{self.url} would send events of the log unencrypted to another machine",
                "use https, or allow it with --endpoint-insecure",
            )
        if not self.model:
            raise EdgebError("no endpoint model was named", "pass --endpoint-model NAME")
        if not self.timeout > 0 or self.retries < 0:
            raise EdgebError(
                f"an endpoint's timeout of {self.timeout} s with {self.retries} retries cannot be",
                "use more than 0 seconds and at least 0 retries",
            )

    @property
    def identity(self) -> dict[str, str]:
        """What answers depend on, to be kept: `model`, and the URL as a hash, since it may name a private machine."""
        return {"model": self.model, "url_sha256": hashlib.sha256(self.url.rstrip("/").encode()).hexdigest()}


def is_local(host: str) -> bool:
    """Whether a host name is this machine's loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Endpoint:
    """Sends requests.

    Args:
        config: Where and how.
        sleep: Pauses; for tests.
    """

    def __init__(self, config: EndpointConfig, sleep: Callable[[float], None] = time.sleep) -> None:
        self.config, self._sleep = config, sleep
        self._key = os.environ.get(KEY_VARIABLE, "")
        # A proxy is for other machines.
        proxies = [urllib.request.ProxyHandler({})] if is_local(urlsplit(config.url).hostname or "") else []
        self._opener = urllib.request.build_opener(_NoRedirect(), *proxies)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON object that answers a request; `model` is added to the body.

        Raises:
            UnsupportedError: the endpoint refuses requests of this kind.
            EdgebError: it is down, too slow, refuses the key, or answers with something else than JSON.
        """
        url = f"{self.config.url.rstrip('/')}/{path}"
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "edgeb"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = json.dumps({"model": self.config.model, **body}).encode()
        pause = _FIRST_PAUSE
        for tries_left in range(self.config.retries, -1, -1):
            try:
                request = urllib.request.Request(url, data, headers)
                with self._opener.open(request, timeout=self.config.timeout) as answer:
                    return _read(answer.read(_MOST_BYTES + 1), url)
            except urllib.error.HTTPError as error:
                if error.code not in _TRANSIENT:
                    raise _refused(error, url) from None
                asked, why = _seconds(error.headers.get("Retry-After")), f"answers with HTTP {error.code}"
            except (OSError, HTTPException) as error:
                asked, why = None, _reason(error, self.config.timeout)
            if not tries_left:
                break
            self._sleep(min(asked if asked is not None else pause, _LONGEST_PAUSE))
            pause *= 2
        raise EdgebError(
            f"the endpoint {url} {why}, also after {self.config.retries} more tries",
            "check that it runs and is reachable; answers so far are kept, and asking again goes on from there",
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow none: the answer is then an error that names the status."""


def _read(content: bytes, url: str) -> dict[str, Any]:
    try:
        found = json.loads(content) if len(content) <= _MOST_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise EdgebError(
            f"the endpoint {url} does not answer with a JSON object", "check the URL; it often ends in /v1"
        )
    return found


def _refused(error: urllib.error.HTTPError, url: str) -> EdgebError:
    try:
        said = json.loads(error.read(10_000))["error"]
        text = said["message"] if isinstance(said, dict) else said
    except (OSError, HTTPException, ValueError, RecursionError, KeyError, TypeError):
        text = error.reason
    what = f"the endpoint {url} answers with HTTP {error.code}: {str(text)[:200]}"
    if error.code in (401, 403):
        return EdgebError(what, f"put a valid key into the environment variable {KEY_VARIABLE}")
    if error.code in _UNSUPPORTED:
        return UnsupportedError(what, "check the URL and --endpoint-model")
    return EdgebError(what, "check the URL; redirects are not followed")


def _reason(error: Exception, timeout: float) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"does not answer within {timeout:g} s"
    return f"cannot be reached: {getattr(cause, 'strerror', None) or cause or type(cause).__name__}"


def _seconds(text: str | None) -> float | None:
    """Seconds of a Retry-After header; None for a date or nothing."""
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
