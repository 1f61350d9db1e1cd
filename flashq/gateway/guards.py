"""What a request has to be before anything looks into it: for this host, of no hostile page, not too large, in time.

Plain ASGI, so that it holds for every route, also those that stream.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flashq.gateway.problems import RETRY_AFTER_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Message = dict[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Any, Receive, Send], Awaitable[None]]

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_UNDER_NO_KEY = ("/", "/docs", "/redoc", "/openapi.json", "/healthz", "/readyz")


@dataclass(frozen=True, slots=True)
class Limits:
    """`hosts`: names that requests may be for; empty: any."""

    hosts: frozenset[str]
    body_bytes: int
    body_s: float = 60.0
    """For all of a body to arrive."""
    at_once: int = 16
    """How many of the largest bodies there is memory for: so much do those of all requests together take at most."""


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(slots=True)
class _Taken:
    """Of one request's body."""

    bytes: int = 0


class Guards:
    """Stands before the app."""

    def __init__(self, app: App, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._held = 0  # bytes of bodies, of all requests that have not been answered

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        begun = False
        taken = _Taken()

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            self._check_host(headers)
            _check_origin(scope, headers)
            self._check_length(headers)
            await self._app(scope, self._bounded(receive, taken), sent)
        except _Refused as refused:
            if not begun:
                await _answer(send, refused)
        finally:
            self._held -= taken.bytes

    def _check_host(self, headers: dict[str, str]) -> None:
        """Against pages that have their own name lead to this address."""
        allowed = self._limits.hosts
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
        if allowed and name.lower() not in allowed:
            raise _Refused(421, f"this gateway is not {name[:100]!r} (--allow-host)")

    def _check_length(self, headers: dict[str, str]) -> None:
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._limits.body_bytes:
            raise _Refused(413, f"the body is over the limit of {self._limits.body_bytes:,} bytes")
        if headers.get("content-encoding", "identity") != "identity":
            raise _Refused(415, "a body that is compressed is not taken")

    def _bounded(self, receive: Receive, taken: _Taken) -> Receive:
        """Bodies that end in time, and before they are too large, each or all together."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.body_s
        complete = False

        async def received() -> Message:
            nonlocal complete
            if complete:  # what comes now is that the caller has gone
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise _Refused(408, f"the body did not arrive within {self._limits.body_s:g} s") from None
            if message["type"] == "http.request":
                self._take(len(message.get("body", b"")), taken)
                complete = not message.get("more_body", False)
            return message

        return received

    def _take(self, size: int, taken: _Taken) -> None:
        taken.bytes += size
        self._held += size
        if taken.bytes > self._limits.body_bytes:
            raise _Refused(413, f"the body is over the limit of {self._limits.body_bytes:,} bytes")
        if self._held > self._limits.body_bytes * self._limits.at_once:
            raise _Refused(503, "the bodies of other requests take all the memory that there is for them")


def _check_origin(scope: Any, headers: dict[str, str]) -> None:
    """Against pages of others that have their visitors' browsers send requests here."""
    if scope["path"] in _UNDER_NO_KEY:
        return
    origin, host = headers.get("origin"), headers.get("host", "")
    foreign = headers.get("sec-fetch-site", "none") in ("cross-site", "same-site")
    if origin is not None and (origin == "null" or urlsplit(origin).netloc.lower() != host.lower()):
        foreign = True
    if foreign:
        raise _Refused(403, "a page of another origin may not use this gateway")


async def _answer(send: Send, refused: _Refused) -> None:
    body = json.dumps({"error": refused.message}).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    head.append((b"connection", b"close"))
    if refused.status == 503:
        head.append((b"retry-after", str(RETRY_AFTER_S).encode()))
    await send({"type": "http.response.start", "status": refused.status, "headers": head})
    await send({"type": "http.response.body", "body": body})
