"""Row 2 of the failure matrix: for each script by its name, the reply to one call of it is lost.

A whole deployment (caller, host agent, autoscaler, workers) reaches its broker through a tripwire, which carries the
next call of the script to the broker, whoever made it, and cuts the connection in the place of the reply. Afterwards
every job has run as often as it should, has at most one outcome, and is leased by nobody.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint, GpuGroup, Retries
from flashq.client import Client, use_client
from flashq.errors import EndpointFailed, JobCancelled
from flashq.store import failed, gpu_leases, held, queries_fleet
from flashq.store.broker import Broker
from flashq.store.scripts import script_names
from tests.acceptance.stage import Stage
from tests.chaos.proxy import Tripwire
from tests.conformance import snapshot
from tests.nvml.machine import Device, Machine
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flashq.store.command import Command
    from flashq.store.keys import Keys

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(120)]

PATIENCE_S = 45
FAR_S = 3600.0


def endpoint(name: str, **options: Any) -> Any:
    """An endpoint whose jobs leave an x in a file for each run."""

    @Endpoint(name=name, cpu="any", workers=(0, 2), **{"idle_timeout": 60, **options})
    def act(record: str, what: str = "", gate: str = "") -> str:
        with Path(record).open("a") as file:
            file.write("x")
        first = Path(record).read_text() == "x"
        match what:
            case "print":
                print("printed", flush=True)
            case "fail once" if first:
                raise ConnectionError("once")
            case "exit once" if first:
                os._exit(7)
            case "wait":
                while not Path(gate).exists():
                    time.sleep(0.01)
        return what

    return act


act = endpoint("lost", retries=Retries(max=1, delay_s=0.01))


@Endpoint(name="lost-yields", cpu="any", workers=(0, 1))
def yields(record: str, count: int) -> Iterator[int]:
    with Path(record).open("a") as file:
        file.write("x")
    yield from range(count)


class Theatre(Stage):
    """A stage whose every process, this one included, reaches the broker through a tripwire."""

    def __init__(self) -> None:
        super().__init__(lease_s=3.0)
        self.wire = Tripwire(self.server.folder / "s", self.server.folder / "p")
        self.direct_url, self.server.url = self.server.url, self.wire.url  # what whoever is started is told
        self.client.close()
        self.settings = dataclasses.replace(self.settings, redis_url=self.wire.url)
        self.client = Client(self.settings)
        use_client(self.client)
        self.through = Broker(self.wire.url, patience_s=20.0)
        self.start_stack()

    @contextlib.contextmanager
    def losing(self, script: str) -> Iterator[None]:
        """Lose the reply to the next call of a script; the block ends when that has happened."""
        self.wire.arm(script, "after", lambda: None)
        yield
        wait_until(lambda: not self.wire.armed, PATIENCE_S, f"a call of {script}")

    def lose(self, command: Command[Any]) -> Any:
        """Carry out a command as the command line does, its reply lost; the answer."""
        with self.losing(command.script):
            return self.through.run(command)

    def cut(self) -> None:
        """Cut every connection, so that everybody connects anew."""
        for kind in ("normal", "pubsub"):
            self.broker.execute("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    def ends(self, job: str, state: str) -> None:
        wait_until(lambda: self.state(job) == state, PATIENCE_S, f"{job} is {state}")

    def workers_of(self, name: str) -> list[str]:
        return [
            w.decode() for w in self.broker.execute("ZRANGE", self.keys.of("endpoint_workers", name), 0, -1)
        ]

    def check(self) -> None:
        """Nothing is leased, every job stands where it should, and has one outcome at most."""
        names = [name.decode() for name in self.broker.execute("SMEMBERS", self.keys.of("endpoints"))]
        for name in names:
            leases = self.keys.of("leases", name)
            wait_until(
                lambda key=leases: not self.broker.execute("ZCARD", key),  # type: ignore[misc]
                PATIENCE_S,
                f"no leases: {name}",
            )
        wait_until(lambda: not self._faults(), what="every job stands where it should")
        for job, fields in snapshot.jobs(snapshot.take(self.broker.redis())).items():
            generations = int(fields.get("fq_gen", 0)) + 1
            assert self.broker.execute("XLEN", self.keys.of("results", job)) <= generations

    def _faults(self) -> list[str]:
        return snapshot.faults(snapshot.take(self.broker.redis()), held=True)

    @property
    def keys(self) -> Keys:
        return self.broker.keys

    def close(self) -> None:
        super().close()
        self.through.close()
        self.wire.close()


@pytest.fixture(scope="module")
def theatre() -> Iterator[Theatre]:
    made = Theatre()
    try:
        yield made
    finally:
        made.close()


class Play:
    """One test's part: the script, and jobs with a record each."""

    def __init__(self, made: Theatre, script: str, folder: Path) -> None:
        self.made, self.script = made, script
        self.record, self.gate = folder / "record", folder / "gate"
        self.folder = folder

    def spawn(self, function: Any, what: str = "", **options: Any) -> Any:
        return function.with_options(**options).spawn(str(self.record), what, str(self.gate))

    @property
    def runs(self) -> int:
        return len(self.record.read_text()) if self.record.exists() else 0

    def running(self, function: Any = act) -> Any:
        """A job that runs until its gate is there."""
        job = self.spawn(function, "wait")
        wait_until(lambda: self.runs, PATIENCE_S, "it runs")
        return job

    def fresh(self, **options: Any) -> Any:
        """An endpoint that nobody has called yet."""
        return endpoint(f"lost-{self.script.replace('_', '-')}", **options)


