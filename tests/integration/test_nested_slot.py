"""Calls from inside jobs on a host that runs one worker at a time, and what that host's agent signs."""

from __future__ import annotations

import contextlib
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from flashq_worker.executor import frames
from flashq_worker.host.calls import HostCalls
from tests.integration.stack import Peak, Stack
from tests.rig import Rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with contextlib.closing(Rig(lease_s=3.0)) as rig, contextlib.closing(Stack(rig, "--slots", "1")) as made:
        yield made


# Kept short, so that those of one test make way for the next one's on the one slot.
BRIEF: dict[str, Any] = {"cpu": "any", "workers": (0, 1), "idle_timeout": 0.2}


@Endpoint(name="nested-third", **BRIEF)
def third(x: int) -> int:
    return 2 * x


@Endpoint(name="nested-second", **BRIEF)
def second(x: int) -> int:
    return third.remote(x) + 1


@Endpoint(name="nested-first", **BRIEF)
def first(x: int) -> int:
    return second.remote(x) + 100


def test_three_endpoints_of_one_worker_each_finish_on_one_slot(stack: Stack) -> None:
    with Peak(stack, first) as peak:
        jobs = [first(x) for x in range(4)]
        assert [job.result(60) for job in jobs] == [101, 103, 105, 107]
    assert peak.most == 1, (
        "a parent that waits lends its place to what it called, not to its endpoint's own queue"
    )


@Endpoint(name="nested-factorial", **BRIEF)
def factorial(n: int) -> int:
    return 1 if n == 0 else n * factorial.remote(n - 1)


def test_an_endpoint_that_calls_itself_gets_a_worker_for_each_that_waits(stack: Stack) -> None:
    assert factorial.remote(3) == 6
    wait_until(lambda: len(stack.workers(factorial)) <= 1, what="it is back within its maximum")


@Endpoint(name="nested-apart", **BRIEF)
def apart(x: int) -> int:
    return x


# -- what a worker may ask its host agent for --------------------------------------------------------------


class Asking:
    """A line to a host agent's calls, as a worker of `endpoint` has it."""

    def __init__(self, calls: HostCalls, endpoint: str) -> None:
        line, theirs = calls.connect()
        line.endpoint = endpoint
        self._sock = theirs
        self._sock.settimeout(20)
        self._decoder = frames.FrameDecoder()
        self._asked = 0

    def ask(self, **changes: Any) -> dict[str, Any]:
        """The first answer to a call; those before it may end meanwhile."""
        self._asked += 1
        meta = {
            "call": self._asked,
            "endpoint": "nested-second",
            "target": "",
            "options": {},
            "detached": False,
        }
        meta |= {"parent": "nested-first-0", "depth": 1, "revision": ""} | changes
        frames.send(self._sock, frames.FrameType.CALL, meta, pickle.dumps(((1,), {})))
        while True:
            for answer in self._decoder.receive(self._sock):
                if answer.meta["call"] == meta["call"]:
                    return answer.meta

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def calls(stack: Stack) -> Iterator[HostCalls]:
    """Such as a host agent has."""
    rig = stack.rig
    with contextlib.closing(HostCalls(rig.broker, rig.client.keyring, rig.home, 1 << 20)) as made:
        yield made


def test_a_worker_gets_signed_what_the_revision_of_its_job_permits_and_no_more(
    stack: Stack, calls: HostCalls
) -> None:
    rig = stack.rig
    first.remote(1)
    revision = rig.client.registration(first).revision
    leafs = rig.client.registration(apart)
    rig.broker.run(leafs.command(rig.broker.transitions))
    with contextlib.closing(Asking(calls, "nested-first")) as mine:
        assert mine.ask(revision=revision)["what"] == "accepted"
        for asked in (
            {"endpoint": "nested-apart"},
            {"endpoint": "nested-third"},
            {"endpoint": "nested-first"},
            {"revision": leafs.revision},
            {"revision": "0" * 64},
            {"depth": 17},
            {"options": {"priority": 9}},
            {"options": {"timeout_s": -1}},
            {"options": {"command": "no such option"}},
        ):
            answer = mine.ask(**{"revision": revision, **asked})
            assert answer["what"] == "refused", asked
    with contextlib.closing(Asking(calls, "nested-apart")) as other:
        assert other.ask(revision=revision)["what"] == "refused", "the revision of another endpoint"


SENSELESS: list[dict[str, Any]] = [
    {"call": None},
    {"options": None},
    {"options": {"\ud800": 1}},
    {"options": {"key": "\ud800"}},
    {"endpoint": 7},
    {"endpoint": "\ud800"},
    {"target": "\ud800"},
    {"parent": "\ud800"},
    {"depth": "deep"},
    {"depth": 10**30},
    {"depth": -1},
]


@pytest.mark.parametrize("said", SENSELESS)
def test_a_worker_that_makes_no_sense_hurts_no_other(
    stack: Stack, calls: HostCalls, said: dict[str, Any]
) -> None:
    first.remote(1)
    revision = stack.rig.client.registration(first).revision
    with contextlib.closing(Asking(calls, "nested-first")) as mine, contextlib.suppress(EOFError):
        assert mine.ask(revision=revision, **said)["what"] == "refused"
    with contextlib.closing(Asking(calls, "nested-first")) as other:
        assert other.ask(revision=revision)["what"] == "accepted"
