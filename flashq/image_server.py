"""The server of an image, as the executor beside its container sees it: one call, one request, one answer.

Runs on workers: standard library alone. Where the server is, the worker's runner says by a variable. Redirects are the
caller's to follow; nothing is sent twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

T = TypeVar("T")
AT = "FLASHQ_IMAGE_AT"
"""The variable: "127.0.0.1:49153"."""
HEALTH = "/ping"
"""Asked until the server is ready: Runpod's convention. One that does not know it is ready when it answers at all."""
STARTING = (204, 502, 503)
"""Answers of a server that is not ready yet."""
_AGAIN_S = 0.1
_PIECE = 64 * 1024
_MOST_AT_ONCE = 1000
_ENDS_S = 3.0  # where the server has ended, so has this process within that time
_HOP_BY_HOP = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade host".split()
)


class ImageServer:
    """What a worker keeps: its methods are the endpoint's targets."""

    def __init__(self) -> None:
        self._at = os.environ[AT]
        # asyncio's own has a few threads, and here each request that waits has one.
        self._threads = ThreadPoolExecutor(_MOST_AT_ONCE, "request")

    def setup(self) -> None:
        """Wait until the server answers; how long that may take is `startup_timeout`, and who ends it the worker."""
        while not self._ready():
            time.sleep(_AGAIN_S)

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection(self._at, timeout=10)
        try:
            connection.request("GET", HEALTH)
            return connection.getresponse().status not in STARTING
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    async def request(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> dict[str, Any]:
        """One request: `status`, `headers` (names in lower case) and `body`, whatever the status.

        Raises: ConnectionError where the server does not answer as HTTP has it.
        """
        async with self._sent(method, path, headers, body) as connection:
            response = await self._answer(connection, method, path, headers, body)
            content = await self._in_thread(connection, response.read)
            return {"status": response.status, "headers": _headers(response), "body": content}

    async def stream(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> AsyncIterator[Any]:
        """The same, as it comes: first `status` and `headers`, then pieces of the body."""
        async with self._sent(method, path, headers, body) as connection:
            response = await self._answer(connection, method, path, headers, body)
            yield {"status": response.status, "headers": _headers(response)}
            while piece := await self._in_thread(connection, response.read1, _PIECE):
                yield piece

    @contextlib.asynccontextmanager
    async def _sent(
        self, method: str, path: str, headers: Mapping[str, str] | None, body: bytes
    ) -> AsyncIterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection(self._at)
        try:
            yield connection
        except (OSError, http.client.HTTPException) as error:
            await asyncio.sleep(_ENDS_S)
            raise ConnectionError(
                f"the image's server gave no answer to {method} {path}: {error!r}"
            ) from error
        finally:
            connection.close()

    async def _answer(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        headers: Mapping[str, str] | None,
        body: bytes,
    ) -> http.client.HTTPResponse:
        # The length is that of the body, whatever a caller says: the rest would be another request to the server.
        unsent = _HOP_BY_HOP | {"content-length"}
        sent = {name: value for name, value in (headers or {}).items() if name.lower() not in unsent}

        def ask() -> http.client.HTTPResponse:
            connection.request(method, path, body or None, sent)
            return connection.getresponse()

        return await self._in_thread(connection, ask)

    async def _in_thread(
        self, connection: http.client.HTTPConnection, call: Callable[..., T], *args: Any
    ) -> T:
        """Wait in a thread; where the job is cancelled meanwhile, the connection is broken, which ends the wait."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call, *args)
        except asyncio.CancelledError:
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)
            raise


def _headers(response: http.client.HTTPResponse) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in response.getheaders():
        name = name.lower()
        if name not in _HOP_BY_HOP:
            found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def serve() -> ImageServer:
    """The code of an endpoint whose image serves HTTP: what a worker calls when it starts."""
    server = ImageServer()
    server.setup()
    return server


serve.__flashq_targets__ = {"request": "async", "stream": "async_generator"}  # type: ignore[attr-defined]
serve.__flashq_class__ = ImageServer  # type: ignore[attr-defined]
serve.__flashq_serves__ = True  # type: ignore[attr-defined]