SCENES: dict[str, Callable[[Play], None]] = {}


def loses(*scripts: str) -> Callable[[Callable[[Play], None]], Callable[[Play], None]]:
    """What is done while the reply to one of these is lost."""

    def note(scene: Callable[[Play], None]) -> Callable[[Play], None]:
        SCENES.update(dict.fromkeys(scripts, scene))
        return scene

    return note


def test_there_is_a_scene_for_every_script() -> None:
    assert sorted(SCENES) == sorted(script_names())


NEEDS = {"gpu_free": pytest.mark.requires("nvml")}


@pytest.mark.parametrize("script", [pytest.param(s, marks=NEEDS.get(s, ())) for s in script_names()])
def test_a_lost_reply_changes_nothing(theatre: Theatre, tmp_path: Path, script: str) -> None:
    """Row 2. Given a deployment at work, if the reply to a call of this script is lost, expect no trace of that."""
    SCENES[script](Play(theatre, script, tmp_path))
    theatre.check()


# -- calls, and whoever runs them --------------------------------------------------------------------


@loses("submit", "advance", "log", "reap", "renew", "observe", "host_beat", "lead")
def a_call(play: Play) -> None:
    with play.made.losing(play.script):
        job = play.spawn(act, "print")
        assert job.result(PATIENCE_S) == "print"
    assert play.runs == 1
    wait_until(lambda: list(job.logs()) == ["printed"], what="its output, once")


@loses("chunk", "take")
def a_stream(play: Play) -> None:
    with play.made.losing(play.script):
        assert list(yields.stream(str(play.record), 100)) == list(range(100))
    assert play.runs == 1


@loses("register", "worker_order", "worker_join", "worker_ready")
def a_first_call(play: Play) -> None:
    function = play.fresh()
    with play.made.losing(play.script):
        assert play.spawn(function, "cold").result(PATIENCE_S) == "cold"
    assert play.runs == 1
    assert len(play.made.workers_of(function.name)) == 1


@loses("watch", "epoch", "recover")
def connections_that_are_cut(play: Play) -> None:
    job = play.running()
    with play.made.losing(play.script):
        play.made.cut()
    play.gate.touch()
    assert job.result(PATIENCE_S) == "wait"
    assert play.runs == 1


@loses("finish")
def a_retry(play: Play) -> None:
    with play.made.losing("finish"):
        assert play.spawn(act, "fail once").result(PATIENCE_S) == "fail once"
    assert play.runs == 2


@loses("crash")
def a_crash(play: Play) -> None:
    with play.made.losing("crash"):
        job = play.spawn(act, "exit once")
        assert job.result(PATIENCE_S) == "exit once"
    assert play.runs == 2
    assert play.made.job_field(job.id, "fq_losses") == "1"


@loses("start")
def a_crash_before_anybody_knew_that_it_began(play: Play) -> None:
    with play.made.losing("start"):
        for turn in range(50):
            play.record = play.folder / f"record-{turn}"
            assert play.spawn(act, "exit once").result(PATIENCE_S) == "exit once"
            assert play.runs == 2
            if not play.made.wire.armed:
                break


@loses("release")
def a_job_that_is_given_back(play: Play) -> None:
    function = play.fresh()
    job = play.running(function)
    (worker,) = play.made.workers_of(function.name)
    pid = int(play.made.worker_field(worker, "pid"))

    def told_again() -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)  # two at once would count as one
        return not play.made.wire.armed

    with play.made.losing("release"):
        wait_until(told_again, PATIENCE_S, "it gives its job back")
    wait_until(lambda: play.runs == 2, PATIENCE_S, "it runs elsewhere")
    play.gate.touch()
    assert job.result(PATIENCE_S) == "wait"
    assert (play.runs, play.made.job_field(job.id, "fq_attempts")) == (2, "1")


