"""What a command about jobs has to answer, and to have done (see judge.py). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flashq.model.lifecycle import LEASED, TERMINAL, WAITING, JobState
from tests.conformance import snapshot
from tests.search.view import finished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.search.alphabet import Action, Submission
    from tests.search.view import View


def expect(what: str, said: Any, expected: Any) -> Iterator[str]:
    if said != expected:
        yield f"answer {what} said {said!r}, not {expected!r}"


def unchanged(why: str, job: str, before: View, after: View) -> Iterator[str]:
    if before.jobs.get(job) != after.jobs.get(job):
        yield f"I4 {why} changed {job}: {before.jobs.get(job)} → {after.jobs.get(job)}"


def _submit(action: Action, answer: Any, before: View, after: View) -> Iterator[str]:
    job, how = action.facts["job"], action.facts["how"]
    if job in before.jobs:
        yield from expect(action.label, answer.verdict, "dup")
        return
    verdict, detail = _due_answer(how, before)
    yield from expect(action.label, (answer.verdict, answer.detail if detail else ""), (verdict, detail))
    if verdict == "ok" and job in after.jobs:
        due = before.now_ms + how.terms.get("delay_ms", 0) + how.terms.get("ttl_ms", 0)
        if "ttl_ms" in how.terms and after.number(job, "fq_ttl_at") != due:
            yield f"ttl {action.label} may begin until {after.number(job, 'fq_ttl_at')}, not {due}"
    if (job in after.jobs) != (verdict == "ok"):
        yield f"I1 {action.label} was answered {answer.verdict}, and the job is {after.state(job)}"


def _due_answer(how: Submission, before: View) -> tuple[str, str]:
    """What a new job's submit has to be told: verdict, and the job that its key stands for."""
    if not before.endpoint:
        return "unregistered", ""
    if key := how.terms.get("idempotency_key"):
        stands_for, _, rest = (before.key(key) or "").partition(" ")
        state = before.state(stands_for)
        gone = state is None and finished(stands_for) not in before.used
        free = gone or state in TERMINAL - {JobState.FINISHED}
        if stands_for and not free:
            same = rest.removesuffix(" done") == " ".join(how.terms["stands_for"])
            return ("conflict" if not same else "spent" if state is None else "hit"), stands_for
    bound = how.terms.get("most_waiting", 0)
    waiting = [job for job in before.waiting if job not in before.aside]
    return ("full", "") if bound and len(waiting) >= bound else ("ok", "")


def _start(action: Action, answer: str, before: View, after: View) -> Iterator[str]:
    job, fence, worker = action.facts["lease"]
    if not before.live(job, fence, worker):
        yield from expect(action.label, answer, "stale")
        yield from unchanged(action.label, job, before, after)
    else:
        yield from expect(action.label, answer, "cancel" if before.cancelling(job) else "ok")
        if after.state(job) is not JobState.RUNNING:
            yield f"answer {action.label} said {answer}, and it is {after.state(job)}"


def _finish(action: Action, answer: str, before: View, after: View) -> Iterator[str]:
    job, fence, worker = action.facts["lease"]
    yield from settled(action.label, job, fence, worker, answer, before, after)
    if not before.live(job, fence, worker):
        yield from unchanged(action.label, job, before, after)


def settled(
    label: str, job: str, fence: int, worker: str, answer: str, before: View, after: View
) -> Iterator[str]:
    if before.live(job, fence, worker):
        yield from expect(label, answer, "ok")
        if after.live(job, fence):
            yield f"answer {label} said {answer}, and its lease goes on"
    else:
        yield from expect(label, answer, "ok" if before.settled(job, fence, worker) else "stale")


def _release(action: Action, answer: str, before: View, after: View) -> Iterator[str]:
    job, fence, worker = action.facts["lease"]
    if not before.live(job, fence, worker):
        yield from unchanged(action.label, job, before, after)
        return
    said = {JobState.QUEUED: "ok", JobState.CANCELLED: "cancelled", JobState.FAILED: "failed"}
    yield from expect(action.label, answer, said.get(after.state(job) or JobState.RUNNING))
    entered = before.state(job) is JobState.RUNNING and not action.facts["unbegun"]
    if entered and before.jobs[job].get("fq_mode") == "at_most_once" and after.state(job) in WAITING:
        yield f"I5 {action.label}: what may run once, and ran, waits again"
    yield from _given_back(action.label, job, before, after)


def _crash(action: Action, answer: str, before: View, after: View) -> Iterator[str]:
    job, fence, worker = action.facts["lease"]
    if not before.live(job, fence, worker):
        yield from unchanged(action.label, job, before, after)
        return
    yield from expect(action.label, answer, after.state(job))
    yield from _given_back(action.label, job, before, after)
    ran = before.state(job) is JobState.RUNNING
    if after.number(job, "fq_losses") - before.number(job, "fq_losses") != (
        ran and not before.cancelling(job)
    ):
        yield f"I5 {action.label} of a job that {'ran' if ran else 'had not begun'} was not counted right"


