"""The brokers that the store is held to: Valkey, Redis, and the one in memory."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from flashq.store.broker import Broker
from flashq.store.memory import MemoryBroker
from flashq.store.scripts import library
from tests.conformance import snapshot
from tests.conformance.world import LUA_CLOCK, World
from tests.rig import BrokerServer
from tests.servers import SERVERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MEMORY = "memory"
EVERY_BROKER = [*(pytest.param(name, marks=pytest.mark.requires(name)) for name in SERVERS), MEMORY]


@pytest.fixture(scope="session")
def server_named() -> Iterator[Callable[[str], BrokerServer]]:
    """A server of each kind, started when first asked for, for all tests."""
    started: dict[str, BrokerServer] = {}

    def named(name: str) -> BrokerServer:
        if name not in started:
            started[name] = BrokerServer(name, appendonly="no")
        return started[name]

    yield named
    for server in started.values():
        server.close()


@pytest.fixture(params=EVERY_BROKER)
def broker(
    request: pytest.FixtureRequest, server_named: Callable[[str], BrokerServer]
) -> Iterator[Broker | MemoryBroker]:
    """An empty broker whose clock is the test's (see world.py)."""
    if request.param == MEMORY:
        with closing(MemoryBroker(clock=LUA_CLOCK)) as memory:
            yield memory
        return
    with closing(Broker(server_named(request.param).url, scripts=library(LUA_CLOCK))) as real:
        real.execute("FLUSHALL")
        yield real


@pytest.fixture
def world(broker: Broker | MemoryBroker) -> Iterator[World]:
    """One registered endpoint, "embed". Whatever a test does, it may leave no key behind that nothing needs."""
    with closing(World(broker)) as world:
        world.register()
        yield world
        left = snapshot.leaks(world.snapshot())
        assert not left, "\n".join(left)
