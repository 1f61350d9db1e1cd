"""A worker's setbacks: pauses, starts that fail in a row, failures cut to size, a thread that must not end."""

from __future__ import annotations

import dataclasses
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from flashq.errors import BrokerUnreachable, JobNotFound
from flashq.model.envelope import Header
from flashq.model.keyring import Direction, Keyring
from flashq.model.outcome import Failure, FailureKind
from flashq.store.records import Claimed
from flashq_worker.assignment import Assignment
from flashq_worker.lease import LeaseKeeper
from flashq_worker.loading import Loading
from flashq_worker.outcomes import OutcomeWriter, packed
from flashq_worker.pacing import Backoff
from flashq_worker.runtime import Phase
from flashq_worker.starts import Next, Starts

if TYPE_CHECKING:
    from flashq.codec import Revision
    from flashq_worker.presence import Presence
    from flashq_worker.runtime import Runtime


def test_pauses_double_and_end() -> None:
    """Given failure after failure, expect pauses that double up to the longest; a success begins anew."""
    backoff = Backoff(1.0, 3.0)
    assert backoff.failed(10.0)
    assert backoff.until == 11.0
    assert not backoff.failed(10.5), "it was under way with the first"
    assert backoff.until == 11.0
    assert not backoff.failed(11.0)
    assert backoff.until == 13.0
    assert not backoff.failed(13.0)
    assert backoff.until == 16.0
    assert backoff.succeeded()
    assert not backoff.succeeded()
    assert backoff.failed(20.0)
    assert backoff.until == 21.0


def test_what_would_fail_again_is_started_twice() -> None:
    """Given deterministic failures, expect one more try, then refusal for a while and of that revision only."""
    starts = Starts()
    assert starts.failed("r1", deterministic=True, version=4, now=0.0) is Next.AGAIN
    assert starts.failed("r1", deterministic=True, version=4, now=1.0) is Next.REFUSE
    assert starts.refuses("r1", now=2.0)
    assert starts.refused_at(4)
    assert not starts.refused_at(5)
    assert not starts.refuses("r2", now=2.0)
    assert not starts.refuses("r1", now=100.0)


def test_trouble_of_the_machine_is_tried_for_longer() -> None:
    """Given failures that may pass, expect several tries, then that the worker leaves; none is refused."""
    starts = Starts()
    follows = [starts.failed("r", deterministic=False, version=1, now=float(n)) for n in range(5)]
    assert follows == [Next.AGAIN] * 4 + [Next.LEAVE]
    assert not starts.refuses("r", now=5.0)


def test_another_revision_or_a_success_begins_anew() -> None:
    """Given failures of one revision, if another comes or one succeeds, expect the count to begin again."""
    starts = Starts()
    starts.failed("r1", deterministic=True, version=1, now=0.0)
    assert starts.failed("r2", deterministic=True, version=1, now=1.0) is Next.AGAIN
    starts.succeeded()
    assert starts.failed("r2", deterministic=True, version=1, now=2.0) is Next.AGAIN


class FakeRuntime:
    """Takes no time; its phase is what a test sets."""

    def __init__(self) -> None:
        self.phase = Phase.EMPTY
        self.revision = ""
        self.failure = ""
        self.deterministic = False
        self.start = None
        self.started: list[str] = []
        self.due_at = float("inf")

    def poll(self) -> None: ...

    def close(self) -> None:
        self.phase = Phase.EMPTY

    def prepare(self, digest: str, record: object, env: object) -> None:
        self.started.append(digest)
        self.revision, self.phase = digest, Phase.LOADING

    def fail(self, why: str, *, deterministic: bool) -> None:
        self.phase, self.failure, self.deterministic = Phase.FAILED, why, deterministic


