"""Idempotency keys on a real broker with several clients; and what is left to say once a result has expired."""

from __future__ import annotations

import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint, Status, fetch_job
from flashq.client import Client, use_client
from flashq.errors import (
    ConfigurationError,
    IdempotencyConflict,
    JobCancelled,
    JobLost,
    JobNotFound,
    ResultExpired,
    WaitTimeout,
)
from flashq.model.job_id import RANDOM_BYTES, new_job_id
from tests.integration.command_line import CommandLine
from tests.rig import Rig, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq.job import EndpointJob

pytestmark = pytest.mark.requires("valkey")


@Endpoint(name="keyed", cpu="any")
def keyed(record: str, what: Any = "", gate: str = "") -> Any:
    with Path(record).open("a") as file:
        file.write(".")
    while gate and not Path(gate).exists():
        time.sleep(0.01)
    if what == "raise":
        raise ValueError("no")
    if what == "exit":
        import os

        os._exit(1)
    return what


@Endpoint(name="forgotten", cpu="any", result_ttl=1)
def forgotten(number: int) -> int:
    return number


@pytest.fixture(scope="module")
def shared() -> Iterator[Rig]:
    with rig() as made:
        for endpoint in (keyed, forgotten):
            made.worker(endpoint)
        yield made


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def elsewhere(shared: Rig) -> Iterator[Client]:
    """Another process's client, in place of this one's."""
    client = Client(shared.settings)
    before = use_client(client)
    yield client
    use_client(before)
    client.close()


def runs(record: Path) -> int:
    return len(record.read_text()) if record.exists() else 0


def gone(made: Rig, job_id: str) -> None:
    """Wait until nothing is kept of a job."""
    keys = [made.broker.keys.of(kind, job_id) for kind in ("job", "results")]
    wait_until(lambda: not made.broker.execute("EXISTS", *keys), what="its result expired")


# -- keys --------------------------------------------------------------------------------------------


