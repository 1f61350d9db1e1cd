"""A broker that is not there, not right, killed and back, or back without its data; and strangers on its queues."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint, Status
from flashq.errors import BrokerRefused, BrokerStateLost
from tests.acceptance.stage import Stage, environment, stage
from tests.rig import halt, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(60)]

PROMPT_S = 12
"""How long a program may take at most to be told that a broker cannot be had."""

CALLER = """
from flashq import Endpoint

@Endpoint(name="broker-caller", cpu="any")
def work():
    return 1

begun = time.monotonic()
try:
    tell(value=work.remote())
except Exception as error:
    names = [kind.__name__ for kind in type(error).__mro__]
    tell(kinds=names, text=str(error), took=time.monotonic() - begun)
"""


@Endpoint(name="broker", cpu="any")
def act(what: str, *args: Any) -> Any:
    match what:
        case "echo":
            return args[0]
        case "hold":
            while not Path(args[0]).exists():
                time.sleep(0.01)
            return "let go"
        case "note":
            with Path(args[0]).open("a") as file:
                file.write(f"{args[1]}\n")
    return None


@pytest.fixture
def theatre() -> Iterator[Stage]:
    """Each test may kill this broker."""
    with stage(appendonly="always") as made:
        made.ready_worker(act)
        yield made


@pytest.fixture(scope="module")
def lasting() -> Iterator[Stage]:
    """A broker that no test may harm."""
    with stage() as made:
        yield made


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def test_a_broker_that_is_not_there_is_a_quick_clear_error(lasting: Stage) -> None:
    # Given programs whose broker's address is wrong: no socket, nobody listens, no such host
    port = free_port()
    urls = {
        "unix:///nowhere/at/all": "nowhere",
        f"redis://127.0.0.1:{port}/0": str(port),
        "rediss://no-such-host.invalid:6379/0": "no-such-host.invalid",
        f"redis://user:canary-password@127.0.0.1:{port}/0": str(port),
    }
    programs = [lasting.start(CALLER, env={"FLASHQ_REDIS_URL": url}) for url in urls]

    # Expect BrokerUnreachable, a ConnectionError, soon; with the address and without the password in it
    for program, shown in zip(programs, urls.values(), strict=True):
        said = program.end()
        assert {"BrokerUnreachable", "FlashqError", "ConnectionError"} <= set(said["kinds"])
        assert said["took"] < PROMPT_S
        assert shown in said["text"]
        assert "canary-password" not in said["text"] + program.errors


def test_an_address_that_is_none_is_named_at_once(lasting: Stage) -> None:
    urls = ["nonsense", "http://127.0.0.1:80", "redis//x", "redis://127.0.0.1:notaport"]
    programs = [lasting.start(CALLER, env={"FLASHQ_REDIS_URL": url}) for url in urls]
    for program, url in zip(programs, urls, strict=True):
        said = program.end()
        assert "FlashqError" in said["kinds"]
        assert "FLASHQ_REDIS_URL" in said["text"] or url in said["text"]
        assert said["took"] < 3


def test_something_that_is_no_broker_is_a_clear_error(lasting: Stage) -> None:
    # Given a port where something else answers
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            for _ in range(20):
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()

        # If it is taken for a broker, expect an error of flashq's, soon
        said = lasting.run(CALLER, env={"FLASHQ_REDIS_URL": f"redis://127.0.0.1:{port}/0"})
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    assert "BrokerError" in said["kinds"]
    assert said["took"] < PROMPT_S


def test_a_port_that_accepts_and_never_answers_is_told(lasting: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        said = lasting.run(CALLER, env={"FLASHQ_REDIS_URL": f"redis://127.0.0.1:{port}/0"})
    assert "BrokerUnreachable" in said["kinds"]
    assert said["took"] < 20


def test_a_wrong_password_is_said(lasting: Stage) -> None:
    # Given a broker that wants a password
    lasting.broker.execute("CONFIG", "SET", "requirepass", "right")
    try:
        said = lasting.run(CALLER)
    finally:
        lasting.broker.execute("CONFIG", "SET", "requirepass", "")

    # If a program gives none, expect BrokerRefused, at once
    assert BrokerRefused.__name__ in said["kinds"]
    assert said["took"] < PROMPT_S


def test_a_full_broker_is_said_and_nothing_is_lost(theatre: Stage) -> None:
    # Given a job that runs, and a broker without room for more
    gate = theatre.folder() / "gate"
    running = act.spawn("hold", str(gate))
    wait_until(lambda: running.status().result() is Status.IN_PROGRESS, what="it runs")
    theatre.broker.execute("CONFIG", "SET", "maxmemory", "1mb")

    # If another call is made, expect it to be refused clearly, and the running one to complete
    try:
        with pytest.raises(BrokerRefused, match=r"(?i)memory|oom"):
            act.spawn("echo", 1)
        gate.touch()
        assert running.result(10) == "let go"
    finally:
        theatre.broker.execute("CONFIG", "SET", "maxmemory", "0")

    # If there is room again, expect calls to work
    assert act.spawn("echo", 2).result(10) == 2


def test_a_broker_killed_and_back_loses_no_waiting_call(theatre: Stage, tmp_path: Path) -> None:
    # Given a job that runs and fifty behind it, each with somebody waiting
    gate, notes = tmp_path / "gate", tmp_path / "notes"
    running = act.spawn("hold", str(gate))
    wait_until(lambda: running.status().result() is Status.IN_PROGRESS, what="it runs")
    queued = [act.spawn("note", str(notes), n) for n in range(50)]

    # If the broker is killed, the job ends meanwhile, and the broker comes back with its data
    theatre.server.kill()
    gate.touch()
    theatre.server.start()

    # Expect every value, each job run once, by the same worker process
    assert running.result(30) == "let go"
    for job in queued:
        assert job.result(30) is None
    assert sorted(map(int, notes.read_text().split())) == list(range(50))
    assert theatre.workers[0].process.poll() is None

    # Expect new calls to work
    assert act.spawn("echo", "new").result(20) == "new"


def test_a_call_made_while_the_broker_is_away_goes_through_when_it_is_back(theatre: Stage) -> None:
    # Given a broker that is away for a moment
    theatre.server.kill()
    made: list[Any] = []
    caller = threading.Thread(target=lambda: made.append(act("echo", "meanwhile")))
    caller.start()
    caller.join(10)
    assert not caller.is_alive()

    # If it is back soon, expect the call to be accepted and run
    theatre.server.start()
    assert made[0].result(30) == "meanwhile"


def test_a_broker_that_comes_back_empty_is_told_to_who_waits(theatre: Stage, tmp_path: Path) -> None:
    # Given jobs that run and wait
    gate = tmp_path / "gate"
    running = act.spawn("hold", str(gate))
    wait_until(lambda: running.status().result() is Status.IN_PROGRESS, what="it runs")
    queued = act.spawn("echo", 1)

    # If the broker comes back without its data
    theatre.server.kill()
    theatre.server.wipe()
    theatre.server.start()
    begun = time.monotonic()

    # Expect BrokerStateLost for each, within seconds
    for job in (running, queued):
        with pytest.raises(BrokerStateLost):
            job.result(20)
    assert time.monotonic() - begun < 12
    gate.touch()

    # Expect a new call to be accepted (the endpoint is registered anew) and to run once there is a worker
    again = act.spawn("echo", "anew")
    theatre.worker("broker")
    assert again.result(30) == "anew"


def test_a_broker_stopped_for_a_while_is_only_slow(theatre: Stage) -> None:
    # Given a broker that stops for a second (a saved snapshot, a busy machine), with calls under way
    jobs = [act("echo", n) for n in range(20)]
    process = theatre.server._process
    assert process is not None
    halt(process.pid)
    jobs += [act("echo", n) for n in range(20, 40)]
    timer = threading.Timer(1.0, lambda: process.send_signal(signal.SIGCONT))
    timer.start()

    # If it goes on, expect every value
    assert [job.result(30) for job in jobs] == list(range(40))
    timer.join()


def test_a_program_survives_its_connections_being_cut(theatre: Stage) -> None:
    # Given calls under way while every connection is cut, again and again
    jobs = []
    for n in range(60):
        jobs.append(act("echo", n))
        if n % 10 == 0:
            theatre.broker.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            theatre.broker.execute("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")

    # Expect every value
    assert [job.result(30) for job in jobs] == list(range(60))


def test_a_lost_reply_makes_no_second_job(theatre: Stage, tmp_path: Path) -> None:
    # Given un-awaited calls, the connection of which is cut just after each was sent
    notes = tmp_path / "notes"
    jobs = []
    for n in range(40):
        jobs.append(act("note", str(notes), n))
        if n % 4 == 0:
            theatre.broker.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    # Expect each to run once
    for job in jobs:
        job.result(30)
    assert sorted(map(int, notes.read_text().split())) == list(range(40))


def test_a_stray_stock_worker_runs_nothing_and_loses_nothing(lasting: Stage) -> None:
    # Given jobs of an endpoint whose worker is yet to come
    @Endpoint(name="broker-stray", cpu="any")
    def value(n: int) -> int:
        return n

    jobs = [value.spawn(n) for n in range(5)]

    # If a stock `rq worker --burst` is pointed at the queue
    command = [
        sys.executable,
        "-m",
        "rq.cli",
        "worker",
        "--burst",
        "--url",
        lasting.server.url,
        "broker-stray",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(lasting), timeout=50
    )
    assert "flashq" in done.stdout + done.stderr

    # Expect none of them to have run there, and all to run on flashq's own worker
    lasting.worker(value)
    assert [job.result(30) for job in jobs] == list(range(5))


def test_a_stock_enqueue_onto_our_queue_is_parked_and_harms_nothing(lasting: Stage) -> None:
    # Given an endpoint with a worker
    @Endpoint(name="broker-parked", cpu="any")
    def value(n: int) -> int:
        return n

    lasting.ready_worker(value)

    # If a stock program enqueues onto its queue
    from rq import Queue

    stock = Queue("broker-parked", connection=lasting.broker.redis()).enqueue("os.getpid")
    assert value.spawn(1).result(20) == 1

    # Expect the stock job not to be dropped, and not to be run by us
    assert lasting.broker.execute("EXISTS", lasting.broker.keys.of("job", stock.id)) == 1
    assert stock.get_status(refresh=True).value not in ("finished", "failed")
    assert value.spawn(2).result(20) == 2


def test_a_hash_of_the_wrong_type_in_the_queue_harms_nothing(lasting: Stage) -> None:
    # Given an endpoint with a worker, and a queue into which somebody pushed nonsense
    @Endpoint(name="broker-nonsense", cpu="any")
    def value(n: int) -> int:
        return n

    lasting.ready_worker(value)
    prefix = lasting.broker.keys.of("job", "")
    lasting.broker.execute("SET", f"{prefix}broker-nonsense-1", "a string")
    queue = lasting.broker.keys.of("queue", "broker-nonsense")
    for entry in ("broker-nonsense-1", "no-such-job", "", "../x", "a:b", "*", "\x00\xff", "x" * 10_000):
        lasting.broker.execute("RPUSH", queue, entry)

    # If a call comes behind it, expect it to run
    assert value.spawn(1).result(20) == 1
