"""What jobs print where several run at once: each job's lines are its own, live, to the end, and within bounds."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from flashq.errors import WorkerCrashed
from tests.rig import Rig, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")


@Endpoint(name="talk", cpu="any", workers=(0, 1), max_concurrency=8)
async def talk(who: str, how: str = "print", count: int = 3) -> Any:  # noqa: C901 — one way to print a case
    for number in range(count):
        match how:
            case "print":
                print(who, number)
            case "pieces":
                sys.stdout.write(f"{who} ")
                await asyncio.sleep(0.005)
                sys.stdout.write(f"{number}\n")
            case "stderr":
                print(who, number, file=sys.stderr)
            case "thread":
                await asyncio.to_thread(print, who, number)
            case "logging":
                logging.getLogger("theirs").warning("%s %d", who, number)
            case "unended":
                print(who, number, end="")
            case "bytes":
                sys.stdout.buffer.write(b"\xff\xfe " + who.encode() + b"\n")
                sys.stdout.buffer.flush()
            case "surrogate":
                print(who, number, "\udc80")
        await asyncio.sleep(0.005)
    if how == "crash":
        print(who, "last words")
        os._exit(9)
    if how == "much":
        for _ in range(40):
            print("x" * 99_999)
        print("the end")
    if how == "late":
        threading.Timer(0.2, print, ["too late"]).start()
    if how == "wait":
        await asyncio.sleep(30)
    return sys.stdout.isatty(), sys.stdout.encoding, sys.stdout.fileno()


@pytest.fixture(scope="module")
def shared() -> Iterator[Rig]:
    with rig() as made:
        made.ready_worker(talk)
        yield made


@pytest.mark.parametrize("how", ["print", "pieces", "stderr", "thread", "logging"])
def test_lines_of_jobs_that_run_at_once_are_each_jobs_own(shared: Rig, how: str) -> None:
    jobs = {who: talk(who, how) for who in "abcdefgh"}
    for who, job in jobs.items():
        assert job.result(20) == (False, "utf-8", 1)
        assert list(job.logs()) == [f"{who} {number}" for number in range(3)]


def test_a_line_that_does_not_end_is_there_in_the_end(shared: Rig) -> None:
    jobs = [talk(who, "unended") for who in "ab"]
    assert [job.result(20) and list(job.logs()) for job in jobs] == [["a 0a 1a 2"], ["b 0b 1b 2"]]


def test_text_that_is_none_is_escaped_and_bytes_go_to_the_workers_log(shared: Rig) -> None:
    odd, raw = talk("a", "surrogate", 1), talk("b", "bytes", 1)
    for job in (odd, raw):
        job.result(20)
    assert list(odd.logs()) == ["a 0 \\udc80"]
    assert list(raw.logs()) == []


def test_lines_come_while_the_job_runs(shared: Rig) -> None:
    job = talk.spawn("a", "wait", 0)
    other = talk.spawn("b", "print", 2)
    assert list(other.logs(follow=True)) == ["b 0", "b 1"]
    assert not job.done
    job.cancel()


def test_what_is_too_much_is_cut_and_the_job_goes_on(shared: Rig) -> None:
    much = talk.spawn("a", "much", 0)
    assert much.result(30)
    lines = list(much.logs())
    assert 900_000 <= sum(map(len, lines)) <= 1_200_000
    assert "the end" not in lines
    assert talk.remote("b") == (False, "utf-8", 1)


def test_a_thread_that_prints_when_its_job_is_over_hurts_nobody(shared: Rig) -> None:
    job = talk.spawn("a", "late", 0)
    job.result(20)
    time.sleep(0.5)
    assert list(job.logs()) == []
    assert talk.remote("b") == (False, "utf-8", 1)


def test_output_is_kept_when_the_executor_dies() -> None:
    with rig() as made:
        made.ready_worker(talk)
        job = talk.with_options(delivery="at_most_once").spawn("a", "crash", 1)
        with pytest.raises(WorkerCrashed) as caught:
            job.result(30)
        wait_until(lambda: list(job.logs()), what="its output")
        assert list(job.logs())[-1] == "a last words"
        assert "a last words" in caught.value.log
