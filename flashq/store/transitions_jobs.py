"""One typed function per script that moves jobs: what goes in, what comes out. No I/O here (see `command`)."""

from __future__ import annotations

import pickle
import secrets
from typing import TYPE_CHECKING

from flashq.model.retry import MAX_DELIVERIES
from flashq.store import replies
from flashq.store.command import Command, Value, number, text
from flashq.store.commands import Commands, written
from flashq.store.keys import key_digest, queue_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flashq.store.records import Advanced, Claim, Reaped, Settlement, Submitted, Term, Watched

#: RQ's `data` field of every job: a call of a function whose name is the message a stock worker prints.
RQ_DATA = pickle.dumps(
    ("this is a flashq job; start `flashq host` to run it, not `rq worker`", None, (), {}), protocol=2
)
REAP_AGAIN_S = 0.02
IDEMPOTENCY_MS = 24 * 3600 * 1000


class JobTransitions(Commands):
    """Submitted, claimed, begun, ended."""

    # -- jobs, as their callers see them -------------------------------------------------------------
    def submit(
        self,
        endpoint: str,
        job: str,
        *,
        revision: str,
        call: bytes,
        channel: str = "",
        description: str = "",
        priority: int = 0,
        delay_ms: int = 0,
        ttl_ms: int = 0,
        own_ttl: bool = True,
        most_waiting: int = 0,
        max_deliveries: int = MAX_DELIVERIES,
        at_most_once: bool = False,
        idempotency_key: str = "",
        stands_for: tuple[str, str] = ("", ""),
        parent: str = "",
    ) -> Command[Submitted]:
        """`parent`: the job that made this call.

        `own_ttl=False` says that all jobs of this queue have this ttl, so that the oldest expires first.

        `stands_for`: what an idempotency key stands for: digests of the target, and of the payload ('' where equal
        ones may differ).
        """
        fields: list[Value] = []
        if max_deliveries != MAX_DELIVERIES:
            fields += ("fq_max_losses", max_deliveries)
        if at_most_once:
            fields += ("fq_mode", "at_most_once")
        if parent:
            fields += ("fq_parent", parent)
        args = (
            self._root,
            endpoint,
            job,
            revision,
            queue_name(endpoint, priority=priority),
            queue_name(endpoint, priority=priority, older=True),
            priority,
            delay_ms,
            ttl_ms,
            most_waiting,
            key_digest(idempotency_key) if idempotency_key else "",
            " ".join(part or "-" for part in stands_for),
            IDEMPOTENCY_MS,
            channel,
            description,
            RQ_DATA,
            call,
            int(own_ttl),
            *fields,
        )
        return Command("submit", self.keys.of("job", job), args, replies.submitted)

    def watch(self, jobs: Sequence[str], channel: str = "") -> Command[list[Watched]]:
        """How these jobs (at least one) stand; with a channel, be told there when each ends."""
        return Command("watch", self.keys.of("job", jobs[0]), (self._root, channel, *jobs), replies.watched)

    def cancel(self, job: str) -> Command[str]:
        """'cancelled', 'requested', 'unknown', or the terminal state it has."""
        return Command("cancel", self.keys.of("job", job), (self._root, job), text)

    def requeue(self, job: str) -> Command[str]:
        """'ok', 'unknown', or the state that cannot be requeued."""
        return Command("requeue", self.keys.of("job", job), (self._root, job, secrets.token_hex(8)), text)

    def delete(self, job: str) -> Command[str]:
        """'ok', 'unknown', or the state of a job that has not ended."""
        return Command("delete", self.keys.of("job", job), (self._root, job), text)

    def purge(self, endpoint: str, limit: int = 500) -> Command[int]:
        """Cancel at most `limit` waiting jobs; fewer than that means none are left."""
        return Command("purge", self.keys.of("endpoint", endpoint), (self._root, endpoint, limit), number)

    def purge_failed(
        self,
        endpoint: str,
        queue: str,
        *,
        before_ms: int,
        reason: str = "",
        offset: int = 0,
        limit: int = 500,
    ) -> Command[tuple[int, int]]:
        """Delete failed jobs of a queue: (how many were looked at, how many deleted). See `failed.py`."""
        args = (self._root, endpoint, queue, offset, limit, reason, before_ms)
        return Command("purge_failed", self.keys.of("endpoint", endpoint), args, replies.pair)

    def requeue_failed(
        self,
        endpoint: str,
        queue: str,
        *,
        before_ms: int,
        reason: str = "",
        offset: int = 0,
        limit: int = 500,
    ) -> Command[tuple[int, int]]:
        """Begin failed jobs of a queue anew: (how many were looked at, how many requeued). See `failed.py`."""
        args = (self._root, endpoint, queue, offset, limit, reason, before_ms)
        return Command("requeue_failed", self.keys.of("endpoint", endpoint), args, replies.pair)

    def fail_waiting(
        self, endpoint: str, revision: str, why: str, limit: int = 500, *, term: Term | None = None
    ) -> Command[int]:
        """Fail waiting jobs of a revision that cannot start. With a `term`: Deposed where it is over."""
        args = (self._root, endpoint, revision, why, limit, written(term))
        return Command("fail_waiting", self.keys.of("endpoint", endpoint), args, number)

    # -- jobs, as workers move them ------------------------------------------------------------------
    def claim(
        self,
        endpoint: str,
        worker: str,
        nonce: str,
        *,
        count: int,
        lease_ms: int,
        start: int,
        holding: int,
        room: int,
    ) -> Command[Claim]:
        """Take up to `count` jobs, of which the first `start` begin at once.

        `holding`: how many it has already; `room`: how many it could begin now (fewer got: it is idle).
        """
        args = (self._root, endpoint, worker, nonce, count, lease_ms, start, holding, room)
        return Command("claim", self.keys.of("worker", worker), args, replies.claim)

    def start(self, job: str, fence: int, worker: str = "") -> Command[str]:
        """'ok', 'cancel' or 'stale'. Here and below `worker` is who holds the job; '' is not compared."""
        return Command("start", self.keys.of("job", job), (self._root, job, fence, worker), text)

    def finish(self, done: Settlement, worker: str = "") -> Command[str]:
        """'ok', 'stale' or 'gone'."""
        args: tuple[Value, ...] = (
            self._root,
            done.job,
            done.fence,
            done.state,
            done.reason,
            done.text,
            done.outcome,
            done.keep_s,
        )
        args = (*args, done.delay_ms, done.timing, worker)
        return Command("finish", self.keys.of("job", done.job), args, text)

    def advance(
        self,
        endpoint: str,
        worker: str,
        nonce: str,
        *,
        done: Iterable[Settlement],
        begin: Iterable[tuple[str, int, int]],
        count: int,
        lease_ms: int,
        start: int,
        holding: int,
        room: int,
    ) -> Command[Advanced]:
        """Finish, start and claim in one round trip (see `claim`).

        `begin`: id, fence and how long ago (ms) each job began.
        """
        args: list[Value] = [self._root, endpoint, worker, nonce, count, lease_ms, start, holding, room]
        settlements, begins = tuple(done), tuple(begin)
        args.append(len(settlements))
        for d in settlements:
            args += (d.job, d.fence, d.state, d.reason, d.text, d.outcome, d.keep_s, d.timing)
        args.append(len(begins))
        for job, fence, ago_ms in begins:
            args += (job, fence, ago_ms)
        return Command("advance", self.keys.of("worker", worker), tuple(args), replies.advanced)

    def crash(
        self, job: str, fence: int, why: str, outcome: bytes, keep_s: int, worker: str = ""
    ) -> Command[str]:
        """What became of the job: 'queued', 'failed', 'cancelled'; or 'stale'."""
        args = (self._root, job, fence, why, outcome, keep_s, worker)
        return Command("crash", self.keys.of("job", job), args, text)

    def recover(self, endpoint: str, worker: str, known: Iterable[str]) -> Command[Claim]:
        """The jobs that are this worker's and not among the `known`: rings it never heard."""
        args = (self._root, endpoint, worker, *known)
        return Command("recover", self.keys.of("worker", worker), args, replies.claim)

    def release(self, job: str, fence: int, worker: str = "", *, begun: bool = True) -> Command[str]:
        """'ok', 'cancelled', 'failed' or 'stale'. `begun`: its function may have been entered, of which only the
        worker knows."""
        args = (self._root, job, fence, worker, int(begun))
        return Command("release", self.keys.of("job", job), args, text)

    def reap(self, endpoint: str, *, lease_ms: int, limit: int = 50, pause_ms: int = 500) -> Command[Reaped]:
        """Recover what stopped talking, expire, promote, take back: at most `limit` jobs of each.

        Nothing is done within `pause_ms` after another, or `REAP_AGAIN_S` where that one left something undone.
        """
        args = (self._root, endpoint, limit, lease_ms, pause_ms)
        return Command("reap", self.keys.of("endpoint", endpoint), args, replies.reaped)

    def log(
        self, job: str, fence: int, at: int, chunk: bytes, *, keep_s: int = 86400, pieces: int = 1000
    ) -> Command[int]:
        """Keep a piece of a job's output: of the run under `fence`, behind `at` bytes of it. 0 where it was there."""
        args = (self._root, job, chunk, keep_s, pieces, fence, at)
        return Command("log", self.keys.of("job", job), args, int)

    def chunk(
        self, job: str, fence: int, worker: str, number: int, chunk: bytes, *, keep_s: int = 86400
    ) -> Command[tuple[str, int]]:
        """One of the values that a job yields. 'ok' or 'stale', and up to which number a reader has them."""
        args = (self._root, job, fence, worker, number, chunk, keep_s)
        return Command("chunk", self.keys.of("job", job), args, replies.chunked)

    def progress(self, job: str, fence: int, worker: str, number: int, value: bytes) -> Command[str]:
        """How far a run of a job is, as JSON. "ok", or "stale"."""
        args = (self._root, job, fence, worker, number, value)
        return Command("progress", self.keys.of("job", job), args, text)

    def take(self, job: str, fence: int, number: int) -> Command[str]:
        """A reader has the chunks of this run up to this number. 'ok', 'stale' or 'unknown'."""
        return Command("take", self.keys.of("job", job), (self._root, job, fence, number), text)
