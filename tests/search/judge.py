"""What must be true of every state and of every step from one to the next (RELIABILITY's I1 to I7, and more). Pure.

Problems are words and begin with the name of what is violated:
I1 one place · I2 fences rise · I3 one result · I4 only the newest fence · I5 attempts are bounded · I6 ends stay ·
I7 a resend changes nothing · I8 healing ends all (graph.py) · answer: a command says what it did · told: whoever
watches a job learns how it ended · woken: no job waits unheard · order: a job given back keeps its place ·
room: workers are not overbooked · grace: a silence of everybody ends no lease ·
ttl: only what waited past its ttl expires · leak: nothing stays for ever
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashq.model.lifecycle import TERMINAL, WAITING, JobState
from tests.conformance import snapshot
from tests.search import answers_jobs, answers_workers
from tests.search.rules import CHANNEL, MOST_RETRIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.search.alphabet import Action
    from tests.search.bench import Tried
    from tests.search.view import View

_ANSWERS = {**answers_jobs.ANSWERS, **answers_workers.ANSWERS}


def state_problems(view: View, capacity: int) -> Iterator[str]:
    """What is wrong with a state. `capacity`: how many jobs a worker runs at once."""
    yield from snapshot.faults(view.snapshot, held=True)
    yield from (f"leak {what}" for what in snapshot.leaks(view.snapshot))
    for worker in view.alive:
        if len(view.held_by(worker)) > capacity:
            yield f"room {worker} was given {view.held_by(worker)} and runs {capacity} at once"
    listed = {name.removeprefix("rq:worker:") for name in view.held("rq_workers", "")}
    if not listed <= set(view.alive):
        yield f"leak RQ's list of workers has {listed}, alive are {set(view.alive)}"


def _job_problems(view: View, job: str, restarts: bool) -> Iterator[str]:
    fields = view.jobs[job]
    state = JobState(fields["fq_state"])
    losses, retries = view.number(job, "fq_losses"), view.number(job, "fq_retries")
    attempts = view.number(job, "fq_attempts")
    if losses > view.number(job, "fq_max_losses") or retries > MOST_RETRIES:
        yield f"I5 {job} was lost {losses} times and retried {retries} times"
    if state is JobState.FINISHED and attempts <= losses + retries:
        yield f"I5 {job} is finished after {attempts} attempts, {losses} losses and {retries} retries"
    if state in TERMINAL:
        return
    if state in WAITING and view.cancelling(job):
        yield f"answer {job} is {state} and cancelled"
    if losses >= view.number(job, "fq_max_losses"):
        yield f"I5 {job} is {state} though it was lost {losses} times"
    counted = losses + retries + (state is JobState.RUNNING)
    if attempts < counted or (attempts > counted and not restarts):
        yield f"I5 {job} is {state} with {attempts} attempts, {losses} losses and {retries} retries"
    if fields.get("fq_mode") == "at_most_once" and attempts > retries + (state is JobState.RUNNING):
        yield f"I5 {job} may run once, is {state}, and has {attempts} attempts"


def step_problems(
    action: Action, tried: Tried, before: View, after: View, *, restarts: bool = False
) -> Iterator[str]:
    """What is wrong with what an action did. `restarts`: there may have been some, whose runs are counted as attempts
    only."""
    if action.facts.get("deposed"):
        yield from _deposed(action, tried, before, after)
        return
    if tried.error:
        yield f"answer an error: {tried.error}"
        return
    for job in after.jobs:
        if after.jobs[job] != before.jobs.get(job):
            yield from _job_problems(after, job, restarts)
    if action.script not in ("work", "wait"):
        if "expired" not in action.facts:
            yield from snapshot.missteps(action.script, before.snapshot, after.snapshot)
        yield from _told(tried, before, after)
        yield from _stored(before, after)
        yield from _expired(action, before, after)
        yield from _woken(tried, before, after)
    check = _ANSWERS.get(action.script)
    if check is not None:
        yield from check(action, tried.answer, before, after)


def again_problems(action: Action, after: View, twice: View) -> Iterator[str]:
    """What is wrong with the second time."""
    first, second = snapshot.lasting(after.snapshot), snapshot.lasting(twice.snapshot)
    for key in sorted(first.keys() | second.keys()):
        if first.get(key) != second.get(key):
            yield f"I7 sent again, {action.label} changed {key}: {first.get(key)} → {second.get(key)}"


# -- whatever was done -------------------------------------------------------------------------------


def _deposed(action: Action, tried: Tried, before: View, after: View) -> Iterator[str]:
    """Who led before changes nothing any more (it is noted in the leader's record)."""
    if not tried.error.startswith("DEPOSED"):
        yield f"I4 {action.label} was answered {tried.error or tried.answer}"
    was, is_ = before.snapshot, after.snapshot
    for key in was.keys() | is_.keys():
        if was.get(key) != is_.get(key) and key != "rq:fq:leader":
            yield f"I4 {action.label} changed {key}"


def _told(tried: Tried, before: View, after: View) -> Iterator[str]:
    told = [tuple(message.split("\n")[:3]) for message in tried.told]
    due = []
    for job, fields in after.jobs.items():
        ended = after.state(job) in TERMINAL and before.state(job) not in TERMINAL and job in before.jobs
        if ended and CHANNEL in fields.get("fq_watch", "").split(","):
            due.append((job, fields["fq_state"], fields.get("fq_fence", "0")))
    if sorted(told) != sorted(due):
        yield f"told {told}, and what ended is {due}"
    if tried.told_again:
        yield f"I7 sent again, it told {tried.told_again}"


def _stored(before: View, after: View) -> Iterator[str]:
    """One result for each end, cancelled jobs aside."""
    for job in after.jobs:
        ended = after.state(job) in TERMINAL and before.state(job) not in TERMINAL
        due = ended and after.state(job) is not JobState.CANCELLED
        was, is_ = before.held("results", job) or 0, after.held("results", job) or 0
        if is_ != min(was + due, 10):
            yield f"I3 {job} is {after.state(job)} and had {was} results, now {is_}"


def _expired(action: Action, before: View, after: View) -> Iterator[str]:
    """Only what is past its ttl and never began expires by itself."""
    for job in before.jobs if action.script in ("reap", "claim", "advance", "submit") else ():
        if after.state(job) is not JobState.TIMED_OUT or before.state(job) in TERMINAL:
            continue
        if before.jobs[job].get("fq_began") or not 0 < before.number(job, "fq_ttl_at") <= after.now_ms:
            yield f"ttl {action.label} let {job} expire"


def _woken(tried: Tried, before: View, after: View) -> Iterator[str]:
    """Who could run a job that begins to wait has to hear of it."""
    new = [job for job in after.jobs if after.state(job) is JobState.QUEUED]
    new = [job for job in new if before.state(job) is not JobState.QUEUED or before.paused]
    rung = any(len(rings) > len(before.rings.get(worker, ())) for worker, rings in after.rings.items())
    if new and not rung and not tried.woken and not after.paused:
        yield f"woken was nobody for {new}"
