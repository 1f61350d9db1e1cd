"""`f.map(xs)`: order, failures, endless inputs in bounded memory, leaving early, Ctrl-C, the progress bar."""

from __future__ import annotations

import asyncio
import itertools
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint, fetch_job
from tests.acceptance.stage import PREAMBLE, Stage, environment, stage
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.requires("valkey")

UNDER_WAY = {"queued", "scheduled", "claimed", "running"}
BOUND = 5000
"""How far `map` may reach ahead of its reader at most; an endless input has to stop well before."""


@Endpoint(name="map", cpu="any", workers=(0, 2))
def act(item: Any, extra: Any = None, *, factor: int = 1) -> Any:
    match item:
        case "raise":
            raise ValueError(item)
        case ("sleep", seconds, value):
            time.sleep(seconds)
            return value
        case ("hold", gate):
            for _ in range(3000):
                if Path(gate).exists():
                    return "let go"
                time.sleep(0.01)
        case str():
            return item
    return item * factor if extra is None else (item, extra)


@Endpoint(name="map-coroutine", cpu="any", max_concurrency=8)
async def concurrently(delay_s: float) -> float:
    await asyncio.sleep(delay_s)
    return delay_s


@Endpoint(name="map-slow", cpu="any")
def slow(number: int) -> int:
    time.sleep(0.05)
    return number


@pytest.fixture(scope="module")
def theatre() -> Iterator[Stage]:
    with stage() as made:
        made.ready_worker(act)
        made.ready_worker(concurrently)
        made.ready_worker(slow)
        yield made


class Counted:
    """Numbers from 0, and how many of them were drawn."""

    def __init__(self, end: int | None = None) -> None:
        self.drawn = 0
        self._end = end

    def __iter__(self) -> Iterator[int]:
        while self._end is None or self.drawn < self._end:
            self.drawn += 1
            yield self.drawn - 1


async def collected(results: AsyncIterator[Any]) -> list[Any]:
    return [value async for value in results]


def under_way(theatre: Stage, name: str) -> list[str]:
    return [job for job, state in theatre.states(name).items() if state in UNDER_WAY]


def test_values_come_in_the_order_of_the_inputs(theatre: Stage) -> None:
    assert list(act.map(range(500))) == list(range(500))


def test_values_come_in_order_to_async_for(theatre: Stage) -> None:
    assert asyncio.run(collected(aiter(act.map(range(500))))) == list(range(500))


def test_order_holds_where_later_items_end_first(theatre: Stage) -> None:
    # Given concurrent jobs, the first of which takes longest
    delays = [0.5, 0.01, 0.02, 0.03]

    # If they are mapped, expect their order; without order, the longest last and all there
    assert list(concurrently.map(delays)) == delays
    unordered = list(concurrently.map(delays, order=False))
    assert unordered[-1] == 0.5
    assert sorted(unordered) == sorted(delays)


def test_unordered_values_come_as_they_end_to_async_for(theatre: Stage) -> None:
    delays = [0.5, 0.01, 0.02, 0.03]
    unordered = asyncio.run(collected(aiter(concurrently.map(delays, order=False))))
    assert unordered[-1] == 0.5
    assert sorted(unordered) == sorted(delays)


def test_async_for_leaves_the_event_loop_free(theatre: Stage) -> None:
    # Given another task that ticks
    async def scene() -> int:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        assert [n async for n in slow.map(range(10))] == list(range(10))
        ticking.cancel()
        return ticks

    # If half a second of work is mapped, expect the other task to have gone on meanwhile
    assert asyncio.run(scene()) >= 10


def test_the_first_values_come_before_the_last_are_done(theatre: Stage, tmp_path: Path) -> None:
    # Given a last item that ends only when the first value was seen
    gate = tmp_path / "gate"
    results = iter(act.map(["first", ("hold", str(gate))]))

    # If values are taken one by one, expect the first while the last still runs
    assert next(results) == "first"
    gate.touch()
    assert list(results) == ["let go"]


def test_an_empty_input_gives_nothing(theatre: Stage) -> None:
    assert list(act.map([])) == []
    assert asyncio.run(collected(aiter(act.map([])))) == []


