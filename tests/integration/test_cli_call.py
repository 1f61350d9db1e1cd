"""`flashq call` and what one sees of the job afterwards, with a real worker."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from tests.integration.command_line import CommandLine
from tests.rig import Rig, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")


@Endpoint(name="play", cpu="any", workers=(0, 1))
def play(*args: Any, **kwargs: Any) -> Any:
    print("playing", *args)
    if "fail" in kwargs:
        raise LookupError("no such \x1b[31mtune")
    if "object" in kwargs:
        return object()
    return {"args": list(args), "kwargs": kwargs}


@pytest.fixture(scope="module")
def stage() -> Iterator[Rig]:
    with rig(appendonly="no") as made:
        made.ready_worker(play)
        yield made


@pytest.fixture
def on_stage(stage: Rig) -> CommandLine:
    return CommandLine(stage.server.url, stage.home)


def test_call_prints_the_result_as_json(on_stage: CommandLine) -> None:
    result = on_stage("call", "play", '{"x": [1, null, "ü"]}', "2.5", 'by="name"', "-", stdin="[true]")

    assert json.loads(result.stdout) == {
        "args": [{"x": [1, None, "ü"]}, 2.5, [True]],
        "kwargs": {"by": "name"},
    }


def test_call_detached_prints_the_id(on_stage: CommandLine, stage: Rig) -> None:
    job = on_stage("call", "play", "1", "--detach").stdout.strip()

    wait_until(lambda: stage.job_field(job, "fq_state") == "finished", what="the job finished")
    (row,) = on_stage.rows("job", job)
    assert (row["status"], row["attempts"], row["error"], row["traceback"]) == ("COMPLETED", 1, None, None)
    assert row["timing"]["execution_s"] >= 0
    wait_until(lambda: on_stage("logs", job).stdout == "playing 1\n", what="what it printed")


def test_call_of_a_job_that_fails(on_stage: CommandLine) -> None:
    result = on_stage("call", "play", "fail=true", code=5)

    assert result.stdout == ""
    assert r"LookupError: no such \x1b[31mtune" in result.stderr
    assert "Traceback" in result.stderr
    failed = on_stage.rows("jobs", "--status", "FAILED", "--endpoint", "play")[0]
    (row,) = on_stage.rows("job", failed["id"])
    assert row["error"] == "LookupError: no such \x1b[31mtune"
    assert "in play" in row["traceback"]


def test_call_of_a_result_that_is_no_json(on_stage: CommandLine) -> None:
    result = on_stage("call", "play", "object=1", code=5)

    assert "JSON" in result.stderr


def test_a_job_without_the_right_key_shows_no_traceback(on_stage: CommandLine) -> None:
    on_stage("call", "play", "fail=true", code=5)
    failed = on_stage.rows("jobs", "--status", "FAILED", "--endpoint", "play")[0]
    on_stage.environ["FLASHQ_SECRET_KEY"] = "ab" * 32

    (row,) = on_stage.rows("job", failed["id"])

    assert row["error"].startswith("LookupError")
    assert row["traceback"].startswith("(not shown: ")


def test_call_with_the_wrong_key_is_refused_by_the_worker(on_stage: CommandLine) -> None:
    on_stage.environ["FLASHQ_SECRET_KEY"] = "ab" * 32

    result = on_stage("call", "play", "1", code=5)

    assert "refused" in result.stderr


def test_call_without_a_key(on_stage: CommandLine) -> None:
    del on_stage.environ["FLASHQ_SECRET_KEY"]

    assert "FLASHQ_SECRET_KEY" in on_stage("call", "play", "1", code=1).stderr
