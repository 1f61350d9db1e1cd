"""States of a broker that no command can tell apart, as one text.

What only people read is left out (texts, timestamps, counters), times become steps until they are due, fences say
only whether they are the newest, and of all ways to name the jobs and the workers one is chosen. Whatever is not
listed here is kept as it is: an unknown field makes more states, never fewer. Pure.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashq.model.lifecycle import LEASED, TERMINAL, WAITING, JobState
from flashq.store.keys import NAMES
from tests.conformance import snapshot
from tests.search.rules import MOST_AWAY_MS, STEP_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.conformance.snapshot import Job, Stored
    from tests.search.view import View

#: Fields of a job that no script decides by: texts, timestamps, what goes into answers alone. `fq_requeue` names the
#: last requeue, for that one alone, sent again; `fq_attempts` is held to losses and retries in every state (judge.py).
JOB_IGNORES = frozenset(
    "created_at enqueued_at started_at ended_at description data fq_call fq_cold fq_ended fq_error fq_gen fq_reason"
    " fq_ready fq_timing fq_watch fq_attempts fq_requeue".split()
)
#: Of an ended job, what only its next generation could go on with (blind to: "ended").
ENDED_IGNORES = frozenset("fq_cancel fq_losses fq_retries fq_ttl_at fq_timed".split())
WORKER_IGNORES = frozenset(
    "birth last_heartbeat queues fq_since fq_beat fq_end fq_drain_why fq_ordered fq_nonce".split()
)
ENDPOINT_KEEPS = ("revision", "paused")
#: Kinds of keys that count or name, and decide nothing.
IGNORED = frozenset(
    "stats epoch endpoints events endpoint_events wake rq_workers queue_workers commands leader".split()
)


_FIRST_SIGN = 0x80


@dataclass(frozen=True, slots=True)
class Names:
    """The jobs and workers that a text may be about, and the ways to name them."""

    jobs: tuple[str, ...]
    workers: tuple[str, ...]

    def tables(self) -> list[bytes]:
        """Every renaming, as a table for `bytes.translate` (each name is one byte)."""
        found = []
        for jobs in itertools.permutations(range(len(self.jobs))):
            for workers in itertools.permutations(range(len(self.workers))):
                table = bytearray(range(256))
                for n, sign in enumerate([*jobs, *(len(jobs) + worker for worker in workers)]):
                    table[_FIRST_SIGN + n] = _FIRST_SIGN + sign
                found.append(bytes(table))
        return found

    def signs(self) -> list[tuple[bytes, bytes]]:
        """Each name and the byte that stands for it."""
        names = [*self.jobs, *self.workers]
        return [(name.encode(), bytes([_FIRST_SIGN + n])) for n, name in enumerate(names)]


class Canon:
    """Canonical texts of views with these names.

    `blind`: kinds of keys, and fields of workers and of the clock, that no command of the search reads.
    """

    def __init__(self, names: Names, blind: Iterable[str] = ()) -> None:
        self._signs = names.signs()
        self._tables = names.tables()
        self._blind = frozenset(blind)

    def text(self, view: View) -> bytes:
        """The same for views that differ in nothing but names and times passed."""
        text = "\n".join(self.facts(view)).encode("ascii")
        for name, sign in self._signs:
            text = text.replace(name, sign)
        return min(b"\n".join(sorted(text.translate(table).split(b"\n"))) for table in self._tables)

    def facts(self, view: View) -> Iterator[str]:
        """What there is to say of a view, a line each."""
        if "bell" not in self._blind:
            yield from (f"rung {worker}" for worker, rings in view.rings.items() if rings)
        for key, stored in view.snapshot.items():
            kind = snapshot.kind(key)
            if kind in IGNORED or kind in self._blind:
                continue
            subject = key.removeprefix(snapshot.ROOT + NAMES[kind]) if kind else key
            for fact in _FACTS.get(kind, _unknown)(stored, view, self._blind):
                yield f"{kind} {subject} {fact}"
        yield from (f"named {note}" for note in view.used if note not in view.jobs and view.recalls(note))


def _unknown(stored: Stored, view: View, blind: frozenset[str]) -> Iterator[str]:
    raise ValueError(f"nothing is said of keys like {stored}: add their kind to canonical.py")


def _job(stored: Stored, view: View, blind: frozenset[str]) -> Iterator[str]:
    job: Job = stored.value
    ignored = JOB_IGNORES
    if JobState(job["fq_state"]) in TERMINAL:
        ignored = ignored | ENDED_IGNORES if "ended" in blind else ignored
    elif job.get("fq_began"):  # it expires no more
        ignored = ignored | {"fq_ttl_at", "fq_timed"}
    yield f"expires {stored.expires}"
    for name, value in job.items():
        if name not in ignored:
            say = _FIELDS.get(name)
            yield f"{name}={value}" if say is None else f"{name} {say(value, job, view)}"


def _only(
    states: frozenset[JobState], say: Callable[[str, Job, View], object]
) -> Callable[[str, Job, View], object]:
    return lambda value, job, view: say(value, job, view) if JobState(job["fq_state"]) in states else ""


#: Fields of a job of which less than the value is said.
_FIELDS: dict[str, Callable[[str, Job, View], object]] = {
    "fq_fence": lambda value, job, view: value != "0",
    "fq_began": lambda value, job, view: bool(value),
    "fq_done": lambda value, job, view: value == job.get("fq_fence", "0"),
    "fq_ttl_at": lambda value, job, view: steps(int(value) - view.now_ms),
    "worker_name": _only(LEASED, lambda value, job, view: value),
    "fq_claimed": _only(LEASED, lambda value, job, view: view.rank_of_claim(value)),
    "fq_enqueued": _only(
        WAITING, lambda value, job, view: view.rank_of_submit(value) if view.has_rivals(job) else ""
    ),
}


def _worker(stored: Stored, view: View, blind: frozenset[str]) -> Iterator[str]:
    worker: dict[str, str] = stored.value
    if "death" in worker:  # whatever it says, it is told that it is gone
        yield "closed"
        return
    yield "known"
    for name, value in worker.items():
        if name in WORKER_IGNORES or name in blind:
            continue
        if name == "fq_last":
            yield from (f"answered {claim}" for claim in view.still_live(value))
        else:
            yield f"{name}={value}"


def _clock(stored: Stored, view: View, blind: frozenset[str]) -> Iterator[str]:
    clock: dict[str, str] = stored.value
    if "seen" in clock and "seen" not in blind:
        lag = view.now_ms - int(clock["seen"])
        yield "set back" if lag < 0 else f"reapers were {'away' if lag > MOST_AWAY_MS else 'there'}"
    for name in ("spared", "deep"):
        if name in clock and name not in blind:
            yield f"{name} {steps(int(clock[name]) - view.now_ms)}"
    if "more" in clock:
        yield "more"


def _mirrors(stored: Stored, view: View, blind: frozenset[str]) -> Iterator[str]:
    for entry, score in stored.value.items():
        job, _, fence = entry.partition(":")
        yield f"{job} {view.fence(job) == int(fence)} {score}"


def _due(stored: Stored, view: View, blind: frozenset[str]) -> Iterator[str]:
    return (f"{member} {steps(score - view.now_ms)}" for member, score in stored.value.items())


def _due_s(stored: Stored, view: View, blind: frozenset[str]) -> Iterator[str]:
    return (f"{member} {steps(score * 1000 - view.now_ms)}" for member, score in stored.value.items())


def _in_order(stored: Stored, view: View, blind: frozenset[str]) -> Iterator[str]:
    yield " ".join(stored.value)


def _members(stored: Stored, view: View, blind: frozenset[str]) -> Iterator[str]:
    return iter(stored.value)


def _ranked(stored: Stored, view: View, blind: frozenset[str]) -> Iterator[str]:
    return (f"{member} {score}" for member, score in stored.value.items())


def _there(stored: Stored, view: View, blind: frozenset[str]) -> Iterator[str]:
    yield f"expires {stored.expires}"


def _value(stored: Stored, view: View, blind: frozenset[str]) -> Iterator[str]:
    yield f"{stored.value} expires {stored.expires}"


def _endpoint(stored: Stored, view: View, blind: frozenset[str]) -> Iterator[str]:
    return (f"{name}={stored.value[name]}" for name in ENDPOINT_KEEPS if name in stored.value)


_FACTS: dict[str, Callable[[Stored, View, frozenset[str]], Iterator[str]]] = {
    "job": _job,
    "worker": _worker,
    "endpoint": _endpoint,
    "clock": _clock,
    "leases": _due,
    "ttls": _due,
    "endpoint_workers": _due,
    "scheduled": _due_s,
    "wip": _mirrors,
    "idle": _in_order,
    "queue": _in_order,
    "parked": _in_order,
    "endpoint_queues": _ranked,
    "queues": _members,
    "finished": _members,
    "failed": _members,
    "canceled": _members,
    "spent": _members,
    "results": _there,  # of this generation or of one before: judge.py counts them
    "revision": _value,
    "idempotency": _value,
}


def steps(ms: float) -> int:
    """How many steps of time until then; 0: it is due. (Each command takes a millisecond: times come early.)"""
    return max(0, math.ceil(ms / STEP_MS))
