"""A claimed job with its call verified: what the supervisor may hand to the executor, and under which terms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from flashq.errors import WrongBinding
from flashq.model.envelope import Header, Keys, open_sealed
from flashq.model.keyring import Direction
from flashq.model.retry import AT_MOST_ONCE
from flashq_worker.outflow import Outflow

if TYPE_CHECKING:
    from flashq.store.records import Claimed

Stop = Literal["cancel", "timeout"]


class LiveKeys(Keys, Protocol):
    """A supervisor's keys: always asked for, never kept, since they may become others."""

    @property
    def ids(self) -> tuple[str, ...]: ...


@dataclass(slots=True, eq=False)
class Assignment:
    """One delivery of a job to this worker. Times are this host's monotonic clock, in seconds."""

    claimed: Claimed
    header: Header
    payload: bytes
    call_digest: str
    key_id: str = (
        ""  # of the key that signed the call: its outcome is signed with the same, which its caller has
    )
    began: bool = False  # START was recorded, or travels with the next ADVANCE
    starting: bool = False  # START is under way on its own, and its answer is waited for
    handed: bool = False  # the executor may have entered its function
    first: bool = False  # nothing has run in its executor before it
    began_at: float = 0.0
    stop: Stop | None = None  # why it is being interrupted
    asked_back: bool = False  # the executor is to give it back if it has not begun
    end_at: float = 0.0  # when the executor is asked to end if it has not stopped by then
    kill_at: float = 0.0  # and when it is killed
    progress: bytes = b""  # how far it is, which the broker has yet to be told
    progress_at: float = 0.0  # when that may be
    progressed: int = 0  # how often it was told
    waiting: bool = False  # for what it called
    logged: int = 0  # bytes of its output that were kept
    outflow: Outflow = field(default_factory=Outflow)  # what it yields, if it does

    @property
    def job(self) -> str:
        return self.claimed.job

    @property
    def fence(self) -> int:
        return self.claimed.fence

    @property
    def once(self) -> bool:
        """It may begin only once: nothing is run of it before the broker has recorded that it begins."""
        return self.header.delivery == AT_MOST_ONCE

    @property
    def timeout_at(self) -> float | None:
        """When it will have run too long; None: never."""
        return self.began_at + self.header.timeout_ms / 1000 if self.header.timeout_ms else None


def verify(claimed: Claimed, keys: Keys, endpoint: str, *, now_ms: int, limit: int) -> Assignment:
    """Open the signed call of a claimed job: of this endpoint, this job, this revision, and not expired.

    Raises: EnvelopeError, also where it may begin only once and has.
    """
    opened = open_sealed(
        claimed.call,
        keys,
        direction=Direction.CALL,
        endpoint=endpoint,
        job=claimed.job,
        generation=claimed.generation,
        now_ms=now_ms,
        max_bytes=limit,
    )
    if opened.header.revision != claimed.revision:
        raise WrongBinding(
            f"signed for revision {opened.header.revision[:12]}, filed under {claimed.revision[:12]}"
        )
    held = Assignment(claimed, opened.header, opened.payload, opened.digest, opened.key_id)
    if held.once and claimed.attempt > 1:
        raise WrongBinding(f"it may begin only once (at_most_once), and this would be run {claimed.attempt}")
    return held
