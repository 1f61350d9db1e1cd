"""Start-up on a broker that loses jobs by its setup: callers, hosts and autoscalers say so, unless it is meant."""

from __future__ import annotations

import logging
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from flashq import Endpoint
from flashq.client import Client, use_client
from flashq.errors import BrokerRefused
from flashq.model.durability import Durability
from flashq.settings import SecretKey, Settings
from flashq.store import server
from flashq.store.broker import Broker
from tests.integration.stack import Stack
from tests.rig import SECRET, BrokerServer, Rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.timeout(120), pytest.mark.requires("valkey")]
LOG = logging.getLogger("flashq")
NO_FILE = "it has no append-only file"
EVICTS = "under memory pressure it evicts keys"


@Endpoint(name="risked", cpu="any")
def risked() -> None:
    """Does nothing."""


def broken(*settings: str) -> BrokerServer:
    return BrokerServer(appendonly="always", arguments=settings)


@contextmanager
def calling(bad: BrokerServer, wanted: Durability | None) -> Iterator[None]:
    """A program of which an acknowledged call has to survive so much."""
    settings = Settings(redis_url=bad.url, secret_key=SecretKey(SECRET), home=bad.folder, durability=wanted)
    with closing(Client(settings)) as client:
        before = use_client(client)
        try:
            yield
        finally:
            use_client(before)


def said_by(stack: Stack, process: str) -> bool:
    return NO_FILE in stack.log(process) and EVICTS in stack.log(process)


@pytest.mark.parametrize("meant", [False, True], ids=["not meant", "meant"])
def test_host_and_autoscaler_say_so(meant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if meant:
        monkeypatch.setenv("FLASHQ_DURABILITY", "memory")
    bad = broken("--appendonly", "no", "--maxmemory-policy", "allkeys-lru")
    with closing(Rig(bad)) as rig, closing(Stack(rig)) as stack:
        wait_until(stack.hosts)
        wait_until(lambda: rig.broker.execute("EXISTS", rig.broker.keys.of("leader")))
        for process in ("host", "autoscaler"):
            if meant:
                assert "may lose" not in stack.log(process)
                continue
            wait_until(partial(said_by, stack, process), what=f"the warnings of {process}")


@pytest.mark.parametrize(
    ("given", "wanted", "said"),
    [
        (("--appendonly", "no"), None, NO_FILE),
        (("--maxmemory-policy", "allkeys-lru"), None, EVICTS),
        (("--maxmemory-policy", "volatile-ttl"), Durability.FSYNC, EVICTS),
        (("--appendonly", "no", "--maxmemory-policy", "allkeys-lru"), Durability.MEMORY, ""),
        ((), None, ""),
    ],
)
def test_the_first_call_says_so_once(
    given: tuple[str, ...], wanted: Durability | None, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(broken(*given)) as bad, caplog.at_level(logging.WARNING, "flashq"):
        with calling(bad, wanted):
            risked.spawn()
            risked.spawn()
        warned = [record.message for record in caplog.records if "may lose" in record.message]
        assert len(warned) == bool(said)
        assert all(said in message for message in warned)

        # As a process that starts there
        caplog.clear()
        with closing(Broker(bad.url)) as broker:
            server.warn(broker, LOG, wanted)
        assert [said in record.message for record in caplog.records] == [True] * bool(said)


def test_less_than_is_wanted_is_refused() -> None:
    with (
        closing(broken("--appendfsync", "everysec")) as bad,
        calling(bad, Durability.FSYNC),
        pytest.raises(BrokerRefused, match="synced every second"),
    ):
        risked.spawn()
