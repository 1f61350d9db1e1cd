"""Calls from inside jobs, on a whole deployment: the ways to call, errors, ends, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint, EndpointJob
from flashq.errors import EndpointNotFound, JobCancelled, JobTimedOut, SerializationError, UnsupportedCall
from tests.integration.stack import Stack
from tests.rig import Rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq.endpoint_function import EndpointFunction

pytestmark = pytest.mark.requires("valkey")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A host that runs as many as are wanted."""
    with contextlib.closing(Rig(lease_s=3.0)) as rig, contextlib.closing(Stack(rig)) as made:
        yield made


BRIEF: dict[str, Any] = {"cpu": "any", "workers": (0, 1), "idle_timeout": 0.2}


@Endpoint(name="nested-endless", **{**BRIEF, "workers": (0, 40)})
def endless(n: int) -> int:
    return endless.remote(n + 1)


def test_calls_without_end_are_told_so(stack: Stack) -> None:
    with pytest.raises(UnsupportedCall, match="16 jobs above each other are the most"):
        endless.remote(0)


# -- ways to call ----------------------------------------------------------------------------------------


class Negative(Exception):
    pass


@Endpoint(name="nested-leaf", cpu="any", workers=(0, 2), idle_timeout=30)
def leaf(x: float, path: str = "") -> float:
    if x < 0:
        raise Negative(f"it is {x}")
    if path:
        with Path(path).open("a") as file:
            file.write("began\n")
        time.sleep(x)
        with Path(path).open("a") as file:
            file.write("ended\n")
    return 2 * x


@Endpoint(name="nested-scaled", cpu="any", workers=(0, 1), idle_timeout=30)
class Scaled:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def times(self, x: int) -> int:
        return self.factor * x


scaled: Any = Scaled(7)


@Endpoint(name="nested-plain", cpu="any", workers=(0, 1), idle_timeout=30)
def plain(how: str) -> Any:  # noqa: C901 — one way to call a case
    match how:
        case "remote":
            return leaf.remote(1)
        case "job":
            jobs: list[EndpointJob[float]] = [leaf(x) for x in range(5)]
            return [job.result(20) for job in jobs]
        case "spawn":
            job = leaf.spawn(4)
            return job.id, job.result()
        case "map":
            return list(leaf.map(range(30)))
        case "unordered":
            return sorted(leaf.map(range(30), order=False))
        case "class":
            return scaled.times.remote(6)
        case "caught":
            try:
                leaf.remote(-1)
            except Negative as error:
                return f"caught: {error}"
        case "raised":
            return leaf.remote(-2)
        case "await":
            return asyncio.run(_awaited())
        case "options":
            return leaf.with_options(priority=3).remote(1)
    return None


async def _awaited() -> float:
    return await leaf(1)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("remote", 2),
        ("job", [0, 2, 4, 6, 8]),
        ("map", [2 * x for x in range(30)]),
        ("unordered", [2 * x for x in range(30)]),
        ("class", 42),
        ("caught", "caught: it is -1"),
    ],
)
def test_a_plain_function_calls(stack: Stack, how: str, expected: object) -> None:
    assert plain.remote(how) == expected


def test_an_exception_of_what_was_called_passes_through_as_its_own_type(stack: Stack) -> None:
    with pytest.raises(Negative, match="it is -2"):
        plain.remote("raised")


def test_a_call_is_on_record_with_who_made_it(stack: Stack) -> None:
    job = plain.spawn("spawn")
    child, value = job.result(30)
    assert value == 8
    broker = stack.rig.broker
    assert broker.execute("HGET", broker.keys.of("job", child), "fq_parent") == job.id.encode()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("await", "a plain function awaits nothing"),
        ("options", "calls from inside jobs go before all others"),
    ],
)
def test_what_cannot_be_is_refused_by_name(stack: Stack, how: str, says: str) -> None:
    with pytest.raises(UnsupportedCall, match=says):
        plain.remote(how)


@Endpoint(name="nested-looped", cpu="any", workers=(0, 1), idle_timeout=30, max_concurrency=4)
async def looped(how: str) -> Any:
    match how:
        case "await":
            return await leaf(1)
        case "gather":
            return await asyncio.gather(*(leaf(x) for x in range(10)))
        case "map":
            return [value async for value in leaf.map(range(10))]
        case "aspawn":
            return await (await leaf.aspawn(3))
        case "block":
            return leaf.remote(1)
    return None


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("await", 2),
        ("gather", [2 * x for x in range(10)]),
        ("map", [2 * x for x in range(10)]),
        ("aspawn", 6),
    ],
)
def test_a_coroutine_calls(stack: Stack, how: str, expected: object) -> None:
    assert looped.remote(how) == expected


def test_a_coroutine_that_would_block_its_loop_is_refused(stack: Stack) -> None:
    with pytest.raises(UnsupportedCall, match="a call is awaited"):
        looped.remote("block")


# -- ends ------------------------------------------------------------------------------------------------


