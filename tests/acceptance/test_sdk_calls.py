"""The ways to call an endpoint: `await f(x)`, `remote`, `spawn`, `local`; of functions and of coroutines."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint, EndpointJob, FlashqError, Status
from tests.acceptance.stage import Stage, stage
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")

OFFSET = 1000


@dataclass(frozen=True)
class Point:
    x: float
    y: float


class Overheated(Exception):
    """An exception of the user's own, with something of its own to say."""

    def __init__(self, message: str, degrees: int) -> None:
        super().__init__(message, degrees)
        self.degrees = degrees


@Endpoint(name="calls-plain", cpu="any", workers=(0, 1))
def plain(what: str, *args: Any, **kwargs: Any) -> Any:
    """Do what is asked."""
    match what:
        case "pid":
            return os.getpid()
        case "echo":
            return args, kwargs
        case "global":
            return OFFSET + args[0]
        case "point":
            return Point(args[0].y, args[0].x)
        case "raise":
            raise args[0]
        case "chain":
            try:
                return kwargs["missing"]
            except KeyError as reason:
                raise ValueError("no such word") from reason
        case "touch":
            Path(args[0]).touch()
        case "loop":
            return asyncio.run(asyncio.sleep(0, result="my own"))
    return None


@Endpoint(name="calls-coroutine", cpu="any", workers=(0, 1))
async def coroutine(what: str, *args: Any) -> Any:
    """Do what is asked, some time."""
    await asyncio.sleep(0)
    match what:
        case "pid":
            return os.getpid()
        case "echo":
            return args
        case "raise":
            raise args[0]
        case "gather":
            return await asyncio.gather(*(asyncio.sleep(0, result=n) for n in range(args[0])))
    return None


@Endpoint(name="calls-signature", cpu="any")
def signature(texts: list[str], /, size: int = 3, *, loud: bool = False, **rest: float) -> list[str]:
    """Cut texts."""
    return [text[:size].upper() if loud else text[:size] for text in texts]


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    with stage() as made:
        made.ready_worker(plain)
        made.ready_worker(coroutine)
        yield made


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", []))


@pytest.mark.parametrize("function", [plain, coroutine], ids=["function", "coroutine function"])
def test_each_verb_gives_the_value_from_another_process(theatre: Stage, function: Any) -> None:
    # Given a function or a coroutine function with a worker
    async def awaited() -> Any:
        return await function("pid")

    # If it is called in each of the four ways
    pids = [asyncio.run(awaited()), function.remote("pid"), function.spawn("pid").result(10)]
    pids.append(function("pid").result(10))

    # Expect the answers of the one executor, which is not this process
    assert len(set(pids)) == 1
    assert pids[0] != os.getpid()


def test_local_runs_here_as_if_undecorated(theatre: Stage) -> None:
    # If both kinds run locally, expect this process's pid, and a coroutine where the function is one
    assert plain.local("pid") == os.getpid()
    made = coroutine.local("pid")
    assert inspect.iscoroutine(made)
    assert asyncio.run(made) == os.getpid()

    # Expect an exception to come as it is, and identity of arguments to be kept
    marker = object()
    assert plain.local("echo", marker)[0][0] is marker
    with pytest.raises(ZeroDivisionError):
        plain.local("raise", ZeroDivisionError("here"))


def test_a_call_returns_at_once_with_a_job(theatre: Stage) -> None:
    # If a function is called as such, expect an EndpointJob without waiting, its id naming the endpoint
    job = plain("echo", 1, two=2)
    assert isinstance(job, EndpointJob)
    assert job.id.startswith("calls-plain-")
    assert job.result(10) == ((1,), {"two": 2})


def test_an_unawaited_call_still_runs(theatre: Stage, tmp_path: Path) -> None:
    # Given nobody who keeps the job
    marker = tmp_path / "ran"

    # If the function is called and the job dropped at once
    plain("touch", str(marker))

    # Expect it to run all the same
    wait_until(marker.exists, what="the dropped call ran")


def test_an_unawaited_call_from_a_coroutine_still_runs_without_a_warning(
    theatre: Stage, tmp_path: Path
) -> None:
    # Given warnings that are errors (pytest's settings) and an event loop that ends at once
    marker = tmp_path / "ran"

    async def fire_and_forget() -> None:
        coroutine.with_options()  # an unused form of the endpoint is no call
        plain("touch", str(marker))

    # If a coroutine calls and goes on
    asyncio.run(fire_and_forget())

    # Expect it to run
    wait_until(marker.exists, what="the dropped call ran")


