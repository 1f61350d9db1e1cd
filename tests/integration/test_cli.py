"""The commands that look after endpoints, jobs and workers, on a real broker with fabricated data."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from flashq.cli.jobs import _worker_log
from flashq.model.lifecycle import JobState
from flashq.settings import Settings
from flashq.store.broker import Broker
from tests.integration.command_line import CommandLine
from tests.integration.fabricated import Fabricated
from tests.rig import BrokerServer, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.requires("valkey")


@pytest.fixture(scope="module")
def server() -> Iterator[BrokerServer]:
    with closing(BrokerServer(appendonly="no")) as server:
        yield server


@pytest.fixture
def broker(server: BrokerServer) -> Iterator[Broker]:
    with closing(Broker(server.url)) as broker:
        broker.execute("FLUSHALL")
        yield broker


@pytest.fixture
def made(broker: Broker) -> Fabricated:
    return Fabricated(broker)


@pytest.fixture
def cli(broker: Broker, tmp_path: Path) -> CommandLine:
    return CommandLine(broker.url, tmp_path)


# -- listings ----------------------------------------------------------------------------------------


def test_json_fields_are_a_promise(cli: CommandLine, made: Fabricated) -> None:
    made.endpoint()
    made.broker.run(made.broker.transitions.host_beat("host-1", lease_ms=15_000, fields={"hostname": "box"}))
    job = made.job()
    made.claim(made.worker())
    promised = {
        "endpoints": "name revision workers_min workers_max"
        " initializing idle running throttled outdated unhealthy",
        "queues": "endpoint queued in_progress failed oldest_age_s scheduled parked",
        "workers": "id endpoint state host pid since job",
        "jobs": "id endpoint status attempts enqueued_at started_at ended_at worker cold_start",
        "hosts": "id hostname cpus memory gpus workers since state",
        f"job {job}": "id endpoint status attempts losses worker cold_start timing error log traceback"
        " enqueued_at claimed_at started_at ended_at",
    }

    for command, fields in promised.items():
        (row,) = cli.rows(*command.split())
        assert set(fields.split()) <= set(row), command


def test_queues_in_json(cli: CommandLine, made: Fabricated) -> None:
    made.endpoint()
    made.endpoint("idle")
    made.ended("failed")
    made.job(priority=1)

    busy, idle = cli.rows("queues")

    assert 0 <= busy.pop("oldest_age_s") < 60
    assert busy == {
        "endpoint": "embed", "queued": 1, "in_progress": 0, "failed": 1, "scheduled": 0, "parked": 0,
        "paused": False
    }  # fmt: skip
    assert idle["oldest_age_s"] is None


def test_times_in_json_are_utc_and_unknown_values_null(cli: CommandLine, made: Fabricated) -> None:
    made.endpoint()
    job = made.job(delay_ms=60_000)
    made.set("job", job, fq_enqueued=1_700_000_000_123)

    (row,) = cli.rows("jobs")

    assert row == {
        "id": job,
        "endpoint": "embed",
        "status": "IN_QUEUE",
        "attempts": 0,
        "enqueued_at": "2023-11-14T22:13:20.123Z",
        "started_at": None,
        "ended_at": None,
        "worker": None,
        "cold_start": None,
    }


def test_jobs_are_filtered_and_limited(cli: CommandLine, made: Fabricated) -> None:
    made.endpoint()
    failed = made.ended("failed")
    waiting = [made.job() for _ in range(3)]

    assert [row["id"] for row in cli.rows("jobs", "--status", "failed")] == [failed]
    assert [row["id"] for row in cli.rows("jobs", "--limit", "2", "--endpoint", "embed")] == waiting[:2]
    assert "no endpoint nope" in cli("jobs", "--endpoint", "nope", code=3).stderr


def test_one_host_shows_what_its_environments_were_resolved_to(cli: CommandLine, made: Fabricated) -> None:
    made.broker.run(made.broker.transitions.host_beat("box-1", lease_ms=15_000, fields={"hostname": "box"}))
    told = {"digest": "d" * 64, "python": "3.11", "requirements": ["tiny-b"], "size_bytes": 3 << 20}
    told |= {"packages": ["tiny-a==1.0", "tiny-b==1.0"]}
    made.set("host_environments", "box-1", listed=json.dumps([told]))

    (row,) = cli.rows("hosts", "box-1")
    shown = cli("hosts", "box-1").stdout

    assert row["environments"][0]["packages"] == ["tiny-a==1.0", "tiny-b==1.0"]
    assert [line.strip() for line in shown.splitlines() if line.endswith("tiny-b==1.0")] == ["tiny-b==1.0"]
    assert "3.0 MiB" in shown
    assert "no host nope" in cli("hosts", "nope", code=3).stderr


def test_one_host_shows_its_gpus_and_who_has_them(cli: CommandLine, made: Fabricated) -> None:
    gpus = [
        {
            "uuid": "GPU-1",
            "name": "NVIDIA L4",
            "memory_bytes": 24 << 30,
            "used_bytes": 1 << 29,
            "utilisation": 37,
        },
        {"uuid": "GPU-2", "name": "NVIDIA L4", "foreign": True},
        {"uuid": "GPU-3", "name": "NVIDIA L4", "fault": "XID 79: off the bus"},
    ]
    told = {"gpus": json.dumps(gpus), "driver": "550.54.15", "cuda": "12.4"}
    made.broker.run(made.broker.transitions.host_beat("box-1", lease_ms=15_000, fields=told))
    made.broker.execute("HSET", made.broker.keys.of("gpus"), "GPU-1", "3 1700000000000 embed-1 embed box-1 ")

    shown = cli("hosts", "box-1").stdout

    for words in (
        "24.0 GiB",
        "0.5 GiB",
        "37 %",
        "embed-1",
        "in use by another program",
        "XID 79: off the bus",
    ):
        assert words in shown
    assert "3 × NVIDIA L4 (GPU-2: in use by another program) (GPU-3: XID 79: off the bus)" in shown
    assert "12.4" in shown


@pytest.mark.parametrize("command", ["endpoints", "queues", "jobs", "workers", "hosts"])
def test_nothing_to_list(cli: CommandLine, command: str) -> None:
    assert cli.rows(command) == []

    result = cli(command)
    assert result.stdout == ""
    assert result.stderr.startswith("no ")


@pytest.mark.parametrize("command", ["queues", "jobs", "cancel x"])
def test_a_lost_broker_is_an_error_and_no_empty_list(tmp_path: Path, command: str) -> None:
    cli = CommandLine("unix:///nowhere/at/all", tmp_path)
    arguments = command.split() if command == "cancel x" else [*command.split(), "--json"]

    result = cli(*arguments, code=1)

    assert result.stdout == ""
    assert "no broker at unix:///nowhere/at/all" in result.stderr


def test_rows_in_a_pipe_are_separated_by_tabs(cli: CommandLine, made: Fabricated) -> None:
    made.endpoint()
    job = made.job()
    made.set("job", job, worker_name="a\tb\x1b[2J")

    header, row = cli("jobs").stdout.splitlines()

    assert header.split("\t")[:3] == ["id", "endpoint", "status"]
    assert row.split("\t")[:3] == [job, "embed", "IN_QUEUE"]
    assert row.split("\t")[7] == r"a\tb\x1b[2J"


def on_terminal(cli: CommandLine, *args: str) -> tuple[str, int]:
    """What `python -m flashq …` writes to a terminal, and its exit code."""
    ours, theirs = pty.openpty()
    environ = {**os.environ, **cli.environ, "TERM": "xterm-256color", "COLUMNS": "160"}
    process = subprocess.Popen(
        [sys.executable, "-m", "flashq", *args], stdin=theirs, stdout=theirs, stderr=theirs, env=environ
    )
    os.close(theirs)
    pieces: list[bytes] = []
    with open(ours, "rb", buffering=0, closefd=True) as screen:  # noqa: PTH123 — a descriptor has no path
        try:
            while piece := screen.read(4096):
                pieces.append(piece)
        except OSError:  # the terminal's other end was closed
            pass
    return b"".join(pieces).decode(), process.wait(30)


def test_a_table_on_a_terminal(cli: CommandLine, made: Fabricated) -> None:
    made.endpoint()
    job = made.job()
    worker = made.worker()
    made.claim(worker)
    made.set("job", job, worker_name="w\x1b]0;owned\x07")

    shown, code = on_terminal(cli, "jobs")

    assert code == 0
    assert "STATUS" in shown
    assert "ENQUEUED" in shown
    assert job in shown
    assert " ago" in shown
    assert r"w\x1b]0;owned\x07" in shown
    assert "\x1b]0;" not in shown


def test_exit_codes_reach_the_shell(cli: CommandLine) -> None:
    shown, code = on_terminal(cli, "job", "embed-none")

    assert code == 3
    assert shown.startswith("flashq: no job embed-none in the broker")


def test_one_job_for_people(cli: CommandLine, made: Fabricated) -> None:
    made.endpoint()
    job = made.ended("failed", reason="exception", text="KeyError: 'x'", timing='{"execution_ms": 1500}')
    made.broker.run(made.broker.transitions.log(job, 1, 0, b"reading\nfailing\x1b[2J\n"))

    lines = [line.split(None, 1) for line in cli("job", job).stdout.splitlines()]
    shown = {words[0]: words[1] for words in lines if len(words) == 2}

    assert (shown["id"], shown["status"], shown["error"]) == (job, "FAILED", "KeyError: 'x'")
    assert shown["execution_s"] == "1.5"
    assert ["failing\\x1b[2J"] in lines


# -- cancel, retry, purge, undeploy ------------------------------------------------------------------


def state(made: Fabricated, job: str) -> JobState:
    return JobState(made.get("job", job, "fq_state") or "")


def test_cancel(cli: CommandLine, made: Fabricated) -> None:
    made.endpoint()
    done = made.ended()
    running = made.job()
    made.claim(made.worker())
    waiting = made.job()

    assert cli("cancel", waiting).stdout == f"{waiting}: cancelled\n"
    assert cli("cancel", running).stdout == f"{running}: its worker was asked to stop it\n"
    assert f"{done} is finished" in cli("cancel", done, code=4).stderr
    assert "no job embed-none" in cli("cancel", "embed-none", code=3).stderr
    assert state(made, waiting) is JobState.CANCELLED
    assert made.get("job", running, "fq_cancel") == "1"


def test_retry(cli: CommandLine, made: Fabricated) -> None:
    made.endpoint()
    done, failed, other = made.ended(), made.ended("failed"), made.ended("timed_out")

    assert cli("retry", failed, other).stdout == f"{failed}: queued again\n{other}: queued again\n"
    assert f"{done} is finished: only" in cli("retry", done, code=4).stderr
    assert f"{failed} is queued: only" in cli("retry", failed, code=4).stderr
    assert state(made, failed) is JobState.QUEUED


def test_of_several_jobs_each_is_tried_and_the_gravest_code_is_kept(
    cli: CommandLine, made: Fabricated
) -> None:
    made.endpoint()
    done = made.ended()
    failed = made.ended("failed")

    result = cli("retry", "embed-none", done, failed, code=4)

    assert result.stdout == f"{failed}: queued again\n"
    assert len(result.stderr.splitlines()) == 2


def test_purge(cli: CommandLine, made: Fabricated) -> None:
    made.endpoint()
    running = made.job()
    made.claim(made.worker())
    waiting = [made.job(), made.job(priority=1), made.job(delay_ms=60_000)]

    assert cli("purge", "embed").stdout == "embed: 3 waiting jobs cancelled\n"
    assert cli("purge", "embed").stdout == "embed: 0 waiting jobs cancelled\n"
    assert "no endpoint nope" in cli("purge", "nope", code=3).stderr
    assert [state(made, job) for job in waiting] == [JobState.CANCELLED] * 3
    assert state(made, running) is JobState.RUNNING


def test_purge_of_more_than_one_page(cli: CommandLine, made: Fabricated) -> None:
    made.endpoint()
    submits = [
        made.broker.transitions.submit("embed", f"embed-{n}", revision="r1", call=b"") for n in range(1100)
    ]
    made.broker.run_all(submits)

    assert cli("purge", "embed").stdout == "embed: 1,100 waiting jobs cancelled\n"


def test_undeploy(cli: CommandLine, made: Fabricated) -> None:
    made.endpoint()
    made.job()

    assert "`--purge` cancels" in cli("undeploy", "embed", code=4).stderr
    assert cli("undeploy", "embed", "--purge").stdout == "embed: undeployed\n"
    assert "no endpoint or app embed" in cli("undeploy", "embed", code=3).stderr
    assert cli.rows("endpoints") == []


def test_an_endpoint_whose_jobs_run_is_not_undeployed(cli: CommandLine, made: Fabricated) -> None:
    made.endpoint()
    made.job()
    made.claim(made.worker())

    assert "in progress" in cli("undeploy", "embed", "--purge", code=4).stderr
    assert [row["name"] for row in cli.rows("endpoints")] == ["embed"]


# -- logs --------------------------------------------------------------------------------------------


def test_logs_of_a_job(cli: CommandLine, made: Fabricated) -> None:
    made.endpoint()
    job = made.job()
    made.broker.run(made.broker.transitions.log(job, 1, 0, b"one\ntwo"))

    assert cli("logs", job).stdout == "one\ntwo\n"
    assert "no job embed-none" in cli("logs", "embed-none", code=3).stderr


def test_logs_of_a_worker_here_need_no_broker(tmp_path: Path) -> None:
    cli = CommandLine("unix:///nowhere/at/all", tmp_path)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "embed-w1.log").write_bytes(b"started\n\xffready")

    assert cli("logs", "embed-w1").stdout == "started\n�ready\n"
    assert cli("logs", "embed-w1", "--follow").stdout == "started\n�ready\n"


def test_logs_of_a_worker_elsewhere(cli: CommandLine, made: Fabricated) -> None:
    made.endpoint()
    worker = made.worker(hostname="gpu-7")

    assert f"worker {worker} runs on gpu-7" in cli("logs", worker, code=3).stderr


def test_following_a_worker_ends_with_it(cli: CommandLine, made: Fabricated) -> None:
    made.endpoint()
    worker = made.worker()
    file = cli.home / "logs" / f"{worker}.log"
    file.parent.mkdir()
    file.write_text("started\nhal")

    def later() -> None:
        with file.open("a") as stream:
            stream.write("f a line\nlast")
        made.broker.run(made.broker.transitions.leave("embed", worker, "drained"))

    thread = threading.Timer(0.2, later)
    thread.start()
    result = cli("logs", "-f", worker)
    thread.join()

    assert result.stdout == "started\nhalf a line\nlast\n"


def test_following_a_worker_whose_log_is_emptied(made: Fabricated, cli: CommandLine) -> None:
    made.endpoint()
    worker = made.worker()
    file = cli.home / "logs" / f"{worker}.log"
    file.parent.mkdir()
    file.write_text("so long that it is emptied\n")
    lines = _worker_log(Settings.load(cli.environ), worker, file, follow=True)
    assert next(lines) == "so long that it is emptied"

    file.write_text("anew\n")
    made.broker.run(made.broker.transitions.leave("embed", worker, "drained"))

    assert list(lines) == ["anew"]


# -- calls that no worker takes ---------------------------------------------------------------------


def test_call_of_nothing_registered(cli: CommandLine) -> None:
    assert "no endpoint nope" in cli("call", "nope", code=3).stderr


def test_call_that_nobody_takes(cli: CommandLine, made: Fabricated) -> None:
    made.endpoint()

    result = cli("call", "embed", "--timeout", "0.1", code=1)

    assert "has not ended within 0.1 s; it goes on" in result.stderr
    (row,) = cli.rows("jobs")
    assert row["status"] == "IN_QUEUE"
    assert row["id"] in result.stderr


def test_call_over_the_payload_limit(cli: CommandLine, made: Fabricated) -> None:
    made.endpoint()
    cli.environ["FLASHQ_PAYLOAD_LIMIT"] = "1024"

    assert "the limit is 1,024" in cli("call", "embed", json.dumps("x" * 2000), code=1).stderr
    assert cli.rows("jobs") == []


def test_a_call_carries_the_terms_of_its_endpoint(cli: CommandLine, made: Fabricated) -> None:
    made.endpoint(call_defaults={"priority": 4, "ttl": 30})

    job = cli("call", "embed", "--detach").stdout.strip()

    assert made.get("job", job, "origin") == "embed--p4"
    (row,) = cli.rows("job", job)
    assert row["expires_at"] is not None


def test_call_of_a_job_that_is_cancelled_meanwhile(cli: CommandLine, made: Fabricated) -> None:
    made.endpoint()

    def cancel() -> None:
        job = wait_until(lambda: waiting(made.broker), what="the call")[0]
        made.broker.run(made.broker.transitions.cancel(job))

    thread = threading.Thread(target=cancel)
    thread.start()
    assert "cancelled" in cli("call", "embed", "--timeout", "20", code=5).stderr
    thread.join()


def waiting(broker: Broker) -> list[str]:
    """Ids of what waits."""
    return [i.decode() for i in broker.execute("LRANGE", broker.keys.of("queue", "embed"), 0, -1)]


def test_a_call_outlives_a_restart_of_the_broker(tmp_path: Path) -> None:
    with closing(BrokerServer(appendonly="always")) as server, closing(Broker(server.url)) as broker:
        made, cli = Fabricated(broker), CommandLine(server.url, tmp_path)
        made.endpoint()

        def restart() -> None:
            wait_until(lambda: waiting(broker), what="the call")
            server.kill()
            server.start()
            broker.run(broker.transitions.cancel(waiting(broker)[0]))

        thread = threading.Thread(target=restart)
        thread.start()
        result = cli("call", "embed", "--timeout", "30", code=5)
        thread.join()

    assert "cancelled" in result.stderr


# -- which broker ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["queues", "--json"], ["call", "embed"], ["cancel", "j"]])
def test_with_nothing_configured_and_nothing_running_no_broker_is_started(
    tmp_path: Path, command: list[str]
) -> None:
    cli = CommandLine("", tmp_path)

    result = cli(*command, code=1)

    assert result.stdout == ""
    assert "none runs for" in result.stderr
    assert "`flashq up --detach` starts one" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("queue",), "No such command 'queue'"),
        (("xyzzy",), "No such command 'xyzzy'"),
        (("jobs", "--dead", "--reason", "foo"), "'foo' is not one of 'exception', 'unserializable'"),
    ],
)
def test_a_word_that_is_none_of_ours_is_answered_with_what_was_meant(
    tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    assert says in CommandLine("unix:///nowhere", tmp_path)(*words, code=2).stderr
