"""Endpoints with an image, by a stand-in for the engine (tests/engines/test_containers.py runs real ones)."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import cloudpickle
import psutil
import pytest

from flashq import Endpoint
from flashq.codec import Revision
from flashq.errors import JobTimedOut, WorkerCrashed
from flashq.model.keyring import Keyring
from flashq_worker.config import WorkerConfig
from flashq_worker.containers import runner
from flashq_worker.containers.container import folders
from flashq_worker.host.containers import HostContainers
from flashq_worker.host.offers import missing
from flashq_worker.runtime import Phase, Runtime
from tests.integration.engine_stand_in import IMAGE_SAYS, StandIn
from tests.integration.executor_rig import PYTHON, is_running, until
from tests.rig import rig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig import Rig

IMAGE = "registry.example/tiny:1"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """The engine of this machine, for what the tests of this module start."""
    made = StandIn(tmp_path_factory.mktemp("engine") / "bin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", made.variables["PATH"])
        yield made
    made.close()


@pytest.fixture
def answering(engine: StandIn) -> Iterator[StandIn]:
    """The engine, whose answers a test may change."""
    yield engine
    engine.answers({})


@pytest.fixture(scope="module")
def shared(engine: StandIn) -> Iterator[Rig]:
    with rig(lease_s=10.0) as made:
        yield made


# -- from a call to its value ------------------------------------------------------------------------


def test_functions_run_in_the_image_and_see_nothing_of_flashqs(shared: Rig, engine: StandIn) -> None:
    """Given an image, expect the function to run by the engine, with what the image and the endpoint say."""

    @Endpoint(name="in-image", cpu="cpu3g-1-4", image=IMAGE, env={"SECRET": "canary-in-image"})
    def seen(x: int) -> tuple[int, dict[str, str], str]:
        return x + 1, dict(os.environ), Path("/proc/self/cmdline").read_text()

    worker = shared.ready_worker(seen, cpus=1.0, memory_bytes=2**32)
    value, environ, command = seen.remote(4)
    assert value == 5
    assert {name: environ[name] for name in IMAGE_SAYS} == IMAGE_SAYS  # no default of ours is in their place
    assert environ["TORCH_HOME"] == "/flashq/models/torch"
    assert environ["SECRET"] == "canary-in-image"
    assert environ["CUDA_VISIBLE_DEVICES"] == ""
    assert environ["OMP_NUM_THREADS"] == "1"
    assert "fq-stand-in-" in command
    # Of what anybody may read who may list processes or containers:
    (run,) = [words for words in engine.told("run") if f"flashq-{worker.id}" in words]
    assert IMAGE in run
    assert {"--cpus=1", f"--memory={2**32}"} <= set(run)
    secrets = ("canary-in-image", shared.server.url, shared.settings.require_secret_key().hex())
    shown = json.dumps([run, {k: v for k, v in environ.items() if k != "SECRET"}])
    assert not [secret for secret in secrets if secret in shown]
    # A container may read all that it can mount: nothing of the home is there but what it is given.
    mounted = [word for word in run if word.startswith("type=bind")]
    assert not [word for word in mounted if f"source={shared.home}," in word]


def test_a_job_is_interrupted_and_the_container_serves_the_next(shared: Rig, engine: StandIn) -> None:
    """Given a job past its timeout, expect it to end, and the same executor to run the next."""

    @Endpoint(name="in-image-slow", cpu="any", image=IMAGE)
    def slow(seconds: float) -> int:
        import time

        time.sleep(seconds)
        return os.getpid()

    shared.ready_worker(slow)
    before = len(engine.told("run"))
    first = slow.remote(0)
    with pytest.raises(JobTimedOut):
        slow.with_options(timeout_s=0.3).spawn(60).result(30)
    assert slow.remote(0) == first
    assert len(engine.told("run")) == before


def test_a_crash_is_told_by_its_signal_and_another_container_takes_the_next(
    shared: Rig, engine: StandIn
) -> None:
    """Given a job that ends its process, expect WorkerCrashed with how, and a container of the same name after it."""

    @Endpoint(name="in-image-crash", cpu="any", image=IMAGE, max_deliveries=1)
    def crash(how: int) -> int:
        if how:
            os.kill(os.getpid(), how)
        return os.getpid()

    worker = shared.ready_worker(crash)
    with pytest.raises(WorkerCrashed, match="SIGABRT"):
        crash.spawn(int(signal.SIGABRT)).result(30)
    assert crash.spawn(0).result(30)
    runs = [words for words in engine.told("run") if f"flashq-{worker.id}" in words]
    assert len(runs) == 2
    assert ["rm", "--force", "--time=0", f"flashq-{worker.id}"] in engine.told("rm")


def test_nothing_outlives_a_supervisor_that_is_killed(shared: Rig) -> None:
    """Given a supervisor that is killed, expect its executor, and what ran the container, to end."""

    @Endpoint(name="in-image-orphan", cpu="any", image=IMAGE)
    def pids() -> tuple[int, int]:
        return os.getpid(), os.getppid()

    worker = shared.ready_worker(pids)
    executor, first = pids.remote()
    runners = [process.pid for process in psutil.Process(worker.process.pid).children()]
    assert runners
    worker.signal(signal.SIGKILL)
    until(lambda: not [pid for pid in (executor, first, *runners) if is_running(pid)])


# -- what does not start -----------------------------------------------------------------------------


class Starting:
    """A runtime of an endpoint with an image, and the loop that its supervisor would have."""

    def __init__(self, home: Path) -> None:
        spec = json.dumps({"resources": {"concurrency": 1, "image": IMAGE}})
        self.record = Revision(
            function=cloudpickle.dumps(sys.getrefcount),
            qualname="function",
            mode="sync",
            python=PYTHON,
            dependencies=(),
            concurrency=1,
            environment="",
            spec=spec,
        )
        config = WorkerConfig(
            url="unix:///nowhere",
            prefix="rq",
            endpoint="in-image",
            worker=f"in-image-{uuid.uuid4()}",
            host="here",
            keys=Keyring([b"k" * 32]).for_endpoint("in-image"),
            home=home,
        )
        self.runtime = Runtime(config, lambda: None)

    def start(self) -> Runtime:
        """Load the revision; return when it is ready or has failed."""
        self.runtime.prepare("r" * 64, self.record, {})
        until(self._settled)
        return self.runtime

    def _settled(self) -> bool:
        runtime = self.runtime
        runtime.poll()
        process = runtime.process
        if process is not None and runtime.phase is Phase.LOADING:
            select.select(process.readers(), [], [], 0.05)
            for frame in process.frames():
                runtime.on_frame(frame)
            process.read_output()
            if process.closed and runtime.phase is Phase.LOADING:
                runtime.on_closed()
        return runtime.phase in (Phase.READY, Phase.FAILED)


@pytest.fixture
def starting(tmp_path: Path) -> Iterator[Starting]:
    made = Starting(tmp_path / "home")
    yield made
    made.runtime.close()


ABSENT = (1, "Error: no such image")
FAILURES: list[tuple[dict[str, tuple[int, str]], bool, str]] = [
    ({"version": (1, "Cannot connect to the daemon")}, False, "podman does not answer: Cannot connect"),
    ({"image": ABSENT, "pull": (125, "dial tcp: connection refused")}, False, "connection refused"),
    ({"image": ABSENT, "pull": (125, "manifest unknown")}, True, "manifest unknown"),
    ({"run": (125, "unresolvable CDI devices")}, False, "unresolvable CDI devices"),
    ({"run": (127, 'exec: "python3": not found in $PATH')}, True, "has no python3 that runs"),
    ({"run": (3, "wrong start")}, True, "ended with code 3 before there was an executor"),
    ({"run": (137, "")}, False, "killed by SIGKILL"),
]


@pytest.mark.parametrize(("answers", "deterministic", "said"), FAILURES)
def test_what_does_not_start_is_told_with_the_engines_words(
    answering: StandIn,
    starting: Starting,
    monkeypatch: pytest.MonkeyPatch,
    answers: dict[str, tuple[int, str]],
    deterministic: bool,
    said: str,
) -> None:
    """Given an engine that fails, expect its words, and an unfit image to be told from a machine in trouble."""
    if "version" in answers:  # an answer is good for a while: this one is of another engine
        monkeypatch.setenv("PATH", StandIn(answering.folder.parent / "silent").variables["PATH"])
        (answering.folder.parent / "silent" / "answers").write_text(json.dumps(answers))
    answering.answers(answers)
    runtime = starting.start()
    assert runtime.phase is Phase.FAILED
    assert said in runtime.failure
    assert all(text in runtime.failure for _, text in answers.values() if text != ABSENT[1])
    assert runtime.deterministic is deterministic


def test_another_python_in_the_image_is_told_by_name(engine: StandIn, starting: Starting) -> None:
    """Given a function of another Python than the image's, expect both to be named, before anything is loaded."""
    object.__setattr__(starting.record, "python", "3.99")
    runtime = starting.start()
    assert runtime.phase is Phase.FAILED
    assert runtime.deterministic
    assert f"is Python {PYTHON}, and the function was made by Python 3.99" in runtime.failure