def test_several_inputs_go_side_by_side(theatre: Stage) -> None:
    # If two iterables are mapped, expect pairs up to the shorter one, as with `map`
    assert list(act.map([1, 2, 3], "ab")) == [(1, "a"), (2, "b")]


def test_keyword_arguments_are_the_same_for_each_call(theatre: Stage) -> None:
    assert list(act.map([1, 2, 3], kwargs={"factor": 10})) == [10, 20, 30]


def test_a_failure_is_raised_in_its_place(theatre: Stage) -> None:
    # If the third of five items fails
    results = iter(act.map([1, 2, "raise", 4, 5]))

    # Expect what comes before it, then its own exception
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(ValueError, match="raise"):
        next(results)


def test_failures_can_be_returned_in_their_places(theatre: Stage) -> None:
    results = list(act.map([1, "raise", 3, "raise"], return_exceptions=True))
    assert [results[0], results[2]] == [1, 3]
    assert [(type(error), str(error)) for error in (results[1], results[3])] == [(ValueError, "raise")] * 2
    returned = asyncio.run(collected(aiter(act.map([1, "raise", 3], return_exceptions=True, order=False))))
    assert len(returned) == 3


def test_an_endless_input_is_drawn_only_a_bounded_way_ahead(theatre: Stage) -> None:
    # Given an endless input
    numbers = Counted()

    # If 200 values are taken from it
    values = list(itertools.islice(act.map(numbers), 200))

    # Expect them in order, and the input not to have run ahead without bound
    assert values == list(range(200))
    assert numbers.drawn <= 200 + BOUND


def test_an_endless_input_that_nobody_reads_is_not_drawn_on(theatre: Stage) -> None:
    # Given an endless input of which only one value is read
    numbers = Counted()
    results = iter(slow.map(numbers))
    assert next(results) == 0

    # If its worker goes on with what was submitted
    before = numbers.drawn
    assert before <= BOUND
    wait_until(lambda: len(under_way(theatre, "map-slow")) < before - 2, what="some jobs ended")

    # Expect nothing more to be drawn while nobody reads
    assert numbers.drawn == before
    results.close()  # type: ignore[attr-defined]


def test_a_window_bounds_what_is_under_way(theatre: Stage) -> None:
    numbers = Counted()
    results = iter(act.map(numbers, window=4))
    for n in range(20):
        assert next(results) == n
        assert numbers.drawn <= n + 1 + 4
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("window", [0, -1])
def test_a_wrong_window_is_refused(theatre: Stage, window: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="window"):
        list(act.map([1], window=window))


def test_memory_stays_flat_on_a_long_input(theatre: Stage) -> None:
    # Given a program that maps 3,000 items of 20 kB over results of 20 kB (120 MB in all)
    said = theatre.run(
        """
        import resource
        from flashq import Endpoint

        @Endpoint(name="map-memory", cpu="any")
        def echo(blob):
            return blob

        def blobs():
            for n in range(3000):
                yield n.to_bytes(4, "big") * 5000

        right, early = 0, 0
        for n, blob in enumerate(echo.map(blobs())):
            right += blob[:4] == n.to_bytes(4, "big")
            if n == 1000:
                early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        tell(right=right, grown_kb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - early)
        """,
        serve="map-memory",
    )

    # Expect all of them, and the last two thirds to add little to the first
    assert said["right"] == 3000
    assert said["grown_kb"] < 30_000


def test_leaving_a_loop_cancels_what_is_under_way(theatre: Stage) -> None:
    # Given a map of many slow items
    for value in slow.map(range(2000)):
        if value == 3:
            break

    # If its loop is left, expect no more of it in the queue, and nothing running on
    wait_until(lambda: not under_way(theatre, "map-slow"), what="nothing is under way")
    assert "cancelled" in theatre.states("map-slow").values()


def test_leaving_an_async_loop_cancels_what_is_under_way(theatre: Stage) -> None:
    async def scene() -> None:
        async for value in slow.map(range(2000)):
            if value >= 3:
                break

    asyncio.run(scene())
    wait_until(lambda: not under_way(theatre, "map-slow"), what="nothing is under way")


