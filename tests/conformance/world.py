"""One broker with a clock that tests turn, and every command that is sent to it judged.

Each command is sent twice, as after a lost reply: the second time must change nothing. After each, the snapshot
checks hold the broker to the invariants and to the table of the lifecycle.
"""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from flashq.store.records import Reaped, Settlement
from tests.conformance import snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq.store.broker import Broker
    from flashq.store.command import Command
    from flashq.store.memory import MemoryBroker
    from flashq.store.records import Claimed, Joined, Led, Registered, Submitted, Term, Watched

T = TypeVar("T")

CLOCK = "conformance:clock"
#: What stands in the scripts for the server's TIME: milliseconds out of a key.
LUA_CLOCK = (
    f"(function() local ms = tonumber(redis.call('GET', '{CLOCK}') or '0')"
    " return {math.floor(ms / 1000), ms % 1000 * 1000} end)()"
)
START_MS = 1_750_000_000_000
LEASE_MS = 15_000
EP = "embed"


def holds(record: dict[str, str], **fields: str) -> bool:
    """Whether a hash has these fields, among others."""
    return record == record | fields


class World:
    """`broker` and what tests do with it, in as few words as possible.

    `held`: jobs may stand on held queues; `tampered`: somebody else wrote to the broker, so that the projection
    may be wrong until a script has repaired it.
    """

    def __init__(self, broker: Broker | MemoryBroker) -> None:
        self.broker = broker
        self.redis: Any = broker.redis()
        self.t = broker.transitions
        self.keys = broker.keys
        self.held = False
        self._tampered = False
        self._numbers = itertools.count(1)
        self._term: Term | None = None
        self.resent: Any = None  # what the last command was answered when it was sent again
        self.at(START_MS)

    def close(self) -> None:
        self.redis.close()

    # -- time ----------------------------------------------------------------------------------------
    def at(self, ms: int) -> None:
        """Set the broker's clock."""
        self.now_ms = ms
        self.redis.set(CLOCK, ms)

    def pass_ms(self, ms: int) -> None:
        """Let time pass; negative: the clock was set back."""
        self.at(self.now_ms + ms)

    # -- commands ------------------------------------------------------------------------------------
    def run(self, command: Command[T], *, again: bool = True) -> T:
        """Carry a command out twice, and judge what it did. `again=False`: once."""
        before = self.snapshot()
        answer = self.broker.run(command)
        after = self.snapshot()
        problems = snapshot.missteps(command.script, before, after)
        if again:
            self.resent = self.broker.run(command)
            twice = self.snapshot()
            first, second = snapshot.lasting(after), snapshot.lasting(twice)
            changed = [key for key in first.keys() | second.keys() if first.get(key) != second.get(key)]
            problems += [
                f"sent again, {command.script} changed {key}: {first.get(key)} → {second.get(key)}"
                for key in changed
            ]
        if not self._tampered:
            problems += snapshot.faults(after, held=self.held)
        assert not problems, "\n".join(problems)
        return answer

    def snapshot(self) -> snapshot.Snapshot:
        """Everything the broker holds now."""
        return snapshot.take(self.redis)

    @contextmanager
    def tampering(self) -> Iterator[Any]:
        """For what stock tools or strangers do: gives a redis-py client; jobs are judged again afterwards."""
        self._tampered = True
        yield self.redis
        self._tampered = False

    # -- endpoints and jobs --------------------------------------------------------------------------
    def register(self, endpoint: str = EP, **changes: Any) -> Registered:
        terms = {
            "revision": "r1",
            "environment": "env-1",
            "resources": "res-1",
            "spec": "{}",
            "scaling": "{}",
            "program": "program-1",
            "record": b"record",
        }
        return self.run(self.t.register(endpoint, **{**terms, **changes}))

    def submit_as(self, job: str, endpoint: str = EP, *, again: bool = True, **options: Any) -> Submitted:
        """SUBMIT under this id; the whole answer."""
        options = {"revision": "r1", "call": b"call", **options}
        return self.run(self.t.submit(endpoint, job, **options), again=again)

    def submit(self, endpoint: str = EP, **options: Any) -> str:
        """A job that was accepted: its id."""
        job = f"{endpoint}-{next(self._numbers):04d}"
        assert self.submit_as(job, endpoint, **options).verdict == "ok"
        return job

    def watch(self, job: str, channel: str = "") -> Watched:
        return self.run(self.t.watch([job], channel))[0]

    # -- workers -------------------------------------------------------------------------------------
    def join(self, worker: str, endpoint: str = EP, *, booked: bool = False, **fields: Any) -> Joined:
        return self.run(self.t.join(endpoint, worker, lease_ms=LEASE_MS, booked=booked, fields=fields))

    def worker(self, endpoint: str = EP, **fields: Any) -> str:
        """A worker that reported in and is ready."""
        worker = f"{endpoint}-w{next(self._numbers)}"
        assert self.join(worker, endpoint, **fields).verdict == "ok"
        assert self.run(self.t.ready(endpoint, worker, {})) == "ok"
        return worker

    def claim_as(
        self,
        worker: str,
        endpoint: str = EP,
        *,
        count: int = 1,
        start: int = 1,
        nonce: str = "",
        again: bool = True,
    ) -> Any:
        """CLAIM; the whole answer."""
        command = self.t.claim(
            endpoint,
            worker,
            nonce or f"n{next(self._numbers)}",
            count=count,
            lease_ms=LEASE_MS,
            start=start,
            holding=0,
            room=count,
        )
        return self.run(command, again=again)

    def claim(self, worker: str, endpoint: str = EP, *, count: int = 1, start: int = 1) -> list[Claimed]:
        """The jobs that a worker got, the first `start` of them begun."""
        answer = self.claim_as(worker, endpoint, count=count, start=start)
        assert answer.verdict == "ok"
        return list(answer.jobs)

    def claimed(self, **options: Any) -> Claimed:
        """A job in a new worker's hand that has not begun."""
        job = self.submit(**options)
        (claimed,) = self.claim(self.worker(), start=0)
        assert claimed.job == job
        return claimed

    def running(self, worker: str = "", **options: Any) -> Claimed:
        """A job that was just begun, by a new worker unless one is named."""
        job = self.submit(**options)
        (claimed,) = self.claim(worker or self.worker())
        assert claimed.job == job
        return claimed

    def taken_away(self) -> tuple[Claimed, Claimed]:
        """A running job as its silent worker holds it, and as another holds it since."""
        old = self.running()
        self.silence()
        (new,) = self.claim(self.worker())
        assert new.job == old.job
        return old, new

    def finish(self, held: Claimed, state: str = "finished", **terms: Any) -> str:
        terms = {"outcome": b"outcome", **terms} if state != "retry" else terms
        return self.run(self.t.finish(Settlement(held.job, held.fence, state, **terms)))

    def reap(self, endpoint: str = EP, *, limit: int = 200, again: bool = True) -> Reaped:
        return self.run(self.t.reap(endpoint, lease_ms=LEASE_MS, limit=limit, pause_ms=0), again=again)

    def silence(self) -> None:
        """A lease's time passes with reapers at work and nobody renewing."""
        for _ in range(LEASE_MS // 4000 + 2):
            self.reap()
            self.pass_ms(4000)

    # -- autoscalers ---------------------------------------------------------------------------------
    def lead(self, holder: str, *, lease_ms: int = LEASE_MS, take_over: bool = False) -> Led:
        """What an autoscaler is told that asks to lead."""
        return self.run(self.t.lead(holder, lease_ms=lease_ms, fields={"pid": 1}, take_over=take_over))

    @property
    def term(self) -> Term:
        """Under which tests order workers; taken when first asked for."""
        if self._term is None:
            self._term = self.lead("a1").term
        return self._term

    # -- reading -------------------------------------------------------------------------------------
    def job(self, job: str) -> dict[str, str]:
        """A job's hash; empty where there is none."""
        return self.hash("job", job)

    def state(self, job: str) -> str:
        return self.job(job).get("fq_state", "")

    def hash(self, kind: str, subject: str) -> dict[str, str]:
        found = self.redis.hgetall(self.keys.of(kind, subject))
        return {snapshot.text(k): snapshot.text(v) for k, v in found.items()}

    def listed(self, kind: str, subject: str = EP) -> list[str]:
        return [snapshot.text(v) for v in self.redis.lrange(self.keys.of(kind, subject), 0, -1)]

    def scores(self, kind: str, subject: str = EP) -> dict[str, float]:
        rows = self.redis.zrange(self.keys.of(kind, subject), 0, -1, withscores=True)
        return {snapshot.text(member): score for member, score in rows}

    def events(self) -> list[tuple[str, str]]:
        """Kind and subject of every event, oldest first."""
        rows = [fields for _, fields in self.redis.xrange(self.keys.of("events"))]
        return [(snapshot.text(f[b"kind"]), snapshot.text(f[b"subject"])) for f in rows]
