"""Tells callers that asked for it how their job ended: a POST of what `/status` says.

A 200 is wanted; anything else is tried again twice, 10 s apart. An address is looked up once, judged, and then
connected to as it was judged, so that a name cannot lead elsewhere meanwhile. One that takes its time does not keep
others waiting for longer than a try may take.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ipaddress
import logging
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flashq.errors import BrokerError, FlashqError, JobError
from flashq.gateway.bodies import written
from flashq.gateway.problems import Problem
from flashq.model.lifecycle import TERMINAL_STATUSES, Status
from flashq.store import gateways

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flashq.gateway.core import Core
    from flashq.job import EndpointJob

log = logging.getLogger("flashq.gateway")
TRIES = 3
PAUSE_S = 10.0
_TIMEOUT_S = 10.0  # for each step
_TRY_S = 20.0  # for all of them
_AWAY_S = 5.0  # between looks at a broker that does not answer
_SENDERS = 16
_LONGEST_URL = 2048
_PORTS = {"http": 80, "https": 443}
_EMBEDDING = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))
"""IPv6 addresses that lead to the IPv4 address in their last four bytes."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where to tell it."""

    url: str
    scheme: str
    host: str
    port: int
    path: str


class Webhooks:
    """Those that this gateway tells. `internal`: addresses inside this network may be told, too.

    `said_of`: what there is to tell of a job.
    """

    def __init__(
        self,
        core: Core,
        said_of: Callable[[str], Awaitable[dict[str, Any]]],
        *,
        internal: bool,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._core = core
        self._said_of = said_of
        self._internal = internal
        self._pause_s = pause_s
        self._threads = ThreadPoolExecutor(_SENDERS, "flashq-webhook")
        self._tasks: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Stop: what was not told is left to another gateway."""
        for task in self._tasks:
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def checked(self, given: Any) -> Webhook | None:
        """The webhook of a request. Raises Problem where it cannot be one."""
        if given is None:
            return None
        try:
            return _parsed(given)
        except ValueError as error:
            raise Problem(422, str(error), field="webhook") from None

    async def keep(self, webhook: Webhook, job: EndpointJob[Any]) -> None:
        """Tell it how this job ends; it is on record when this returns. Raises BrokerError."""
        await self._core.ask(gateways.keep_webhook, self._core.client.id, job.id, webhook.url)
        self._follow(webhook, job)

    async def take_over(self) -> None:
        """Tell those, too, that gateways had to tell which are gone. Raises BrokerError."""
        for job, url in (await self._core.ask(gateways.take_webhooks, self._core.client.id)).items():
            try:
                self._follow(_parsed(url), self._core.client.job(job))
            except ValueError:  # somebody else wrote it
                await self._core.ask(gateways.drop_webhook, job)

    def _follow(self, webhook: Webhook, job: EndpointJob[Any]) -> None:
        task = asyncio.get_running_loop().create_task(self._tell(webhook, job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, webhook: Webhook, job: EndpointJob[Any]) -> None:
        try:
            await self._post_all(webhook, job.id, await self._body(job))
            await self._core.ask(gateways.drop_webhook, job.id)
        except FlashqError as error:  # what was not told is on record, for the next gateway
            log.warning("webhook of job %s: %s", job.id, error)

    async def _body(self, job: EndpointJob[Any]) -> bytes:
        """What is told, once the job has ended. A broker that is away is waited for."""
        while True:
            await job._call.ended.until_done()  # noqa: SLF001 — client and job are one part
            try:
                said = await self._said_of(job.id)
            except BrokerError:
                said = {}
            except JobError as error:
                said = {"id": job.id, "status": Status.FAILED, "error": str(error)}
            if said.get("status") in TERMINAL_STATUSES:
                return written(said)
            await asyncio.sleep(_AWAY_S)
            job = self._core.client.job(job.id)

    async def _post_all(self, webhook: Webhook, job: str, body: bytes) -> None:
        loop = asyncio.get_running_loop()
        for number in range(1, TRIES + 1):
            try:
                status = await loop.run_in_executor(self._threads, self._post, webhook, body)
            except (OSError, http.client.HTTPException, ValueError) as error:
                why = f"{type(error).__name__}: {error}"
            else:
                if status == 200:
                    return
                why = f"it answered {status}"
            log.warning("webhook of job %s at %s, try %d of %d: %s", job, webhook.host, number, TRIES, why)
            if number < TRIES:
                await asyncio.sleep(self._pause_s)

    def _post(self, webhook: Webhook, body: bytes) -> int:
        address = self._address(webhook)
        connection = _To(webhook, address)
        timer = threading.Timer(_TRY_S, connection.cut)
        timer.daemon = True
        timer.start()
        try:
            headers = {"Content-Type": "application/json", "User-Agent": "flashq"}
            connection.request("POST", webhook.path, body, headers)
            return connection.getresponse().status
        finally:
            timer.cancel()
            connection.close()

    def _address(self, webhook: Webhook) -> tuple[str, int]:
        """Where it is. Raises OSError, ValueError where it must not be told."""
        found = socket.getaddrinfo(webhook.host, webhook.port, type=socket.SOCK_STREAM)
        addresses = [str(entry[4][0]) for entry in found]
        if not self._internal and not all(_is_outside(address) for address in addresses):
            raise ValueError("its address is inside this network (--allow-internal-webhooks)")
        return addresses[0], webhook.port


def _is_outside(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        found = found.ipv4_mapped or found.sixtofour or _embedded(found) or found
    return found.is_global and not found.is_multicast


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if not any(address in network for network in _EMBEDDING):
        return None
    return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)


def _parsed(given: Any) -> Webhook:
    if not isinstance(given, str) or len(given) > _LONGEST_URL:
        raise ValueError("must be an address, such as https://example.com/done")
    if not given.isascii() or any(ord(character) <= 32 for character in given):
        raise ValueError("must be an address without blanks, in ASCII")
    parts = urlsplit(given)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("must begin with http:// or https://, and name a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a password")
    path = parts.path or "/"
    return Webhook(
        given,
        parts.scheme,
        parts.hostname,
        parts.port or _PORTS[parts.scheme],
        f"{path}?{parts.query}" if parts.query else path,
    )


class _To(http.client.HTTPConnection):
    """A connection to an address that was looked up already, under the name it was asked for."""

    def __init__(self, webhook: Webhook, address: tuple[str, int]) -> None:
        super().__init__(webhook.host, webhook.port, timeout=_TIMEOUT_S)
        self._address = address
        self._tls = webhook.scheme == "https"
        self.default_port = _PORTS[webhook.scheme]

    def connect(self) -> None:
        sock = socket.create_connection(self._address, self.timeout)
        if not self._tls:
            self.sock = sock
            return
        context = ssl.create_default_context()
        self.sock = tls = context.wrap_socket(
            sock, server_hostname=self.host, do_handshake_on_connect=False
        )  # where `cut` finds it already
        tls.do_handshake()

    def cut(self) -> None:
        """End it from another thread: whoever waits for its next byte is told."""
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