@loses("cancel")
def a_cancel(play: Play) -> None:
    job = play.running()
    with play.made.losing("cancel"):
        assert job.cancel().result(PATIENCE_S) in ("requested", "cancelled")
    with pytest.raises(JobCancelled):
        job.result(PATIENCE_S)


@loses("claim")
def a_claim(play: Play) -> None:
    """Given by nobody but the worker of flashq.testing."""
    made, function = play.made, play.fresh()
    jobs = [play.spawn(function) for _ in range(3)]
    made.broker.run(
        made.broker.transitions.join(function.name, "ghost", lease_ms=60_000, booked=False, fields={})
    )
    claim = made.broker.transitions.claim(
        function.name, "ghost", "nonce", count=3, lease_ms=60_000, start=1, holding=0, room=3
    )
    claimed = made.lose(claim).jobs
    theirs = {job.id for job in jobs if made.job_field(job.id, "worker_name") == "ghost"}
    assert {row.job for row in claimed} == theirs, "what it has is what it was told"
    made.broker.run(made.broker.transitions.leave(function.name, "ghost", "it was none"))
    for job in jobs:
        job.result(PATIENCE_S)
    assert play.runs == 3


# -- workers and hosts -------------------------------------------------------------------------------


@loses("worker_leave")
def a_worker_that_is_killed(play: Play) -> None:
    function = play.fresh()
    job = play.running(function)
    (worker,) = play.made.workers_of(function.name)
    with play.made.losing("worker_leave"):
        os.kill(int(play.made.worker_field(worker, "pid")), signal.SIGKILL)
    wait_until(lambda: play.runs == 2, PATIENCE_S, "it runs again")
    play.gate.touch()
    assert job.result(PATIENCE_S) == "wait"
    assert play.made.job_field(job.id, "fq_losses") == "1"


@loses("worker_drain")
def a_worker_that_was_idle_for_long(play: Play) -> None:
    function = play.fresh(idle_timeout=1)
    with play.made.losing("worker_drain"):
        assert play.spawn(function, "warm").result(PATIENCE_S) == "warm"
    wait_until(lambda: not play.made.workers_of(function.name), PATIENCE_S, "the worker has left")
    assert play.spawn(function, "cold again").result(PATIENCE_S) == "cold again"
    assert play.runs == 2


@loses("progress")
def a_job_that_tells_how_far_it_is(play: Play) -> None:
    @Endpoint(name="lost-progress", cpu="any", workers=(0, 1), idle_timeout=60)
    def tells(record: str) -> int:
        import flashq

        with Path(record).open("a") as file:
            file.write("x")
        for number in range(5):
            flashq.current().progress(number)
            time.sleep(0.15)
        return number

    with play.made.losing("progress"):
        job = tells.spawn(str(play.record))
        assert job.result(PATIENCE_S) == 4
    assert job.progress() == 4
    assert play.runs == 1


@loses("worker_lend")
def a_worker_whose_job_waits_for_what_it_called(play: Play) -> None:
    inner = play.fresh(idle_timeout=0.5)

    @Endpoint(name="lost-outer", cpu="any", workers=(0, 1), idle_timeout=0.5)
    def outer(record: str) -> Any:
        return inner.remote(record, "called")

    with play.made.losing("worker_lend"):
        job = outer.spawn(str(play.record))
        assert job.result(PATIENCE_S) == "called"
    assert play.runs == 1


@loses("host_leave")
def a_host_that_leaves(play: Play) -> None:
    made = play.made
    before = wait_until(lambda: made.broker.execute("ZCARD", made.keys.of("hosts")), what="the stack's host")
    command = ["-m", "flashq", "host"]
    host = made.start(command=command, env={"FLASHQ_HOME": str(made.folder() / "h")})
    wait_until(lambda: made.broker.execute("ZCARD", made.keys.of("hosts")) == before + 1, PATIENCE_S)
    with made.losing("host_leave"):
        host.process.terminate()
    assert host.ended() == 0
    assert made.broker.execute("ZCARD", made.keys.of("hosts")) == before


