"""What a command of workers, reapers and autoscalers has to answer, and to have done (see judge.py). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flashq.model.lifecycle import LEASED, TERMINAL, WAITING, JobState
from tests.search.answers_jobs import expect, settled
from tests.search.rules import LEASE_MS, MOST_AWAY_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.search.alphabet import Action
    from tests.search.view import View


def _claim(action: Action, answer: Any, before: View, after: View) -> Iterator[str]:
    worker = action.facts["worker"]
    draining = before.worker(worker).get("fq_drain") == "1" or not before.endpoint
    if before.closed(worker):
        yield from expect(action.label, answer.verdict, "gone")
    elif not action.facts.get("resent"):
        asked = action.facts["count"] > 0
        if draining or not asked:
            yield from expect(action.label, answer.verdict, "drain" if draining else "ok")
    yield from _claimed(action.label, worker, answer, before, after)
    if action.facts.get("resent"):
        yield from (f"I7 {action.label} took {job}" for job in after.leased if job not in before.leased)
        return
    if before.closed(worker) or draining or before.paused:
        yield from (f"room {action.label} got {row.job}" for row in answer.jobs)
        return
    ready = _ready(before)
    got = [row.job for row in answer.jobs]
    if got != ready[: action.facts["count"]]:
        yield f"order {action.label} got {got} of {ready}"


def _ready(view: View) -> list[str]:
    """Which jobs a claim may take, in their order (queues of one rank: the oldest first)."""
    ranks: dict[str, float] = dict(view.held("endpoint_queues"))
    found: list[str] = []
    for rank in sorted(set(ranks.values()), reverse=True):
        lines = [view.queue(name) for name in ranks if ranks[name] == rank]
        while any(lines):
            line = min(
                (line for line in lines if line), key=lambda line: int(view.jobs[line[0]]["fq_enqueued"])
            )
            job = line.pop(0)
            fields = view.jobs[job]
            ttl_at = view.number(job, "fq_ttl_at")
            if not (0 < ttl_at <= view.now_ms and not fields.get("fq_began")):
                found.append(job)
    return found


def _claimed(label: str, worker: str, answer: Any, before: View, after: View) -> Iterator[str]:
    for row in answer.jobs:
        if not after.live(row.job, row.fence):
            yield f"I4 {label} was given {row.job}:{row.fence}, which is not the lease"
            continue
        if after.jobs[row.job].get("worker_name") != worker:
            yield f"I4 {label} was given {row.job}, which {after.jobs[row.job].get('worker_name')} holds"
        running = after.state(row.job) is JobState.RUNNING
        if row.attempt != after.number(row.job, "fq_attempts") + (not running):
            yield f"I5 {label} was told that this is attempt {row.attempt} of {row.job}"
        if row.losses != after.number(row.job, "fq_losses") or row.retries_used != after.number(
            row.job, "fq_retries"
        ):
            yield f"I5 {label} was told of {row.losses} losses and {row.retries_used} retries of {row.job}"
    given = {row.job for row in answer.jobs}
    for job in after.leased:
        if after.fence(job) != before.fence(job) and job not in given:
            yield f"answer {label} took {job} and did not say so"


def _advance(action: Action, answer: Any, before: View, after: View) -> Iterator[str]:
    yield from _claimed(action.label, action.facts["worker"], answer.claim, before, after)
    if len(answer.claim.jobs) > action.facts["count"]:
        yield f"room {action.label} got {len(answer.claim.jobs)} jobs"
    worker = action.facts["worker"]
    for (job, fence), said in zip(action.facts["done"], answer.finished, strict=True):
        yield from settled(f"{action.label}: finish {job}", job, fence, worker, said, before, after)
    for (job, fence), said in zip(action.facts["began"], answer.started, strict=True):
        live = before.live(job, fence, worker)
        expected = "stale" if not live else "cancel" if before.cancelling(job) else "ok"
        yield from expect(f"{action.label}: start {job}", said, expected)
        ended = (job, fence) in action.facts["done"]
        if live and not ended and after.state(job) is not JobState.RUNNING:
            yield f"answer {action.label}: {job} began, and is {after.state(job)}"
        ran = after.number(job, "fq_attempts") - before.number(job, "fq_attempts")
        if live and ended and before.state(job) is JobState.CLAIMED and ran != 1:
            yield f"I5 {action.label}: the run of {job} is not counted"


def _renew(action: Action, answer: Any, before: View, after: View) -> Iterator[str]:
    worker = action.facts["worker"]
    if before.closed(worker):
        yield from expect(action.label, answer.verdict, "gone")
        if before.held("leases") != after.held("leases"):
            yield f"I4 {action.label}: leases of a lost worker were renewed"
        return
    draining = before.worker(worker).get("fq_drain") == "1"
    yield from expect(action.label, answer.verdict, "drain" if draining else "ok")
    if worker in before.alive and after.alive[worker] <= after.now_ms:
        yield f"answer {action.label} said ok, and it is about to be lost"
    for (job, fence), said in zip(action.facts["jobs"], answer.jobs, strict=True):
        live = before.live(job, fence, worker)
        expected = "lost" if not live else "cancel" if before.cancelling(job) else "ok"
        yield from expect(f"{action.label} {job}:{fence}", said, expected)
        if live and dict(after.held("leases"))[job] <= after.now_ms:
            yield f"answer {action.label} said {said}, and the lease of {job} is over"
    leases = dict(before.held("leases"))
    for job, until in dict(after.held("leases")).items():
        if leases.get(job) != until and not before.live(job, before.fence(job), worker):
            yield f"I4 {action.label} renewed the lease of {job}"


def _drain(action: Action, answer: str, before: View, after: View) -> Iterator[str]:
    worker = action.facts["worker"]
    draining = after.worker(worker).get("fq_drain") == "1"
    if before.closed(worker):
        yield from expect(action.label, answer, "unknown")
    elif answer == "ok":
        idle = before.worker(worker).get("fq_jobs", "0") == "0"
        if not idle and not action.facts["force"] and before.worker(worker).get("fq_drain") != "1":
            yield f"answer {action.label} said ok, and it is busy"
        if not draining or worker in after.held("idle"):
            yield f"answer {action.label} said ok, and it goes on"
    elif draining:
        yield f"answer {action.label} said {answer}, and it drains"


def _order(action: Action, answer: str, before: View, after: View) -> Iterator[str]:
    if answer == "ok" and len(after.alive) > action.facts["most"]:
        yield f"room {action.label}: {len(after.alive)} workers, at most {action.facts['most']}"
    if answer == "full" and len(before.alive) < action.facts["most"]:
        yield f"answer {action.label} said full with {len(before.alive)} workers"


def _leave(action: Action, answer: int, before: View, after: View) -> Iterator[str]:
    worker = action.facts["worker"]
    if worker in after.alive:
        yield f"answer {action.label}: it is still there"
    if worker in before.alive:
        yield from (f"I8 {action.label}: it still holds {job}" for job in after.held_by(worker))


def _recover(action: Action, answer: Any, before: View, after: View) -> Iterator[str]:
    worker = action.facts["worker"]
    given = sorted((row.job, row.fence) for row in answer.jobs)
    mine = sorted((job, before.fence(job)) for job in before.held_by(worker))
    yield from expect(action.label, given, mine)


def _reap(action: Action, answer: Any, before: View, after: View) -> Iterator[str]:
    """What was to be done by the last time anybody reaped is done, unless everybody was away."""
    if before.seen_ms and after.now_ms - before.seen_ms > MOST_AWAY_MS and not action.pass_ms:
        spared = [job for job in before.leased if after.state(job) not in LEASED]
        yield from (f"grace {action.label} after a silence of everybody took {job}" for job in spared)
    if after.now_ms < before.seen_ms - 1000 and not action.pass_ms:
        far = [*dict(after.held("leases")).items(), *after.alive.items()]
        yield from (
            f"I8 after {action.label} {name} is safe for long"
            for name, until in far
            if until > after.now_ms + 2 * LEASE_MS
        )
    clock = after.held("clock") or {}
    if not clock or int(dict(clock).get("spared", 0)) > after.now_ms or action.pass_ms:
        return
    yield from (
        f"I8 reap left the lease of {job}"
        for job, until in dict(after.held("leases")).items()
        if until <= after.now_ms
    )
    yield from (f"I8 reap left {worker}" for worker, until in after.alive.items() if until <= after.now_ms)
    for job in after.waiting:
        fields = after.jobs[job]
        timed = fields.get("fq_timed") == "1" and not fields.get("fq_began") and job not in after.aside
        if timed and int(fields["fq_ttl_at"]) <= after.now_ms:
            yield f"I8 reap left {job}, which is past its ttl"


def _join(action: Action, answer: Any, before: View, after: View) -> Iterator[str]:
    worker = action.facts["worker"]
    expected = "gone" if action.facts.get("late") else "ok" if before.endpoint else "unknown"
    yield from expect(action.label, answer.verdict, expected)
    if (worker in after.alive) != (answer.verdict == "ok"):
        yield f"answer {action.label} said {answer.verdict}, and alive are {set(after.alive)}"


def _work(action: Action, answer: Any, before: View, after: View) -> Iterator[str]:
    yield from (
        f"I8 after healing {job} is {after.state(job)}"
        for job in after.jobs
        if after.state(job) not in TERMINAL
    )


def _restart(action: Action, answer: int, before: View, after: View) -> Iterator[str]:
    yield from expect(action.label, answer, len(before.leased))
    if after.leased or after.alive:
        yield f"answer restart left {after.leased} leased and {set(after.alive)} alive"
    for job in before.leased:
        if after.number(job, "fq_losses") > before.number(job, "fq_losses") and after.state(job) in WAITING:
            yield f"I5 restart counted a loss of {job}"


ANSWERS: dict[str, Callable[[Action, Any, View, View], Iterator[str]]] = {
    "claim": _claim,
    "advance": _advance,
    "renew": _renew,
    "worker_drain": _drain,
    "worker_order": _order,
    "worker_leave": _leave,
    "recover": _recover,
    "restart": _restart,
    "reap": _reap,
    "worker_join": _join,
    "work": _work,
}