def test_many_calls_are_in_flight_at_once_from_one_coroutine(theatre: Stage) -> None:
    # If 200 calls are gathered, expect each one's own answer
    async def gathered() -> list[Any]:
        return list(await asyncio.gather(*(plain("echo", n) for n in range(200))))

    assert asyncio.run(gathered()) == [((n,), {}) for n in range(200)]


def test_remote_works_while_an_event_loop_runs_in_this_thread(theatre: Stage) -> None:
    # Given a notebook's situation: a loop is running, and a blocking verb is used
    async def cell() -> Any:
        return plain.remote("echo", 1), plain.spawn("echo", 2).result(10), list(plain.map(["pid"] * 3))

    # If it is used there, expect values
    first, second, pids = asyncio.run(cell())
    assert first == ((1,), {})
    assert second == ((2,), {})
    assert len(set(pids)) == 1


def test_a_plain_function_runs_outside_of_any_loop_and_a_coroutine_in_one(theatre: Stage) -> None:
    # If a function runs a loop of its own, expect that to work
    assert plain.remote("loop") == "my own"
    # If a coroutine function gathers, expect that to work
    assert coroutine.remote("gather", 5) == list(range(5))


def test_arguments_and_results_keep_their_types(theatre: Stage) -> None:
    # Given values of many kinds, and one of a class of this module
    values = [
        None,
        True,
        2**200,
        1.5,
        float("inf"),
        "ü\0\ud83d",
        b"\0\xff",
        (1, [2, {3: {4}}]),
        range(3),
        int,
        Point,
    ]

    # If they go there and back
    (returned,), _ = plain.remote("echo", values)

    # Expect equal values of equal types; NaN stays NaN
    assert returned == values
    assert [type(value) for value in returned] == [type(value) for value in values]
    (nan,), _ = plain.remote("echo", float("nan"))
    assert nan != nan

    # Expect an instance of the module's own class to be one here too
    point = plain.remote("point", Point(1, 2))
    assert point == Point(2, 1)
    assert type(point) is Point


def test_globals_of_the_users_module_travel_with_the_function(theatre: Stage) -> None:
    assert plain.remote("global", 7) == 1007


def test_shared_structure_and_cycles_survive(theatre: Stage) -> None:
    # Given a list that contains itself and one value twice
    twice: list[Any] = ["x"]
    cycle: list[Any] = [twice, twice]
    cycle.append(cycle)

    # If it goes there and back, expect the same shape
    (back,), _ = plain.remote("echo", cycle)
    assert back[0] is back[1]
    assert back[2] is back


@pytest.mark.parametrize("function", [plain, coroutine], ids=["function", "coroutine function"])
@pytest.mark.parametrize("verb", ["await", "remote", "result"])
def test_the_functions_exception_is_raised_as_its_own_type(theatre: Stage, function: Any, verb: str) -> None:
    # Given an exception class of the user's, with an attribute
    async def awaited() -> Any:
        return await function("raise", Overheated("too hot", 97))

    calls = {
        "await": lambda: asyncio.run(awaited()),
        "remote": lambda: function.remote("raise", Overheated("too hot", 97)),
        "result": lambda: function.spawn("raise", Overheated("too hot", 97)).result(10),
    }

    # If the call raises it
    with pytest.raises(Overheated, match="too hot") as raised:
        calls[verb]()

    # Expect its own state, and the remote traceback shown, naming the line that raised
    assert raised.value.degrees == 97
    assert not isinstance(raised.value, FlashqError)
    assert "raise args[0]" in notes(raised.value)
    assert "Traceback" in notes(raised.value)