@Endpoint(name="nested-patient", cpu="any", workers=(0, 1), idle_timeout=30, retries=0)
def patient(how: str, path: str) -> Any:
    if how == "spawn":
        leaf.spawn(0.5, path)
        time.sleep(60)
    if how == "timeout":
        return leaf.with_options(timeout_s=0.3).remote(60, path)
    return leaf.remote(60, path)


def began(path: Path, count: int = 1) -> None:
    wait_until(
        lambda: path.exists() and path.read_text().count("began") >= count, what="what was called runs"
    )


def test_a_parent_that_is_cancelled_takes_along_what_it_waits_for(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "seen"
    job = patient.spawn("remote", str(path))
    began(path)
    job.cancel().result(10)
    with pytest.raises(JobCancelled):
        job.result(20)
    wait_until(lambda: set(stack.states(leaf)) == {"idle"}, what="the called job was stopped")
    assert path.read_text() == "began\n"


def test_what_was_spawned_goes_on_without_its_parent(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "seen"
    job = patient.spawn("spawn", str(path))
    began(path)
    job.cancel()
    with pytest.raises(JobCancelled):
        job.result(20)
    wait_until(lambda: "ended" in path.read_text(), what="what was spawned ends")


def test_an_option_given_inside_a_job_holds(stack: Stack, tmp_path: Path) -> None:
    with pytest.raises(JobTimedOut):
        patient.remote("timeout", str(tmp_path / "seen"))


def test_a_worker_killed_while_its_job_waits_runs_it_again_and_stops_what_it_had_called(
    stack: Stack, tmp_path: Path
) -> None:
    path = tmp_path / "seen"
    job = patient.spawn("remote", str(path))
    began(path)
    (fields,) = stack.workers(patient).values()
    os.kill(int(fields["pid"]), signal.SIGKILL)
    began(path, count=2)
    job.cancel()
    with pytest.raises(JobCancelled):
        job.result(20)
    wait_until(lambda: set(stack.states(leaf)) == {"idle"}, what="both called jobs were stopped")
    assert "ended" not in path.read_text()


# -- code ------------------------------------------------------------------------------------------------


def test_what_is_called_is_part_of_the_callers_revision(stack: Stack) -> None:
    def callee(value: int) -> EndpointFunction[[], int]:
        @Endpoint(name="nested-pinned-callee", **BRIEF)
        def pinned() -> int:
            return value

        return pinned

    def caller(of: EndpointFunction[[], int]) -> EndpointFunction[[], int]:
        @Endpoint(name="nested-pinned-caller", **BRIEF)
        def calling() -> int:
            return of.remote()

        return calling

    client = stack.rig.client
    one, same, other = caller(callee(1)), caller(callee(1)), caller(callee(2))
    digests = [client.registration(each).revision for each in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]
    assert (one.remote(), other.remote()) == (1, 2)
    assert one.remote() == 1, "each in the revision that its caller was made with"


def test_two_handles_of_one_class_cannot_both_be_called(stack: Stack) -> None:
    other: Any = Scaled(8)

    @Endpoint(name="nested-torn", **BRIEF)
    def torn() -> int:
        return int(scaled.times.remote(1) + other.times.remote(1))

    with pytest.raises(SerializationError, match="two things named 'nested-scaled'"):
        torn.remote()


@Endpoint(name="nested-sized", cpu="any", workers=(0, 1), idle_timeout=30)
class Sized:
    def __init__(self, size: int = 3) -> None:
        self.size = size

    def times(self, x: int) -> int:
        return self.size * x


@Endpoint(name="nested-makes-handles", cpu="any", workers=(0, 1), idle_timeout=30)
def makes_handles(which: str) -> int:
    made: dict[str, Any] = {
        "default": lambda: Sized(),
        "said": lambda: Sized(size=4),
        "signed": lambda: (scaled, Scaled(7))[1],
        "unsigned": lambda: (scaled, Scaled(8))[1],
    }
    return int(made[which]().times.remote(2))


@pytest.mark.parametrize(("which", "expected"), [("default", 6), ("signed", 14)])
def test_a_job_makes_a_handle_with_the_arguments_that_were_signed(
    stack: Stack, which: str, expected: int
) -> None:
    assert makes_handles.remote(which) == expected


@pytest.mark.parametrize("which", ["said", "unsigned"])
def test_a_handle_that_a_job_makes_with_other_arguments_is_refused(stack: Stack, which: str) -> None:
    with pytest.raises(UnsupportedCall, match="other arguments than the one that the program has signed"):
        makes_handles.remote(which)


by_name = Endpoint(id="nested-leaf")
nowhere = Endpoint(id="nested-nowhere")


@Endpoint(name="nested-by-name", **BRIEF)
def calls_by_name(x: float, there: bool = True) -> float:
    called = by_name if there else nowhere
    return float(called.remote(x)) * 10


def test_what_something_else_deployed_is_called_by_name(stack: Stack) -> None:
    assert leaf.remote(1.0) == calls_by_name.remote(1.0) / 10
    with pytest.raises(EndpointNotFound, match="no endpoint 'nested-nowhere'"):
        calls_by_name.remote(1.0, there=False)
