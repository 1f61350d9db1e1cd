"""A broker that is there and refuses, one that is away at a bad moment, and an executor that lies."""

from __future__ import annotations

import os
import socket
import stat
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from flashq.errors import RemoteError, WorkerCrashed
from flashq.store.records import Settlement
from flashq_worker import assignment
from flashq_worker.config import WorkerConfig
from flashq_worker.exchange import Exchange
from flashq_worker.hand import Hand
from flashq_worker.pacing import Pace
from tests.rig import Rig, WorkerProcess, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq.store.records import Claimed
    from flashq_worker.assignment import Assignment, Stop

pytestmark = pytest.mark.requires("valkey")


@Endpoint(name="act", cpu="any", workers=(0, 2))
def act(what: str, *args: Any) -> Any:
    match what:
        case "wait":
            while not Path(args[0]).exists():
                time.sleep(0.01)
        case "frame":
            sockets = [fd for fd in range(3, 100) if _is_socket(fd)]
            meta = args[0].encode()
            frame = struct.pack(">IBBI", 6 + len(meta), 1, args[1], len(meta)) + meta
            for fd in sockets:
                os.write(fd, frame)
            time.sleep(60)
        case "exit":
            while not Path(args[0]).exists():
                time.sleep(0.01)
            os._exit(7)
        case "large error":
            raise ValueError(b"x" * args[0])
    return what


def _is_socket(fd: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode) and socket.socket(fileno=os.dup(fd)).type == 1
    except OSError:
        return False


@pytest.fixture
def own() -> Iterator[Rig]:
    with rig() as made:
        yield made


def refuse(own: Rig, refused: bool) -> None:
    """Have the broker refuse every write, as with too few replicas, or take them again."""
    own.broker.execute("CONFIG", "SET", "min-replicas-to-write", int(refused))


def calls(own: Rig) -> int:
    """Commands the broker has carried out or refused so far."""
    lines = own.broker.execute("INFO", "commandstats").decode().splitlines()
    told = [line for line in lines if line.startswith("cmdstat_fcall:")]
    fields = dict(part.split("=") for part in told[0].split(":")[1].split(","))
    return int(fields["calls"]) + int(fields["rejected_calls"]) + int(fields["failed_calls"])


def lines(worker: WorkerProcess) -> list[str]:
    return worker.log.read_text().splitlines()


def test_a_broker_that_refuses_writes_is_left_in_peace(own: Rig, tmp_path: Path) -> None:
    """Given an outcome that the broker refuses, expect few tries and few words, and the outcome afterwards."""
    worker = own.ready_worker(act)
    job = act.spawn("wait", str(tmp_path / "go"))
    wait_until(lambda: own.job_field(job.id, "fq_state") == "running")
    refuse(own, True)
    (tmp_path / "go").touch()
    wait_until(lambda: any("refused a step" in line for line in lines(worker)))
    before, since = calls(own), time.monotonic()
    wait_until(lambda: time.monotonic() > since + 1.5)
    assert calls(own) - before < 30
    assert sum("refused a step" in line for line in lines(worker)) == 1
    refuse(own, False)
    assert job.result(15) == "wait"
    assert act.remote("echo") == "echo"


def test_an_idle_worker_does_not_take_a_refusal_for_a_ring(own: Rig) -> None:
    """Given a bell that cannot be waited for, expect few tries, and jobs to be found all the same."""
    worker = own.ready_worker(act)
    own.broker.execute("SET", own.broker.keys.of("bell", worker.id), "no list")
    own.broker.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    wait_until(lambda: any("wait for its bell" in line for line in lines(worker)))
    before, since = calls(own), time.monotonic()
    wait_until(lambda: time.monotonic() > since + 1.5)
    assert calls(own) - before < 30
    own.broker.execute("DEL", own.broker.keys.of("bell", worker.id))
    assert act.remote("echo") == "echo"


def test_a_crash_that_was_refused_is_told_again(own: Rig, tmp_path: Path) -> None:
    """Given an executor that dies while the broker refuses, expect the run counted, and another, once it does not."""
    worker = own.ready_worker(act)
    job = act.spawn("exit", str(tmp_path / "go"))
    wait_until(lambda: own.job_field(job.id, "fq_state") == "running")
    refuse(own, True)
    (tmp_path / "go").touch()
    wait_until(lambda: any("with 1 job(s) in it" in line for line in lines(worker)))
    refuse(own, False)
    with pytest.raises(WorkerCrashed):
        job.result(20)
    assert own.job_field(job.id, "fq_attempts") == "3"
    assert own.job_field(job.id, "fq_losses") == "3"