def _given_back(label: str, job: str, before: View, after: View) -> Iterator[str]:
    if before.cancelling(job) and after.state(job) is not JobState.CANCELLED:
        yield f"answer {label}: a cancelled job is {after.state(job)}"
    if after.state(job) is JobState.QUEUED and after.queue(after.jobs[job]["origin"])[0] != job:
        yield f"order {label}: it stands in {after.queue(after.jobs[job]['origin'])}"


def _cancel(action: Action, answer: str, before: View, after: View) -> Iterator[str]:
    job = action.facts["job"]
    state = before.state(job)
    assert state is not None
    if state in TERMINAL:
        yield from expect(action.label, answer, state)
    elif state in LEASED:
        yield from expect(action.label, answer, "requested")
        if not after.cancelling(job):
            yield f"answer {action.label}: nothing asks for its end"
        worker = after.jobs[job].get("worker_name", "")
        if worker in after.alive and f"cancel:{job}" not in after.rings.get(worker, ()):
            yield f"woken {worker} is not told to stop {job}"
    else:
        yield from expect(action.label, answer, "cancelled")


def _requeue(action: Action, answer: str, before: View, after: View) -> Iterator[str]:
    job = action.facts["job"]
    state = before.state(job)
    if state in TERMINAL and state is not JobState.FINISHED:
        yield from expect(action.label, answer, "ok")
        if after.number(job, "fq_gen") != before.number(job, "fq_gen") + 1:
            yield f"I6 {action.label} opened no new generation"
        if after.number(job, "fq_attempts"):
            yield f"I5 {action.label}: the new generation has attempts"
        if after.cancelling(job):
            yield f"answer {action.label}: the new generation is cancelled"
    else:
        yield from expect(action.label, answer, state)


def _delete(action: Action, answer: str, before: View, after: View) -> Iterator[str]:
    if "expired" in action.facts:
        return
    job = action.facts["job"]
    ended = before.state(job) in TERMINAL
    yield from expect(action.label, answer, "ok" if ended else before.state(job))
    left = [key for key in after.snapshot if job in key] if ended else []
    if left or (ended and snapshot.places(after.snapshot, job)):
        yield f"leak {action.label} left {left} {snapshot.places(after.snapshot, job)}"


def _requeue_failed(action: Action, answer: tuple[int, int], before: View, after: View) -> Iterator[str]:
    failed = before.in_states(frozenset({JobState.FAILED, JobState.TIMED_OUT}))
    yield from expect(action.label, answer[1], len(failed))
    yield from (
        f"answer {action.label} left {job}" for job in failed if after.state(job) is not JobState.QUEUED
    )


def _purge_failed(action: Action, answer: tuple[int, int], before: View, after: View) -> Iterator[str]:
    failed = before.in_states(frozenset({JobState.FAILED, JobState.TIMED_OUT}))
    yield from expect(action.label, answer[1], len(failed))
    yield from (
        f"leak {action.label} left {job}" for job in failed if any(job in key for key in after.snapshot)
    )


def _watch(action: Action, answer: Any, before: View, after: View) -> Iterator[str]:
    for job, row in zip(action.facts["jobs"], answer, strict=True):
        yield from expect(f"watch {job}", row.state, before.state(job))
        yield from unchanged("watch", job, before, after)


def _purge(action: Action, answer: int, before: View, after: View) -> Iterator[str]:
    yield from expect(action.label, answer, len(before.waiting))
    yield from (
        f"answer purge left {job}" for job in before.waiting if after.state(job) is not JobState.CANCELLED
    )


def _unhold(action: Action, answer: tuple[int, int], before: View, after: View) -> Iterator[str]:
    if not before.endpoint:
        return
    if after.aside:
        yield f"I1 unhold left {after.aside}"
    for queue in before.queues:
        ahead = [job for job in before.queue("embed--held") if before.jobs[job]["origin"] == queue]
        if after.queue(queue) != [*ahead, *before.queue(queue)]:
            yield f"order unhold put {ahead} into {after.queue(queue)}"


def _undeploy(action: Action, answer: str, before: View, after: View) -> Iterator[str]:
    busy = bool(before.leased) or any(job not in before.aside for job in before.waiting)
    yield from expect(action.label, answer, "unknown" if not before.endpoint else "busy" if busy else "ok")


ANSWERS: dict[str, Callable[[Action, Any, View, View], Iterator[str]]] = {
    "submit": _submit,
    "start": _start,
    "finish": _finish,
    "release": _release,
    "crash": _crash,
    "cancel": _cancel,
    "requeue": _requeue,
    "delete": _delete,
    "requeue_failed": _requeue_failed,
    "purge_failed": _purge_failed,
    "watch": _watch,
    "purge": _purge,
    "undeploy": _undeploy,
    "unhold": _unhold,
}
