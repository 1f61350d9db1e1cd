"""Everything a broker holds at one instant, and what must be true of it at every instant.

The checks know RQ's data model, the states of flashq/model/lifecycle.py and the key names of flashq/store/keys.py,
and nothing of the scripts: they judge what the scripts left behind.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flashq.model.lifecycle import LEASED, RQ_STATUS, TERMINAL, TRANSITIONS, WAITING, JobState
from flashq.store.keys import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = "rq:"

#: Hints, histories and the tests' own clock: sending a command again may add to them.
VOLATILE = ("events", "endpoint_events", "wake", "bell")

#: Kinds of keys that stay for as long as there is something in them. Everything else has to expire.
PERMANENT = frozenset(
    "queues queue wip finished failed scheduled canceled rq_workers queue_workers epoch endpoints endpoint"
    " endpoint_queues leases ttls idle endpoint_workers stats clock parked leader wake events endpoint_events"
    " hosts gpus".split()
)

#: What a script may do to one job, as stages of transitions: at most one of each stage, in this order.
CARRIES: dict[str, tuple[tuple[str, ...], ...]] = {
    "submit": (("submit", "requeue", "promote"), ("claim", "expire", "cancel", "refuse")),
    "claim": (("requeue", "promote"), ("claim", "expire", "cancel", "refuse")),
    "start": (("start",),),
    "finish": (("finish",),),
    "advance": (("start",), ("finish",), ("requeue", "promote"), ("claim", "expire", "cancel", "refuse")),
    "release": (("release",),),
    "crash": (("lose",),),
    "worker_leave": (("lose",),),
    "restart": (("lose", "release"),),
    "reap": (("lose",), ("promote", "expire", "cancel")),
    "cancel": (("cancel",),),
    "purge": (("requeue",), ("cancel",)),
    "watch": (("cancel",),),
    "requeue": (("requeue",),),
    "fail_waiting": (("fail_waiting",),),
    "requeue_failed": (("requeue",),),
}


@dataclass(frozen=True, slots=True)
class Stored:
    """One key: its type, what it holds (text; a stream: how many entries) and whether it will expire."""

    type: str
    value: Any
    expires: bool


Snapshot = dict[str, Stored]
Job = dict[str, str]


def take(redis: Any) -> Snapshot:
    """Everything a broker holds, read through a redis-py client."""
    keys = sorted(redis.keys("*"))
    pipe = redis.pipeline(transaction=False)
    for key in keys:
        pipe.type(key)
        pipe.pttl(key)
    replies = pipe.execute()
    types = [text(t) for t in replies[::2]]
    for key, type_ in zip(keys, types, strict=True):
        _read(pipe, key, type_)
    values = pipe.execute()
    rows = zip(keys, types, replies[1::2], values, strict=True)
    return {
        text(key): Stored(type_, _readable(value), pttl >= 0)
        for key, type_, pttl, value in rows
        if type_ != "none"  # gone since the keys were listed
    }


def _read(pipe: Any, key: bytes, type_: str) -> None:
    match type_:
        case "hash":
            pipe.hgetall(key)
        case "list":
            pipe.lrange(key, 0, -1)
        case "set":
            pipe.smembers(key)
        case "zset":
            pipe.zrange(key, 0, -1, withscores=True)
        case "stream":
            pipe.xlen(key)
        case "none":
            pipe.exists(key)
        case _:
            pipe.get(key)


def text(value: bytes | str) -> str:
    """Bytes of the broker as text, whatever they are."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _readable(value: Any) -> Any:
    match value:
        case dict():
            return {text(k): text(v) for k, v in value.items()}
        case set():
            return {text(v) for v in value}
        case [(_, float()), *_]:
            return {text(k): score for k, score in value}
        case list():
            return [text(v) for v in value]
        case bytes() | str():
            return text(value)
        case _:
            return value


@functools.cache
def kind(key: str) -> str:
    """Which kind of key this is (a name in NAMES); '' for none of ours."""
    name = key.removeprefix(ROOT)
    fits = [
        k for k, start in NAMES.items() if name == start or (start.endswith(":") and name.startswith(start))
    ]
    return max(fits, key=lambda k: len(NAMES[k]), default="")


def lasting(snapshot: Snapshot) -> Snapshot:
    """Without what may change when a command is sent again."""
    return {key: stored for key, stored in snapshot.items() if kind(key) not in ("", *VOLATILE)}


