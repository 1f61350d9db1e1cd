"""Flash's client: `run`, `runsync`, `status`, `wait` and `cancel` of endpoints by their names."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from flashq.compat.names import Endpoint, EndpointJob
from flashq.errors import EndpointNotFound, NotSupportedError, SpecError, UnsupportedCall, WaitTimeout
from tests.rig import Rig, rig

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

pytestmark = pytest.mark.requires("valkey")


@pytest.fixture(scope="module")
def stage() -> Iterator[Rig]:
    with rig() as made:
        yield made


def wait(what: Coroutine[Any, Any, EndpointJob]) -> EndpointJob:
    return asyncio.run(what)


def test_a_function_is_run_by_its_name_with_an_input_of_its_arguments(stage: Rig) -> None:
    # Given an endpoint that a Flash program deployed, and a client that knows its name
    def scaled(x: float, by: float = 2) -> float:
        if x < 0:
            raise ValueError("negative")
        return x * by

    stage.ready_worker(Endpoint(name="flash.client", cpu="cpu3c-1-2")(scaled))
    client = Endpoint(id="flash.client")

    async def run() -> tuple[str, EndpointJob]:
        job = await client.run({"x": 4})
        assert job.output is None or job.done
        assert await job.wait() is job
        return await job.status(), job

    # If it is run, expect Flash's job: a status, an output, no error
    status, job = asyncio.run(run())
    assert (status, job.output, job.error, job.done) == ("COMPLETED", 8, None, True)
    assert job.id.startswith("flash-client-")
    assert wait(client.runsync({"x": 4, "by": 3})).output == 12

    # If it fails, expect that to be told by the job, and not to be raised
    failed = wait(client.runsync({"x": -1}))
    assert (failed.output, failed.error) == (None, "ValueError: negative")


def test_a_program_runs_what_it_decorated(stage: Rig) -> None:
    endpoint = Endpoint(name="flash-client-own", cpu="cpu3c-1-2")

    @endpoint
    def twice(x: int) -> int:
        return 2 * x

    stage.ready_worker(twice)
    assert wait(endpoint.runsync({"x": 4, "__empty": True})).output == 8


def test_a_method_is_named_where_there_are_several(stage: Rig) -> None:
    class One:
        def only(self, x: int) -> int:
            return x + 1

    class Two:
        def first(self, x: int) -> int:
            return x + 1

        def second(self, x: int) -> int:
            return x + 2

    for name, cls in (("flash-client-one", One), ("flash-client-two", Two)):
        made = Endpoint(name=name, cpu="cpu3c-1-2")(cls)()
        stage.ready_worker(next(getattr(made, each) for each in ("only", "first") if hasattr(cls, each)))

    assert wait(Endpoint(id="flash-client-one").runsync({"x": 1})).output == 2
    assert wait(Endpoint(id="flash-client-two").runsync({"x": 1, "method": "second"})).output == 3
    with pytest.raises(UnsupportedCall, match="name one in the input, as 'method'"):
        wait(Endpoint(id="flash-client-two").run({"x": 1}))


def test_a_job_is_waited_for_so_long_and_cancelled(stage: Rig) -> None:
    def slow() -> None:
        time.sleep(60)

    stage.ready_worker(Endpoint(name="flash-client-slow", cpu="cpu3c-1-2")(slow))
    client = Endpoint(id="flash-client-slow")

    async def give_up() -> str:
        job = await client.runsync({}, timeout=0.2)
        assert not job.done
        with pytest.raises(WaitTimeout):
            await job.wait(0.1)
        same = await client.cancel(job.id)
        assert same.id == job.id
        return await (await job.wait(20)).status()

    assert asyncio.run(give_up()) == "CANCELLED"


def test_what_cannot_be_run_is_refused(stage: Rig) -> None:
    with pytest.raises(EndpointNotFound):
        wait(Endpoint(id="flash-client-nowhere").run({}))
    with pytest.raises(SpecError, match="input"):
        wait(Endpoint(id="flash-client-nowhere").run([1]))
    with pytest.raises(NotSupportedError, match="webhook"):
        wait(Endpoint(id="flash-client-nowhere").run({}, webhook="https://example.com"))
    with pytest.raises(EndpointNotFound):
        wait(Endpoint(name="flash-client-nowhere").run({}))
    with pytest.raises(ValueError, match="nothing without a name"):
        wait(Endpoint().run({}))
    with pytest.raises(ValueError, match="decorate nothing"):
        Endpoint(id="flash-client-nowhere")(print)
    with pytest.raises(SpecError, match="idle_timeout"):
        Endpoint(id="flash-client-nowhere", idle_timeout=5)
