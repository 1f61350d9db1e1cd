"""Unfinished jobs of an earlier run of the private broker: set aside when it starts, put back when asked for.

They wait on a queue of their own, `<endpoint>--held`, which people and RQ's tools see and no worker looks at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashq.store import replies
from flashq.store.command import Command, number
from flashq.store.keys import HELD

if TYPE_CHECKING:
    from flashq.store.keys import Keys

AT_ONCE = 500


def held_queue(endpoint: str) -> str:
    """The queue on which an endpoint's held jobs wait."""
    return endpoint + HELD


def restart(keys: Keys, endpoint: str) -> Command[int]:
    """After the end of every process: free what was in hand, close the workers. How many jobs it was."""
    return Command("restart", keys.of("endpoint", endpoint), (keys.root, endpoint), number)


def hold(keys: Keys, endpoint: str) -> Command[int]:
    """Set aside what waits. How many jobs are held now."""
    args = (keys.root, endpoint, held_queue(endpoint))
    return Command("hold", keys.of("endpoint", endpoint), args, number)


def unhold(keys: Keys, endpoint: str, at_most: int = AT_ONCE) -> Command[tuple[int, int]]:
    """Put back at most so many held jobs: (how many were looked at, how many wait again).

    Fewer looked at than asked: none are left.
    """
    args = (keys.root, endpoint, held_queue(endpoint), at_most)
    return Command("unhold", keys.of("endpoint", endpoint), args, replies.pair)
