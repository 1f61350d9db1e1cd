"""Endpoints with an image, in real containers of podman and docker (tests/integration/test_containers.py: the rest)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import sys
import tarfile
import uuid
from typing import TYPE_CHECKING

import pytest

from flashq import Endpoint
from flashq.errors import EndpointFailed, JobTimedOut, WorkerCrashed
from flashq_worker.containers import runner
from flashq_worker.containers.container import folders
from flashq_worker.host.containers import HostContainers
from tests.engines.base_images import NoBaseImageError, provide_python
from tests.engines.docker import Docker, docker, missing_docker
from tests.engines.podman import CACHE, FOR_ONE_CONTAINER, Podman, missing_engine
from tests.integration.environment_rig import make_wheels
from tests.rig import rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig import Rig

pytestmark = [pytest.mark.engines, pytest.mark.timeout(900)]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
IMAGE = f"docker.io/library/python:{PYTHON}-slim"
OTHERS = f"localhost/flashq-containers-{PYTHON}-other-user"
EMPTY = "localhost/flashq-containers-empty"
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """The tests' own podman, with images: with Python, with another user, and with nothing."""
    reason = missing_engine(FOR_ONE_CONTAINER)
    if reason is not None:
        pytest.skip(reason)
    made = Podman()
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            provide_python(made, PYTHON)
        except NoBaseImageError as missing:
            pytest.skip(str(missing))
        folder = tmp_path_factory.mktemp("images")
        (folder / "Containerfile").write_text(f"FROM {IMAGE}\nENV HF_HOME=/of-the-image\nUSER 1234\n")
        made("build", "--quiet", "--tag", OTHERS, "--file", folder / "Containerfile", folder)
        with tarfile.open(folder / "empty.tar", "w") as empty:
            empty.add(folder / "Containerfile", "there-is-only-this")
        made("import", folder / "empty.tar", EMPTY)
        yield made
        with contextlib.suppress(AssertionError):
            made("rmi", "--force", OTHERS, EMPTY)


@pytest.fixture(scope="module", params=["podman", "docker"])
def engine(
    podman: Podman, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Podman | Docker]:
    """The engine that workers find, with those images."""
    with contextlib.ExitStack() as stack:
        found: Podman | Docker = podman
        if request.param == "docker":
            reason = missing_docker()
            if reason is not None:
                pytest.skip(reason)
            found = stack.enter_context(docker())
            archive = tmp_path_factory.mktemp("archive") / "images.tar"
            podman("save", "--quiet", "--multi-image-archive", "--output", archive, IMAGE, OTHERS, EMPTY)
            found("load", "--quiet", "--input", archive)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in found.environment.items():
            patch.setenv(name, value)
        yield found


