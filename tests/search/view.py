"""One state of the searched broker, read. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgpack

from flashq.model.lifecycle import LEASED, TERMINAL, WAITING, JobState
from flashq.store.held import held_queue
from flashq.store.keys import NAMES, Keys
from tests.conformance import snapshot
from tests.conformance.snapshot import ROOT, Stored, text
from tests.conformance.world import EP

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.conformance.snapshot import Job, Snapshot

#: Where the search remembers which names were given away (an id is never used twice), and what is `finished` and gone.
USED = "search:used"
BELL = ROOT + NAMES["bell"]


def finished(job: str) -> str:
    """The note in `USED` that a job was finished before it was deleted, or was forgotten."""
    return f"{job} finished"


@dataclass(frozen=True, slots=True)
class Frozen:
    """A state as the broker gives it and takes it back: each key's packed row, and the time."""

    rows: dict[str, bytes]
    now_ms: int


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a state: rows that differ, keys that are gone."""

    rows: tuple[bytes, ...]
    gone: tuple[bytes, ...]

    def __bool__(self) -> bool:
        return bool(self.rows or self.gone)


@dataclass
class View:
    """What a state says."""

    snapshot: Snapshot
    rings: dict[str, list[str]]
    used: set[str]
    now_ms: int
    jobs: dict[str, Job] = field(init=False)

    def __post_init__(self) -> None:
        self.jobs = snapshot.jobs(self.snapshot)

    # -- jobs ----------------------------------------------------------------------------------------
    def state(self, job: str) -> JobState | None:
        fields = self.jobs.get(job)
        return None if fields is None else JobState(fields["fq_state"])

    def fence(self, job: str) -> int:
        return self.number(job, "fq_fence")

    def number(self, job: str, name: str) -> int:
        return int(self.jobs.get(job, {}).get(name) or 0)

    def fences(self, job: str) -> list[int]:
        """The newest fence and the one before it, as far as they were given out."""
        newest = self.fence(job)
        return [fence for fence in (newest, newest - 1) if fence > 0]

    def live(self, job: str, fence: int, worker: str = "") -> bool:
        """Whether this is the lease under which a job is held ('' as the worker: whoever holds it)."""
        held = self.state(job) in LEASED and self.fence(job) == fence
        return held and worker in ("", self.jobs[job].get("worker_name"))

    def settled(self, job: str, fence: int, worker: str) -> bool:
        """Whether an outcome was stored (or a retry begun) under this lease, which is the newest."""
        done = self.number(job, "fq_done") == self.fence(job) == fence
        return done and ("" in (worker, held := self.jobs[job].get("worker_name", "")) or worker == held)

    def cancelling(self, job: str) -> bool:
        fields = self.jobs[job]
        return fields.get("fq_cancel") == "1" or fields["status"] == "canceled"

    def in_states(self, states: frozenset[JobState]) -> list[str]:
        return [job for job in self.jobs if self.state(job) in states]

    @property
    def waiting(self) -> list[str]:
        return self.in_states(WAITING)

    @property
    def leased(self) -> list[str]:
        return self.in_states(LEASED)

    @property
    def ended(self) -> list[str]:
        return self.in_states(TERMINAL)

    def held_by(self, worker: str) -> list[str]:
        return [job for job in self.leased if self.jobs[job].get("worker_name") == worker]

    # -- keys ----------------------------------------------------------------------------------------
    def held(self, kind: str, subject: str = EP) -> Any:
        stored = self.snapshot.get(ROOT + NAMES[kind] + subject)
        return () if stored is None else stored.value

    def worker(self, worker: str) -> dict[str, str]:
        found: dict[str, str] = dict(self.held("worker", worker))
        return found

    def closed(self, worker: str) -> bool:
        """Whether nothing that this worker says counts."""
        fields = self.worker(worker)
        return fields.get("fq_ep") != EP or "death" in fields

    @property
    def alive(self) -> dict[str, float]:
        """Workers of the endpoint by when they are lost if they stay silent."""
        return dict(self.held("endpoint_workers"))

    @property
    def endpoint(self) -> dict[str, str]:
        return dict(self.held("endpoint"))

    def key(self, key: str) -> str | None:
        """What is remembered of an idempotency key: a job, and what the key stands for."""
        stored = self.snapshot.get(Keys().idempotency(EP, key))
        return None if stored is None else stored.value

    def recalls(self, note: str) -> bool:
        """Whether what is kept in mind of a job that is gone (`USED`) may still decide: while a key stands for it."""
        job, _, rest = note.partition(" ")
        if not rest:
            return True
        remembered = [s.value for key, s in self.snapshot.items() if snapshot.kind(key) == "idempotency"]
        return any(str(value).startswith(job + " ") for value in remembered)

    @property
    def paused(self) -> bool:
        return self.endpoint.get("paused") == "1"

    def queue(self, name: str = EP) -> list[str]:
        return list(self.held("queue", name))

    @property
    def aside(self) -> set[str]:
        """Jobs that are held back (hold.lua)."""
        return {*self.queue(held_queue(EP)), *self.held("scheduled", held_queue(EP))}

    @property
    def seen_ms(self) -> int:
        """When the endpoint was last reaped."""
        return int(dict(self.held("clock")).get("seen", 0))

    @property
    def queues(self) -> list[str]:
        """Names of the endpoint's queues, the highest rank first."""
        ranks: dict[str, float] = dict(self.held("endpoint_queues"))
        return sorted(ranks, key=lambda name: (ranks[name], name), reverse=True)

    # -- what tells states apart (canonical.py) --------------------------------------------------------
    @cached_property
    def _claims(self) -> list[float]:
        return sorted({float(self.jobs[job].get("fq_claimed") or 0) for job in self.leased})

    def rank_of_claim(self, claimed: str) -> int:
        return self._claims.index(float(claimed))

    @cached_property
    def _submits(self) -> list[int]:
        return sorted({int(self.jobs[job]["fq_enqueued"]) for job in self.waiting})

    def rank_of_submit(self, enqueued: str) -> int:
        return self._submits.index(int(enqueued))

    def has_rivals(self, job: Job) -> bool:
        """Whether its queue shares its rank with another, so that the older job goes first."""
        ranks: dict[str, float] = dict(self.held("endpoint_queues"))
        return list(ranks.values()).count(ranks.get(job["origin"], -1)) > 1

    def still_live(self, last: str) -> list[str]:
        """Of the jobs that a worker was answered with, those it would be answered with again."""
        claims = re.findall(r"([^ ]+):(\d+)", last)
        return [job for job, fence in claims if self.live(job, int(fence))]


