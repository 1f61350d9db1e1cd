"""Functions that yield: values as they come, in order, each once; and what goes wrong on the way."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint, Status
from flashq.errors import (
    EnvelopeError,
    JobCancelled,
    JobTimedOut,
    ResultNotSerializable,
    StreamLost,
    UnsupportedCall,
    WaitTimeout,
    WorkerCrashed,
)
from tests.acceptance.stage import stage
from tests.integration.command_line import CommandLine
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from flashq import Job
    from tests.acceptance.stage import Stage

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(90)]


@Endpoint(name="yields", cpu="any", workers=(0, 2), max_deliveries=2)
def yields(what: str, *args: Any) -> Iterator[Any]:  # noqa: C901 — one function for all there is to try
    match what:
        case "count":
            yield from range(args[0])
            return args[0]  # type: ignore[no-any-return]  # what a generator returns is its value as a job
        case "pid":
            yield os.getpid()
        case "fail":
            yield from range(args[0])
            raise ConnectionError("midway")
        case "large":
            for _ in range(args[1]):
                yield bytes(args[0])
        case "unpicklable":
            yield 1
            yield lambda: (yield)
            yield threading.Lock()
        case "exit":
            yield from range(args[0])
            gate = Path(args[1])
            while not gate.exists():
                time.sleep(0.01)
            os._exit(3)
        case "once":
            if Path(args[1]).exists():
                raise ConnectionError("not again")
            yield from range(args[0])
            while not Path(args[1]).exists():
                time.sleep(0.01)
            os._exit(3)
        case "closed":
            try:
                while True:
                    yield 1
            finally:
                Path(args[0]).touch()
    return None


@Endpoint(name="yields-async", cpu="any", workers=(0, 1), max_concurrency=8)
async def yields_async(count: int, pause_s: float = 0.0) -> AsyncIterator[int]:
    for number in range(count):
        await asyncio.sleep(pause_s)
        yield number
    if pause_s < 0:
        raise ValueError("negative")


@Endpoint(name="returns", cpu="any")
def returns() -> int:
    return 1


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    with stage() as made:
        made.ready_worker(yields)
        made.ready_worker(yields_async)
        yield made


@pytest.fixture(autouse=True)
def goes_on(theatre: Stage) -> Iterator[None]:
    """Whatever happened, the next stream is served."""
    yield
    assert list(yields.stream("count", 2)) == [0, 1]
    assert list(yields_async.stream(2)) == [0, 1]


def read(values: Iterable[Any]) -> tuple[list[Any], BaseException | None]:
    """What comes, and what it ends with."""
    got: list[Any] = []
    try:
        for value in values:
            got.append(value)
    except Exception as error:  # noqa: BLE001 — whatever it is
        return got, error
    return got, None


def kept(theatre: Stage, job: str) -> int:
    return int(theatre.broker.execute("XLEN", theatre.broker.keys.of("chunks", job)))


def held(theatre: Stage, job: str) -> bool:
    """Whether the broker has a key for what a job yields."""
    return bool(theatre.broker.execute("EXISTS", theatre.broker.keys.of("chunks", job)))


@pytest.mark.parametrize("count", [0, 1, 700])
def test_values_come_in_order_each_once(count: int) -> None:
    assert list(yields.stream("count", count)) == list(range(count))
    assert list(yields_async.stream(count)) == list(range(count))


def test_values_come_as_they_are_yielded() -> None:
    # Given a function that takes a while for each value, expect the first long before the last
    began = time.monotonic()
    arrived = [time.monotonic() - began for _ in yields_async.stream(5, 0.2)]
    assert arrived[0] < arrived[-1] - 0.6


def test_coroutines_read_many_streams_at_once() -> None:
    async def one(count: int) -> list[int]:
        return [value async for value in yields_async.stream(count, 0.01)]

    async def all_of_them() -> list[list[int]]:
        return await asyncio.gather(*(one(count) for count in range(12)))

    assert asyncio.run(all_of_them()) == [list(range(count)) for count in range(12)]


def test_a_job_yields_once_and_has_what_its_function_returned(theatre: Stage) -> None:
    job: Job[Any] = yields.spawn("count", 40)
    assert list(job.stream()) == list(range(40))
    assert job.result(10) == 40

    # What was taken is kept no longer: another reader is told
    with pytest.raises(StreamLost, match="taken by another reader"):
        list(job.stream())


def test_an_exception_comes_after_what_was_yielded_before_it() -> None:
    got, error = read(yields.stream("fail", 3))
    assert got == [0, 1, 2]
    assert isinstance(error, ConnectionError)
    assert "in yields" in "".join(error.__notes__)

    with pytest.raises(ValueError, match="negative"):
        list(yields_async.stream(2, -1.0))


def test_a_value_that_cannot_travel_ends_it(theatre: Stage) -> None:
    got, error = read(yields.stream("unpicklable"))
    assert len(got) == 2
    assert isinstance(error, ResultNotSerializable)
    assert "value 3 that it yielded, of type _thread.lock, cannot be pickled" in str(error)


def test_leaving_the_loop_early_stops_the_function(theatre: Stage, tmp_path: Path) -> None:
    stream = yields.stream("closed", str(tmp_path / "closed"))
    for _ in stream:
        break
    wait_until((tmp_path / "closed").exists, what="its finally has run")
    with pytest.raises(JobCancelled):
        stream.job.result(10)

    async def one() -> None:
        async for _ in yields_async.stream(10_000, 0.01):
            break

    asyncio.run(one())


def test_what_nobody_reads_takes_bounded_memory_and_ends_by_its_time(theatre: Stage) -> None:
    (pid,) = yields.stream("pid")

    # Given a job that would yield for ever, and nobody who reads
    job = yields.with_options(timeout_s=1.5).spawn("count", 10**9)
    wait_until(lambda: kept(theatre, job.id) > 200, what="it has yielded")
    with pytest.raises(JobTimedOut):
        job.result(20)
    assert kept(theatre, job.id) < 300

    # One that is cancelled while it waits for its reader is stopped at once; the process goes on
    job = yields.spawn("count", 10**9)
    wait_until(lambda: kept(theatre, job.id) > 200, what="it has yielded")
    assert job.cancel().result(5) == "requested"
    with pytest.raises(JobCancelled):
        job.result(5)
    assert list(yields.stream("pid")) == [pid]


def test_large_values_pass_one_by_one(theatre: Stage) -> None:
    sizes = [len(value) for value in yields.stream("large", 3 << 20, 20)]
    assert sizes == [3 << 20] * 20
    with pytest.raises(ResultNotSerializable, match="the limit is"):
        list(yields.stream("large", 100 << 20, 1))


def test_a_run_that_was_lost_is_not_mixed_with_the_next(theatre: Stage, tmp_path: Path) -> None:
    # Given a reader that has read some of a run that then dies: what the next yields is not what follows
    gate = tmp_path / "gate"
    values = iter(yields.stream("exit", 5, str(gate)))
    assert [next(values) for _ in range(5)] == list(range(5))
    gate.touch()
    with pytest.raises(StreamLost, match="begun anew, after 5 of its values"):
        next(values)

    # One that has read nothing is given what the last run yielded, and then why it ended
    job = yields.spawn("exit", 5, str(gate))
    with pytest.raises(WorkerCrashed):
        job.result(20)
    got, error = read(job.stream())
    assert got == list(range(5))
    assert isinstance(error, WorkerCrashed)


def test_a_run_that_yields_nothing_is_not_taken_for_the_end_of_another(
    theatre: Stage, tmp_path: Path
) -> None:
    # Given a reader of a run that then dies, if the next one raises before it yields, expect the reader to be told
    values = iter(yields.stream("once", 3, str(tmp_path / "gate")))
    assert [next(values) for _ in range(3)] == [0, 1, 2]
    (tmp_path / "gate").touch()
    with pytest.raises(StreamLost, match=r"begun anew, after 3 of its values were read; .* ended: failed"):
        next(values)


def test_a_job_that_is_requeued_yields_what_its_next_run_does(theatre: Stage) -> None:
    # Given a job that failed after some values that nobody has read
    job: Job[Any] = yields.spawn("fail", 3)
    with pytest.raises(ConnectionError):
        job.result(20)

    # If it is requeued, expect a reader to get those of its new run, each once
    got, error = read(job.requeue().result(5).stream())
    assert got == [0, 1, 2]
    assert isinstance(error, ConnectionError)


def test_nothing_is_kept_of_what_was_read_or_stopped(theatre: Stage) -> None:
    stream = yields.stream("count", 3)
    assert list(stream) == [0, 1, 2]
    wait_until(lambda: not held(theatre, stream.job.id), what="it was read to its end")

    stream = yields.stream("count", 10**9)
    next(iter(stream))
    wait_until(lambda: not held(theatre, stream.job.id), what="its reader has left")


def test_large_values_that_nobody_reads_take_bounded_memory(theatre: Stage) -> None:
    job: Job[Any] = yields.spawn("large", 8 << 20, 30)
    wait_until(lambda: kept(theatre, job.id) >= 3, what="it has yielded")
    with pytest.raises(WaitTimeout):
        job.result(0.5)
    assert kept(theatre, job.id) <= 5  # 16 MiB, 16 MiB more, and one value
    assert [len(value) for value in job.stream()] == [8 << 20] * 30


def test_a_stream_outlives_a_restart_of_the_broker(theatre: Stage) -> None:
    got = []
    for value in yields_async.stream(30, 0.02):
        got.append(value)
        if value == 10:
            theatre.server.kill(signal.SIGKILL)
            theatre.server.start()
    assert got == list(range(30))


def test_a_forged_value_is_not_believed(theatre: Stage) -> None:
    # Given the chunks of a job, of which somebody changes one, and puts another job's in the place of one
    donor, job = yields.spawn("count", 3), yields.spawn("count", 3)
    donor.result(10)
    job.result(10)
    execute, of = theatre.broker.execute, theatre.broker.keys.of
    rows = {name: execute("XRANGE", of("chunks", name), "-", "+") for name in (donor.id, job.id)}
    raw = rows[job.id][1][1][1]
    for forged in (raw[:-1] + bytes([raw[-1] ^ 1]), b"", rows[donor.id][1][1][1], rows[job.id][0][1][1]):
        execute("DEL", of("chunks", job.id))
        for n, (entry, fields) in enumerate(rows[job.id]):
            execute("XADD", of("chunks", job.id), entry, "chunk", forged if n == 1 else fields[1])
        stream = iter(job.stream())
        assert next(stream) == 0
        with pytest.raises(EnvelopeError):
            next(stream)

    # One that is missing is missed
    execute("DEL", of("chunks", job.id))
    execute("XADD", of("chunks", job.id), rows[job.id][0][0], "chunk", rows[job.id][0][1][1])
    with pytest.raises(StreamLost, match="yielded 3 values, of which 1 are here"):
        list(job.stream())


def test_a_function_that_yields_is_called_by_stream_alone(theatre: Stage, tmp_path: Path) -> None:
    for call in (
        lambda: yields("count", 1),
        lambda: yields.remote("count", 1),
        lambda: yields.map(["count"]),
    ):
        with pytest.raises(UnsupportedCall, match=r"yields\.stream"):
            call()
    with pytest.raises(UnsupportedCall, match="yields nothing"):
        returns.stream()
    assert list(yields.local("count", 2)) == [0, 1]

    # The command line says so, too
    cli = CommandLine(theatre.server.url, tmp_path)
    assert "yields its values" in cli("call", "yields", '"count"', "2", code=4).output


def test_a_stream_that_was_not_begun_is_no_job(theatre: Stage) -> None:
    before = theatre.broker.execute("HGET", theatre.broker.keys.of("stats", "yields"), "submitted")
    yields.stream("count", 3)
    after = theatre.broker.execute("HGET", theatre.broker.keys.of("stats", "yields"), "submitted")
    assert before == after


def test_states_are_those_of_any_job(theatre: Stage) -> None:
    job = yields_async.spawn(3, 0.1)
    values = iter(job.stream())
    assert next(values) == 0
    assert job.status().result(5) is Status.IN_PROGRESS
    assert list(values) == [1, 2]
    assert job.status().result(5) is Status.COMPLETED
