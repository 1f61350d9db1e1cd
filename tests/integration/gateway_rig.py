"""A gateway under test: the real application on a real port, beside a `Rig`, and what asks it."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import uvicorn

from flashq.client import Client
from flashq.gateway.app import Options, create_app
from flashq.gateway.heads import Prompt
from tests.rig import free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.rig import Rig


class Reply(NamedTuple):
    """An answer of it."""

    status: int
    body: Any
    headers: dict[str, str]


class Gateway:
    """A gateway in a thread."""

    def __init__(self, rig: Rig, options: Options | None = None) -> None:
        self.client = Client(rig.settings)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.app = app = create_app(self.client, rig.settings, options)
        config = uvicorn.Config(
            app,
            "127.0.0.1",
            self.port,
            log_level="warning",
            http=Prompt,
            ws="none",
            loop="asyncio",
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        self._server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started, what="the gateway listens")

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(15)
        assert not self._thread.is_alive()
        self.client.close()

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> Reply:
        """One request; `body` as JSON, or bytes as they are."""
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        given = {"Content-Type": "application/json"} if raw is not None else {}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, path, raw, {**given, **(headers or {})})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        kind = answer.headers.get_content_type()
        return Reply(
            answer.status,
            json.loads(text) if kind == "application/json" else text.decode(),
            dict(answer.headers),
        )

    def post(self, path: str, body: Any = None, **headers: str) -> Reply:
        return self.ask("POST", path, body, headers)

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, None, headers)

    def status(self, endpoint: str, job: str) -> Any:
        return self.get(f"/v2/{endpoint}/status/{job}").body


@contextlib.contextmanager
def gateway(rig: Rig, options: Options | None = None) -> Iterator[Gateway]:
    """A `Gateway` for the length of a block."""
    made = Gateway(rig, options)
    try:
        yield made
    finally:
        made.close()