class FakePresence:
    """A broker that is away, or keeps no record, when a test says so."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def _answer(self, value: Any) -> Any:
        if self.error is not None:
            raise self.error
        return value

    def first_revision(self) -> str:
        return cast("str", self._answer("r1"))

    def record(self, digest: str) -> Revision:
        return cast("Revision", self._answer(SimpleNamespace(concurrency=1)))

    def environment_values(self) -> dict[str, str]:
        return cast("dict[str, str]", self._answer({}))

    def version(self) -> int:
        return cast("int", self._answer(1))

    def ready(self, environment_s: float) -> bool:
        return cast("bool", self._answer(True))


class Heard:
    def __init__(self) -> None:
        self.said: list[str] = []

    def on_unstartable(self, revision: str, failure: Failure) -> None:
        self.said.append(f"{revision} {failure.kind}")

    def on_start_trouble(self, revision: str) -> None:
        self.said.append(f"{revision} trouble")

    def on_ready(self) -> None:
        self.said.append("ready")

    def on_gone(self) -> None:
        self.said.append("gone")


@dataclasses.dataclass
class Bench:
    runtime: FakeRuntime = dataclasses.field(default_factory=FakeRuntime)
    presence: FakePresence = dataclasses.field(default_factory=FakePresence)
    heard: Heard = dataclasses.field(default_factory=Heard)

    def __post_init__(self) -> None:
        self.loading = Loading(cast("Runtime", self.runtime), cast("Presence", self.presence), self.heard)

    def progress_until(self, condition: Any) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline
            self.loading.progress()

    def make_ready(self) -> None:
        self.loading.begin()
        self.runtime.phase = Phase.READY
        self.progress_until(lambda: self.loading.ready_once)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_broker_away_at_a_change_of_code_costs_a_pause(bench: Bench) -> None:
    """Given a broker that is away when other code is wanted, expect it loaded later, and no job refused."""
    bench.make_ready()
    bench.presence.error = BrokerUnreachable("away")
    assert bench.loading.want("r2") is None
    assert not bench.loading.may_claim
    bench.presence.error = None
    bench.progress_until(lambda: bench.runtime.started == ["r1", "r2"])
    assert bench.heard.said == ["ready"]


def test_a_broker_away_as_it_gets_ready_costs_a_pause(bench: Bench) -> None:
    """Given a broker that is away when the executor has loaded, expect the worker ready later."""
    bench.loading.begin()
    bench.runtime.phase = Phase.READY
    bench.presence.error = BrokerUnreachable("away")
    bench.loading.progress()
    assert not bench.loading.ready_once
    bench.presence.error = None
    bench.progress_until(lambda: bench.loading.ready_once)


def test_a_record_that_is_gone_refuses_its_jobs(bench: Bench) -> None:
    """Given a revision that is kept no longer, expect its jobs refused."""
    bench.make_ready()
    bench.presence.error = JobNotFound("kept no longer")
    assert bench.loading.want("r2") is None
    assert bench.heard.said == ["ready", "r2 refused"]


def test_what_does_not_load_is_not_started_for_ever(bench: Bench) -> None:
    """Given code that never loads, expect two starts and its jobs failed, then none until it is registered anew."""
    bench.make_ready()
    bench.loading.want("r2")
    bench.runtime.fail("no such module", deterministic=True)
    bench.progress_until(lambda: len(bench.runtime.started) == 3)
    bench.runtime.fail("no such module", deterministic=True)
    bench.loading.progress()
    assert bench.heard.said == ["ready", "r2 start"]
    bench.loading.want("r2")
    assert bench.runtime.started == ["r1", "r2", "r2"]
    assert bench.heard.said == ["ready", "r2 start", "r2 start"]
    assert bench.loading.may_claim
    assert bench.loading.want("r3") is not None


def test_code_that_has_loaded_here_meets_trouble_not_a_mistake(bench: Bench) -> None:
    """Given a revision that loaded before, if it fails to load anew, expect its jobs back in the queue."""
    bench.make_ready()
    bench.runtime.fail("out of memory", deterministic=True)
    bench.loading.progress()
    assert bench.heard.said == ["ready", "r1 trouble"]
    assert bench.loading.due_at > time.monotonic()


def held() -> Assignment:
    row = Claimed("j", 1, b"", "r", 1, 1, 0, 0, False, 0)
    return Assignment(row, Header(direction=Direction.CALL, endpoint="e"), b"", "d")


@pytest.mark.parametrize("limit", [300, 5_000, 100_000])
def test_a_failure_is_cut_to_the_limit(limit: int) -> None:
    """Given an exception and texts beyond the limit, expect what is left to be within it, and to say what it was."""
    failure = Failure(
        FailureKind.EXCEPTION,
        "m" * 10**6,
        type="ValueError",
        traceback="t" * 10**6,
        exception=bytes(10**6),
        log="l" * 10**6,
    )
    cut = packed(failure, limit)
    assert len(cut) <= max(limit, 4 * 64 + 100)
    assert Failure.unpack(cut).type == "ValueError"
    assert Failure.unpack(cut).message.startswith("mmm")
    assert len(
        OutcomeWriter(Keyring([bytes(32)]).for_endpoint("e"), "e", limit).failure(held(), failure).outcome
    )


def test_a_failure_within_the_limit_is_whole() -> None:
    """Given a failure that fits, expect its exception kept."""
    failure = Failure(FailureKind.EXCEPTION, "m", exception=bytes(1000))
    assert Failure.unpack(packed(failure, 10_000)) == failure


def test_the_lease_thread_survives_anything() -> None:
    """Given a renewal that raises what nobody expects, expect the next one to come."""
    renewals = threading.Semaphore(0)

    def jobs() -> tuple[tuple[str, int], ...]:
        renewals.release()
        raise OSError("bad file descriptor")

    keeper = LeaseKeeper(
        cast("Any", SimpleNamespace()),
        "e",
        "w",
        lease_s=0.03,
        jobs=jobs,
        fields=dict,
        on_renewed=lambda: None,
        on_verdict=lambda verdict, told: None,
    )
    keeper.start()
    for _ in range(3):
        assert renewals.acquire(timeout=10)
    keeper.stop()