@loses("gpu_free")
def a_gpu_that_is_given_back(play: Play) -> None:
    made = play.made
    machine = Machine(play.folder, Device("GPU-lost"))
    home = {"FLASHQ_HOME": str(made.folder() / "h"), **machine.environ({})}
    host = made.start(command=["-m", "flashq", "host"], env=home)

    @Endpoint(name="lost-gpu", gpu="any", idle_timeout=0.2)
    def bound() -> str:
        return os.environ["CUDA_VISIBLE_DEVICES"]

    with made.losing("gpu_free"):
        assert bound.spawn().result(PATIENCE_S) == "GPU-lost"
    wait_until(lambda: gpu_leases.of(made.broker, ["GPU-lost"])["GPU-lost"].free, PATIENCE_S, "it is free")
    assert bound.spawn().result(PATIENCE_S) == "GPU-lost"
    host.process.terminate()
    assert host.ended() == 0


@loses("resign")
def an_autoscaler_that_leaves(play: Play) -> None:
    autoscaler = play.made.start(command=["-m", "flashq", "autoscaler"])
    wait_until(lambda: "stands by" in autoscaler.errors, PATIENCE_S, "it stands by")
    with play.made.losing("resign"):
        autoscaler.process.terminate()
    assert autoscaler.ended() == 0
    assert play.spawn(play.fresh(), "scaled").result(PATIENCE_S) == "scaled"


@loses("set_condition")
def an_endpoint_that_nobody_can_run(play: Play) -> None:
    @Endpoint(name="lost-condition", gpu=GpuGroup.ANY, gpu_count=8)
    def nobody() -> None: ...

    with play.made.losing("set_condition"):
        job = nobody.spawn()
    wait_until(lambda: play.made.endpoint_field("lost-condition", "condition"), PATIENCE_S, "it is said why")
    assert job.cancel().result(PATIENCE_S) == "cancelled"