@pytest.fixture(scope="module")
def shared(engine: Podman | Docker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    wheels = tmp_path_factory.mktemp("wheels")
    make_wheels(wheels)
    with rig(lease_s=10.0) as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.setenv("PIP_FIND_LINKS", str(wheels))
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("UV_CACHE_DIR", str(wheels / "cache"))
        yield made


def containers(engine: Podman | Docker) -> set[str]:
    """The names of all there are, running or not."""
    return engine.lines("ps", "--all", "--format={{.Names}}")


@pytest.mark.parametrize("image", [IMAGE, OTHERS])
def test_a_function_runs_in_its_image_with_packages_and_volume(
    shared: Rig, engine: Podman | Docker, image: str, tmp_path: Path
) -> None:
    """Given an image of root's or of another user, expect a call to run there, and nothing to be left in the end."""
    tmp_path.chmod(0o777)
    home = str(shared.home)

    @Endpoint(
        name=f"{engine.name}-{'root' if image == IMAGE else 'user'}",
        cpu="any",
        image=image,
        dependencies=["tiny-a<2"],
        volume=str(tmp_path),
        env={"SECRET": "canary-engine"},
    )
    def seen(x: int) -> tuple[int, int, int, str, list[object]]:
        import pathlib
        import socket

        import tiny_a

        pathlib.Path(os.environ["FLASHQ_VOLUME"], f"by-{os.getuid()}").write_text("here")
        pathlib.Path(os.environ["TORCH_HOME"]).parent.stat()
        processes = len(list(pathlib.Path("/proc").glob("[0-9]*")))
        more = [tiny_a.__version__, os.environ["SECRET"], pathlib.Path(home).exists(), processes]
        return x + 1, os.getuid(), os.getpid(), socket.gethostname(), more

    worker = shared.ready_worker(seen, engine=engine.name)
    value, user, pid, hostname, more = seen.remote(1)
    assert (value, user) == (2, 0 if image == IMAGE else 1234)
    assert pid < 100  # in a namespace of its own
    assert hostname != os.uname().nodename
    # Where keys may be is not there, nor are processes of anybody else.
    assert more == ["1.0", "canary-engine", False, 2]
    assert (tmp_path / f"by-{user}").read_text() == "here"
    name = f"flashq-{worker.id}"
    assert name in containers(engine)
    assert "canary-engine" not in engine("inspect", name)
    assert seen.remote(2)[:3] == (3, user, pid)
    worker.signal(signal.SIGTERM)
    assert worker.wait(PATIENCE_S) == 0
    wait_until(lambda: name not in containers(engine), PATIENCE_S, "the container is gone")


def test_its_size_is_its_limit(shared: Rig, engine: Podman | Docker) -> None:
    """Given a job that needs more memory than its worker's size, expect the kernel to end it, and to be told so."""

    @Endpoint(name=f"{engine.name}-memory", cpu="any", image=IMAGE, max_deliveries=1)
    def allocate(mib: int) -> int:
        return len(b"x" * (mib << 20)) >> 20

    shared.ready_worker(allocate, engine=engine.name, cpus=1.0, memory_bytes=200 << 20)
    assert allocate.spawn(10).result(PATIENCE_S) == 10
    with pytest.raises(WorkerCrashed, match=r"(?s)SIGKILL.*more than the container's .* GiB of memory"):
        allocate.spawn(1000).result(PATIENCE_S)
    assert allocate.spawn(10).result(PATIENCE_S) == 10


def test_what_crashes_or_resists_costs_its_container(shared: Rig, engine: Podman | Docker) -> None:
    """Given a job that ends its process and one that resists a timeout, expect each to end, and others to go on."""

    @Endpoint(name=f"{engine.name}-crash", cpu="any", image=IMAGE, max_deliveries=1)
    def misbehave(how: str) -> str:
        import ctypes
        import subprocess
        import time

        if how == "crash":
            ctypes.string_at(0)
        if how == "resist":  # with a child in a session of its own, which outlives its group
            subprocess.Popen(["sleep", "3600"], start_new_session=True)
            while True:
                try:
                    time.sleep(1000)
                except BaseException:  # noqa: BLE001
                    continue
        return how

    worker = shared.ready_worker(misbehave, engine=engine.name)
    with pytest.raises(WorkerCrashed, match="SIGSEGV"):
        misbehave.spawn("crash").result(PATIENCE_S)
    with pytest.raises(JobTimedOut):
        misbehave.with_options(timeout_s=0.5).spawn("resist").result(PATIENCE_S)
    assert misbehave.spawn("well").result(PATIENCE_S) == "well"
    assert f"flashq-{worker.id}" in containers(engine)


def test_no_container_outlives_its_supervisor(shared: Rig, engine: Podman | Docker) -> None:
    """Given a supervisor that is killed at work, expect its container to end, with nobody's help."""

    @Endpoint(name=f"{engine.name}-orphan", cpu="any", image=IMAGE)
    def rest(seconds: float) -> None:
        import time

        time.sleep(seconds)

    worker = shared.ready_worker(rest, engine=engine.name)
    job = rest.spawn(3600)
    wait_until(lambda: shared.job_field(job.id, "fq_state") == "running", PATIENCE_S)
    assert f"flashq-{worker.id}" in containers(engine)
    worker.signal(signal.SIGKILL)
    wait_until(lambda: f"flashq-{worker.id}" not in containers(engine), PATIENCE_S, "the container is gone")
    job.cancel()


def test_memory_is_that_of_the_process_in_the_container(shared: Rig, engine: Podman | Docker) -> None:
    """Given `recycle_gib`, expect a process that has come to more to be replaced, container and all."""

    @Endpoint(name=f"{engine.name}-recycled", cpu="any", image=IMAGE, recycle_gib=0.1)
    def keep(mib: int) -> str:
        import builtins
        import socket

        builtins.kept = b"x" * (mib << 20)  # type: ignore[attr-defined]
        return socket.gethostname()

    shared.ready_worker(keep, engine=engine.name)
    first = keep.remote(1)
    assert keep.remote(200) == first
    assert keep.remote(1) != first


def test_a_host_removes_what_was_just_being_made(engine: Podman | Docker, tmp_path: Path) -> None:
    """Given a container that was made and never begun, its runner gone, expect a host agent to remove it."""
    name = f"made-{uuid.uuid4().hex[:8]}"
    folder = folders(tmp_path) / name
    runner.make_folder(folder)
    (folder / runner.ENGINE).write_text(shutil.which(engine.name) or "")
    engine("create", f"--name=flashq-{name}", "--entrypoint=python3", IMAGE)
    host = HostContainers(tmp_path, engine.environment)
    host.sweep()
    assert f"flashq-{name}" not in containers(engine)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (EMPTY, "no executor could be begun: image .* has no python3 that runs"),
        ("localhost:9/flashq/there-is-none:1", "image .* cannot be pulled by .*connection refused"),
    ],
)
def test_what_does_not_start_is_told_in_the_engines_words(
    shared: Rig, engine: Podman | Docker, image: str, said: str
) -> None:
    """Given an image that has no Python, or none at all, expect the worker to end, and to say why."""

    @Endpoint(name=f"{engine.name}-unfit-{uuid.uuid4().hex[:8]}", cpu="any", image=image)
    def never() -> None: ...

    worker = shared.worker(never, engine=engine.name)
    worker.wait(PATIENCE_S)
    assert shared.worker_field(worker.id, "fq_state") != "idle"
    log = worker.log.read_text("utf-8", "replace")
    assert re.search(f"cannot start: {said}", log), log


SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{os.getpid()} {sorted(os.listdir('/'))} {os.environ.get('SECRET')}".encode())
print("listening", flush=True)
http.server.HTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def server(engine: Podman | Docker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Images with start commands of their own: one that serves, one that ends, one that does not run."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "server.py").write_text(SERVER)
    images = {}
    for name, command in (
        ("serves", '["python3", "/server.py"]'),
        ("ends", '["python3", "-c", "print(\'no model\'); raise SystemExit(3)"]'),
        ("no-program", '["/nowhere"]'),
    ):
        file = folder / f"Containerfile-{name}"
        file.write_text(f"FROM {IMAGE}\nCOPY server.py /server.py\nENTRYPOINT {command}\n")
        images[name] = f"localhost/flashq-server-{PYTHON}-{name}"
        engine("build", "--quiet", "--tag", images[name], "--file", file, folder)
    yield images
    with contextlib.suppress(AssertionError):
        engine("rmi", "--force", *images.values())


def test_an_image_that_serves_http_is_asked(
    shared: Rig, engine: Podman | Docker, server: dict[str, str]
) -> None:
    """Given a server's image, expect requests to be answered by it, and no container to be left in the end."""
    served = Endpoint(
        name=f"{engine.name}-serves",
        cpu="any",
        image=server["serves"],
        env={"PORT": "8000", "SECRET": "canary-served"},
    )
    worker = shared.ready_worker(served.__flashq_function__, engine=engine.name)
    assert b"flashq" not in served.get("/").result(60)  # nothing of ours is in it
    assert b"canary-served" in served.get("/").result(60)
    assert f"flashq-{worker.id}" in containers(engine)
    worker.signal(signal.SIGKILL)  # the supervisor: its runner removes the container
    wait_until(
        lambda: f"flashq-{worker.id}" not in containers(engine), PATIENCE_S, "the container to be gone"
    )


@pytest.mark.parametrize(("what", "says"), [("ends", "ended with code 3"), ("no-program", "start command")])
def test_a_server_that_does_not_start_fails_its_jobs(
    shared: Rig, engine: Podman | Docker, server: dict[str, str], what: str, says: str
) -> None:
    served = Endpoint(name=f"{engine.name}-{what}", cpu="any", image=server[what])
    job = served.get("/").spawn()
    for _ in range(2):
        shared.worker(served.__flashq_function__.name, engine=engine.name).process.wait(60)
    with pytest.raises(EndpointFailed, match=says):
        job.result(30)
