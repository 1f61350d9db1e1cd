"""`flashq run`: the gateway over a project's live endpoints, registered anew whenever a file of it is saved.

What was good last goes on serving while a file cannot be imported. Running jobs go on with the code that they were
submitted with. In the end the live endpoints are taken away.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import uvicorn
from fastapi.openapi.utils import get_openapi
from watchfiles import PythonFilter, watch

from flashq._version import __version__
from flashq.by_name import read_current
from flashq.client import Client
from flashq.dev import explorer
from flashq.dev.aliases import Aliased, Aliases
from flashq.dev.presence import Presence
from flashq.errors import BuildError, ConfigurationError, FlashqError
from flashq.gateway.app import Options, create_app
from flashq.gateway.guards import LOOPBACK_NAMES
from flashq.store.failed import purge_waiting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import FastAPI

    from flashq.by_name import Current
    from flashq.dev.project import LiveEndpoint, Project
    from flashq.job import EndpointJob
    from flashq.settings import Settings

DEFAULT_PORT = 8888
_PORTS_TRIED = 50
_SAVED_MS = 50
"""A save is often several writes: for so long nothing more must come."""
_BEGINS_MS = 300
"""After this long it watches for certain."""
_FOLLOWED = 32
"""Jobs whose output is shown at the same time."""
_END_S = 10.0


class Teller(Protocol):
    """The terminal."""

    def serving(self, address: str, live: Sequence[LiveEndpoint], current: dict[str, Current]) -> None:
        """It listens; these are served."""

    def reloaded(self, changed: Sequence[str], took_s: float) -> None:
        """A file was saved, and what it says is served now: of these endpoints it is something else."""

    def failed(self, why: str, *, served: bool) -> None:
        """It cannot be loaded. `served`: what was good last goes on."""

    def warned(self, why: str) -> None:
        """Something else that did not go as it should."""

    def printed(self, text: str) -> None:
        """What files print while they are imported."""

    def line(self, endpoint: str, job: str, text: str) -> None:
        """What a job prints."""


class DevServer:
    """One project, served."""

    def __init__(self, project: Project, settings: Settings, teller: Teller) -> None:
        self._project, self._settings, self._tell = project, settings, teller
        self._client = Client(settings)
        self._live: tuple[LiveEndpoint, ...] = ()
        self._current: dict[str, Current] = {}
        self._ever: set[str] = set()
        self._followers = ThreadPoolExecutor(_FOLLOWED, "flashq-output")
        self._ends = threading.Event()
        self._stamp: frozenset[tuple[str, int, int]] = frozenset()  # of the files as they were loaded last
        self._presence = Presence(settings.home / "run" / "live")

    def run(self, host: str, port: int | None, *, reload: bool) -> None:
        """Serve until SIGINT or SIGTERM. `port`: None is 8888, or the next that is free.

        Raises: ConfigurationError where it cannot listen there; BrokerError.
        """
        with listening(host, port) as listener:
            self._client.address()  # the broker is there before the project's first import
            self._load(first=True)
            options = Options(hosts=LOOPBACK_NAMES | {host.lower()}, on_job=self._follow)
            app = create_app(self._client, self._settings, options)
            app.openapi = lambda: self._openapi(app)  # type: ignore[method-assign]
            self._forget = app.state.gateway.core.forget
            self._aliased = Aliased(app)
            self._alias()
            config = uvicorn.Config(
                self._aliased,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=2,
                http="h11",
                ws="none",
                loop="asyncio",
            )
            watcher = threading.Thread(target=self._watch, name="watch", daemon=True) if reload else None
            if watcher is not None:
                watcher.start()
            address, bound = listener.getsockname()[:2]
            self._tell.serving(
                f"http://{'localhost' if address == '127.0.0.1' else address}:{bound}",
                self._live,
                self._current,
            )
            try:
                uvicorn.Server(config).run([listener])
            finally:
                self._ends.set()
                if watcher is not None:
                    watcher.join(_END_S)
                self._take_away(self._ever)
                self._followers.shutdown(wait=False, cancel_futures=True)
                self._client.close()

    # -- loading -------------------------------------------------------------------------------------
    def _load(self, *, first: bool = False) -> None:
        began = time.monotonic()
        try:
            self._stamp = self._project.stamp()
            live = self._project.load()
            self._presence.hold(one.name for one in live)
            broker, keys = self._client.broker, self._client.keyring
            current = {one.name: read_current(broker, keys, one.name) for one in live}
        except (BuildError, FlashqError) as error:
            self._tell.failed(str(error), served=bool(self._live))
            return
        finally:
            self._tell.printed(self._project.printed)
        gone = {one.name for one in self._live} - {one.name for one in live}
        changed = sorted(
            gone | {name for name, known in current.items() if _is_new(known, self._current.get(name))}
        )
        self._live, self._current = live, current
        self._ever |= {one.name for one in live}
        if not first:
            self._forget()
            self._alias()
            self._take_away(gone)
            self._tell.reloaded(changed, time.monotonic() - began)

    def _alias(self) -> None:
        targets = {name: tuple(known.targets) for name, known in self._current.items()}
        self._aliased.aliases = Aliases(self._live, targets)

    def _watch(self) -> None:
        begun = False
        for changes in watch(
            self._project.folder,
            watch_filter=PythonFilter(extra_extensions=(".flashqignore",)),
            step=_SAVED_MS,
            debounce=10 * _SAVED_MS,
            stop_event=self._ends,
            raise_interrupt=False,
            rust_timeout=_BEGINS_MS,
            yield_on_timeout=True,
        ):
            # What was saved before it began to watch it does not tell.
            if changes or (not begun and self._project.stamp() != self._stamp):
                self._load()
            begun = True

    def _take_away(self, names: set[str]) -> None:
        """Endpoints that are live no more: what waits for them is cancelled."""
        for name in sorted(names):
            if not self._presence.alone(name):
                self._presence.leave(name)
                self._ever.discard(name)
                continue
            with contextlib.suppress(FlashqError):
                broker = self._client.broker
                purge_waiting(broker, name)
                deadline = time.monotonic() + _END_S
                while broker.run(broker.transitions.undeploy(name)) == "busy":
                    if time.monotonic() > deadline:
                        self._tell.warned(
                            f"{name} has a job that runs yet: `flashq undeploy {name}` when it is done"
                        )
                        break
                    time.sleep(0.1)
                self._ever.discard(name)
            self._presence.leave(name)

    # -- what the gateway asks -----------------------------------------------------------------------
    def _openapi(self, app: FastAPI) -> dict[str, Any]:
        made = get_openapi(title=self._project.folder.name, version=__version__, routes=app.routes)
        made["paths"] = {**explorer.paths(self._live, self._current), **made["paths"]}
        return made

    def _follow(self, job: EndpointJob[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # it is ending
            self._followers.submit(self._show, job)

    def _show(self, job: EndpointJob[Any]) -> None:
        with contextlib.suppress(FlashqError, OSError):
            for line in job.logs(follow=True):
                self._tell.line(job.endpoint, job.id, line)


def _is_new(known: Current, before: Current | None) -> bool:
    return before is None or known.revision != before.revision


def listening(host: str, port: int | None) -> socket.socket:
    """A socket that listens. Raises ConfigurationError."""
    wanted = range(DEFAULT_PORT, DEFAULT_PORT + _PORTS_TRIED) if port is None else (port,)
    why = ""
    for each in wanted:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, each, type=socket.SOCK_STREAM)[0]
            listener = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise ConfigurationError(f"--host {host}: {error.strerror}") from None
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            listener.close()
            why = error.strerror or str(error)
            continue
        listener.listen(128)
        listener.set_inheritable(False)
        return listener
    raise ConfigurationError(f"--host {host} --port {wanted[0]}: {why}")