def test_the_cause_of_a_remote_exception_is_shown(theatre: Stage) -> None:
    # If an exception was raised from another, expect both in what is shown
    with pytest.raises(ValueError, match="no such word") as raised:
        plain.remote("chain")
    assert "KeyError: 'missing'" in notes(raised.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("function", [plain, coroutine], ids=["function", "coroutine function"])
def test_an_exception_that_would_end_a_program_ends_only_the_job(
    theatre: Stage, function: Any, error: type[BaseException]
) -> None:
    # Given an executor with a certain pid
    before = function.remote("pid")

    # If the function raises what would end a process or a task
    job = function.spawn("raise", error(3))

    # Expect the job to fail with an error that names it (never a program that ends quietly here)
    with pytest.raises(BaseException, match=error.__name__) as raised:
        job.result(10)
    text = f"{type(raised.value).__name__}: {raised.value} {notes(raised.value)}"
    assert error.__name__ in text
    assert job.status().result() is Status.FAILED

    # Expect the executor to live on
    assert function.remote("pid") == before


def test_wrong_arguments_raise_type_error_naming_the_parameter(theatre: Stage) -> None:
    # If a required argument is missing, expect Python's own error
    with pytest.raises(TypeError, match="what"):
        plain.remote()  # type: ignore[call-arg]
    # If there is one it does not know, expect the same
    with pytest.raises(TypeError, match="nonsense"):
        coroutine.remote("echo", nonsense=1)  # type: ignore[call-arg]


def test_a_decorated_function_keeps_its_signature_name_and_docstring() -> None:
    # If a function is decorated, expect what help(), inspect and documentation tools read to be its own
    def undecorated(texts: list[str], /, size: int = 3, *, loud: bool = False, **rest: float) -> list[str]:
        return texts

    assert inspect.signature(signature) == inspect.signature(undecorated)
    assert signature.__name__ == "signature"
    assert signature.__qualname__ == "signature"
    assert signature.__module__ == __name__
    assert signature.__doc__ == "Cut texts."


def test_one_hundred_threads_call_at_once(theatre: Stage) -> None:
    # Given 100 threads behind one gate
    gate = threading.Barrier(100)
    answers: dict[int, Any] = {}

    def caller(n: int) -> None:
        gate.wait(20)
        match n % 3:
            case 0:
                answers[n] = plain.remote("echo", n)[0][0]
            case 1:
                answers[n] = plain("echo", n).result(20)[0][0]
            case _:
                answers[n] = asyncio.run(awaited(n))

    async def awaited(n: int) -> Any:
        return (await plain("echo", n))[0][0]

    # If all call at once, in three ways
    threads = [threading.Thread(target=caller, args=(n,)) for n in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    # Expect each thread to get its own answer
    assert answers == {n: n for n in range(100)}


def test_one_hundred_threads_cost_one_client_thread(theatre: Stage) -> None:
    # Given a process that has called before
    plain.remote("echo")
    before = {thread.name for thread in threading.enumerate()}

    # If many threads call
    def call() -> None:
        plain.remote("echo")

    threads = [threading.Thread(target=call) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    # Expect no thread of flashq's to be added
    assert {thread.name for thread in threading.enumerate()} <= before


def test_several_event_loops_in_turn_and_at_once(theatre: Stage) -> None:
    # Given a loop for each of several cells, one after the other, and two at the same time
    async def cell(n: int) -> Any:
        return (await plain("echo", n))[0][0]

    async def cell_in_thread(n: int) -> Any:
        other = asyncio.to_thread(asyncio.run, cell(n + 1))
        return await asyncio.gather(cell(n), other)

    # If each calls, expect each one's answer
    assert [asyncio.run(cell(n)) for n in range(5)] == list(range(5))
    assert asyncio.run(cell_in_thread(10)) == [10, 11]


def test_one_job_is_awaited_by_two_loops(theatre: Stage, tmp_path: Path) -> None:
    # Given a job made in one loop that ended
    async def submit() -> EndpointJob[Any]:
        return plain("echo", "kept")

    async def wait(job: EndpointJob[Any]) -> Any:
        return await job

    job = asyncio.run(submit())

    # If it is awaited twice in later loops, and blocked for
    # Expect the same value each time
    assert asyncio.run(wait(job)) == (("kept",), {})
    assert asyncio.run(wait(job)) == (("kept",), {})
    assert job.result(1) == (("kept",), {})


def test_a_thousand_calls_hold_few_connections(theatre: Stage) -> None:
    # Given 1,000 calls in flight
    jobs = [plain("echo", n) for n in range(1000)]

    # If the broker is asked who is connected
    lines = theatre.broker.execute("CLIENT", "LIST").decode().splitlines()

    # Expect this process's client to hold a connection or two, as do its workers; and all answers to come
    assert len(lines) <= 12
    assert [job.result(30)[0][0] for job in jobs] == list(range(1000))


def test_waiting_costs_no_processor_time(theatre: Stage) -> None:
    # Given a call that no worker takes
    @Endpoint(name="calls-nobody", cpu="any")
    def unserved() -> None: ...

    job = unserved.spawn()

    # If it is waited for, a second long
    before = time.process_time()
    with pytest.raises(TimeoutError):
        job.result(1.0)

    # Expect next to no processor time to be spent in this process
    assert time.process_time() - before < 0.3
    job.cancel().result()
