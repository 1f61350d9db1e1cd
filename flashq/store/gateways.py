"""Where gateways listen, as they say themselves from time to time: for `flashq status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashq.store.command import text
from flashq.store.queries_fleet import now_ms

if TYPE_CHECKING:
    from flashq.store.broker import Broker

BEAT_S = 5.0
_KEPT_MS = 15_000


def beat(broker: Broker, address: str) -> None:
    """A gateway listens at this address, for some seconds more. Raises BrokerError."""
    at = now_ms(broker)
    key = broker.keys.of("gateways")
    broker.execute_all([("ZADD", key, at + _KEPT_MS, address), ("ZREMRANGEBYSCORE", key, "-inf", at)])


def leave(broker: Broker, address: str) -> None:
    """It listens no more. Raises BrokerError."""
    broker.execute("ZREM", broker.keys.of("gateways"), address)


def listed(broker: Broker) -> list[str]:
    """The addresses at which one listens now, sorted. Raises BrokerError."""
    found = broker.execute("ZRANGEBYSCORE", broker.keys.of("gateways"), f"({now_ms(broker)}", "+inf")
    return sorted(text(one) for one in found)