def jobs(snapshot: Snapshot) -> dict[str, Job]:
    """Every job of ours, by id."""
    start = ROOT + NAMES["job"]
    hashes = {k.removeprefix(start): s.value for k, s in snapshot.items() if k.startswith(start)}
    return {
        job: fields for job, fields in hashes.items() if isinstance(fields, dict) and "fq_state" in fields
    }


def _held(snapshot: Snapshot, kind_: str, subject: str) -> Any:
    stored = snapshot.get(f"{ROOT}{NAMES[kind_]}{subject}")
    return [] if stored is None else stored.value


# -- at every instant --------------------------------------------------------------------------------


def places(snapshot: Snapshot, job: str) -> list[str]:
    """Every list, lease set, schedule and registry this job stands in, as often as it does."""
    found = []
    for key, stored in snapshot.items():
        kind_ = kind(key)
        subject = key.removeprefix(ROOT + NAMES[kind_]) if kind_ else ""
        if kind_ in ("queue", "scheduled", "leases", "finished", "failed", "canceled"):
            found += [f"{kind_}:{subject}"] * list(stored.value).count(job)
        elif kind_ == "wip":
            found += [
                f"wip:{subject}:{e.partition(':')[2]}" for e in stored.value if e.partition(":")[0] == job
            ]
    return sorted(found)


_REGISTRY = {
    JobState.FINISHED: "finished",
    JobState.FAILED: "failed",
    JobState.TIMED_OUT: "failed",
    JobState.CANCELLED: "canceled",
}


def expected_places(job: Job) -> list[str]:
    """Where a job of this state has to stand: there, once, and nowhere else."""
    state, origin = JobState(job["fq_state"]), job["origin"]
    if state in LEASED:
        return [f"leases:{job['fq_ep']}", f"wip:{origin}:{job['fq_fence']}"]
    if state in TERMINAL:
        return [f"{_REGISTRY[state]}:{origin}"]
    return [f"{'queue' if state is JobState.QUEUED else 'scheduled'}:{origin}"]


def faults(snapshot: Snapshot, *, held: bool = False) -> list[str]:
    """What is wrong with the jobs of a broker that only flashq wrote to: each begins with the invariant it violates.

    `held`: waiting jobs may also stand on their endpoint's held queue.
    """
    found = []
    for job, fields in jobs(snapshot).items():
        state = JobState(fields["fq_state"])
        wanted, actual = expected_places(fields), places(snapshot, job)
        aside = held and any(place.endswith(f":{fields['fq_ep']}--held") for place in actual)
        if held:
            actual = _as_if_not_held(actual, fields)
        if actual != wanted:
            found.append(f"I1 {job} is {state} and stands in {actual}, not in {wanted}")
        if fields["status"] != RQ_STATUS[state]:
            found.append(f"I1 {job} is {state}, and RQ's status says {fields['status']}")
        found += _faults_of_ended(snapshot, job, fields) if state in TERMINAL else ()
        found += _faults_of_unfinished(snapshot, job, fields) if state not in TERMINAL else ()
        if state in WAITING and not aside:
            found += _faults_of_waiting(snapshot, job, fields)
    return found


def _faults_of_ended(snapshot: Snapshot, job: str, fields: Job) -> Iterator[str]:
    ended = f"{job} is {fields['fq_state']}"
    if not snapshot[f"{ROOT}{NAMES['job']}{job}"].expires:
        yield f"leak {ended} and its hash never expires"
    if fields["fq_state"] == JobState.FINISHED and not _held(snapshot, "results", job):
        yield f"I3 {ended} without a result"
    if fields.get("fq_done", "0") != fields.get("fq_fence", "0"):
        yield f"I3 {ended} under fence {fields.get('fq_done')}, not {fields.get('fq_fence')}"


def _faults_of_unfinished(snapshot: Snapshot, job: str, fields: Job) -> Iterator[str]:
    if snapshot[f"{ROOT}{NAMES['job']}{job}"].expires:
        yield f"I1 {job} is {fields['fq_state']} and its hash expires"
    if fields.get("fq_outcome"):
        yield f"I3 {job} is {fields['fq_state']} and has an outcome"


def _faults_of_waiting(snapshot: Snapshot, job: str, fields: Job) -> Iterator[str]:
    waits, ep = f"{job} is {fields['fq_state']}", fields["fq_ep"]
    timed = fields.get("fq_timed") == "1" and not fields.get("fq_began")
    if timed and job not in _held(snapshot, "ttls", ep):
        yield f"I8 {waits} and nothing will notice when its ttl is over"
    served = fields["origin"] in _held(snapshot, "endpoint_queues", ep)
    if not served and f"{ROOT}{NAMES['endpoint']}{ep}" in snapshot:
        yield f"I8 {waits} on {fields['origin']}, which no worker and no reaper looks at"


