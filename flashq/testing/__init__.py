"""A broker, a client and a worker inside this process: tests of endpoints without server, processes or sockets.

    import flashq.testing

    def test_embed() -> None:
        with flashq.testing.local() as broker:
            assert embed.remote(["a"]) == [[0.1, 0.2]]
            embed.spawn(["b"])
            broker.join()  # waits for all calls, and raises what one of them raised

With `pytest_plugins = ["flashq.testing"]` in conftest.py the fixture `flashq_local` is that broker. Needs
fakeredis with its Lua extra: `pip install '.[testing]'` in a clone.

As in production: pickling both ways, signatures, the order of jobs, retries, delays, ttl, idempotency keys,
cancel. Not so: one job runs at a time, in a thread of this process and in its environment, so `dependencies`,
`env`, `gpu` and the like say nothing here; output goes to this process's own and not to `job.logs()`; and a
blocking function is not interrupted: that it ran too long, or was cancelled, counts once it returns.
"""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flashq.client import Client, use_client
from flashq.errors import BrokerUnreachable, FlashqError, JobCancelled, WaitTimeout
from flashq.model.keyring import Keyring
from flashq.settings import SecretKey, Settings
from flashq.store.memory import MemoryBroker
from flashq.testing.worker import CLOCK, LocalWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from flashq.endpoint_function import EndpointFunction
    from flashq.job import EndpointJob
    from flashq.store.broker import Broker
    from flashq.store.command import Command

__all__ = ["LocalBroker", "local"]


class LocalBroker:
    """What `local()` gives: every call made in this process while it is in force goes to it."""

    def __init__(self) -> None:
        self._memory = MemoryBroker(clock=CLOCK)
        keyring = Keyring([secrets.token_bytes(32)])
        self._client = _LocalClient(self._memory, keyring)
        self._worker = self._client.worker = LocalWorker(
            self._memory,
            keyring,
            limit=self._client.settings.payload_limit,
            deliver=self._client.transport.deliver,
            broken=self._client.waiting.on_lost,
        )

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until every call made so far has ended. Delays are skipped: nobody sleeps through them.

        Raises: the exception of the first call (in the order they were made) that failed and whose result nobody
        has asked for yet, unless it was cancelled; WaitTimeout after `timeout_s` seconds.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        failed: BaseException | None = None
        with self._worker.hurried():
            while self._client.made:
                job = self._client.made[0]
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not job._call.ended.wait(left):  # noqa: SLF001 — jobs, client and broker are one part
                    raise WaitTimeout(f"job {job.id} has not ended within {timeout_s:g} s")
                self._client.made.pop(0)
                taken = job._failure is not None  # noqa: SLF001
                if failed is None and not taken and not isinstance(job.error, JobCancelled):
                    failed = job.error
        if failed is not None:
            raise failed

    def advance(self, seconds: float) -> None:
        """Set the broker's clock forward: what is due by then is run, or expires."""
        self._worker.skip(seconds)

    def close(self) -> None:
        """End the worker. A call that has not ended by now ends with BrokerUnreachable."""
        self._client.waiting.on_lost(BrokerUnreachable("the local broker was closed before this job ended"))
        self._worker.close()
        self._client.close()
        self._memory.close()


@contextmanager
def local() -> Iterator[LocalBroker]:
    """A broker in memory and a worker thread, which run every endpoint called in the block.

    Raises: ImportError where fakeredis or its Lua extra is missing.
    """
    broker = LocalBroker()
    before = use_client(broker._client)  # noqa: SLF001
    try:
        yield broker
    finally:
        use_client(before)
        broker.close()


try:
    import pytest
except ImportError:
    pass
else:

    @pytest.fixture
    def flashq_local() -> Iterator[LocalBroker]:
        """Endpoints called in this test run in this process."""
        with local() as broker:
            yield broker


# -- the client's side -------------------------------------------------------------------------------


class _LocalClient(Client):
    """A client that remembers the calls made through it, in their order, for `join`."""

    def __init__(self, memory: MemoryBroker, keyring: Keyring) -> None:
        settings = Settings(
            redis_url=memory.url,
            secret_key=SecretKey(secrets.token_bytes(32)),
            home=Path(tempfile.gettempdir()) / "flashq-local",  # never made
        )
        self._memory = memory
        self.made: list[EndpointJob[Any]] = []
        self.worker: LocalWorker | None = None
        super().__init__(settings, transport=self._connect, keyring=keyring)

    def _connect(self, _: Client) -> _MemoryTransport:
        self.transport = _MemoryTransport(self, self._memory)
        return self.transport

    @property
    def broker(self) -> Broker:
        """The broker in memory, which reads as a connection does."""
        return cast("Broker", self._memory)

    def submit(
        self,
        function: EndpointFunction[Any, Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        blocking: bool = True,
    ) -> EndpointJob[Any]:
        """See Client.submit."""
        job = super().submit(function, args, kwargs, blocking=blocking)
        self.made.append(job)
        return job

    async def asubmit(
        self, function: EndpointFunction[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> EndpointJob[Any]:
        """See Client.asubmit. There is always room: each call is answered at once."""
        return self.submit(function, args, kwargs)

    def acknowledged(self, job: EndpointJob[Any]) -> None:
        """See Client.acknowledged. What raises here has been told, and `join` need not."""
        try:
            super().acknowledged(job)
        except FlashqError:
            self.made.remove(job)
            raise

    async def aacknowledged(self, job: EndpointJob[Any]) -> None:
        """See Client.aacknowledged."""
        self.acknowledged(job)


class _MemoryTransport:
    """Carries a command out in the thread that sends it, and passes on what the broker published."""

    def __init__(self, client: _LocalClient, memory: MemoryBroker) -> None:
        self._client = client
        self._memory = memory
        self._lock = threading.Lock()
        self._pubsub = memory.redis().pubsub(ignore_subscribe_messages=True)
        self._pubsub.subscribe(client.channel)

    def send(self, command: Command[Any], callback: Callable[[Any, Exception | None], None]) -> None:
        """See flashq.client.Transport."""
        try:
            answer = self._memory.run(command)
        except FlashqError as error:
            callback(None, error)
            return
        callback(answer, None)
        self.deliver()
        if self._client.worker is not None:
            self._client.worker.notice(cancelled=command.script == "cancel")

    def deliver(self) -> None:
        """Tell the client of every outcome there is."""
        while True:
            with self._lock:
                told = self._pubsub.get_message(timeout=0)
            if told is None:
                return
            self._client.waiting.on_push(told["data"])

    def close(self, timeout_s: float = 5.0) -> None:
        """See flashq.client.Transport; nothing is ever under way."""
        del timeout_s
        self._pubsub.close()
