"""Every command of the small world, as it may be sent in a state. Pure.

Nobody's knowledge is modelled: whoever could hold a fence that was ever given out may present it at any time, so
that of every job the newest fence and the one before it are presented, whoever holds it. What a worker says of
itself (how many jobs it holds, for how many it has room) is what the broker's books say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from flashq.model.lifecycle import JobState
from flashq.store import held as set_aside
from flashq.store.command import Command
from flashq.store.keys import Keys
from flashq.store.records import Settlement, Term
from flashq.store.transitions import Transitions
from tests.conformance.world import EP
from tests.search.rules import CHANNEL, DELAY_MS, LEASE_MS, MOST_LOSSES, MOST_RETRIES, TTL_MS, UNIT_MS
from tests.search.view import USED, finished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.search.view import View

keys = Keys()
t = Transitions(keys)

Request = tuple[Any, ...]  # a plain command of the server
Step = Command[Any] | Request


@dataclass(frozen=True, slots=True)
class Action:
    """What is done in one go. The last step is the command that is judged, and sent again.

    `pass_ms`: how far the clock is then; `facts`: what the judge has to know of it.
    """

    label: str
    script: str
    steps: tuple[Step, ...]
    again: bool = True
    pass_ms: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def command(self) -> Command[Any] | None:
        last = self.steps[-1] if self.steps else None
        return last if isinstance(last, Command) else None


class Lease(NamedTuple):
    """What is presented by whoever moves a job."""

    job: str
    fence: int
    worker: str  # '' is not compared


@dataclass(frozen=True, slots=True)
class Submission:
    """One way to submit a job."""

    name: str
    terms: dict[str, Any] = field(default_factory=dict)


PLAIN = Submission("plain")
ONCE = Submission("once", terms={"at_most_once": True})
DELAYED = Submission("delayed", terms={"delay_ms": DELAY_MS})
TIMED = Submission("timed", terms={"ttl_ms": TTL_MS})
QUEUE_TIMED = Submission("queue-timed", terms={"ttl_ms": TTL_MS, "own_ttl": False})
LATER_TIMED = Submission("later-timed", terms={"delay_ms": DELAY_MS, "ttl_ms": TTL_MS})
HIGH = Submission("high", terms={"priority": 4})
HIGH_DELAYED = Submission("high-delayed", terms={"priority": 4, "delay_ms": DELAY_MS})
OLD = Submission("old", terms={"revision": "r0"})
BOUNDED = Submission("bounded", terms={"most_waiting": 1})
KEYED = Submission("keyed", terms={"idempotency_key": "k", "stands_for": ("target", "this")})
KEYED_ELSE = Submission("keyed-else", terms={"idempotency_key": "k", "stands_for": ("target", "that")})


@dataclass(frozen=True, slots=True)
class Cast:
    """Who is there: the jobs and workers of a search, how jobs are submitted, how many a worker runs at once."""

    jobs: tuple[str, ...]
    workers: tuple[str, ...]
    submissions: tuple[Submission, ...] = (PLAIN,)
    capacity: int = 1
    takes: bool = False  # whether workers take jobs with the ring of their bell
    most_losses: int = MOST_LOSSES


# -- callers -----------------------------------------------------------------------------------------


def _submit(cast: Cast, view: View, job: str, how: Submission) -> Action:
    terms = {"revision": "r1", "call": b"call", "channel": CHANNEL, **how.terms}
    command = t.submit(EP, job, max_deliveries=cast.most_losses, **terms)
    return Action(
        f"submit {job} {how.name}", "submit", (("SADD", USED, job), command), facts={"job": job, "how": how}
    )


def submit(view: View, cast: Cast) -> Iterator[Action]:
    free = [job for job in cast.jobs if job not in view.used and job not in view.jobs]
    for how in cast.submissions if free else ():
        yield _submit(cast, view, free[0], how)  # which of the unused names it gets makes no difference


def submit_late(view: View, cast: Cast) -> Iterator[Action]:
    """Sent again when much has happened since."""
    for job in view.jobs:
        yield _submit(cast, view, job, cast.submissions[0])


def _on_jobs(name: str, make: Callable[[str], Command[Any]]) -> Callable[[View, Cast], Iterator[Action]]:
    def letter(view: View, cast: Cast) -> Iterator[Action]:
        for job in view.jobs:
            yield Action(f"{name} {job}", name, (make(job),), facts={"job": job})

    return letter


cancel = _on_jobs("cancel", t.cancel)
requeue = _on_jobs("requeue", t.requeue)


def delete(view: View, cast: Cast) -> Iterator[Action]:
    for job in view.jobs:
        steps = (*_remembered(view, job), t.delete(job))
        yield Action(f"delete {job}", "delete", steps, facts={"job": job})


def _remembered(view: View, job: str) -> tuple[Step, ...]:
    """Keep in mind that a job which is about to be gone was finished: its idempotency key stays taken."""
    return (("SADD", USED, finished(job)),) if view.state(job) is JobState.FINISHED else ()


def requeue_failed(view: View, cast: Cast) -> Iterator[Action]:
    yield Action("requeue_failed", "requeue_failed", (t.requeue_failed(EP, EP, before_ms=view.now_ms),))


def purge_failed(view: View, cast: Cast) -> Iterator[Action]:
    yield Action("purge_failed", "purge_failed", (t.purge_failed(EP, EP, before_ms=view.now_ms),))


def watch(view: View, cast: Cast) -> Iterator[Action]:
    if view.jobs:
        jobs = sorted(view.jobs)
        yield Action("watch", "watch", (t.watch(jobs, CHANNEL),), facts={"jobs": jobs})


def purge(view: View, cast: Cast) -> Iterator[Action]:
    yield Action("purge", "purge", (t.purge(EP),))


def fail_waiting(view: View, cast: Cast) -> Iterator[Action]:
    yield Action("fail_waiting", "fail_waiting", (t.fail_waiting(EP, "r1", "it does not load"),))


def forget_key(view: View, cast: Cast) -> Iterator[Action]:
    """An idempotency key has been remembered for as long as promised."""
    key = keys.idempotency(EP, "k")
    if key in view.snapshot:
        yield Action("forget the key", "", (("DEL", key),), again=False)


def expire_result(view: View, cast: Cast) -> Iterator[Action]:
    """An ended job has been kept for as long as promised."""
    for job in view.ended:
        gone = (keys.of("job", job), keys.of("results", job))
        steps = (*_remembered(view, job), ("DEL", *gone))
        yield Action(f"expire {job}", "delete", steps, again=False, facts={"expired": job})


# -- workers, as they move jobs ----------------------------------------------------------------------


def _claim(view: View, cast: Cast, worker: str, start: int, nonce: str) -> Command[Any]:
    holding = len(view.held_by(worker))
    room = max(0, cast.capacity - holding)
    return t.claim(EP, worker, nonce, count=room, lease_ms=LEASE_MS, start=start, holding=holding, room=room)


def _claiming(start: int) -> Callable[[View, Cast], Iterator[Action]]:
    def letter(view: View, cast: Cast) -> Iterator[Action]:
        for worker in cast.workers:
            if worker in view.alive or view.worker(worker):
                nonce = f"at {view.now_ms}"
                command = _claim(view, cast, worker, start, nonce)
                facts = {"worker": worker, "count": max(0, cast.capacity - len(view.held_by(worker)))}
                yield Action(f"claim {worker} start={start}", "claim", (command,), facts=facts)

    return letter


claim_only = _claiming(0)
claim_and_start = _claiming(1)


def claim_again(view: View, cast: Cast) -> Iterator[Action]:
    """The last claim that was answered with jobs, sent again when much has happened since."""
    for worker in cast.workers:
        nonce = view.worker(worker).get("fq_nonce")
        if nonce:
            command = t.claim(EP, worker, nonce, count=1, lease_ms=LEASE_MS, start=0, holding=0, room=1)
            yield Action(
                f"claim {worker} again", "claim", (command,), facts={"worker": worker, "resent": True}
            )


def _on_leases(
    name: str,
    script: str,
    make: Callable[[View, Lease], Command[Any] | None],
    *,
    others: bool = False,
    unbegun: bool = False,
) -> Callable[[View, Cast], Iterator[Action]]:
    """`others`: also under the name of a worker that does not hold the job (a fence given out twice); `unbegun`: its
    worker says that the function was never entered."""

    def letter(view: View, cast: Cast) -> Iterator[Action]:
        for job in view.jobs:
            for lease in _leases(view, cast, job, others):
                command = make(view, lease)
                if command is not None:
                    label = f"{name} {job}:{lease.fence} as {lease.worker or 'anybody'}"
                    yield Action(label, script, (command,), facts={"lease": lease, "unbegun": unbegun})

    return letter


def _leases(view: View, cast: Cast, job: str, others: bool) -> Iterator[Lease]:
    holder = view.jobs[job].get("worker_name", "")
    for fence in view.fences(job):
        yield Lease(job, fence, holder if fence == view.fence(job) else "")
    if others and job in view.leased:
        yield from (Lease(job, view.fence(job), worker) for worker in cast.workers if worker != holder)


def _settle(state: str, delay_ms: int = 0) -> Callable[[View, Lease], Command[Any] | None]:
    def make(view: View, lease: Lease) -> Command[Any] | None:
        if state == "retry" and view.number(lease.job, "fq_retries") >= MOST_RETRIES:
            return None  # a worker knows how often a job was retried, and ends it then
        outcome = b"" if state == "retry" else state.encode()
        settlement = Settlement(lease.job, lease.fence, state, outcome=outcome, delay_ms=delay_ms)
        return t.finish(settlement, lease.worker)

    return make


start = _on_leases("start", "start", lambda _, held: t.start(*held), others=True)
finish = _on_leases("finish", "finish", _settle("finished"), others=True)
fail = _on_leases("fail", "finish", _settle("failed"))
stop = _on_leases("stop", "finish", _settle("cancelled"))
time_out = _on_leases("time out", "finish", _settle("timed_out"))
retry_now = _on_leases("retry", "finish", _settle("retry"))
retry_later = _on_leases("retry later", "finish", _settle("retry", DELAY_MS))
release = _on_leases("release", "release", lambda _, held: t.release(*held), others=True)
give_back = _on_leases("give back", "release", lambda _, held: t.release(*held, begun=False), unbegun=True)
crash = _on_leases(
    "crash",
    "crash",
    lambda _, held: t.crash(held.job, held.fence, "killed", b"lost", 3600, held.worker),
    others=True,
)


def advance(view: View, cast: Cast) -> Iterator[Action]:
    """Each worker's step: it ends one job it holds, begins another, both, or neither, and claims more."""
    for worker in cast.workers:
        if not view.worker(worker):
            continue
        mine = view.held_by(worker)
        stale = [(job, view.fence(job) - 1) for job in view.jobs if view.fence(job) > 1]
        stale += [(job, view.fence(job)) for job in view.leased if job not in mine]
        ends: list[list[tuple[str, int]]] = [
            [],
            *([(job, view.fence(job))] for job in mine),
            *([s] for s in stale),
        ]
        for done in ends:
            for began in ([], *([(job, view.fence(job))] for job in mine)):
                yield _step(view, cast, worker, done, began)


