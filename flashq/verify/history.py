"""What happened in a campaign of faults, told by those who did it or saw it, and kept apart from the broker.

A fact is one line of JSON. Callers write what was acknowledged to them and what they were told of their jobs; jobs
write when they begin and end; readers write what they read; whoever injects faults writes which processes each of
them hit. All times are seconds of this machine's monotonic clock, which every process here shares. Pure: files are
read and written by others (see `ledger`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The broker accepted a submit: from here on the job must not be lost."""

    number: int
    """Which of the campaign's calls it is."""
    job: str
    key: str
    """Its idempotency key; '' where it has none."""
    at: float


@dataclass(frozen=True, slots=True)
class Began:
    """An attempt runs. Written by the job itself, first thing."""

    job: str
    number: int
    fence: int
    attempt: int
    pid: int
    parent: int
    """The process it runs in, and that one's supervisor."""
    at: float


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt has run through. Written by the job itself, last thing."""

    job: str
    fence: int
    pid: int
    how: str
    """"value", "error" (one that is final) or "retry" (one that asks for another attempt)."""
    at: float


@dataclass(frozen=True, slots=True)
class Read:
    """Somebody was told how a job stands."""

    job: str
    by: str
    state: str
    """A `JobState`; '' where there is no such job."""
    value: str
    """The token that its attempt returned or raised; '' where it has none."""
    problem: str
    """The error's type where it ended without a value."""
    asked: float
    told: float
    fence: int = 0
    """Under which it ended; 0 where that was not told."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, and which processes it hit."""

    kind: str
    at: float
    until: float
    pids: tuple[int, ...] = ()
    everybody: bool = False
    """It hit every worker there was: the broker's own trouble."""
    missed: bool = False
    """It found nothing to hit."""


@dataclass(frozen=True, slots=True)
class Healed:
    """The last fault is over: from here on everything has to end."""

    at: float


@dataclass(frozen=True, slots=True)
class Wiped:
    """The broker came back empty: what it had acknowledged before is lost, by this fault's design."""

    at: float


@dataclass(frozen=True, slots=True)
class Left:
    """What the broker still held of the campaign when everything had ended."""

    queued: int
    scheduled: int
    leased: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A submit was answered with an error; the caller tries it again."""

    number: int
    problem: str
    at: float


Fact = Acknowledged | Began | Ended | Read | Fault | Healed | Wiped | Left | Refused
_KINDS: dict[str, type[Fact]] = {
    cls.__name__.lower(): cls
    for cls in (Acknowledged, Began, Ended, Read, Fault, Healed, Wiped, Left, Refused)
}


def token(job: str, fence: int, pid: int) -> str:
    """What an attempt returns: names it."""
    return f"{job}/{fence}/{pid}"


def line(fact: Fact) -> bytes:
    """A fact as it is written: between line ends, so that a line torn by a kill harms no other."""
    return b"\n" + json.dumps({"fact": type(fact).__name__.lower(), **asdict(fact)}).encode() + b"\n"


@dataclass(slots=True)
class History:
    """A campaign's facts by kind, each in the order of its time."""

    acknowledged: list[Acknowledged] = field(default_factory=list)
    began: list[Began] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    healed: Healed | None = None
    wiped: list[Wiped] = field(default_factory=list)
    left: Left | None = None
    refused: list[Refused] = field(default_factory=list)
    torn: int = 0
    """Lines that a kill cut short."""

    @classmethod
    def of(cls, facts: Iterable[Fact], torn: int = 0) -> History:
        """Sort facts by kind and time."""
        made = cls(torn=torn)
        for fact in facts:
            made.add(fact)
        made.acknowledged.sort(key=lambda fact: fact.at)
        made.began.sort(key=lambda fact: fact.at)
        made.ended.sort(key=lambda fact: fact.at)
        made.reads.sort(key=lambda fact: fact.told)
        made.faults.sort(key=lambda fact: fact.at)
        made.wiped.sort(key=lambda fact: fact.at)
        made.refused.sort(key=lambda fact: fact.at)
        return made

    def add(self, fact: Fact) -> None:
        """Put a fact where it belongs."""
        match fact:
            case Acknowledged():
                self.acknowledged.append(fact)
            case Began():
                self.began.append(fact)
            case Ended():
                self.ended.append(fact)
            case Read():
                self.reads.append(fact)
            case Fault():
                self.faults.append(fact)
            case Healed():
                self.healed = fact
            case Wiped():
                self.wiped.append(fact)
            case Left():
                self.left = fact
            case Refused():
                self.refused.append(fact)


def parse(written: bytes) -> Fact | None:
    """The fact of one line; None where it was cut short, or is none of ours."""
    try:
        fields: dict[str, Any] = json.loads(written)
        cls = _KINDS[fields.pop("fact")]
        if "pids" in fields:
            fields["pids"] = tuple(fields["pids"])
        return cls(**fields)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def parse_all(written: bytes) -> tuple[list[Fact], int]:
    """The facts of a file, and how many of its lines were cut short."""
    parsed = [parse(text) for text in written.splitlines() if text.strip()]
    facts = [fact for fact in parsed if fact is not None]
    return facts, len(parsed) - len(facts)