def read(state: Frozen) -> View:
    """Unpack a state."""
    return _with(View({}, {}, set(), state.now_ms), state.rows.values(), (), state.now_ms)


def changed(view: View, change: Change, now_ms: int) -> View:
    """The view after a change."""
    return _with(view, change.rows, change.gone, now_ms) if change or now_ms != view.now_ms else view


def _with(view: View, rows: Iterable[bytes], gone: Iterable[bytes], now_ms: int) -> View:
    found, rings, used = dict(view.snapshot), dict(view.rings), view.used
    for key in map(text, gone):
        found.pop(key, None)
        rings.pop(key.removeprefix(BELL), None)
    for row in rows:
        key, type_, expires, value = msgpack.unpackb(row, unicode_errors="backslashreplace")
        if key == USED:
            used = set(value)
        elif key.startswith(BELL):
            rings[key.removeprefix(BELL)] = value
        else:
            found[key] = Stored(type_, _value(type_, value), expires == 1)
    return View(found, rings, used, now_ms)


def thawed(state: Frozen, change: Change, now_ms: int) -> Frozen:
    """The state after a change."""
    rows = dict(state.rows)
    for key in change.gone:
        del rows[text(key)]
    for row in change.rows:
        rows[msgpack.unpackb(row, unicode_errors="backslashreplace")[0]] = row
    return Frozen(rows, now_ms)


def _value(type_: str, value: Any) -> Any:
    match type_:
        case "hash":
            return dict(zip(value[::2], value[1::2], strict=True))
        case "zset":
            return dict(zip(value[::2], map(float, value[1::2]), strict=True))
        case "set":
            return set(value)
        case "stream":
            return len(value)
        case _:
            return value