def _step(
    view: View, cast: Cast, worker: str, done: list[tuple[str, int]], began: list[tuple[str, int]]
) -> Action:
    left = [job for job in view.held_by(worker) if (job, view.fence(job)) not in done]
    room = max(0, cast.capacity - len(left))
    command = t.advance(
        EP,
        worker,
        f"at {view.now_ms}",
        done=[Settlement(job, fence, "finished", outcome=b"finished") for job, fence in done],
        begin=[(job, fence, 5) for job, fence in began],
        count=room,
        lease_ms=LEASE_MS,
        start=room,
        holding=len(left),
        room=room,
    )
    facts = {"worker": worker, "done": done, "began": began, "count": room}
    return Action(f"advance {worker} done={done} began={began}", "advance", (command,), facts=facts)


# -- workers, as they come and go --------------------------------------------------------------------


def join(view: View, cast: Cast) -> Iterator[Action]:
    """A new worker comes. (The record of one before it under this name is gone by then.)"""
    away = [worker for worker in cast.workers if worker not in view.alive and not view.held_by(worker)]
    for worker in away:
        fields = {"fq_takes": LEASE_MS} if cast.takes else {}
        command = t.join(EP, worker, lease_ms=LEASE_MS, booked=False, fields=fields)
        steps: tuple[Step, ...] = (("DEL", keys.of("worker", worker)), command)
        yield Action(f"join {worker}", "worker_join", steps, facts={"worker": worker})


