"""The news of a job's end travels on a connection of its own: it may come after the answers to what was asked since."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flashq import Endpoint, Status, fetch_job
from flashq.client import Client, use_client
from flashq.errors import JobCancelled
from flashq.store.mux import Multiplexer
from tests.rig import Rig, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")


@Endpoint(name="newsworthy", cpu="any")
def newsworthy(value: str, mended: str = "") -> str:
    if value == "raise" and not Path(mended).exists():
        raise ValueError(value)
    return value


@dataclass
class Slow:
    """A client that hears no news until `hear`, and asks for none by itself."""

    made: Rig
    news: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = Client(self.made.settings, transport=self._connect)

    def _connect(self, client: Client) -> Multiplexer:
        return Multiplexer(
            client.address,
            channel=client.channel,
            on_push=self.news.append,
            on_connect=client.on_connect,
            on_tick=lambda: None,
            on_lost=client.waiting.on_lost,
        )

    def hear(self, least: int = 1) -> None:
        wait_until(lambda: len(self.news) >= least, what="the news came")
        while self.news:
            self.client.waiting.on_push(self.news.pop(0))


@pytest.fixture
def slow() -> Iterator[Slow]:
    with rig() as made:
        slow = Slow(made)
        before = use_client(slow.client)
        yield slow
        use_client(before)
        slow.client.close()


def test_late_news_of_its_end_does_not_end_a_job_that_was_begun_anew(slow: Slow) -> None:
    job = newsworthy.with_options(delay_s=60).spawn("x")
    job.cancel().result(10)
    again = job.requeue().result(10)
    fetched = fetch_job(job.id)
    slow.hear()

    assert again.status().result(10) is Status.IN_QUEUE
    assert (again.done, fetched.done) == (False, False)
    with pytest.raises(JobCancelled):
        job.result(10)
    slow.made.worker(newsworthy)
    slow.hear()
    assert [one.result(20) for one in (again, fetched)] == ["x", "x"]
    with pytest.raises(JobCancelled):
        job.result(10)


def test_late_news_of_a_failure_is_no_end_of_what_was_begun_anew(slow: Slow, tmp_path: Path) -> None:
    worker = slow.made.ready_worker(newsworthy)
    job = newsworthy.spawn("raise", str(tmp_path / "mended"))
    wait_until(lambda: job.status().result(10) is Status.FAILED, what="it failed")
    worker.close()
    again = job.requeue().result(10)
    slow.hear()

    assert not again.done
    with pytest.raises(ValueError, match="raise"):
        job.result(10)
    (tmp_path / "mended").touch()
    slow.made.worker(newsworthy)
    slow.hear()
    assert again.result(10) == "raise"


def test_each_time_a_job_is_begun_anew_has_an_end_of_its_own(slow: Slow) -> None:
    jobs = [newsworthy.with_options(delay_s=60).spawn("x")]
    for _ in range(3):
        jobs[-1].cancel().result(10)
        jobs.append(fetch_job(jobs[0].id).requeue().result(10))
    slow.hear(3)

    for job in jobs[:-1]:
        with pytest.raises(JobCancelled):
            job.result(10)
    assert not jobs[-1].done
    assert slow.made.job_field(jobs[0].id, "fq_gen") == "3"


def test_news_of_a_job_that_was_deleted_reaches_its_handles_and_no_other_call_of_its_key(slow: Slow) -> None:
    keyed = newsworthy.with_options(key="k")
    job = keyed.with_options(delay_s=60).spawn("old")
    job.cancel().result(10)
    assert slow.made.broker.run(slow.made.broker.transitions.delete(job.id)) == "ok"
    fetched = fetch_job(job.id)
    new = keyed.spawn("new")
    slow.client.acknowledged(new)
    slow.hear()

    for handle in (job, fetched):
        with pytest.raises(JobCancelled):
            handle.result(10)
    assert (new.done, new.id != job.id) == (False, True)
    slow.made.worker(newsworthy)
    slow.hear()
    assert new.result(20) == "new"