@pytest.mark.parametrize("after_s", [0.01, 0.5], ids=["before its first value", "after its first values"])
def test_a_cancelled_task_cancels_its_map(theatre: Stage, after_s: float) -> None:
    # Given a task that maps many slow items
    async def scene() -> None:
        async for _ in slow.map(range(1000)):
            pass

    async def impatient() -> None:
        async with asyncio.timeout(after_s):
            await scene()

    # If it is cancelled
    with pytest.raises(TimeoutError):
        asyncio.run(impatient())

    # Expect its jobs to be cancelled with it
    try:
        wait_until(lambda: not under_way(theatre, "map-slow"), 5, "nothing is under way")
    finally:
        for job in under_way(theatre, "map-slow"):
            theatre.broker.run(theatre.broker.transitions.cancel(job))


def test_a_failure_in_the_loops_body_cancels_what_is_under_way(theatre: Stage) -> None:
    def scene() -> None:
        for _ in slow.map(range(2000)):
            raise KeyError("of the body")

    with pytest.raises(KeyError, match="of the body"):
        scene()
    wait_until(lambda: not under_way(theatre, "map-slow"), what="nothing is under way")


def test_a_failed_job_cancels_the_rest(theatre: Stage, tmp_path: Path) -> None:
    # Given an item that fails, before many that would run for ever
    endless = [("hold", str(tmp_path / "never"))] * 50

    # If its exception ends the loop
    with pytest.raises(ValueError, match="raise"):
        list(act.map([1, "raise", *endless]))

    # Expect the others to be cancelled
    wait_until(lambda: not under_way(theatre, "map"), what="nothing is under way")


def test_an_input_that_raises_is_raised_here(theatre: Stage) -> None:
    # Given an input that breaks after three items
    def breaking() -> Iterator[int]:
        yield from range(3)
        raise OSError("the file ended")

    # If it is mapped, expect its own exception, and nothing left under way
    with pytest.raises(OSError, match="the file ended"):
        list(act.map(breaking()))
    wait_until(lambda: not under_way(theatre, "map"), what="nothing is under way")


def test_an_item_that_cannot_be_pickled_is_raised_here_and_loses_nothing(theatre: Stage) -> None:
    # Given a generator object among the items
    items: list[Any] = [1, (n for n in range(3)), 3]

    # If they are mapped with exceptions returned, expect its error in its place and the others' values
    results = list(act.map(items, return_exceptions=True))
    assert (results[0], results[2]) == (1, 3)
    assert isinstance(results[1], TypeError)
    # Otherwise, expect it raised
    with pytest.raises(TypeError):
        list(act.map(items))


def test_a_map_is_made_of_options_too(theatre: Stage) -> None:
    results = list(act.with_options(timeout_s=0.3).map([1, ("sleep", 20, 2), 3], return_exceptions=True))
    assert (results[0], results[2]) == (1, 3)
    assert isinstance(results[1], TimeoutError)


INTERRUPTED = """
from flashq import Endpoint

@Endpoint(name="map-interrupted", cpu="any")
def slow(number):
    import time
    time.sleep(0.05)
    return number

try:
    for value in slow.map(range(3000)):
        tell(seen=value)
except KeyboardInterrupt:
    tell(interrupted=True)
    raise
"""
INTERRUPTED_ASYNC = """
import asyncio
from flashq import Endpoint

@Endpoint(name="map-interrupted", cpu="any")
def slow(number):
    import time
    time.sleep(0.05)
    return number

async def main():
    async for value in slow.map(range(3000)):
        tell(seen=value)

try:
    asyncio.run(main())
except KeyboardInterrupt:
    tell(interrupted=True)
    raise
"""


@pytest.mark.parametrize("source", [INTERRUPTED, INTERRUPTED_ASYNC], ids=["for", "async for"])
def test_ctrl_c_during_map_ends_the_program_and_cancels_its_jobs(theatre: Stage, source: str) -> None:
    # Given a program in the middle of a long map
    program = theatre.start(source, serve="map-interrupted")
    program.wait_for("seen")

    # If Ctrl-C is pressed
    program.process.send_signal(signal.SIGINT)

    # Expect a KeyboardInterrupt as of any program, soon
    begun = time.monotonic()
    code = program.ended(20)
    assert time.monotonic() - begun < 10
    assert program.said().get("interrupted"), program.errors
    assert code in (-signal.SIGINT, 130, 1)
    assert "KeyboardInterrupt" in program.errors
    assert "FlashqError" not in program.errors

    # Expect none of its jobs to be left to run
    wait_until(lambda: not under_way(theatre, "map-interrupted"), what="nothing is under way")


