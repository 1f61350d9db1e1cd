"""What the calls of a campaign are: how each is to end, for how long it runs, which have a key. Pure, and known alike
to the job itself and to whoever checks what became of it."""

from __future__ import annotations

from enum import StrEnum


class Behaviour(StrEnum):
    """How a call is to end."""

    VALUE = "a value"
    ERROR = "an error"
    RETRY = "a value, after an error that is retried"
    ONCE = "a value, and never begun again"


def behaviour(number: int) -> Behaviour:
    """One call in 20 raises for good, another asks for a second attempt, a third is to begin at most once."""
    match number % 20:
        case 7:
            return Behaviour.ERROR
        case 13:
            return Behaviour.RETRY
        case 17:
            return Behaviour.ONCE
        case _:
            return Behaviour.VALUE


def keyed(number: int) -> bool:
    """Whether a call has an idempotency key; its caller, started anew, repeats those that have one."""
    return number % 4 != 3


def running_s(number: int, attempt: int, lease_s: float) -> float:
    """For how long an attempt runs: most are short; a few outlast a lease, and some reruns too.

    Only so does a worker that comes back after a lease find its job under way elsewhere.
    """
    if attempt > 1 and number % 2 == 0:
        return 1.2 * lease_s
    if number % 50 == 1:
        return 1.5 * lease_s
    return 0.02 + 0.25 * (number * 7 % 10) / 10
