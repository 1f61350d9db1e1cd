"""Gateways that live, where they listen, and the webhooks that each has yet to tell.

A gateway says from time to time that it lives. What one that does not had to tell, another takes over: two may take the
same, so that a webhook is told at least once.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from flashq.store.command import mapping, text
from flashq.store.queries import written
from flashq.store.queries_fleet import now_ms

if TYPE_CHECKING:
    from flashq.store.broker import Broker

BEAT_S = 5.0
_KEPT_MS = 15_000


def beat(broker: Broker, gateway: str, address: str) -> None:
    """A gateway lives for some seconds more; `address`: where it listens, '' where that is told nobody.

    Raises BrokerError.
    """
    at = now_ms(broker)
    key = broker.keys.of("gateways")
    member = f"{gateway} {address}"
    broker.execute_all([("ZADD", key, at + _KEPT_MS, member), ("ZREMRANGEBYSCORE", key, "-inf", at)])


def leave(broker: Broker, gateway: str, address: str) -> None:
    """It ends. Raises BrokerError."""
    broker.execute("ZREM", broker.keys.of("gateways"), f"{gateway} {address}")


def _living(broker: Broker) -> dict[str, str]:
    found = broker.execute("ZRANGEBYSCORE", broker.keys.of("gateways"), f"({now_ms(broker)}", "+inf")
    return {name: address for name, _, address in (text(one).partition(" ") for one in found)}


def listed(broker: Broker) -> list[str]:
    """The addresses at which one listens now, sorted. Raises BrokerError."""
    return sorted(address for address in _living(broker).values() if address)


# -- webhooks ----------------------------------------------------------------------------------------


def keep_webhook(broker: Broker, gateway: str, job: str, url: str) -> None:
    """This gateway tells this address how the job ends. Raises BrokerError."""
    value = json.dumps({"gateway": gateway, "url": url}, separators=(",", ":"))
    broker.execute("HSET", broker.keys.of("webhooks"), job, value)


def drop_webhook(broker: Broker, job: str) -> None:
    """It was told, or is not told any more. Raises BrokerError."""
    broker.execute("HDEL", broker.keys.of("webhooks"), job)


def take_webhooks(broker: Broker, gateway: str) -> dict[str, str]:
    """Those of gateways that are gone: this gateway's from now on. Addresses, by job. Raises BrokerError."""
    living = _living(broker)
    taken = {}
    for job, raw in mapping(broker.execute("HGETALL", broker.keys.of("webhooks"))).items():
        kept = written(raw, dict)
        if kept.get("gateway") not in living and isinstance(kept.get("url"), str):
            keep_webhook(broker, gateway, job, kept["url"])
            taken[job] = kept["url"]
    return taken