def join_late(view: View, cast: Cast) -> Iterator[Action]:
    """One that was declared lost reports in once more."""
    for worker in cast.workers:
        if worker not in view.alive and view.worker(worker):
            command = t.join(EP, worker, lease_ms=LEASE_MS, booked=True, fields={})
            yield Action(
                f"join {worker} late", "worker_join", (command,), facts={"worker": worker, "late": True}
            )


#: Terms of two autoscalers, of which the second leads.
LEADERS: tuple[Step, ...] = tuple(
    t.lead(holder, lease_ms=LEASE_MS, fields={"pid": 1}, take_over=True) for holder in ("a1", "a2")
)
DEPOSED, NEWEST = Term(1, "a1"), Term(2, "a2")


def order(view: View, cast: Cast) -> Iterator[Action]:
    """An autoscaler that knows of no worker orders one; so does one that led before."""
    for worker in cast.workers:
        for term in (NEWEST, DEPOSED) if worker not in view.alive and not view.worker(worker) else ():
            command = t.order(
                EP,
                worker,
                host="host",
                revision="r1",
                environment="env",
                most=1,
                patience_ms=LEASE_MS,
                command=b"start",
                term=term,
                fields={},
            )
            facts = {"worker": worker, "most": 1, "deposed": term is DEPOSED}
            yield Action(f"order {worker} under {term}", "worker_order", (command,), facts=facts)


