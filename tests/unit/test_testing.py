"""flashq.testing: what users test their endpoints with."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from flashq import CurrentJob, Endpoint, Retries, Status, current, errors
from flashq.client import current_client, use_client
from flashq.testing import LocalBroker, flashq_local, local

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

__all__ = ["flashq_local"]


class Sad(Exception):
    """An exception of the user's own."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class RefusesToLoad:
    """Pickled gladly, never unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


@Endpoint(name="testing-add", cpu="any")
def add(x: int, y: int = 1) -> int:
    return x + y


@Endpoint(name="testing-add-async", cpu="any")
async def add_async(x: int, y: int = 1) -> int:
    await asyncio.sleep(0)
    return x + y


@Endpoint(name="testing-who", cpu="any", retries=1)
def who() -> CurrentJob:
    me = current()
    if me.attempt == 1:
        raise ConnectionError(me.id)
    return me


@Endpoint(name="testing-count", cpu="any")
def count(most: int) -> Iterator[int]:
    yield from range(most)
    if most == 3:
        raise Sad(most)


@Endpoint(name="testing-count-async", cpu="any")
async def count_async(most: int) -> AsyncIterator[int]:
    for number in range(most):
        await asyncio.sleep(0)
        yield number


@Endpoint(name="testing-who-async", cpu="any")
async def who_async() -> CurrentJob:
    await asyncio.sleep(0)
    return current()


@Endpoint(name="testing-extend", cpu="any")
def extend(items: list[int]) -> list[int]:
    items.append(0)
    return items


@Endpoint(name="testing-fail", cpu="any")
def fail(number: int) -> None:
    raise Sad(number)


@Endpoint(name="testing-lock", cpu="any")
def lock() -> object:
    return threading.Lock()


@Endpoint(name="testing-flaky", cpu="any", retries=Retries(max=2, delay_s=3600, on=("Sad",)))
def flaky(tries: Path, succeed_at: int) -> int:
    with tries.open("a") as file:
        file.write(".")
    if len(tries.read_text()) < succeed_at:
        raise Sad(len(tries.read_text()))
    return len(tries.read_text())


@Endpoint(name="testing-record", cpu="any")
def record(book: Path, line: str) -> None:
    with book.open("a") as file:
        file.write(line)


@Endpoint(name="testing-gate", cpu="any")
def gate(begun: Path, opened: Path) -> str:
    begun.touch()
    while not opened.exists():
        time.sleep(0.001)
    return "through"


@Endpoint(name="testing-forever", cpu="any")
async def forever(begun: Path) -> None:
    begun.touch()
    await asyncio.sleep(3600)


@Endpoint(name="testing-slow", cpu="any")
def slow() -> str:
    time.sleep(0.03)
    return "late"


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} was not made in time"
        time.sleep(0.001)


# -- calls -------------------------------------------------------------------------------------------


def test_functions_and_coroutines_are_called_and_return(flashq_local: LocalBroker) -> None:
    assert add.remote(1, y=2) == 3
    assert add_async.remote(1) == 2
    assert add.spawn(5).result() == 6


def test_calls_are_awaited(flashq_local: LocalBroker) -> None:
    async def main() -> list[int]:
        return await asyncio.gather(*(add_async(i) for i in range(3)), add(10))

    assert asyncio.run(main()) == [1, 2, 3, 11]


def test_map_keeps_the_order(flashq_local: LocalBroker) -> None:
    assert list(add.map(range(20))) == list(range(1, 21))
    mapped: list[Any] = list(fail.map([1, 2], return_exceptions=True))
    assert [error.number for error in mapped] == [1, 2]


def test_arguments_and_results_travel_as_copies(flashq_local: LocalBroker) -> None:
    mine = [1]

    assert extend.remote(mine) == [1, 0]
    assert mine == [1]


def test_code_is_what_it_was_when_it_was_called(flashq_local: LocalBroker) -> None:
    factor = 2

    @Endpoint(name="testing-closure", cpu="any")
    def scale(x: int) -> int:
        return x * factor

    assert scale.remote(4) == 8


def test_what_a_job_tells_of_itself(flashq_local: LocalBroker) -> None:
    job = add.spawn(1)
    job.result()

    assert job.cold_start is not None  # whether the worker stood idle by then is a matter of luck
    assert job.status().result() is Status.COMPLETED
    timing = job.timing
    assert timing.attempts == 1
    assert timing.execution_s is not None
    assert list(job.logs()) == []


def test_parameters_of_real_workers_say_nothing_here(flashq_local: LocalBroker) -> None:
    @Endpoint(name="testing-heavy", gpu="H200", dependencies=["torch"], env={"TOKEN": "x"})
    def heavy() -> str:
        return "ran"

    assert heavy.remote() == "ran"


# -- failures ----------------------------------------------------------------------------------------


def test_an_exception_is_raised_as_its_own_type(flashq_local: LocalBroker) -> None:
    with pytest.raises(Sad) as raised:
        fail.remote(7)

    assert raised.value.number == 7
    assert "raise Sad(number)" in "".join(raised.value.__notes__)


def test_what_cannot_be_pickled_is_an_error(flashq_local: LocalBroker) -> None:
    with pytest.raises(errors.ResultNotSerializable, match="lock"):
        lock.remote()
    with pytest.raises(errors.SerializationError, match="argument 1"):
        add.remote(threading.Lock())  # type: ignore[arg-type]
    flashq_local.join()


def test_a_function_that_does_not_load_fails_its_jobs(flashq_local: LocalBroker) -> None:
    trap = RefusesToLoad()

    @Endpoint(name="testing-trap", cpu="any")
    def trapped() -> str:
        return str(trap)

    with pytest.raises(errors.EndpointFailed, match="not a number"):
        trapped.remote()


def test_a_record_that_was_altered_is_refused(flashq_local: LocalBroker) -> None:
    add.remote(1)

    @Endpoint(name="testing-altered", cpu="any")
    def altered() -> int:
        return 1

    registration = current_client().registration(altered)
    flashq_local._memory.run(registration.command(flashq_local._memory.transitions))
    key = flashq_local._memory.keys.of("revision", "testing-altered", registration.revision)
    flashq_local._memory.execute("SET", key, registration.record[:-1] + b"\x00")

    with pytest.raises(errors.JobRefused, match="signature"):
        altered.remote()


def test_retries_are_honoured(flashq_local: LocalBroker, tmp_path: Path) -> None:
    job = flaky.spawn(tmp_path / "tries", 3)
    flashq_local.join()  # which does not sleep through the backoff

    assert job.result() == 3
    assert job.timing.attempts == 3


def test_retries_end(flashq_local: LocalBroker, tmp_path: Path) -> None:
    flaky.spawn(tmp_path / "tries", 9)

    with pytest.raises(Sad) as raised:
        flashq_local.join()
    assert raised.value.number == 3


# -- joining -----------------------------------------------------------------------------------------


def test_join_waits_for_every_call(flashq_local: LocalBroker, tmp_path: Path) -> None:
    for line in "abc":
        record.spawn(tmp_path / "book", line)
    flashq_local.join()

    assert (tmp_path / "book").read_text() == "abc"


def test_join_raises_the_first_failure_once(flashq_local: LocalBroker) -> None:
    fail.spawn(1)
    fail.spawn(2)
    with pytest.raises(Sad) as raised:
        flashq_local.join()

    assert raised.value.number == 1
    flashq_local.join()


def test_join_does_not_raise_what_was_raised_already(flashq_local: LocalBroker) -> None:
    with pytest.raises(Sad):
        fail.remote(1)
    told = fail.spawn(2)
    with pytest.raises(Sad):
        told.result()
    with pytest.raises(errors.SerializationError):
        add.spawn(threading.Lock())  # type: ignore[arg-type]

    flashq_local.join()


def test_join_gives_up_after_a_while(flashq_local: LocalBroker, tmp_path: Path) -> None:
    job = gate.spawn(tmp_path / "begun", tmp_path / "opened")
    with pytest.raises(errors.WaitTimeout, match=job.id):
        flashq_local.join(timeout_s=0.01)
    (tmp_path / "opened").touch()

    flashq_local.join()
    assert job.result() == "through"


# -- time --------------------------------------------------------------------------------------------


def test_a_delayed_call_waits_until_the_clock_is_advanced(flashq_local: LocalBroker) -> None:
    job = add.with_options(delay_s=3600).spawn(1)
    add.remote(1)
    assert job.status().result() is Status.IN_QUEUE
    flashq_local.advance(3600)

    assert job.result(20) == 2


def test_join_skips_delays_in_their_order(flashq_local: LocalBroker, tmp_path: Path) -> None:
    record.with_options(delay_s=7200).spawn(tmp_path / "book", "late ")
    record.with_options(delay_s=3600).spawn(tmp_path / "book", "soon ")
    record.spawn(tmp_path / "book", "now ")
    flashq_local.join()

    assert (tmp_path / "book").read_text() == "now soon late "


def test_a_call_past_its_ttl_expires(flashq_local: LocalBroker, tmp_path: Path) -> None:
    busy = gate.spawn(tmp_path / "begun", tmp_path / "opened")
    wait_for(tmp_path / "begun")
    waiting = add.with_options(ttl_s=60).spawn(1)
    flashq_local.advance(61)
    (tmp_path / "opened").touch()

    with pytest.raises(errors.JobExpired):
        waiting.result(20)
    assert busy.result() == "through"


@pytest.mark.parametrize("days", [2, 20])
def test_a_clock_set_far_ahead_loses_no_worker(flashq_local: LocalBroker, days: int) -> None:
    add.remote(1)
    for _ in range(days):
        flashq_local.advance(86_400)
        assert add.remote(1) == 2


def test_higher_priorities_go_first(flashq_local: LocalBroker, tmp_path: Path) -> None:
    gate.spawn(tmp_path / "begun", tmp_path / "opened")
    wait_for(tmp_path / "begun")
    record.spawn(tmp_path / "book", "plain ")
    record.with_options(priority=5).spawn(tmp_path / "book", "high ")
    (tmp_path / "opened").touch()
    flashq_local.join()

    assert (tmp_path / "book").read_text() == "high plain "


@pytest.mark.parametrize("endpoint", [forever, slow])
def test_a_call_that_runs_too_long_times_out(
    flashq_local: LocalBroker, tmp_path: Path, endpoint: Any
) -> None:
    arguments = [tmp_path / "begun"] if endpoint is forever else []

    with pytest.raises(errors.JobTimedOut):
        endpoint.with_options(timeout_s=0.01).remote(*arguments)


# -- keys and cancels --------------------------------------------------------------------------------


def test_a_key_stands_for_the_first_call(flashq_local: LocalBroker) -> None:
    keyed = add.with_options(key="doc-17")
    first, second = keyed.spawn(1), keyed.spawn(1)

    assert (second.id, second.result()) == (first.id, 2)
    with pytest.raises(errors.IdempotencyConflict) as caught:
        keyed.spawn(40)
    assert caught.value.job_id == first.id


def test_a_waiting_call_is_cancelled(flashq_local: LocalBroker) -> None:
    job = add.with_options(delay_s=3600).spawn(1)

    assert job.cancel().result() == "cancelled"
    with pytest.raises(errors.JobCancelled):
        job.result()
    flashq_local.join()


def test_a_running_coroutine_is_cancelled(flashq_local: LocalBroker, tmp_path: Path) -> None:
    job = forever.spawn(tmp_path / "begun")
    wait_for(tmp_path / "begun")

    assert job.cancel().result() == "requested"
    flashq_local.join(timeout_s=20)  # nobody needs to be told of a cancel
    with pytest.raises(errors.JobCancelled):
        job.result()


def test_a_running_function_is_cancelled_once_it_returns(flashq_local: LocalBroker, tmp_path: Path) -> None:
    job = gate.spawn(tmp_path / "begun", tmp_path / "opened")
    wait_for(tmp_path / "begun")
    assert job.cancel().result() == "requested"
    (tmp_path / "opened").touch()

    with pytest.raises(errors.JobCancelled):
        job.result(20)


# -- around it ---------------------------------------------------------------------------------------


def test_the_client_before_comes_back() -> None:
    with local() as outer:
        client = current_client()
        with local():
            assert current_client() is not client
            assert add.remote(1) == 2
        assert current_client() is client
        assert add.remote(1) == 2
        outer.join()
    assert use_client(None) is not client


def test_each_broker_begins_empty() -> None:
    for _ in range(2):
        with local():
            assert add.with_options(key="once").remote(1) == 2
            assert add.spawn(1).id.startswith("testing-add-")


def test_what_has_not_ended_when_the_broker_goes_is_told_so(tmp_path: Path) -> None:
    with local():
        running = forever.spawn(tmp_path / "begun")
        delayed = add.with_options(delay_s=60).spawn(1)
        wait_for(tmp_path / "begun")

    for job in (running, delayed):
        with pytest.raises(errors.BrokerUnreachable, match="closed before this job ended"):
            job.result(0)


@pytest.mark.parametrize("missing", ["fakeredis", "lupa"])
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)

    with pytest.raises(ImportError, match=rf"needs {missing}: pip install '\.\[testing\]'"), local():
        pass


# -- what a job knows of itself ----------------------------------------------------------------------


def test_a_job_knows_its_id_attempt_fence_and_endpoint(flashq_local: LocalBroker) -> None:
    """Given a function that is tried twice, expect the second attempt to know that it is, under a newer fence."""
    job = who.spawn()
    assert job.result(10) == CurrentJob(job.id, attempt=2, fence=2, endpoint="testing-who")


def test_a_coroutine_knows_its_job_too(flashq_local: LocalBroker) -> None:
    job = who_async.spawn()
    assert job.result(10) == CurrentJob(job.id, attempt=1, fence=1, endpoint="testing-who-async")


def test_outside_a_job_there_is_no_current_one(flashq_local: LocalBroker) -> None:
    """Given that jobs have run in this process, if one asks outside of them, expect the reason why not."""
    add.remote(1)
    with pytest.raises(errors.UnsupportedCall, match="inside a job only"):
        current()


def test_functions_that_yield(flashq_local: LocalBroker) -> None:
    assert list(count.stream(500)) == list(range(500))
    assert list(count_async.stream(5)) == list(range(5))

    async def read() -> list[int]:
        return [number async for number in count_async.stream(4)]

    assert asyncio.run(read()) == [0, 1, 2, 3]
    values = iter(count.stream(3))
    assert [next(values) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Sad):
        next(values)
