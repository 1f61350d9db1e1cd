"""What the demo shows of its queue and workers."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from tests.demo import view

if TYPE_CHECKING:
    from collections.abc import Mapping


def seen(queued: int = 0, in_progress: int = 0, **workers: int) -> view.Snapshot:
    return view.Snapshot(queued, in_progress, workers)


def plain() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=100)


STORY = [
    view.Moment(0.0, 0, seen(10)),
    view.Moment(1.0, 0, seen(9, 0, initializing=1)),
    view.Moment(2.0, 0, seen(8, 1, running=1, initializing=1)),
    view.Moment(3.0, 8, seen(5, 2, running=2)),
    view.Moment(4.0, 24, seen(0, 1, running=1, idle=1)),
    view.Moment(5.0, 30, seen(idle=2)),
    view.Moment(9.0, 30, seen()),
]


def test_the_timeline_tells_each_change_of_the_workers_and_each_note_in_order() -> None:
    # Expect no line for the step from running to idle, which would come with every job
    assert view.timeline(STORY, [(0.0, "first job submitted"), (4.5, "all embedded")]) == [
        "   0.0 s  first job submitted",
        "   1.0 s  workers: 1 initializing",
        "   2.0 s  workers: 1 initializing, 1 ready",
        "   3.0 s  workers: 2 ready",
        "   4.5 s  all embedded",
        "   9.0 s  workers: none",
    ]


def test_throughput_is_that_of_the_last_seconds() -> None:
    assert view.rate([]) == 0
    assert view.rate(STORY[:1]) == 0
    assert view.rate(STORY[:4]) == pytest.approx(8 / 3)
    assert view.rate(STORY) == pytest.approx(6 / 5)  # from 4.0 s on


@pytest.mark.parametrize(
    ("workers", "words"),
    [({}, "none"), ({"idle": 0}, "none"), ({"running": 2, "initializing": 1}, "1 initializing, 2 running")],
)
def test_workers_are_described_by_state(workers: Mapping[str, int], words: str) -> None:
    assert view.describe(workers) == words


def test_a_plain_line_holds_all_numbers() -> None:
    assert view.plain_line(STORY[3], 1234, 2.7) == (
        "   3.0 s       8 of 1,234 docstrings     3 a second  queue   5  in progress 2  workers: 2 running"
    )


@pytest.mark.parametrize(
    ("values", "width", "drawn"),
    [
        ([], 10, ""),
        ([0, 0], 10, ""),
        ([0, 1, 2], 10, " ▄█"),
        ([8, 0, 1, 0, 0, 4], 3, "█▁▄"),  # a peak is not lost between columns
    ],
)
def test_bars_show_the_highest_of_their_share(values: list[float], width: int, drawn: str) -> None:
    assert view.sparkline(values, width) == drawn


class Endpoint:
    """An endpoint whose moments are told in advance; the last one stays."""

    def __init__(self, moments: list[view.Moment]) -> None:
        self._moments = list(moments)
        self.all_told = threading.Event()

    def look(self) -> view.Snapshot:
        if len(self._moments) == 1:
            self.all_told.set()
            return self._moments[0].seen
        return self._moments.pop(0).seen


def test_a_watch_keeps_what_it_saw_and_prints_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an endpoint that goes from nothing to two workers and back
    monkeypatch.setattr(view, "LOOK_EVERY_S", 0.001)
    endpoint = Endpoint(STORY)

    # If it is watched
    with view.Watch(endpoint.look, total=30, console=plain()) as watch:
        watch.note("first job submitted")
        assert endpoint.all_told.wait(10)

    # Expect its peak, its first and its last moment, and a line for each change
    assert watch.peak == 2
    assert watch.moments[0].seen == STORY[0].seen
    assert watch.moments[-1].seen == STORY[-1].seen
    assert [text for _, text in watch.notes] == ["first job submitted"]
    printed = capsys.readouterr().out
    assert "workers: 1 initializing, 1 running" in printed
    assert printed.splitlines()[-1].endswith("workers: none")


def test_a_watch_that_could_not_look_says_so_at_the_end() -> None:
    # Given a broker that is gone
    asked = threading.Event()

    def look() -> view.Snapshot:
        asked.set()
        raise ConnectionError("the broker is gone")

    # Expect the error to be raised by the watch
    with (
        pytest.raises(ConnectionError, match="the broker is gone"),
        view.Watch(look, total=1, console=plain()),
    ):
        assert asked.wait(10)


def test_on_a_terminal_one_table_shows_the_last_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a terminal
    monkeypatch.setattr(view, "LOOK_EVERY_S", 0.001)
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    endpoint = Endpoint(STORY[:4])

    # If the endpoint is watched on it
    with view.Watch(endpoint.look, total=30, console=console) as watch:
        watch.done = 8
        assert endpoint.all_told.wait(10)

    # Expect the table to tell docstrings, queue and workers
    paper = plain()
    with paper.capture() as capture:
        paper.print(watch.table())
    drawn = capture.get()
    assert "8 of 30" in drawn
    assert "5 waiting, 2 in progress" in drawn
    assert "2 running" in drawn


def test_a_watch_can_be_waited_on_until_the_workers_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an endpoint whose workers go in the end
    monkeypatch.setattr(view, "LOOK_EVERY_S", 0.001)

    with view.Watch(Endpoint(STORY).look, total=30, console=plain()) as watch:
        # Expect the wait for two workers, then for none, to succeed, and that for three to end
        assert watch.wait_for(lambda moment: moment.seen.alive == 2, 10)
        assert watch.wait_for(lambda moment: moment.seen.alive == 0, 10)
        assert not watch.wait_for(lambda moment: moment.seen.alive == 3, 0.01)
