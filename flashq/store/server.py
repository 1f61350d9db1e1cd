"""What the broker's server says of itself: version, identity, how it keeps data. Reads only, one round trip.

A user of the broker who may not read its configuration or INFO gets what is left: unknown is None, not a guess.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import hiredis

from flashq.model.durability import Durability, Server
from flashq.store.command import text
from flashq.store.line import pack

if TYPE_CHECKING:
    from collections.abc import Mapping
    from logging import Logger

    from flashq.store.broker import Broker
    from flashq.store.line import Line

REQUESTS = (
    ("INFO", "server", "replication", "persistence", "memory"),
    ("CONFIG", "GET", "appendfsync"),
)
_PACKED = b"".join(pack(*request) for request in REQUESTS)


def look(line: Line) -> Server:
    """Ask over a connection on which nothing is under way.

    Raises: BrokerUnreachable.
    """
    line.send(_PACKED)
    return parsed(*(line.read() for _ in REQUESTS))


def parsed(info: Any, config: Any) -> Server:
    """The server, of the replies to `REQUESTS`; an error reply says nothing."""
    said = {} if isinstance(info, hiredis.ReplyError) else _fields(text(info))
    kind = "valkey" if "valkey_version" in said else "redis" if "redis_version" in said else ""
    role = said.get("role", "")
    return Server(
        kind=kind,
        version=said.get(f"{kind}_version", ""),
        run_id=said.get("run_id", ""),
        role=role,
        aof=said["aof_enabled"] == "1" if "aof_enabled" in said else None,
        fsync=text(config[1]) if isinstance(config, list) and len(config) > 1 else None,
        writes_fail=said.get("aof_last_write_status", "ok") != "ok",
        rewrite_fails=said.get("aof_last_bgrewrite_status", "ok") != "ok",
        snapshot_fails=said.get("rdb_last_bgsave_status", "ok") != "ok",
        policy=said.get("maxmemory_policy"),
        maxmemory=_whole(said, "maxmemory"),
        used_memory=_whole(said, "used_memory"),
        machine_memory=_whole(said, "total_system_memory"),
        replicas=_whole(said, "connected_slaves"),
    )


def pressed(broker: Broker) -> Server:
    """Of a server no more than how its memory and its disk are. Raises BrokerError."""
    return parsed(broker.execute("INFO", "memory", "persistence"), None)


def _fields(info: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in info.splitlines() if line and not line.startswith("#"))
    return {name: value.strip() for name, _, value in pairs}


def _whole(said: Mapping[str, str], name: str) -> int | None:
    value = said.get(name, "")
    return int(value) if value.isdecimal() else None


def warn(broker: Broker, log: Logger, wanted: Durability | None) -> None:
    """Say in a process's log how the broker may lose what it acknowledged; nothing where that is meant.

    Raises: BrokerError.
    """
    with contextlib.closing(broker.connect()) as line:
        server = look(line)
    if lack := server.lacks(wanted):
        log.error("%s", lack)
    if wanted is not Durability.MEMORY:
        for why in server.lossy():
            log.warning("the broker may lose acknowledged jobs: %s; FLASHQ_DURABILITY=memory allows it", why)
