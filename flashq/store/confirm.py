"""Having a replica confirm a submit before it counts as acknowledged (FLASHQ_DURABILITY=fsync+replica).

WAIT is answered for what the same connection wrote before it; so it travels right behind the submit, and both are
sent again together.
"""

from __future__ import annotations

from typing import Any

import hiredis

from flashq.errors import BrokerRefused
from flashq.store.line import pack, refusal

CONFIRMED = frozenset({"submit"})
"""The scripts that wait for a replica."""
WAIT_MS = 4000
WAIT = pack("WAIT", 1, WAIT_MS)


def confirmed(reply: Any) -> bool:
    """Whether a replica has it, by the reply to WAIT. Raises BrokerRefused where it may not be waited for."""
    if isinstance(reply, hiredis.ReplyError):
        raise refusal(reply)
    return bool(reply)


def unconfirmed(waits: int = 1) -> BrokerRefused:
    """What a caller is told after so many waits for nothing."""
    return BrokerRefused(
        f"no replica of the broker has confirmed it within {waits * WAIT_MS / 1000:g} s"
        " (FLASHQ_DURABILITY=fsync+replica); the job may run all the same"
    )
