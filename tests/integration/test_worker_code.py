"""Code that does not start on a worker that has been ready, and jobs handed ahead, on a real broker."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from flashq.errors import EndpointFailed
from tests.rig import Rig, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")


FULL_DISK = "OSError(28, 'No space left on device')"


class Reluctant:
    """Part of a function's code; loading it is seen in a file, and raises."""

    def __init__(self, record: str, error: str) -> None:
        self.record, self.error = record, error

    def __reduce__(self) -> Any:
        source = (
            f"(open({self.record!r}, 'a').write('start\\n'),"
            f" (_ for _ in ()).throw({self.error}) if __import__('os').path.exists({self.record + '.on'!r})"
            " else None)"
        )
        return (eval, (source,))


def endpoint(number: int, reluctant: Reluctant | None = None) -> Any:
    """One revision of the endpoint `code-turn`; it returns its number."""

    def turn() -> int:
        assert reluctant is None
        return number

    return Endpoint(name="code-turn", cpu="any", workers=(0, 2))(turn)


@pytest.fixture
def own() -> Iterator[Rig]:
    with rig() as made:
        yield made


def starts(record: Path) -> int:
    return record.read_text().count("start") if record.exists() else 0


@pytest.mark.parametrize("error", ["ValueError", "FileNotFoundError", "OSError"])
def test_code_that_does_not_load_is_started_twice_and_its_jobs_fail(
    own: Rig, tmp_path: Path, error: str
) -> None:
    """Given a ready worker, if code comes that does not load, expect two starts, and older code to run on."""
    record = tmp_path / "starts"
    worker = own.ready_worker(good := endpoint(1))
    bad = endpoint(2, Reluctant(str(record), f"{error}('no')"))
    Path(f"{record}.on").touch()
    with pytest.raises(EndpointFailed, match=f"does not load: {error}"):
        bad.remote()
    assert starts(record) == 2
    with pytest.raises(EndpointFailed):
        bad.remote()
    assert starts(record) == 2, "it is not started for each job"
    assert good.remote() == 1
    assert worker.process.poll() is None


def test_trouble_of_the_machine_fails_nobodys_job(own: Rig, tmp_path: Path) -> None:
    """Given code whose loading meets a full disk, expect its job to wait, and to run once that is over."""
    record = tmp_path / "starts"
    own.ready_worker(endpoint(1))
    bad = endpoint(2, Reluctant(str(record), FULL_DISK))
    Path(f"{record}.on").touch()
    job = bad.spawn()
    wait_until(lambda: starts(record) >= 2)
    assert job.status().result() in ("IN_QUEUE", "IN_PROGRESS")
    Path(f"{record}.on").unlink()
    with pytest.raises(AssertionError):  # it ran: `reluctant` is what loading gave
        job.result(20)


def test_two_workers_on_a_troubled_machine_leave_the_jobs_waiting(own: Rig, tmp_path: Path) -> None:
    """Given code whose loading meets a full disk, if workers start with it and leave, expect the job to wait."""
    record = tmp_path / "starts"
    bad = endpoint(2, Reluctant(str(record), FULL_DISK))
    own.register(bad)
    Path(f"{record}.on").touch()
    job = bad.spawn()
    for _ in range(3):
        assert own.worker("code-turn").wait() == 4
    assert job.status().result() == "IN_QUEUE"


def test_only_the_code_that_failed_is_given_up(own: Rig, tmp_path: Path) -> None:
    """Given workers that failed to start code since replaced, expect the newer code's job to wait for another."""
    record = tmp_path / "starts"
    bad = endpoint(2, Reluctant(str(record), "ValueError('no')"))
    own.register(bad)
    revision = own.broker.execute("HGET", own.broker.keys.of("endpoint", "code-turn"), "revision").decode()
    Path(f"{record}.on").touch()
    good = endpoint(1)
    own.register(good)
    job = good.spawn()
    for _ in range(2):
        assert own.worker("code-turn", revision=revision, resources="of old").wait() == 4
    assert starts(record) == 2
    assert job.status().result() == "IN_QUEUE"


def test_a_worker_says_what_it_was_started_with(own: Rig) -> None:
    """Given resources that were changed after it was ordered, expect the worker to report the ordered ones."""
    own.register(endpoint(1))
    key = own.broker.keys.of("endpoint", "code-turn")
    revision = own.broker.execute("HGET", key, "revision").decode()
    worker = own.worker("code-turn", revision=revision, resources="those-of-the-order")
    wait_until(lambda: own.worker_field(worker.id, "fq_env") == "those-of-the-order")


@Endpoint(name="code-count", cpu="any", workers=(0, 1))
def count(record: str, number: int, seconds: float) -> int:
    with Path(record).open("a") as file:
        file.write(f"{number}\n")
    if seconds:
        time.sleep(seconds)
    return number


def test_what_is_given_back_runs_once_and_in_order(own: Rig, tmp_path: Path) -> None:
    """Given tiny jobs with longer ones among them, expect each to run once, in the order they were submitted."""
    record = tmp_path / "ran"
    own.ready_worker(count)
    number, expected = 0, 0
    for _ in range(12):
        jobs = []
        for turn in range(120):
            jobs.append(count.spawn(str(record), number, 0.0205 if turn in (60, 80, 100) else 0))
            number += 1
        for job in jobs:
            assert job.result(30) == expected
            expected += 1
    ran = [int(line) for line in record.read_text().split()]
    assert [n for n, times in Counter(ran).items() if times > 1] == []
    assert ran == sorted(ran)