def drain_deposed(view: View, cast: Cast) -> Iterator[Action]:
    """One that led before wants a worker gone."""
    for worker in cast.workers:
        if view.worker(worker):
            command = t.drain(EP, worker, "surplus", force=True, term=DEPOSED)
            facts = {"worker": worker, "deposed": True}
            yield Action(f"drain {worker} under {DEPOSED}", "worker_drain", (command,), facts=facts)


def _on_workers(
    name: str, make: Callable[[View, str], Command[Any]]
) -> Callable[[View, Cast], Iterator[Action]]:
    def letter(view: View, cast: Cast) -> Iterator[Action]:
        for worker in cast.workers:
            if view.worker(worker):
                command = make(view, worker)
                facts = {"worker": worker, "force": name == "drain busy"}
                yield Action(f"{name} {worker}", command.script, (command,), facts=facts)

    return letter


leave = _on_workers("leave", lambda _, worker: t.leave(EP, worker, "left"))
drain = _on_workers("drain", lambda _, worker: t.drain(EP, worker, "surplus"))
drain_busy = _on_workers("drain busy", lambda _, worker: t.drain(EP, worker, "replaced", force=True))
recover = _on_workers("recover", lambda view, worker: t.recover(EP, worker, []))


def renew(view: View, cast: Cast) -> Iterator[Action]:
    """A worker's heartbeat, with everything that anybody ever held."""
    for worker in cast.workers:
        if view.worker(worker):
            jobs = [(job, fence) for job in view.jobs for fence in view.fences(job)]
            command = t.renew(EP, worker, lease_ms=LEASE_MS, jobs=jobs)
            yield Action(f"renew {worker}", "renew", (command,), facts={"worker": worker, "jobs": jobs})


def hear(view: View, cast: Cast) -> Iterator[Action]:
    """A worker reads its bell."""
    for worker in cast.workers:
        if view.rings.get(worker):
            yield Action(f"hear {worker}", "", (("DEL", keys.of("bell", worker)),), again=False)


# -- everybody's affairs -----------------------------------------------------------------------------

_REAP = t.reap(EP, lease_ms=LEASE_MS, pause_ms=0)


def _at(ms: int) -> Request:
    return ("SET", "conformance:clock", ms)