def _as_if_not_held(found: list[str], job: Job) -> list[str]:
    aside = f":{job['fq_ep']}--held"
    return [place.replace(aside, f":{job['origin']}") for place in found]


def leaks(snapshot: Snapshot) -> list[str]:
    """Keys that would stay for ever though nothing needs them."""
    found = []
    current = {
        f"{ROOT}{NAMES['revision']}{key.removeprefix(ROOT + NAMES['endpoint'])}:{stored.value['revision']}"
        for key, stored in snapshot.items()
        if kind(key) == "endpoint"
    }
    alive = {
        member
        for key, stored in snapshot.items()
        if kind(key) == "endpoint_workers"
        for member in stored.value
    }
    for key, stored in snapshot.items():
        kind_ = kind(key)
        if stored.expires or kind_ in PERMANENT or key in current or not key.startswith(ROOT):
            continue
        if kind_ == "job" and (not isinstance(stored.value, dict) or "fq_state" not in stored.value):
            continue  # a job of stock RQ: not ours to end
        if kind_ == "job" and JobState(stored.value["fq_state"]) not in TERMINAL:
            continue
        found.append(f"{key} ({stored.type}) never expires")
    for key, stored in snapshot.items():
        if kind(key) == "idle" and not set(stored.value) <= alive:
            found.append(f"{key} holds workers that are no more: {set(stored.value) - alive}")
    return found


# -- from one instant to the next --------------------------------------------------------------------


def reachable(script: str, before: JobState | None) -> set[JobState | None]:
    """Every state one call of a script may take a job to, by the table of the lifecycle."""
    states: set[JobState | None] = {before}
    for stage in CARRIES.get(script, ()):
        states |= {after for name in stage for state in states for after in TRANSITIONS[name].get(state, ())}
    if script in ("delete", "purge_failed") and before in TERMINAL:
        states.add(None)
    return states


def missteps(script: str, before: Snapshot, after: Snapshot) -> list[str]:
    """What a script did to jobs that no table allows: each begins with the invariant it violates."""
    found = []
    was, now = jobs(before), jobs(after)
    for job in was.keys() | now.keys():
        old, new = was.get(job), now.get(job)
        old_state = None if old is None else JobState(old["fq_state"])
        new_state = None if new is None else JobState(new["fq_state"])
        if new_state not in reachable(script, old_state):
            broken = "I6" if old_state in TERMINAL else "I1"
            found.append(f"{broken} {script} took {job} from {old_state} to {new_state}")
        if old is not None and new is not None:
            found += _compare(script, job, old, new)
    return found


def _number(job: Job, name: str) -> int:
    return int(job.get(name) or 0)


def _compare(script: str, job: str, old: Job, new: Job) -> Iterator[str]:
    claimed = _number(new, "fq_fence") - _number(old, "fq_fence")
    if claimed < 0 or claimed > (script in ("claim", "advance", "submit")):
        yield f"I2 {script} took the fence of {job} from {old.get('fq_fence')} to {new.get('fq_fence')}"
    taken = JobState(new["fq_state"]) in LEASED and JobState(old["fq_state"]) not in LEASED
    if taken and not claimed:
        yield f"I2 {script} leased {job} under its old fence {new.get('fq_fence')}"
    reopened = _number(new, "fq_gen") - _number(old, "fq_gen")
    if reopened not in (0, 1) or (reopened and JobState(old["fq_state"]) not in TERMINAL):
        yield f"I6 {script} took {job} from generation {old.get('fq_gen')} to {new.get('fq_gen')}"
    fixed = ("fq_state", "fq_outcome", "fq_reason", "fq_error", "fq_done", "fq_ended", "fq_attempts")
    if JobState(old["fq_state"]) in TERMINAL and not reopened:
        for name in fixed:
            if old.get(name) != new.get(name):
                yield f"I6 {script} changed {name} of {job}, which had ended"
    ran = _number(new, "fq_attempts") - _number(old, "fq_attempts")
    refused = script in ("finish", "advance") and new.get("fq_reason") == "refused"  # it never ran
    least = -1 if refused or script == "release" else 0
    if not reopened and not least <= ran <= 1 + (script == "advance"):
        yield f"I5 {script} took {job} from {old.get('fq_attempts')} attempts to {new.get('fq_attempts')}"
