"""The life of a job as a table: states, and which transition leads from which to which.

The Lua scripts in flashq/store/lua carry the transitions out; tests/conformance holds them to this table,
and docs/reference/states.md draws it. Pure.
"""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """`fq_state` in the job hash: the truth about a job."""

    SCHEDULED = "scheduled"  # waits for its time (a delay, or a retry's backoff)
    QUEUED = "queued"
    CLAIMED = "claimed"  # leased by a worker, not begun
    RUNNING = "running"  # leased and begun: counts as an attempt
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


class Status(StrEnum):
    """What callers, the command line and the gateway show."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"


WAITING = frozenset({JobState.SCHEDULED, JobState.QUEUED})
LEASED = frozenset({JobState.CLAIMED, JobState.RUNNING})
TERMINAL = frozenset({JobState.FINISHED, JobState.FAILED, JobState.CANCELLED, JobState.TIMED_OUT})

STATUS: dict[JobState, Status] = {
    JobState.SCHEDULED: Status.IN_QUEUE,
    JobState.QUEUED: Status.IN_QUEUE,
    JobState.CLAIMED: Status.IN_PROGRESS,
    JobState.RUNNING: Status.IN_PROGRESS,
    JobState.FINISHED: Status.COMPLETED,
    JobState.FAILED: Status.FAILED,
    JobState.CANCELLED: Status.CANCELLED,
    JobState.TIMED_OUT: Status.TIMED_OUT,
}
TERMINAL_STATUSES = frozenset(STATUS[state] for state in TERMINAL)

#: What RQ's own `status` field says in each state: the projection stock tools read.
RQ_STATUS: dict[JobState, str] = {
    JobState.SCHEDULED: "scheduled",
    JobState.QUEUED: "queued",
    JobState.CLAIMED: "started",
    JobState.RUNNING: "started",
    JobState.FINISHED: "finished",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "canceled",
    JobState.TIMED_OUT: "failed",
}

S = JobState
#: transition → {from: possible next states}. A state not listed is left as it is by that transition.
#: A script may carry out several: CLAIM also expires what is past its ttl, REAP loses, expires and promotes.
TRANSITIONS: dict[str, dict[JobState | None, frozenset[JobState]]] = {
    "submit": {None: frozenset({S.QUEUED, S.SCHEDULED})},
    "promote": {S.SCHEDULED: frozenset({S.QUEUED})},
    "claim": {S.QUEUED: frozenset({S.CLAIMED, S.RUNNING})},
    "start": {S.CLAIMED: frozenset({S.RUNNING})},
    # Of what was only claimed: its worker would not run it, or was told to stop it, or its START is still to come.
    "finish": dict.fromkeys(
        (S.CLAIMED, S.RUNNING),
        frozenset({S.FINISHED, S.FAILED, S.CANCELLED, S.TIMED_OUT, S.SCHEDULED, S.QUEUED}),
    ),
    # Of what had begun and may do so only once nothing comes back (at_most_once).
    "release": {
        S.CLAIMED: frozenset({S.QUEUED, S.CANCELLED}),
        S.RUNNING: frozenset({S.QUEUED, S.FAILED, S.CANCELLED}),
    },
    # A run ended without an outcome: its executor died, its worker is silent, or left.
    "lose": {
        S.CLAIMED: frozenset({S.QUEUED, S.CANCELLED}),
        S.RUNNING: frozenset({S.QUEUED, S.FAILED, S.CANCELLED}),
    },
    "expire": {S.QUEUED: frozenset({S.TIMED_OUT}), S.SCHEDULED: frozenset({S.TIMED_OUT})},
    # By its caller, by a purge, or with a tool of RQ.
    "cancel": {S.QUEUED: frozenset({S.CANCELLED}), S.SCHEDULED: frozenset({S.CANCELLED})},
    "fail_waiting": {S.QUEUED: frozenset({S.FAILED})},
    # Its call was completed or deleted before; somebody put the job back.
    "refuse": {S.QUEUED: frozenset({S.FAILED})},
    # The next generation begins.
    "requeue": {
        S.FAILED: frozenset({S.QUEUED}),
        S.TIMED_OUT: frozenset({S.QUEUED}),
        S.CANCELLED: frozenset({S.QUEUED}),
    },
}
