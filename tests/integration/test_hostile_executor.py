"""User code that takes its executor over: it may say what it likes of its own job, and hurts only its own process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from flashq.errors import RemoteError, WorkerCrashed
from flashq.json_call import submit, wait
from tests.rig import Rig, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.requires("valkey")

LIMIT = 1 << 20
MOST_MEMORY_MB = 150

TAKE_OVER = """
import flashq, json, os, socket, stat, struct, sys, time

def is_stream(fd):
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False

job = flashq.current()
line = socket.socket(fileno=next(fd for fd in range(3, 100) if is_stream(fd)))

def say(kind, meta, blob=b"", version=1):
    text = meta if isinstance(meta, bytes) else json.dumps(meta).encode()
    line.sendall(struct.pack(">IBBI", 6 + len(text) + len(blob), version, kind, len(text)) + text + blob)

def outcome(blob=b"", **changes):
    meta = {"job": job.id, "fence": job.fence, "status": "ok", "encoding": "pickle", "execution_ms": 1.0}
    say(18, meta | changes, blob)

def call(**changes):
    meta = {"job": job.id, "fence": job.fence, "call": 1, "endpoint": "hostile", "target": "", "options": {}}
    say(22, {**meta, "detached": False} | changes)

def failed(**changes):
    error = {"kind": "exception", "type": "E", "message": "", "traceback": ""}
    outcome(status="error", error=error | changes)
"""


@Endpoint(name="hostile", cpu="any", workers=(0, 2))
def hostile(source: str = "") -> Any:
    if not source:
        return "at your service"
    if source == "large":
        return b"x" * (10 * LIMIT)
    names: dict[str, Any] = {}
    exec(TAKE_OVER + source + "\ntime.sleep(60)", names)
    return None


@pytest.fixture(scope="module")
def shared() -> Iterator[Rig]:
    with rig() as made:
        made.ready_worker(hostile, payload_limit=LIMIT)
        yield made


LIES = {
    "the outcome of another job": 'outcome(job="hostile-" + "0" * 36)',
    "the outcome of another delivery": "outcome(fence=job.fence + 1)",
    "given back unasked": 'outcome(status="skipped")',
    "another encoding": 'outcome(b"1", encoding="json")',
    "a text that is none": 'failed(message="\\ud800")',
    "a meta too long": """say(18, b'{"a":"' + b"x" * 5_000_000 + b'"}')""",
    "a frame too long": 'line.sendall(struct.pack(">I", (1 << 30) - 1) + b"x" * (1 << 20))',
    "ready once more": 'say(16, {"pid": 1, "python": "3", "boot_ms": 1, "import_ms": 1, "setup_ms": 1})',
    "a call of another job": 'call(job="hostile-" + "0" * 36)',
    "a call of a target that is no text": 'call(target="\\ud800")',
    "a call with an option that is no text": 'call(options={"\\ud800": 1})',
    "a call with options that are none": "call(options=[])",
    "a call without its number": "call(call=None)",
    "lines of another job": 'say(21, {"job": "x", "fence": 1}, b"hello")',
    "waiting as another job": 'say(24, {"job": "x", "fence": 1, "waiting": True})',
    "half a frame, then silence": 'line.sendall(b"\\0\\0"); line.shutdown(socket.SHUT_WR)',
    "nothing any more": "line.close()",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_costs_the_executor_and_nobody_else(shared: Rig, lie: str) -> None:
    """Given an executor that says what it may not, expect its job to fail by name, and the worker to go on."""
    with pytest.raises(WorkerCrashed):
        hostile.spawn(LIES[lie]).result(30)
    assert hostile.spawn().result(15) == "at your service"
    assert [worker.process.poll() for worker in shared.workers] == [None]


def test_its_supervisor_stays_small(shared: Rig) -> None:
    """Given an executor that sends as much as it can, expect the supervisor to have taken in little of it."""
    flood = 'line.sendall(struct.pack(">IBBI", 1 << 23, 1, 18, 5))\nfor _ in range(500): line.sendall(b"x" * (1 << 20))'
    with pytest.raises(WorkerCrashed):
        hostile.spawn(flood).result(30)
    status = Path(f"/proc/{shared.workers[0].process.pid}/status").read_text()
    most = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert most < MOST_MEMORY_MB * 1024


def test_a_value_that_is_none_is_told_to_the_caller(shared: Rig) -> None:
    """Given an outcome with bytes that are no pickle, or no JSON, expect RemoteError where it is decoded."""
    with pytest.raises(RemoteError, match="cannot be unpickled"):
        hostile.spawn('outcome(b"junk"); os._exit(0)').result(15)
    keys, args = shared.client.keyring, ['outcome(b"{", encoding="json"); os._exit(0)']
    call = submit(shared.broker, keys, "hostile", args, payload_limit=LIMIT)
    with pytest.raises(RemoteError, match="no JSON"):
        wait(shared.broker, keys, call, 15)
    again = submit(shared.broker, keys, "hostile", ['outcome(b"junk")'], payload_limit=LIMIT)
    wait_until(lambda: shared.job_field(again.job, "fq_state") == "failed")
    assert hostile.spawn().result(15) == "at your service"


def test_an_ordinary_exception_of_an_odd_class_is_told() -> None:
    """Given exceptions whose class has an impossible or an endless name, or very many bases, expect RemoteError."""

    @Endpoint(name="odd", cpu="any")
    def odd(what: str) -> None:
        kind = type("Odd", (Exception,), {})
        if what == "name":
            kind.__module__ = "\udc80"
        elif what == "long":
            kind.__qualname__ = "O" * 100_000
        else:
            for n in range(300):
                kind = type(f"Odd{n}", (kind,), {})
        raise kind("\ud800")

    with rig() as made:
        worker = made.ready_worker(odd)
        for what in ("name", "long", "many"):
            with pytest.raises(Exception, match="ud800") as caught:
                odd.spawn(what).result(15)
            assert len(getattr(caught.value, "type_name", "")) <= 1000
        assert worker.process.poll() is None


def test_a_result_over_the_limit_does_not_reach_the_supervisor(shared: Rig) -> None:
    """Given a result ten times the limit, expect the executor to say so, in the words for any such result."""

    with pytest.raises(
        Exception, match=r"the result takes 10,\d{3},\d{3} bytes encoded; the limit is 1,048,576"
    ):
        hostile.spawn("large").result(15)


def test_a_forged_outcome_is_not_signed_for_a_job_of_another_worker(shared: Rig) -> None:
    """Given a job in the hands of another worker, expect nothing that this one's executor says to end it."""

    @Endpoint(name="victim", cpu="any")
    def victim() -> str:
        return "mine"

    shared.register(victim)
    waiting = victim.spawn()
    wait_until(lambda: shared.job_field(waiting.id, "fq_state") == "queued")
    with pytest.raises(WorkerCrashed):
        hostile.spawn(f"outcome(job={waiting.id!r}, fence=1)").result(30)
    assert shared.job_field(waiting.id, "fq_state") == "queued"
    theirs = shared.worker(victim)
    assert waiting.result(15) == "mine"
    shared.workers.remove(theirs)
    theirs.close()
