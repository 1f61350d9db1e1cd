"""What transitions answer with, as typed rows. Times are milliseconds of the broker's clock, 0 = not yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashq.model.lifecycle import JobState
    from flashq.store.workers import WorkerRow


@dataclass(frozen=True, slots=True)
class Registered:
    """`verdict`: created, reused, scaled, code, replaced, moved (see register.lua)."""

    verdict: str
    version: int
    epoch: str
    previous_program: str


@dataclass(frozen=True, slots=True)
class Submitted:
    """`verdict`: ok, dup, hit, conflict, spent, full, unregistered (see submit.lua)."""

    verdict: str
    detail: str
    now_ms: int
    current: bool  # False: another program has registered another revision since

    @property
    def cold(self) -> bool | None:
        """Of an accepted job: no worker was idle; None: it is delayed, and that is not known yet."""
        return None if self.detail == "" else self.detail == "1"


@dataclass(frozen=True, slots=True)
class Claimed:
    """One claimed job: the right to run it, under `fence`, and the signed call."""

    job: str
    fence: int
    call: bytes
    revision: str
    generation: int
    attempt: int  # the number that this run of it has, from 1
    losses: int
    enqueued_ms: int  # since when it waited: submitted, or due, or given back
    cold: bool
    retries_used: int


@dataclass(frozen=True, slots=True)
class Claim:
    """`verdict`: ok, drain, gone."""

    now_ms: int
    verdict: str
    jobs: tuple[Claimed, ...]


@dataclass(frozen=True, slots=True)
class Settlement:
    """What FINISH stores for one job. `state`: finished, failed, cancelled, timed_out or retry."""

    job: str
    fence: int
    state: str
    reason: str = ""
    text: str = ""
    outcome: bytes = b""
    keep_s: int = 3600
    delay_ms: int = 0  # before a retry; a settlement with one travels alone (FINISH), not in ADVANCE
    timing: str = ""


@dataclass(frozen=True, slots=True)
class Advanced:
    """ADVANCE's answer: the claim, and a verdict for each job finished and each begun."""

    claim: Claim
    finished: tuple[str, ...]
    started: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Renewed:
    """`verdict`: ok, drain, gone; `jobs`: ok, cancel, lost, in the order asked."""

    now_ms: int
    verdict: str
    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Watched:
    """How a job stands. `state` is None where there is no such job."""

    state: JobState | None
    fence: int
    reason: str
    text: str
    outcome: bytes
    generation: int
    cold: bool | None = None  # found no idle worker; None: not known (yet)


@dataclass(frozen=True, slots=True)
class Joined:
    """`verdict`: ok, gone, unknown, held; `ordered_ms`: when it was booked (0: started by hand).

    `holder`: which GPU is another's, and whose.
    """

    now_ms: int
    verdict: str
    ordered_ms: int
    holder: str = ""


@dataclass(frozen=True, slots=True)
class Reaped:
    """How many of each REAP dealt with; `more`: something is left, to go on with after `REAP_AGAIN_S`."""

    recovered: int
    lost_workers: int
    expired: int
    promoted: int
    adopted: int
    more: bool

    def __bool__(self) -> bool:
        return any((self.recovered, self.lost_workers, self.expired, self.promoted, self.adopted))


@dataclass(frozen=True, slots=True)
class Term:
    """The right of one autoscaler to act: until another one leads, under a later epoch."""

    epoch: int
    holder: str

    def __str__(self) -> str:
        return f"{self.epoch} {self.holder}"


@dataclass(frozen=True, slots=True)
class Led:
    """Who leads, under which epoch, and until when at least."""

    now_ms: int
    term: Term
    since_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class Beat:
    """What a host learns from its heartbeat. `epoch`: the newest that the broker knows."""

    now_ms: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Observed:
    """One endpoint at one instant. `record` and `stats` are its hashes; empty record: no such endpoint."""

    now_ms: int
    record: dict[str, str]
    stats: dict[str, str]
    queued: int
    enqueued_ms: tuple[int, ...]  # since when the oldest wait: submitted, or due, or given back
    scheduled: int
    began_ms: tuple[int, ...]
    workers: tuple[WorkerRow, ...]
    nested: int = 0  # of those queued: called by jobs