class Slow:
    """Takes for ever to be unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("import time; print('it loads', flush=True); time.sleep(3600)",))


def test_signals_reach_an_executor_in_a_container(engine: StandIn, starting: Starting) -> None:
    """Given a function that is slow to load, expect its executor to show where it is when it is asked to."""
    object.__setattr__(starting.record, "function", cloudpickle.dumps(Slow()))
    runtime = starting.runtime
    runtime.prepare("r" * 64, starting.record, {})

    def written() -> str:
        runtime.poll()
        if runtime.process is None:
            return ""
        runtime.process.read_output()
        return runtime.process.tail.text()

    until(lambda: "it loads" in written())
    assert runtime.process is not None
    runtime.process.show_stack()
    until(lambda: "most recent call first" in written())


LIAR = """
import json, os, socket, sys
control = socket.socket(socket.AF_UNIX)
control.connect(sys.argv[1] + "/sock")
control.recv(1 << 16)
control.sendall({said!r})
control.recv(1 << 16)
"""


@pytest.mark.parametrize(
    ("said", "becomes"),
    [
        (b"nonsense\n", "says nothing that makes sense"),
        (b"[" * 4000 + b"\n", "says nothing that makes sense"),
        (b'{"code": 4000}\n', "says nothing that makes sense"),
        (b'{"code": -9, "memory": true}\n', "killed by SIGKILL"),
        (b"", "ended with code 0"),
    ],
)
def test_a_lying_image_costs_its_start_alone(
    answering: StandIn, starting: Starting, said: bytes, becomes: str
) -> None:
    """Given an image whose first process takes what an executor gets and lies, or ends, expect a failed start, told."""
    answering.answers({}, first=LIAR.format(said=said) if said else LIAR.partition("control.sendall")[0])
    runtime = starting.start()
    assert runtime.phase is Phase.FAILED
    assert becomes in runtime.failure


def test_an_image_that_is_here_is_not_pulled(engine: StandIn, starting: Starting) -> None:
    before = len(engine.told("pull"))
    runtime = starting.start()
    assert (runtime.phase, runtime.failure) == (Phase.READY, "")
    assert len(engine.told("pull")) == before


def test_a_host_without_an_engine_says_what_it_lacks(tmp_path: Path, engine: StandIn) -> None:
    """Given no engine, or one that is not the one asked for, expect the requirement to be missing with the reason."""
    required = ("container engine",)
    assert missing(required, {"PATH": str(tmp_path)}) == {required[0]: "no podman and no docker on PATH"}
    assert missing(required, {"PATH": str(engine.folder)}) == {}
    assert missing(required, {"PATH": str(engine.folder)}, "docker") == {required[0]: "no docker on PATH"}


# -- what is left ------------------------------------------------------------------------------------


def left(home: Path, worker: str, program: Path) -> Path:
    """The folder of a container that was begun."""
    folder = folders(home) / worker
    runner.make_folder(folder)
    (folder / runner.ENGINE).write_text(str(program))
    return folder


def test_a_host_removes_containers_that_are_nobodys(tmp_path: Path, answering: StandIn) -> None:
    """Given a container whose runner was killed and one whose runner lives, expect the first alone to be removed."""
    program = answering.folder / "podman"
    gone, alive = (left(tmp_path, name, program) for name in ("left-1", "left-2"))
    host = HostContainers(tmp_path, answering.variables)
    with runner.locked(alive, wait=True) as ours:
        assert ours
        host.sweep()
    assert not gone.exists()
    assert alive.exists()
    removed = {words[-1] for words in answering.told("rm")}
    assert "flashq-left-1" in removed
    assert "flashq-left-2" not in removed


def test_what_the_engine_does_not_remove_is_tried_again(tmp_path: Path, answering: StandIn) -> None:
    """Given an engine that fails, expect the folder to stay; one that knows no such container ends it."""
    folder = left(tmp_path, "left-3", answering.folder / "podman")
    host = HostContainers(tmp_path, answering.variables)
    answering.answers({"rm": (1, "the daemon is away")})
    host.sweep()
    assert folder.exists()
    answering.answers({"rm": (1, "Error: No such container: flashq-left-3")})
    host.sweep()
    assert not folder.exists()
