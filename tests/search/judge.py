"""What must be true of every state and of every step from one to the next (RELIABILITY's I1 to I7, and more). Pure.

Problems are words and begin with the name of what is violated:
I1 one place · I2 fences rise · I3 one result · I4 only the newest fence · I5 attempts are bounded · I6 ends stay ·
I7 a resend changes nothing · I8 healing ends all (graph.py) · answer: a command says what it did · told: whoever
watches a job learns how it ended · woken: no job waits unheard · order: a job given back keeps its place ·
room: workers are not overbooked · grace: a silence of everybody ends no lease ·
ttl: only what waited past its ttl expires · leak: nothing stays for ever
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flashq.model.lifecycle import LEASED, TERMINAL, WAITING, JobState
from tests.conformance import snapshot
from tests.search.rules import CHANNEL, LEASE_MS, MOST_AWAY_MS, MOST_RETRIES
from tests.search.view import finished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.search.alphabet import Action, Submission
    from tests.search.bench import Tried
    from tests.search.view import View


def state_problems(view: View, capacity: int, *, restarts: bool = False) -> Iterator[str]:
    """What is wrong with a state. `capacity`: how many jobs a worker runs at once; `restarts`: there may have been
    some, whose runs are counted as attempts only."""
    yield from snapshot.faults(view.snapshot, held=True)
    yield from (f"leak {what}" for what in snapshot.leaks(view.snapshot))
    for worker in view.alive:
        if len(view.held_by(worker)) > capacity:
            yield f"room {worker} was given {view.held_by(worker)} and runs {capacity} at once"
    listed = {name.removeprefix("rq:worker:") for name in view.held("rq_workers", "")}
    if not listed <= set(view.alive):
        yield f"leak RQ's list of workers has {listed}, alive are {set(view.alive)}"
    for job in view.jobs:
        yield from _job_problems(view, job, restarts)


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


def step_problems(action: Action, tried: Tried, before: View, after: View) -> Iterator[str]:
    """What is wrong with what an action did."""
    if action.facts.get("deposed"):
        yield from _deposed(action, tried, before, after)
        return
    if tried.error:
        yield f"answer an error: {tried.error}"
        return
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


# -- answers -----------------------------------------------------------------------------------------


def _expect(what: str, said: Any, expected: Any) -> Iterator[str]:
    if said != expected:
        yield f"answer {what} said {said!r}, not {expected!r}"


def _unchanged(why: str, job: str, before: View, after: View) -> Iterator[str]:
    if before.jobs.get(job) != after.jobs.get(job):
        yield f"I4 {why} changed {job}: {before.jobs.get(job)} → {after.jobs.get(job)}"


def _submit(action: Action, answer: Any, before: View, after: View) -> Iterator[str]:
    job, how = action.facts["job"], action.facts["how"]
    if job in before.jobs:
        yield from _expect(action.label, answer.verdict, "dup")
        return
    verdict, detail = _due_answer(how, before)
    yield from _expect(action.label, (answer.verdict, answer.detail if detail else ""), (verdict, detail))
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
        yield from _expect(action.label, answer, "stale")
        yield from _unchanged(action.label, job, before, after)
    else:
        yield from _expect(action.label, answer, "cancel" if before.cancelling(job) else "ok")
        if after.state(job) is not JobState.RUNNING:
            yield f"answer {action.label} said {answer}, and it is {after.state(job)}"


def _finish(action: Action, answer: str, before: View, after: View) -> Iterator[str]:
    job, fence, worker = action.facts["lease"]
    yield from _settled(action.label, job, fence, worker, answer, before, after)
    if not before.live(job, fence, worker):
        yield from _unchanged(action.label, job, before, after)


def _settled(
    label: str, job: str, fence: int, worker: str, answer: str, before: View, after: View
) -> Iterator[str]:
    if before.live(job, fence, worker):
        yield from _expect(label, answer, "ok")
        if after.live(job, fence):
            yield f"answer {label} said {answer}, and its lease goes on"
    else:
        yield from _expect(label, answer, "ok" if before.settled(job, fence, worker) else "stale")


def _release(action: Action, answer: str, before: View, after: View) -> Iterator[str]:
    job, fence, worker = action.facts["lease"]
    if not before.live(job, fence, worker):
        yield from _unchanged(action.label, job, before, after)
        return
    said = {JobState.QUEUED: "ok", JobState.CANCELLED: "cancelled", JobState.FAILED: "failed"}
    yield from _expect(action.label, answer, said.get(after.state(job) or JobState.RUNNING))
    entered = before.state(job) is JobState.RUNNING and not action.facts["unbegun"]
    if entered and before.jobs[job].get("fq_mode") == "at_most_once" and after.state(job) in WAITING:
        yield f"I5 {action.label}: what may run once, and ran, waits again"
    yield from _given_back(action.label, job, before, after)


def _crash(action: Action, answer: str, before: View, after: View) -> Iterator[str]:
    job, fence, worker = action.facts["lease"]
    if not before.live(job, fence, worker):
        yield from _unchanged(action.label, job, before, after)
        return
    yield from _expect(action.label, answer, after.state(job))
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
        yield from _expect(action.label, answer, state)
    elif state in LEASED:
        yield from _expect(action.label, answer, "requested")
        if not after.cancelling(job):
            yield f"answer {action.label}: nothing asks for its end"
        worker = after.jobs[job].get("worker_name", "")
        if worker in after.alive and f"cancel:{job}" not in after.rings.get(worker, ()):
            yield f"woken {worker} is not told to stop {job}"
    else:
        yield from _expect(action.label, answer, "cancelled")


def _requeue(action: Action, answer: str, before: View, after: View) -> Iterator[str]:
    job = action.facts["job"]
    state = before.state(job)
    if state in TERMINAL and state is not JobState.FINISHED:
        yield from _expect(action.label, answer, "ok")
        if after.number(job, "fq_gen") != before.number(job, "fq_gen") + 1:
            yield f"I6 {action.label} opened no new generation"
        if after.number(job, "fq_attempts"):
            yield f"I5 {action.label}: the new generation has attempts"
        if after.cancelling(job):
            yield f"answer {action.label}: the new generation is cancelled"
    else:
        yield from _expect(action.label, answer, state)


def _delete(action: Action, answer: str, before: View, after: View) -> Iterator[str]:
    if "expired" in action.facts:
        return
    job = action.facts["job"]
    ended = before.state(job) in TERMINAL
    yield from _expect(action.label, answer, "ok" if ended else before.state(job))
    left = [key for key in after.snapshot if job in key] if ended else []
    if left or (ended and snapshot.places(after.snapshot, job)):
        yield f"leak {action.label} left {left} {snapshot.places(after.snapshot, job)}"


def _requeue_failed(action: Action, answer: tuple[int, int], before: View, after: View) -> Iterator[str]:
    failed = before.in_states(frozenset({JobState.FAILED, JobState.TIMED_OUT}))
    yield from _expect(action.label, answer[1], len(failed))
    yield from (
        f"answer {action.label} left {job}" for job in failed if after.state(job) is not JobState.QUEUED
    )


def _purge_failed(action: Action, answer: tuple[int, int], before: View, after: View) -> Iterator[str]:
    failed = before.in_states(frozenset({JobState.FAILED, JobState.TIMED_OUT}))
    yield from _expect(action.label, answer[1], len(failed))
    yield from (
        f"leak {action.label} left {job}" for job in failed if any(job in key for key in after.snapshot)
    )


def _watch(action: Action, answer: Any, before: View, after: View) -> Iterator[str]:
    for job, row in zip(action.facts["jobs"], answer, strict=True):
        yield from _expect(f"watch {job}", row.state, before.state(job))
        yield from _unchanged("watch", job, before, after)


def _purge(action: Action, answer: int, before: View, after: View) -> Iterator[str]:
    due = [job for job in before.waiting if job not in before.aside]
    yield from _expect(action.label, answer, len(due))
    yield from (f"answer purge left {job}" for job in due if after.state(job) is not JobState.CANCELLED)


def _claim(action: Action, answer: Any, before: View, after: View) -> Iterator[str]:
    worker = action.facts["worker"]
    draining = before.worker(worker).get("fq_drain") == "1" or not before.endpoint
    if before.closed(worker):
        yield from _expect(action.label, answer.verdict, "gone")
    elif not action.facts.get("resent"):
        asked = action.facts["count"] > 0
        if draining or not asked:
            yield from _expect(action.label, answer.verdict, "drain" if draining else "ok")
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
        yield from _settled(f"{action.label}: finish {job}", job, fence, worker, said, before, after)
    for (job, fence), said in zip(action.facts["began"], answer.started, strict=True):
        live = before.live(job, fence, worker)
        expected = "stale" if not live else "cancel" if before.cancelling(job) else "ok"
        yield from _expect(f"{action.label}: start {job}", said, expected)
        ended = (job, fence) in action.facts["done"]
        if live and not ended and after.state(job) is not JobState.RUNNING:
            yield f"answer {action.label}: {job} began, and is {after.state(job)}"
        ran = after.number(job, "fq_attempts") - before.number(job, "fq_attempts")
        if live and ended and before.state(job) is JobState.CLAIMED and ran != 1:
            yield f"I5 {action.label}: the run of {job} is not counted"


def _renew(action: Action, answer: Any, before: View, after: View) -> Iterator[str]:
    worker = action.facts["worker"]
    if before.closed(worker):
        yield from _expect(action.label, answer.verdict, "gone")
        if before.held("leases") != after.held("leases"):
            yield f"I4 {action.label}: leases of a lost worker were renewed"
        return
    draining = before.worker(worker).get("fq_drain") == "1"
    yield from _expect(action.label, answer.verdict, "drain" if draining else "ok")
    if worker in before.alive and after.alive[worker] <= after.now_ms:
        yield f"answer {action.label} said ok, and it is about to be lost"
    for (job, fence), said in zip(action.facts["jobs"], answer.jobs, strict=True):
        live = before.live(job, fence, worker)
        expected = "lost" if not live else "cancel" if before.cancelling(job) else "ok"
        yield from _expect(f"{action.label} {job}:{fence}", said, expected)
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
        yield from _expect(action.label, answer, "unknown")
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
    yield from _expect(action.label, given, mine)


def _restart(action: Action, answer: int, before: View, after: View) -> Iterator[str]:
    yield from _expect(action.label, answer, len(before.leased))
    if after.leased or after.alive:
        yield f"answer restart left {after.leased} leased and {set(after.alive)} alive"
    for job in before.leased:
        if after.number(job, "fq_losses") > before.number(job, "fq_losses") and after.state(job) in WAITING:
            yield f"I5 restart counted a loss of {job}"


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


def _unhold(action: Action, answer: tuple[int, int], before: View, after: View) -> Iterator[str]:
    if not before.endpoint:
        return
    if after.aside:
        yield f"I1 unhold left {after.aside}"
    for queue in before.queues:
        ahead = [job for job in before.queue("embed--held") if before.jobs[job]["origin"] == queue]
        if after.queue(queue) != [*ahead, *before.queue(queue)]:
            yield f"order unhold put {ahead} into {after.queue(queue)}"


def _join(action: Action, answer: Any, before: View, after: View) -> Iterator[str]:
    worker = action.facts["worker"]
    expected = "gone" if action.facts.get("late") else "ok" if before.endpoint else "unknown"
    yield from _expect(action.label, answer.verdict, expected)
    if (worker in after.alive) != (answer.verdict == "ok"):
        yield f"answer {action.label} said {answer.verdict}, and alive are {set(after.alive)}"


def _undeploy(action: Action, answer: str, before: View, after: View) -> Iterator[str]:
    busy = bool(before.leased) or any(job not in before.aside for job in before.waiting)
    yield from _expect(action.label, answer, "unknown" if not before.endpoint else "busy" if busy else "ok")


def _work(action: Action, answer: Any, before: View, after: View) -> Iterator[str]:
    yield from (
        f"I8 after healing {job} is {after.state(job)}"
        for job in after.jobs
        if after.state(job) not in TERMINAL
    )


_ANSWERS: dict[str, Callable[[Action, Any, View, View], Iterator[str]]] = {
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
    "claim": _claim,
    "advance": _advance,
    "renew": _renew,
    "worker_drain": _drain,
    "worker_order": _order,
    "worker_leave": _leave,
    "recover": _recover,
    "restart": _restart,
    "reap": _reap,
    "undeploy": _undeploy,
    "unhold": _unhold,
    "worker_join": _join,
    "work": _work,
}