class Silent:
    """Takes no notice of what the broker says, but for what was claimed."""

    def __init__(self) -> None:
        self.claimed: list[Claimed] = []

    def on_claimed(self, rows: tuple[Claimed, ...], begun: int) -> None:
        self.claimed += rows

    def on_started(self, held: Assignment, verdict: str) -> None: ...

    def on_stop(self, job: str, why: Stop) -> None: ...

    def on_not_ours(self, job: str, fence: int) -> None: ...

    def on_taken(self, job: str, fence: int, number: int) -> None: ...

    def on_drain(self) -> None: ...

    def on_gone(self) -> None: ...


def test_a_begin_that_was_refused_is_told_again(own: Rig) -> None:
    """Given a job that begins while the broker refuses, expect it on record as running once it does not."""
    own.register(act)
    job = act.spawn("echo")
    config = WorkerConfig(
        url=own.server.url,
        prefix="rq",
        endpoint="act",
        worker="act-by-hand",
        host="test",
        keys=own.keyring.for_endpoint("act"),
        home=own.home,
        booked=False,
    )
    own.broker.run(
        own.broker.transitions.join("act", config.worker, lease_ms=60_000, booked=False, fields={})
    )
    hand, heard = Hand(), Silent()
    exchange = Exchange(own.broker, config, hand, Pace(), heard)

    def turned(*, may_claim: bool = False) -> bool:
        exchange.connect()
        exchange.flush(may_claim=may_claim, listen=False)
        exchange.receive(set(exchange.readers()))
        return True

    wait_until(lambda: turned(may_claim=True) and heard.claimed)
    own.broker.run(own.broker.transitions.release(job.id, heard.claimed[0].fence))
    claim = own.broker.transitions.claim(
        "act", config.worker, "n", count=1, lease_ms=60_000, start=0, holding=0, room=1
    )
    row = own.broker.run(claim).jobs[0]
    held = assignment.verify(row, config.keys, "act", now_ms=exchange.now_ms(), limit=1 << 20)
    hand.running[held.job] = held
    refuse(own, True)
    exchange.begin(held)
    wait_until(lambda: turned() and exchange.act_by > time.monotonic() + 0.05)
    assert own.job_field(job.id, "fq_state") == "claimed"
    refuse(own, False)
    wait_until(lambda: turned() and own.job_field(job.id, "fq_state") == "running")
    assert own.job_field(job.id, "fq_attempts") == "1"
    exchange.close()


def test_a_ring_for_what_was_recovered_and_is_over_is_not_heard_again(own: Rig) -> None:
    """Given a job recovered after a lost connection and done since, if its ring comes then, expect it to run once."""
    own.register(act)
    config = WorkerConfig(
        url=own.server.url,
        prefix="rq",
        endpoint="act",
        worker="act-by-hand",
        host="test",
        keys=own.keyring.for_endpoint("act"),
        home=own.home,
        booked=False,
    )
    takes: dict[str, str | bytes | int | float] = {"fq_takes": 60_000}
    own.broker.run(
        own.broker.transitions.join("act", config.worker, lease_ms=60_000, booked=False, fields=takes)
    )
    heard = Silent()
    exchange = Exchange(own.broker, config, Hand(), Pace(), heard)
    bell, idle = own.broker.keys.of("bell", config.worker), own.broker.keys.of("idle", "act")

    def turned(*, listen: bool = False) -> bool:
        exchange.connect()
        exchange.flush(may_claim=True, listen=listen)
        exchange.receive(set(exchange.readers()))
        return True

    wait_until(lambda: turned() and own.broker.execute("ZCARD", idle) == 1)
    job = act.spawn("echo")
    assert own.broker.execute("LLEN", bell) == 1
    exchange.close()
    wait_until(lambda: turned() and heard.claimed, what="the job recovered")
    own.broker.run(own.broker.transitions.finish(Settlement(job.id, heard.claimed[0].fence, "failed")))

    wait_until(lambda: turned(listen=True) and own.broker.execute("LLEN", bell) == 0, what="the ring")
    wait_until(lambda: turned() and not exchange.listening, what="the ring heard")

    assert [row.job for row in heard.claimed] == [job.id]
    exchange.close()


@pytest.mark.parametrize(
    ("meta", "kind"), [("{}", 18), ("{}", 16), ('{"job":"x","status":"ok"}', 18), ("{}", 2)]
)
def test_frames_made_by_user_code_cost_the_executor_only(own: Rig, meta: str, kind: int) -> None:
    """Given a job that writes frames in the executor's name, expect it to fail, and the worker to go on."""
    worker = own.ready_worker(act)
    with pytest.raises(WorkerCrashed):
        act.remote("frame", meta, kind)
    assert act.remote("echo") == "echo"
    assert worker.process.poll() is None


def test_an_exception_over_the_limit_comes_as_its_text() -> None:
    """Given an exception over the payload limit, expect its type and text, and the worker to go on."""
    with rig() as own:
        own.ready_worker(act, payload_limit=300_000)
        with pytest.raises(RemoteError) as caught:
            act.remote("large error", 2_000_000)
        assert caught.value.type_name == "ValueError"
        assert act.remote("echo") == "echo"
