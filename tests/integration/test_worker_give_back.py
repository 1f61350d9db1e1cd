"""Giving back what has not begun: by the executor's word alone, and only of the run that is meant."""

from __future__ import annotations

import asyncio
import os
import pickle
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.executor_rig import Rig

if TYPE_CHECKING:
    from flashq_worker.executor.frames import Frame


def note(path: str, seconds: float) -> str:
    """A job whose begin can be seen."""
    with Path(path).open("a") as file:
        file.write("begun\n")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.005)
    return path


async def note_later(path: str, seconds: float) -> str:
    """The same, as a coroutine."""
    with Path(path).open("a") as file:
        file.write("begun\n")
    await asyncio.sleep(seconds)
    return path


def status(frame: Frame) -> str:
    return str(frame.meta["status"])


@pytest.mark.parametrize(("mode", "function"), [("sync", note), ("async", note_later)])
def test_what_has_not_begun_is_skipped_at_once(mode: str, function: object, tmp_path: Path) -> None:
    """Given jobs behind a long one, if they are asked back, expect "skipped" while it runs, and that none ran."""
    with Rig() as rig:
        rig.load(function, mode="sync" if mode == "sync" else "async")
        first = rig.submit(str(tmp_path / "first"), 2.0)
        behind = [rig.submit(str(tmp_path / f"behind-{n}"), 0.0) for n in range(3)]
        rig.until((tmp_path / "first").exists)
        for job in reversed(behind):
            rig.process.cancel(job, 1, "give-back")
        rig.until(lambda: len(rig.frames) == 3)
        assert [(frame.meta["job"], status(frame)) for frame in rig.frames] == [
            (job, "skipped") for job in reversed(behind)
        ]
        assert status(rig.outcome(first)) == "ok"
        assert list(tmp_path.iterdir()) == [tmp_path / "first"]


@pytest.mark.parametrize(("mode", "function"), [("sync", note), ("async", note_later)])
def test_what_has_begun_is_not_given_back(mode: str, function: object, tmp_path: Path) -> None:
    """Given a job that runs, if it is asked back, expect its value."""
    with Rig() as rig:
        rig.load(function, mode="sync" if mode == "sync" else "async")
        job = rig.submit(str(tmp_path / "job"), 0.3)
        rig.until((tmp_path / "job").exists)
        rig.process.cancel(job, 1, "give-back")
        frame = rig.outcome(job)
        assert (status(frame), pickle.loads(frame.blob)) == ("ok", str(tmp_path / "job"))


def test_at_any_moment_a_job_either_ran_or_was_skipped(tmp_path: Path) -> None:
    """Given tiny jobs asked back while they begin, expect each to have run once or to have been skipped."""
    ran = tmp_path / "ran"
    ran.touch()

    def append(name: str, seconds: float) -> None:
        with ran.open("a") as file:
            file.write(name + "\n")
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pass

    expected = []
    with Rig() as rig:
        rig.load(append)
        for turn in range(200):
            jobs = [rig.submit(f"{turn}-{n}", 0.0003) for n in range(4)]
            pause = time.perf_counter() + (turn % 20) * 0.0001
            while time.perf_counter() < pause:
                pass
            for job in reversed(jobs[1:]):
                rig.process.cancel(job, 1, "give-back")
            for n, job in enumerate(jobs):
                if status(rig.outcome(job)) == "ok":
                    expected.append(f"{turn}-{n}")
    assert ran.read_text().split() == expected


def test_a_late_word_does_not_hit_another_delivery(tmp_path: Path) -> None:
    """Given the second delivery of a job, if the first is cancelled, expect the second to go on."""
    with Rig() as rig:
        rig.load(note)
        payload = pickle.dumps(((str(tmp_path / "job"), 0.3), {}))
        rig.process.run("j", payload, fence=2, encoding="pickle")
        rig.until((tmp_path / "job").exists)
        rig.process.cancel("j", 1, "cancel")
        frame = rig.outcome("j")
        assert (status(frame), frame.meta["fence"]) == ("ok", 2)


def test_a_late_beat_goes_nowhere() -> None:
    """Given an executor that was killed, if a renewal comes after, expect nothing in what has its numbers now."""
    with Rig() as rig:
        rig.load(note)
        assert rig.process.kill()
        pipes = [os.pipe2(os.O_NONBLOCK) for _ in range(20)]
        rig.process.keepalive()
        for read, write in pipes:
            with pytest.raises(BlockingIOError):
                os.read(read, 1)
            os.close(read)
            os.close(write)
