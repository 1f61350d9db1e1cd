"""Removes everything under one key prefix: what a throwaway deployment on somebody's broker leaves behind."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashq.store.broker import Broker

_AT_ONCE = 1000


def sweep(broker: Broker) -> int:
    """Delete every key under the prefix of `broker`; how many there were. Walks the key space, in small steps.

    Raises: BrokerError.
    """
    pattern = re.sub(r"([*?\[\]\\])", r"\\\1", broker.keys.root) + "*"
    cursor, deleted = b"0", 0
    while True:
        cursor, keys = broker.execute("SCAN", cursor, "MATCH", pattern, "COUNT", _AT_ONCE)
        if keys:
            deleted += int(broker.execute("UNLINK", *keys))
        if cursor == b"0":
            return deleted
