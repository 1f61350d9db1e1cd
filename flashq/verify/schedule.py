"""Which faults happen when: the same seed, the same schedule. Pure; draws come from digests of the seed.

Which process a fault hits is settled when it happens, since that depends on who lives then: a schedule holds a
fraction that picks among them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")
Moment = Literal["before", "after", "told"]
"""Of a call's passage: the broker has not seen it; has carried it out, and the reply is kept; has been heard too."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. `lasts`: the shortest and the longest, in leases; `weight`: how many in one deal."""

    name: str
    meaning: str
    weight: int = 1
    lasts: tuple[float, float] = (0.0, 0.0)
    calls: Sequence[str] = ()
    """The scripts of which it waits for a call; empty where it waits for none."""
    moments: Sequence[Moment] = ()


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault of a schedule."""

    at_s: float
    kind: str
    lasts_s: float
    pick: float
    """From 0 to 1: which of those that could be hit."""
    script: str = ""
    moment: Moment = "after"


_CALLERS = ("submit", "watch", "register")
_WORKERS = ("advance", "worker_join", "worker_ready", "renew", "reap", "crash", "worker_leave")
_HOSTS = ("host_beat", "worker_leave")
_SCALERS = ("worker_order", "observe")

SAFE = (
    Kind("kill worker", "SIGKILL to a supervisor", 5),
    Kind("kill executor", "SIGKILL to the process that runs a job", 4),
    Kind(
        "kill worker at a call",
        "SIGKILL to the supervisor that makes a call",
        5,
        calls=_WORKERS,
        moments=("before", "after", "told"),
    ),
    Kind("kill caller", "SIGKILL to a program that submits and waits", 2),
    Kind(
        "kill caller at a call",
        "the same, at a call that it makes",
        3,
        calls=_CALLERS,
        moments=("before", "after", "told"),
    ),
    Kind("kill host agent", "SIGKILL; its workers end with it"),
    Kind("lose host", "SIGKILL to host agent, supervisors and executors at once"),
    Kind("kill autoscaler", "SIGKILL", 2),
    Kind(
        "kill control at a call",
        "SIGKILL to the host agent or autoscaler that makes a call",
        2,
        calls=(*_HOSTS, *_SCALERS),
        moments=("before", "after", "told"),
    ),
    Kind("stop worker", "supervisor and executor stopped beyond their lease, then continued", 3, (1.5, 2.0)),
    Kind("stop supervisor", "the supervisor alone, beyond its lease", 2, (1.5, 2.0)),
    Kind("pause worker", "supervisor and executor stopped for less than a renewal", 2, (0.05, 0.25)),
    Kind("stop executor", "the executor alone", 1, (0.1, 0.5)),
    Kind("stop caller", "beyond a lease", 1, (1.0, 1.5)),
    Kind("stop host agent", "beyond its lease", 1, (1.2, 1.6)),
    Kind("stop autoscaler", "beyond a lease", 1, (1.0, 1.5)),
    Kind("drain worker", "SIGTERM: it ends in order", 2),
    Kind(
        "lose reply",
        "a call is carried out, and its connection ends without the reply",
        5,
        calls=(*_CALLERS, *_WORKERS, *_SCALERS),
        moments=("after",),
    ),
    Kind(
        "lose request",
        "a connection ends with a call that the broker never saw",
        2,
        calls=(*_CALLERS, *_WORKERS, *_SCALERS),
        moments=("before",),
    ),
    Kind("cut a process off", "all connections of one process end", 2),
    Kind("cut all off", "all connections end"),
    Kind("delay", "every byte is late, both ways, by 20 to 200 ms", 2, (0.2, 0.5)),
    Kind("part a worker", "no byte passes, beyond its lease", 2, (1.3, 1.8)),
    Kind("part a caller", "no byte passes, beyond a lease", 1, (1.0, 1.8)),
    Kind("part a host", "no byte of host agent and workers passes, beyond their lease", 1, (1.3, 1.8)),
    Kind("part all briefly", "no byte of anybody passes, for less than a renewal", 1, (0.05, 0.2)),
)
"""What a broker that others use does not feel: it happens to flashq's own processes, and to a proxy before it."""

OWN_BROKER = (
    Kind("kill broker", "SIGKILL; started again with its append-only file", 4, (0.02, 0.3)),
    Kind("stop broker", "stopped for less than a renewal, then continued", 1, (0.05, 0.25)),
)
"""What only a broker of the campaign's own may suffer."""


def _fraction(*what: object) -> float:
    """A number from 0 to 1 that follows from these words alone."""
    digest = hashlib.sha256("/".join(map(str, what)).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def chosen(fraction: float, among: Sequence[T]) -> T:
    """The one that a fraction points to."""
    return among[min(int(fraction * len(among)), len(among) - 1)]


def _deal(seed: int, round_: int, kinds: Sequence[Kind]) -> list[Kind]:
    """Every kind as often as it weighs, in an order that follows from the seed."""
    cards = [(kind, copy) for kind in kinds for copy in range(kind.weight)]
    return [k for k, c in sorted(cards, key=lambda card: _fraction(seed, round_, card[0].name, card[1]))]


def draw(seed: int, faults: int, kinds: Sequence[Kind], *, pace_s: float, lease_s: float) -> list[Planned]:
    """`faults` faults, about one every `pace_s`, in the order of their time."""
    planned: list[Planned] = []
    deck: list[Kind] = []
    for number in range(faults):
        if not deck:
            deck = _deal(seed, number, kinds)
        kind = deck.pop()
        shortest, longest = kind.lasts
        lasts = shortest + (longest - shortest) * _fraction(seed, number, "lasts")
        planned.append(
            Planned(
                at_s=pace_s * (number + _fraction(seed, number, "at")),
                kind=kind.name,
                lasts_s=lasts * lease_s,
                pick=_fraction(seed, number, "pick"),
                script=chosen(_fraction(seed, number, "script"), kind.calls) if kind.calls else "",
                moment=chosen(_fraction(seed, number, "moment"), kind.moments) if kind.moments else "after",
            )
        )
    return planned