def test_one_hundred_callers_with_one_key_make_one_job(shared: Rig, record: Path) -> None:
    """Row 28: from ten clients, as from ten processes; what it stands for is told from anything else."""
    clients = [Client(shared.settings) for _ in range(10)]
    start = threading.Barrier(100)
    jobs: list[EndpointJob[Any]] = []
    refused: list[IdempotencyConflict] = []

    def call(number: int) -> None:
        start.wait(30)
        function = keyed.with_options(key="one")
        value = "other" if number % 10 == 9 else "same"
        try:
            job = clients[number % 10].submit(function, (str(record), value), {})
            job._call.acknowledged.result(30)
        except IdempotencyConflict as error:
            refused.append(error)
        else:
            jobs.append(job)

    first = keyed.with_options(key="one").spawn(str(record), "same")
    threads = [threading.Thread(target=call, args=(n,)) for n in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert {job.id for job in jobs} == {first.id}
    assert (len(jobs), len(refused)) == (90, 10)
    assert {error.job_id for error in refused} == {first.id}
    assert [job.result(20) for job in jobs] == ["same"] * 90
    assert runs(record) == 1
    for client in clients:
        client.close()


def test_arguments_are_compared_as_values_whichever_way_they_are_given(shared: Rig, record: Path) -> None:
    function = keyed.with_options(key="values")
    first = function.spawn(str(record), {"b": 1, "a": [2.5, None]})
    for same in (
        function.spawn(str(record), what={"a": [2.5, None], "b": 1}),
        function.spawn(record=str(record), what={"b": 1, "a": [2.5, None]}),
    ):
        assert same.id == first.id
    with pytest.raises(IdempotencyConflict, match=first.id):
        function.spawn(str(record), {"b": 1})
    assert function.spawn(str(record), {1, 2}).id == first.id, "a set is no JSON value: not compared"


def test_a_call_in_json_and_one_of_python_are_two(shared: Rig, record: Path, tmp_path: Path) -> None:
    cli = CommandLine(shared.server.url, tmp_path)
    call = ["call", "keyed", f'"{record}"', '"x"', "--key", "json", "--detach"]
    job = cli(*call).stdout
    assert cli(*call).stdout == job
    assert cli(*call[:-1]).stdout == '"x"\n'
    assert "the key was used" in cli("call", "keyed", f'"{record}"', '"y"', "--key", "json", code=4).stderr
    with pytest.raises(IdempotencyConflict):
        keyed.with_options(key="json").spawn(str(record), "x")
    assert runs(record) == 1


@pytest.mark.parametrize("how", ["failed", "cancelled", "deleted", "deleted after it completed"])
def test_a_key_is_free_after_an_end_without_a_value(shared: Rig, record: Path, how: str) -> None:
    function = keyed.with_options(key=how)
    if how == "failed":
        with pytest.raises(ValueError, match="no"):
            function.remote(str(record), "raise")
    elif how == "cancelled":
        job = function.with_options(delay_s=60).spawn(str(record), "x")
        job.cancel().result(10)
        with pytest.raises(JobCancelled):
            job.result(10)
    else:
        job = function.with_options(delay_s=60 if how == "deleted" else 0).spawn(str(record), "x")
        if how == "deleted":
            job.cancel().result(10)
            with pytest.raises(JobCancelled):  # a handle made before that is told would be told so too
                job.result(10)
        else:
            job.result(20)
        assert shared.broker.run(shared.broker.transitions.delete(job.id)) == "ok"
        with pytest.raises(JobNotFound):
            fetch_job(job.id).result(10)
    before = runs(record)

    assert function.remote(str(record), "other") == "other"
    assert runs(record) == before + 1


def test_a_key_of_what_may_begin_only_once_and_was_lost_stays_with_it(shared: Rig, record: Path) -> None:
    function = keyed.with_options(key="once", delivery="at_most_once")
    for _ in range(2):
        with pytest.raises(JobLost):
            function.remote(str(record), "exit")
    assert runs(record) == 1


def test_a_key_outlives_the_result_and_nothing_runs_again(shared: Rig, elsewhere: Client) -> None:
    """Row 24."""
    function = forgotten.with_options(key="spent")
    job = function.spawn(1)
    assert job.result(20) == 1
    gone(shared, job.id)
    for _ in range(2):
        with pytest.raises(ResultExpired, match="completed") as caught:
            function.remote(1)
        assert caught.value.job_id == job.id
    with pytest.raises(IdempotencyConflict):
        function.remote(2)


# -- jobs of other processes, and expired ones -------------------------------------------------------


def test_a_job_is_fetched_by_its_id_from_another_process(
    shared: Rig, record: Path, tmp_path: Path, elsewhere: Client
) -> None:
    gate = tmp_path / "gate"
    job = keyed.spawn(str(record), ["value"], gate=str(gate))
    fetched = fetch_job(job.id)
    other = Client(shared.settings)
    third = other.job(job.id)

    assert (fetched.id, fetched.endpoint, fetched.done) == (job.id, "keyed", False)
    wait_until(lambda: fetched.status().result(10) is Status.IN_PROGRESS, what="it runs")
    with pytest.raises(WaitTimeout):
        third.result(0.1)
    gate.touch()
    assert [j.result(20) for j in (job, fetched, third)] == [["value"]] * 3
    assert third.cold_start is not None
    assert other.job(job.id).result(20) == ["value"], "also long after its end"
    other.close()


def test_an_expired_result_is_told_from_a_wait_and_from_nothing(shared: Rig, elsewhere: Client) -> None:
    """Row 24: by another process, after everything kept of the job is gone."""
    job = forgotten.spawn(1)
    assert job.result(20) == 1
    gone(shared, job.id)
    expired = fetch_job(job.id)
    with pytest.raises(ResultExpired, match="kept for 1 s"):
        expired.result(10)
    with pytest.raises(ResultExpired):
        expired.status().result(10)
    for ask in (lambda: expired.timing, lambda: list(expired.logs())):
        with pytest.raises(ResultExpired):
            ask()

    young = new_job_id("forgotten", elsewhere.now_ms() + 60_000, bytes(RANDOM_BYTES))
    for unknown in (young, f"forgotten-{uuid.uuid4()}", f"nobody-{job.id[-36:]}"):
        with pytest.raises(JobNotFound, match="never there, or deleted"):
            fetch_job(unknown).result(10)
    for nonsense in ("", "x", "forgotten", job.id[:-1]):
        with pytest.raises(ConfigurationError, match="no job's id"):
            fetch_job(nonsense)


def test_the_command_line_tells_an_expired_result_too(shared: Rig, tmp_path: Path) -> None:
    job = forgotten.spawn(1)
    job.result(20)
    gone(shared, job.id)
    cli = CommandLine(shared.server.url, tmp_path)
    for command in ("job", "logs", "cancel", "retry"):
        assert "kept for 1 s" in cli(command, job.id, code=3).stderr
