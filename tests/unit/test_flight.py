"""The calls of a map: what a full queue refuses is made again, in its place, and no faster than it helps."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, cast

import pytest

from flashq import flight
from flashq.errors import QueueFull
from flashq.flight import Flight
from flashq.job import Call, EndpointJob

if TYPE_CHECKING:
    from flashq.client import Client
    from flashq.model.outcome import Ending


class Desk:
    """Takes calls, `bound` at a time, and ends them when told to, in the place of client and broker."""

    def __init__(self, bound: int, *, most: int, order: bool, inputs: int) -> None:
        self.bound = bound
        self.flight = Flight(most, order)
        self.inputs = iter([(n,) for n in range(inputs)])
        self.accepted: deque[tuple[int, Call]] = deque()
        self.asked: list[int] = []
        self.numbers: dict[str, int] = {}

    def fill(self) -> int:
        """Make calls as the map does; how many."""
        made = 0
        while (planned := self.flight.next_call(self.inputs)) is not None:
            (number,) = planned.args
            self.asked.append(number)
            call = Call(f"job-{len(self.asked)}", "desk")
            self.numbers[call.id] = number
            if len(self.accepted) < self.bound:
                self.accepted.append((number, call))
            else:
                call.ended.fail(QueueFull("full"))
            self.flight.add(planned, EndpointJob(cast("Client", None), call))
            made += 1
        return made

    def end(self, place: int = 0) -> int:
        """One of the accepted ends; its number."""
        number, call = self.accepted[place]
        del self.accepted[place]
        call.ended.set(cast("Ending", "ended"))
        return number

    def taken(self) -> list[int]:
        """What the map may take now."""
        found = []
        while self.flight.ready:
            found.append(self.numbers[self.flight.pop().id])
        return found


@pytest.fixture
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight, "_PAUSE_S", (0.0, 0.0))


def test_the_window_bounds_what_is_under_way_or_not_taken() -> None:
    desk = Desk(100, most=3, order=True, inputs=10)
    assert (desk.fill(), desk.fill()) == (3, 0)
    desk.end()
    assert desk.taken() == [0]
    assert desk.fill() == 1


@pytest.mark.usefixtures("_no_pause")
@pytest.mark.parametrize("order", [True, False])
@pytest.mark.parametrize(("bound", "most"), [(1, 5), (3, 8), (5, 5), (9, 4)])
def test_every_call_is_answered_once_whatever_the_bound(order: bool, bound: int, most: int) -> None:
    desk = Desk(bound, most=most, order=order, inputs=40)
    got: list[int] = []
    while desk.fill() or not desk.flight.empty:
        if desk.accepted:
            desk.end(len(desk.accepted) // 2)
        got += desk.taken()

    assert (got if order else sorted(got)) == list(range(40))


@pytest.mark.usefixtures("_no_pause")
def test_no_more_are_asked_for_at_once_than_were_accepted() -> None:
    desk = Desk(3, most=10, order=True, inputs=10)
    desk.fill()
    assert desk.asked == [0, 1, 2, 3], "the bound is not known before it is met"
    assert desk.fill() == 0

    desk.end()
    assert desk.fill() == 1
    assert desk.asked[4:] == [3], "the one refused, in the place of the one that ended"


def test_a_refused_call_waits_longer_each_time_that_nothing_helped(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("flashq.flight.time.monotonic", lambda: now)
    desk = Desk(0, most=1, order=True, inputs=1)
    pauses = []
    for _ in range(9):
        assert desk.fill() == 1
        due_s = desk.flight._due_s()
        assert due_s is not None
        assert due_s > 0
        assert desk.fill() == 0
        pauses.append(round(due_s, 3))
        now += due_s

    assert pauses == [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 1.0]


def test_a_refused_head_is_made_again_once_any_call_has_ended() -> None:
    """Given a first call that was refused though later ones were accepted, expect the end of any to wake the map."""
    desk = Desk(3, most=3, order=True, inputs=3)
    desk.fill()
    _, head = desk.accepted.popleft()

    async def main() -> None:
        waits = asyncio.create_task(desk.flight.await_())
        await asyncio.sleep(0)
        head.ended.fail(QueueFull("full"))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waits.done(), "as many are under way as were accepted"
        desk.end()
        async with asyncio.timeout(10):
            assert await waits is False

    asyncio.run(main())
    assert desk.fill() == 1
    assert desk.asked[-1] == 0


def test_other_errors_take_their_place_among_the_values() -> None:
    desk = Desk(5, most=5, order=True, inputs=2)
    desk.fill()
    desk.accepted[0][1].ended.fail(ValueError("no"))
    assert desk.taken() == [0]
