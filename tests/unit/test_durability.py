"""What an acknowledgement is worth, by what the broker's server says of itself."""

from __future__ import annotations

import re

import hiredis
import pytest

from flashq.model.durability import Durability, Server
from flashq.store.server import parsed

ALWAYS = Server(aof=True, fsync="always", policy="noeviction")


@pytest.mark.parametrize(
    ("server", "confirmed", "worth"),
    [
        (Server(aof=False, fsync="always"), True, Durability.MEMORY),
        (Server(aof=True, fsync="everysec"), True, Durability.MEMORY),
        (Server(aof=True, fsync="no"), False, Durability.MEMORY),
        (ALWAYS, False, Durability.FSYNC),
        (ALWAYS, True, Durability.REPLICA),
        (Server(aof=True), True, None),
        (Server(), False, None),
    ],
)
def test_durability(server: Server, confirmed: bool, worth: Durability | None) -> None:
    assert server.durability(confirmed=confirmed) == worth


@pytest.mark.parametrize(
    ("server", "wanted", "lack"),
    [
        (Server(aof=False), None, ""),
        (Server(aof=False), Durability.MEMORY, ""),
        (
            Server(aof=False),
            Durability.FSYNC,
            "FLASHQ_DURABILITY=fsync, and the broker gives memory: no append-only",
        ),
        (Server(aof=True, fsync="everysec"), Durability.REPLICA, "gives memory: .* synced every second"),
        (ALWAYS, Durability.FSYNC, ""),
        (ALWAYS, Durability.REPLICA, ""),
        (Server(aof=True), Durability.FSYNC, ""),  # it does not say: it is not refused for that
    ],
)
def test_a_broker_that_gives_less_than_is_wanted_lacks_something(
    server: Server, wanted: Durability | None, lack: str
) -> None:
    found = server.lacks(wanted)
    assert bool(found) == bool(lack)
    assert re.search(lack, found)


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (ALWAYS, []),
        (Server(aof=False, policy="noeviction"), ["appendonly yes"]),
        (Server(aof=True, policy="allkeys-lru"), ["noeviction"]),
        (Server(aof=False, policy="volatile-ttl"), ["appendonly yes", "noeviction"]),
        (Server(), []),
    ],
)
def test_a_server_that_loses_by_its_setup_is_lossy(server: Server, said: list[str]) -> None:
    found = server.lossy()
    assert len(found) == len(said)
    assert all(word in text for word, text in zip(said, found, strict=True))


@pytest.mark.parametrize(
    ("kind", "version", "outdated"),
    [
        ("redis", "7.0.15", False),
        ("redis", "6.2.14", True),
        ("redis", "8.2.3", False),
        ("valkey", "7.2.5", True),
        ("valkey", "8.0.0", False),
        ("valkey", "9.1.2", False),
        ("", "", False),
    ],
)
def test_versions(kind: str, version: str, outdated: bool) -> None:
    assert Server(kind=kind, version=version).outdated is outdated


def test_what_a_server_says_is_read() -> None:
    info = (
        b"# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\nrun_id:abc\r\n\r\n"
        b"# Replication\r\nrole:master\r\nconnected_slaves:2\r\n# Persistence\r\naof_enabled:1\r\n"
        b"aof_last_write_status:err\r\naof_last_bgrewrite_status:err\r\nrdb_last_bgsave_status:err\r\n"
        b"# Memory\r\nused_memory:5\r\ntotal_system_memory:9\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n"
    )
    assert parsed(info, [b"appendfsync", b"always"]) == Server(
        kind="valkey",
        version="9.1.2",
        run_id="abc",
        role="master",
        aof=True,
        fsync="always",
        writes_fail=True,
        rewrite_fails=True,
        snapshot_fails=True,
        policy="allkeys-lru",
        maxmemory=0,
        used_memory=5,
        machine_memory=9,
        replicas=2,
    )


def test_what_a_server_does_not_say_is_unknown() -> None:
    refused = hiredis.ReplyError("NOPERM this user has no permissions to run the 'config|get' command")
    assert parsed(refused, refused) == Server()
    assert parsed(b"redis_version:7.0.15\r\naof_enabled:1\r\n", refused).durability(confirmed=False) is None