WAITS = """
from flashq import Endpoint

@Endpoint(name="map-interrupted", cpu="any")
def slow(number):
    import time
    time.sleep(60)

tell(calling=True)
"""


def _interrupted(theatre: Stage, wait: str) -> tuple[str, str]:
    """What a program wrote that got Ctrl-C while it waited for its job, and that job."""
    program = theatre.start(WAITS + wait, serve="map-interrupted")
    program.wait_for("calling")

    def running() -> list[str]:
        return [job for job, state in theatre.states("map-interrupted").items() if state == "running"]

    wait_until(running, 20, "its job runs")
    (job,) = running()
    program.process.send_signal(signal.SIGINT)
    assert program.ended(20) != 0
    return program.errors, job


def test_ctrl_c_during_remote_cancels_the_job(theatre: Stage) -> None:
    """Given a program that waits in `remote`, if Ctrl-C is pressed, expect its job to be cancelled, and that said."""
    errors, job = _interrupted(theatre, "slow.remote(1)")
    wait_until(lambda: not under_way(theatre, "map-interrupted"), what="nothing is under way")
    assert f"job {job} is cancelled" in errors
    assert "flashq cancel" not in errors


def test_ctrl_c_during_result_leaves_the_job_and_says_what_can_be_done_with_it(theatre: Stage) -> None:
    """Given a program that waits in `result`, if Ctrl-C is pressed, expect the job to go on, and to be told which."""
    errors, job = _interrupted(theatre, "slow.spawn(1).result()")
    assert f"job {job} is not cancelled" in errors
    assert f"`flashq cancel {job}`" in errors
    assert theatre.states("map-interrupted")[job] == "running"
    assert fetch_job(job).cancel().result(10) == "requested"
    wait_until(lambda: not under_way(theatre, "map-interrupted"), what="nothing is under way")


PROGRESS = """
from flashq import Endpoint

@Endpoint(name="map-progress", cpu="any")
def slow(number):
    import time
    time.sleep(0.02)
    return number

assert list(slow.map(range(60))) == list(range(60))
"""


def on_a_terminal(theatre: Stage, source: str) -> str:
    """What a program shows whose output is a terminal of 100 columns."""
    leader, follower = pty.openpty()
    subprocess.run(["stty", "cols", "100", "rows", "30"], stdin=follower, check=True)
    script = theatre.folder() / "script.py"
    script.write_text(PREAMBLE + source, "utf-8")
    env = environment(theatre, TERM="xterm", NO_COLOR=None)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=env,
        cwd=script.parent,
    )
    os.close(follower)
    theatre.serve("map-progress")
    shown = b""
    while True:
        try:
            read = os.read(leader, 65536)
        except OSError:  # the last writer has gone
            break
        if not read:
            break
        shown += read
    os.close(leader)
    assert process.wait(20) == 0, shown.decode("utf-8", "replace")
    return shown.decode("utf-8", "replace")


def test_a_progress_bar_on_a_terminal_and_none_in_a_pipe(theatre: Stage) -> None:
    # If a program maps on a terminal, expect progress up to its end
    shown = on_a_terminal(theatre, PROGRESS)
    assert re.search(r"60/60|100\s?%", shown)

    # If its output is a pipe or file, expect nothing that it did not print itself
    program = theatre.start(PROGRESS, serve="map-progress")
    program.end()
    assert program.output == ""
    assert "\x1b" not in program.errors
    assert "%" not in program.errors
    assert "60/60" not in program.errors


def test_the_progress_bar_can_be_turned_off(theatre: Stage) -> None:
    shown = on_a_terminal(theatre, PROGRESS.replace("range(60))) ==", "range(60), progress=False)) =="))
    assert "60" not in shown
