"""Runs the gateway: where it listens, and until when."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import resource
import socket
import threading
from typing import TYPE_CHECKING

import uvicorn

from flashq.client import Client
from flashq.errors import ConfigurationError
from flashq.gateway.app import Options, create_app
from flashq.gateway.guards import LOOPBACK_NAMES
from flashq.gateway.heads import Prompt
from flashq.store import api_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flashq.model.envelope import RootKeys
    from flashq.settings import Settings

_MOST_CONNECTIONS = 4096
_LARGEST_HEAD = 64 * 1024
_DRAIN_S = 10
_NEXT = 50  # ports that are tried
log = logging.getLogger("flashq.gateway")


def serve(
    settings: Settings,
    keyring: RootKeys,
    host: str,
    port: int,
    *,
    hosts: Iterable[str] = (),
    internal_webhooks: bool = False,
    next_port: bool = False,
    lifeline: int | None = None,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until SIGINT or SIGTERM, or the end of `lifeline`. `hosts`: further names that requests may be for.
    `next_port`: listen on one of the next where this one is taken.

    `ready` is told the address once it listens. Raises: ConfigurationError where it must not listen there, or cannot;
    BrokerError.
    """
    local = is_loopback(host)
    client = Client(settings, keyring=keyring)
    try:
        if not local and not api_keys.listed(client.broker):
            raise ConfigurationError(
                f"--host {host}: without an API key everybody who reaches it could run jobs: make one first"
                " (`flashq apikeys make NAME`); or listen on this machine alone (--host 127.0.0.1)"
            )
        names = frozenset(name.lower() for name in hosts)
        if local:
            names |= LOOPBACK_NAMES | {host.lower()}
        with _listening(host, port, port + _NEXT if next_port else port) as listener:
            options = Options(
                local_only=local,
                hosts=names,
                internal_webhooks=internal_webhooks,
                address=_address(listener),
            )
            _run(client, settings, options, listener, lifeline, ready)
    finally:
        client.close()


def _run(
    client: Client,
    settings: Settings,
    options: Options,
    listener: socket.socket,
    lifeline: int | None,
    ready: Callable[[str], None],
) -> None:
    config = uvicorn.Config(
        create_app(client, settings, options),
        log_level="warning",
        access_log=False,  # addresses of requests may hold what callers should not have put there
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        h11_max_incomplete_event_size=_LARGEST_HEAD,
        timeout_graceful_shutdown=_DRAIN_S,
        http=Prompt,
        ws="none",
        loop="asyncio",
        proxy_headers=False,
    )
    server = uvicorn.Server(config)
    if lifeline is not None:
        threading.Thread(target=_until_end, args=(lifeline, server), daemon=True, name="lifeline").start()
    _have_room()
    ready(options.address)
    server.run([listener])


def _have_room() -> None:
    """For as many connections as are taken: what a process is given at first is often a quarter of that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * _MOST_CONNECTIONS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _address(listener: socket.socket) -> str:
    address, port = listener.getsockname()[:2]
    return f"http://{f'[{address}]' if ':' in address else address}:{port}"


def _until_end(lifeline: int, server: uvicorn.Server) -> None:
    """Whoever keeps this process running holds the other end of this pipe."""
    with contextlib.suppress(OSError):
        while os.read(lifeline, 1):
            pass
    server.should_exit = True


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches what listens there. Raises ConfigurationError where it is no address."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise ConfigurationError(f"--host {host}: {error.strerror}") from None
    return all(ipaddress.ip_address(one.partition("%")[0]).is_loopback for one in found)


def _listening(host: str, port: int, last: int) -> socket.socket:
    """The first port from `port` to `last` that is free."""
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE and port < min(last, 65535):
            return _listening(host, port + 1, last)
        raise ConfigurationError(f"--host {host} --port {port}: {error.strerror}") from None
    listener.listen(1024)
    listener.set_inheritable(False)
    return listener
