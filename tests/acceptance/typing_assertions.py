"""What type checkers must see of a decorated function. Never run: mypy reads it, strictly.

Each `type: ignore[code]` marks a mistake that has to be found: where mypy is silent there, strict mode's
warn_unused_ignores makes that an error of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_type

from flashq import (
    Endpoint,
    EndpointFunction,
    EndpointJob,
    GpuGroup,
    Queue,
    Retries,
    Status,
    Timing,
    fetch_job,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@Endpoint(name="typed", gpu=GpuGroup.ANY, workers=(0, 3), idle_timeout=60, dependencies=["numpy"])
def cut(texts: list[str], size: int = 3, *, loud: bool = False) -> list[str]:
    return [text[:size].upper() if loud else text[:size] for text in texts]


@Endpoint(name="typed-async", cpu="any", max_concurrency=4, retries=Retries(max=2))
async def embed(texts: list[str]) -> list[list[float]]:
    return [[1.0] for _ in texts]


@Endpoint(name="typed-plain", cpu="any")
def length(text: str) -> int:
    return len(text)


@Endpoint(name="typed-none", cpu="any", env={"A": "b"}, execution_timeout_ms=10)
def nothing() -> None: ...


def functions_keep_their_signature() -> None:
    assert_type(cut.remote(["abc"]), list[str])
    assert_type(cut.remote(["abc"], 2), list[str])
    assert_type(cut.remote(texts=["abc"], size=2, loud=True), list[str])
    assert_type(nothing.remote(), None)
    cut.remote()  # type: ignore[call-arg]
    cut.remote("abc", "2")  # type: ignore[arg-type]
    cut.remote(["abc"], 2, True)  # type: ignore[call-arg]
    cut.remote(["abc"], quiet=True)  # type: ignore[call-arg]
    cut("abc")  # type: ignore[arg-type]
    cut.spawn(5)  # type: ignore[arg-type]
    length(text=5)  # type: ignore[arg-type]
    embed.remote([1])  # type: ignore[list-item]


def a_call_is_a_job_of_its_value() -> None:
    assert_type(cut(["abc"]), EndpointJob[list[str]])
    assert_type(cut.spawn(["abc"]), EndpointJob[list[str]])
    assert_type(embed(["abc"]), EndpointJob[list[list[float]]])
    assert_type(embed.spawn(["abc"]), EndpointJob[list[list[float]]])
    assert_type(embed.remote(["abc"]), list[list[float]])


async def awaiting_gives_the_value() -> None:
    assert_type(await cut(["abc"]), list[str])
    assert_type(await embed(["abc"]), list[list[float]])
    assert_type(await nothing(), None)


async def a_job_says_what_it_is() -> None:
    job = length.spawn("abc")
    assert_type(job.id, str)
    assert_type(job.done, bool)
    assert_type(job.output, int | None)
    assert_type(job.error, BaseException | None)
    assert_type(job.cold_start, bool | None)
    assert_type(job.timing, Timing)
    assert_type(await job, int)
    assert_type(await job.wait(), int)
    assert_type(await job.wait(2.5), int)
    assert_type(await job.wait(timeout=2.5), int)
    assert_type(job.result(), int)
    assert_type(job.result(timeout=1), int)
    assert_type(await job.status(), Status)
    assert_type(job.status().result(), Status)
    await job.cancel()
    assert_type(await job.requeue(), EndpointJob[int])
    assert_type(await length.aspawn("abc"), EndpointJob[int])
    await length.aspawn(5)  # type: ignore[arg-type]
    for line in job.logs():
        assert_type(line, str)
    job.output = 5  # type: ignore[misc]
    job.result("soon")  # type: ignore[arg-type]


async def a_map_gives_values_both_ways() -> None:
    for size in length.map(["a", "bc"]):
        assert_type(size, int)
    async for size in length.map(["a", "bc"]):
        assert_type(size, int)
    for vectors in embed.map([["a"], ["b"]], order=False):
        assert_type(vectors, list[list[float]])
    assert_type(list(length.map("abc")), list[int])
    assert_type([size async for size in length.map(iter("abc"))], list[int])


def results_can_be_passed_on(values: Iterator[int], later: AsyncIterator[int]) -> None:
    length.map([str(value) for value in values])


async def local_takes_what_the_function_takes() -> None:
    length.local("abc")
    await embed.local(["abc"])
    length.local(5)  # type: ignore[arg-type]


async def options_change_no_type() -> None:
    urgent = length.with_options(key="doc-17", priority=5, delay_s=30, ttl_s=3600, timeout_s=60)
    assert_type(urgent.remote("abc"), int)
    assert_type(await urgent("abc"), int)
    assert_type(urgent.spawn("abc"), EndpointJob[int])
    length.with_options(nonsense=1)  # type: ignore[call-arg]
    length.with_options(priority="high")  # type: ignore[arg-type]
    once = length.with_options(delivery="at_most_once", retries=Retries(max=0))
    assert_type(once.remote("abc"), int)
    length.with_options(delivery="twice")  # type: ignore[arg-type]


def a_queue_is_looked_after() -> None:
    assert_type(length.queue, Queue)
    assert_type(len(Queue("typed-plain")), int)
    assert_type(length.queue.requeue(reason="lost"), int)
    assert_type(length.queue.paused, bool)
    assert_type([dead.attempts for dead in length.queue.failed()], list[int])
    assert_type(fetch_job("typed-plain-1"), EndpointJob[Any])


def parameters_are_known_to_editors() -> None:
    Endpoint(name=5)  # type: ignore[call-overload]
    Endpoint(name="x", worker=3)  # type: ignore[call-overload]
    Endpoint(name="x", env={"A": 1})  # type: ignore[dict-item]
    Endpoint(name="x", workers=3, gpu=[GpuGroup.ANY], result_ttl=5, ttl=1.5, priority=2)


def an_endpoint_can_be_passed_on(function: EndpointFunction[[str], int]) -> EndpointJob[int]:
    return function.spawn("abc")


def so_it_is_with(anything: Any) -> None:
    assert_type(an_endpoint_can_be_passed_on(length), EndpointJob[int])
    an_endpoint_can_be_passed_on(cut)  # type: ignore[arg-type]


def an_endpoint_by_name_takes_and_gives_anything() -> None:
    called = Endpoint(id="embed")
    assert_type(called("a", b=2), EndpointJob[Any])
    called.remote(1)
    called.predict.spawn(1)
    Endpoint(id="embed", workers=3)  # type: ignore[call-overload]