class LoadsBadly:
    """Raises when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (int, ("no number",))


@loses("fail_waiting")
def an_endpoint_that_does_not_load(play: Play) -> None:
    bad = LoadsBadly()

    @Endpoint(name="lost-fail", cpu="any")
    def hopeless() -> Any:
        return bad

    with play.made.losing("fail_waiting"):
        jobs = [hopeless.spawn() for _ in range(3)]
    for job in jobs:
        with pytest.raises(EndpointFailed):
            job.result(PATIENCE_S)


# -- operators ---------------------------------------------------------------------------------------


@loses("requeue")
def a_requeue(play: Play) -> None:
    job = play.spawn(act, "requeued", delay_s=FAR_S)
    assert job.cancel().result(PATIENCE_S) == "cancelled"
    assert play.made.lose(play.made.broker.transitions.requeue(job.id)) == "ok"
    play.made.ends(job.id, "finished")
    assert (play.runs, play.made.job_field(job.id, "fq_gen")) == (1, "1")


@loses("delete")
def a_delete(play: Play) -> None:
    job = play.spawn(act, "deleted")
    job.result(PATIENCE_S)
    assert play.made.lose(play.made.broker.transitions.delete(job.id)) in ("ok", "unknown")
    assert play.made.state(job.id) == ""


@loses("purge")
def a_purge(play: Play) -> None:
    function = play.fresh()
    jobs = [play.spawn(function, delay_s=FAR_S) for _ in range(3)]
    play.made.lose(play.made.broker.transitions.purge(function.name))
    for job in jobs:
        with pytest.raises(JobCancelled):
            job.result(PATIENCE_S)
    assert play.runs == 0


@loses("requeue_failed", "purge_failed")
def failed_jobs(play: Play) -> None:
    function = play.fresh()
    job = play.spawn(function, "fail once")
    with pytest.raises(ConnectionError):
        job.result(PATIENCE_S)
    act_on_all = {"requeue_failed": failed.requeue, "purge_failed": failed.purge}[play.script]
    with play.made.losing(play.script):
        act_on_all(play.made.through, function.name)
    if play.script == "requeue_failed":
        play.made.ends(job.id, "finished")
        assert (play.runs, play.made.job_field(job.id, "fq_gen")) == (2, "1")
    else:
        assert (play.runs, play.made.state(job.id)) == (1, "")


@loses("pause", "resume")
def a_pause(play: Play) -> None:
    made, function = play.made, play.fresh()
    transitions = made.broker.transitions
    made.register(function)
    run = {"pause": made.broker.run, "resume": made.broker.run, play.script: made.lose}
    assert run["pause"](transitions.pause(function.name)) == "ok"
    job = play.spawn(function, "resumed")
    assert made.state(job.id) == "queued"
    assert run["resume"](transitions.resume(function.name)) == "ok"
    assert job.result(PATIENCE_S) == "resumed"
    assert play.runs == 1


@loses("rollback")
def a_rollback(play: Play) -> None:
    made, function = play.made, play.fresh()
    made.register(function)
    before = made.endpoint_field(function.name, "revision")
    terms: dict[str, Any]
    terms = dict.fromkeys(("environment", "resources", "spec", "scaling", "program"), "another")
    register = made.broker.transitions.register(function.name, revision="another", record=b"record", **terms)
    made.broker.run(register)
    assert made.lose(made.broker.transitions.rollback(function.name, "another")) == ("ok", before)
    assert made.endpoint_field(function.name, "previous_revision") == "another"


@loses("scale")
def an_endpoint_scaled(play: Play) -> None:
    made, function = play.made, play.fresh()
    made.register(function)
    before = made.endpoint_field(function.name, "scaling")
    after = before.replace('"workers_max":', '"workers_max":1')
    assert made.lose(made.broker.transitions.scale(function.name, before, after)) == ("ok", after)
    assert made.endpoint_field(function.name, "scaling") == after


@loses("host_drain")
def a_host_drained_and_used_again(play: Play) -> None:
    broker, host = play.made.broker, "drained-host"

    def told() -> tuple[str, str | None]:
        (row,) = [row for row in queries_fleet.hosts(broker) if row.id == host]
        return row.state, row.drain_reason

    broker.run(broker.transitions.host_beat(host, lease_ms=60_000, fields={}))
    assert play.made.lose(broker.transitions.host_drain(host, drained=True, why="new driver")) == "ok"
    assert told() == ("draining", "new driver")
    assert play.made.lose(broker.transitions.host_drain(host, drained=False)) == "ok"
    assert told() == ("ready", None)
    broker.run(broker.transitions.host_leave(host))


@loses("undeploy")
def an_undeploy(play: Play) -> None:
    function = play.fresh()
    play.made.register(function)
    assert play.made.lose(play.made.broker.transitions.undeploy(function.name)) in ("ok", "unknown")
    assert play.made.endpoint_field(function.name, "revision") == ""


@loses("key_uses")
def a_look_at_what_a_key_signed(play: Play) -> None:
    job = play.spawn(act, delay_s=FAR_S)
    key_id, revision = play.made.client.keyring.ids[0], play.made.endpoint_field(act.name, "revision")
    assert play.made.lose(play.made.broker.transitions.key_uses(act.name, key_id, [job.id])) == (
        1,
        {revision},
    )
    assert job.cancel().result(PATIENCE_S) == "cancelled"


@loses("rekey")
def a_record_that_is_signed_anew(play: Play) -> None:
    made = play.made
    assert play.spawn(act).result(PATIENCE_S) == ""
    key_id, revision = made.client.keyring.ids[0], made.endpoint_field(act.name, "revision")
    key = made.keys.of("revision", act.name, revision)
    record = made.broker.execute("GET", key)
    made.lose(made.broker.transitions.rekey(act.name, revision, key_id, record=record))
    assert made.broker.execute("GET", key) == record
    assert play.spawn(act, "signed anew").result(PATIENCE_S) == "signed anew"


@loses("renounce")
def what_a_stolen_key_signed(play: Play) -> None:
    made, function = play.made, play.fresh()
    made.register(function)
    key_id, revision = made.client.keyring.ids[0], made.endpoint_field(function.name, "revision")
    made.lose(made.broker.transitions.renounce(function.name, key_id, [revision]))
    assert made.endpoint_field(function.name, "revision") == ""
    job = play.spawn(function, delay_s=FAR_S)  # which registers it again
    assert made.endpoint_field(function.name, "revision") == revision
    assert job.cancel().result(PATIENCE_S) == "cancelled"


@loses("hold", "unhold")
def jobs_that_are_set_aside(play: Play) -> None:
    """As the private broker does at its start."""
    made, function = play.made, play.fresh()
    jobs = [play.spawn(function, delay_s=FAR_S) for _ in range(3)]
    run = {"hold": made.broker.run, "unhold": made.broker.run, play.script: made.lose}
    assert run["hold"](held.hold(made.keys, function.name)) == 3
    run["unhold"](held.unhold(made.keys, function.name))
    for job in jobs:
        assert job.cancel().result(PATIENCE_S) == "cancelled"


@loses("restart")
def a_restart_of_the_private_broker(play: Play) -> None:
    function = play.fresh()
    job = play.running(function)
    play.made.lose(held.restart(play.made.keys, function.name))
    wait_until(lambda: play.runs == 2, PATIENCE_S, "it runs again")
    play.gate.touch()
    assert job.result(PATIENCE_S) == "wait"
    assert play.made.job_field(job.id, "fq_losses") == ""