def reap(view: View, cast: Cast) -> Iterator[Action]:
    yield Action("reap", "reap", (_REAP,))


def lapse(view: View, cast: Cast) -> Iterator[Action]:
    """A unit of time, with reapers at work."""
    half = view.now_ms + UNIT_MS // 2
    steps: tuple[Step, ...] = (_at(half), _REAP, _at(view.now_ms + UNIT_MS))
    yield Action("lapse", "reap", steps, again=False, pass_ms=UNIT_MS)


def gap(view: View, cast: Cast) -> Iterator[Action]:
    """Two units of time in which nobody reaps."""
    steps: tuple[Step, ...] = (_at(view.now_ms + 2 * UNIT_MS),)
    yield Action("gap", "", steps, again=False, pass_ms=2 * UNIT_MS)


def set_back(view: View, cast: Cast) -> Iterator[Action]:
    """The broker's clock jumps back by two units (once, until reapers have noticed)."""
    far = [*dict(view.held("leases")).values(), *view.alive.values()]
    if view.seen_ms <= view.now_ms and all(until <= view.now_ms + LEASE_MS for until in far):
        steps: tuple[Step, ...] = (_at(view.now_ms - 2 * UNIT_MS),)
        yield Action("set back", "", steps, again=False, pass_ms=-2 * UNIT_MS)


def restart(view: View, cast: Cast) -> Iterator[Action]:
    yield Action("restart", "restart", (set_aside.restart(keys, EP),))


def hold(view: View, cast: Cast) -> Iterator[Action]:
    yield Action("hold", "hold", (set_aside.hold(keys, EP),))


def unhold(view: View, cast: Cast) -> Iterator[Action]:
    yield Action("unhold", "unhold", (set_aside.unhold(keys, EP),))


def pause(view: View, cast: Cast) -> Iterator[Action]:
    """Pause, and resume."""
    yield Action("pause", "pause", (t.pause(EP),))
    yield Action("resume", "resume", (t.resume(EP),))


def registration(revision: str) -> Command[Any]:
    return t.register(
        EP,
        revision=revision,
        environment="env",
        resources="res",
        spec="{}",
        scaling="{}",
        program="program",
        record=b"record",
    )


def deploy(view: View, cast: Cast) -> Iterator[Action]:
    if not view.endpoint:
        yield Action("deploy", "register", (registration("r1"),), again=False)


def undeploy(view: View, cast: Cast) -> Iterator[Action]:
    yield Action("undeploy", "undeploy", (t.undeploy(EP),))


# -- healing: nobody of before speaks again ----------------------------------------------------------


def healed_by_waiting(view: View) -> bool:
    """Whether more time will change nothing: nobody holds anything, nothing is still to come or to be let go."""
    to_come = view.in_states(frozenset({JobState.SCHEDULED})) or view.aside
    return not view.alive and not view.leased and not to_come and not view.paused and bool(view.endpoint)


def wait(view: View, cast: Cast) -> Action:
    """Time and reapers; and whoever held the endpoint up lets it go."""
    steps: list[Step] = []
    if not view.endpoint:
        steps.append(registration("r1"))
    if view.paused:
        steps.append(t.resume(EP))
    if view.aside:
        steps.append(set_aside.unhold(keys, EP))
    (lapsed,) = lapse(view, cast)
    return Action("wait", "wait", (*steps, *lapsed.steps, _REAP), again=False, pass_ms=UNIT_MS)


def work(view: View, cast: Cast) -> Action:
    """One new worker that does what it should: every job that waits is to end by it."""
    worker = cast.workers[0]
    steps: list[Step] = [("DEL", keys.of("worker", worker))]
    steps += [t.join(EP, worker, lease_ms=LEASE_MS, booked=False, fields={})]
    steps += [t.claim(EP, worker, "healer", count=9, lease_ms=LEASE_MS, start=9, holding=0, room=9)]
    for job in view.waiting:
        steps.append(t.finish(Settlement(job, view.fence(job) + 1, "finished", outcome=b"finished")))
    return Action("work", "work", tuple(steps), again=False)
