"""compose.yaml and the Dockerfile for real: built, brought up, called from outside, stopped, brought down.

The engine is podman with podman-compose (tests/engines/podman.py says what it needs); the commands are those that
compose.yaml's head tells a user to type. The first run takes some minutes, since it makes base images and fetches
wheels.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import socket
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import psutil
import pytest
import redis

from tests.engines.base_images import NoBaseImageError, provide_python, provide_valkey
from tests.engines.compose_stack import COMPOSE, OURS, PROJECT, ROOT, SERVICES, ComposeStack
from tests.engines.package_index import serve, wheelhouse
from tests.engines.podman import CACHE, Podman, missing_engine
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1800)]

HELD = """\
import json, sys
from flashq import Endpoint

@Endpoint(name=sys.argv[1], cpu="any", workers=(0, 1), idle_timeout=2)
def held(number, released):
    import os, pathlib, platform, socket, time
    while not pathlib.Path("/var/lib/flashq", released).exists():
        time.sleep(0.05)
    return {
        "square": number * number,
        "machine": socket.gethostname(),
        "python": platform.python_version(),
        "user": os.getuid(),
    }

jobs = [held.spawn(number, sys.argv[2]) for number in (6, 7)]
print(json.dumps([job.result() for job in jobs]))
"""
"""Two calls of an endpoint of one worker, which work until a file is there."""


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    """The tests' own engine, with base images; held by one run at a time, since the engine has one of each name."""
    reason = missing_engine()
    if reason is not None:
        pytest.skip(reason)
    engine = Podman()
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            provide_python(engine, f"{sys.version_info.major}.{sys.version_info.minor}")
            provide_valkey(engine, COMPOSE["services"]["broker"]["image"])
        except NoBaseImageError as missing:
            pytest.skip(str(missing))
        yield engine


@pytest.fixture(scope="module")
def built(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeStack]:
    """The stack, its image built and nothing started."""
    with serve(wheelhouse(ROOT / "constraints.txt", CACHE)) as index:
        stack = ComposeStack(podman, tmp_path_factory.mktemp("compose"), index)
        try:
            # Of the services that share the image, one builds it, and `up --build` finds it built.
            stack.compose("build", OURS[0], timeout_s=1200)
            stack.compose("up", "--detach", "--build")
            yield stack
        finally:
            stack.down("--volumes")
            with contextlib.suppress(AssertionError):
                podman("rmi", "--force", COMPOSE["services"]["host"]["image"])
            podman("image", "prune", "--force")


@pytest.fixture
def stack(built: ComposeStack) -> Iterator[ComposeStack]:
    """The stack, up."""
    built.up()
    yield built
    built.end_scripts()


def only(stack: ComposeStack, command: str, name: str) -> dict[str, object]:
    """The row of one endpoint."""
    (row,) = stack.rows(command, endpoint=name)
    return row


def test_calls_from_outside_run_in_a_container_until_nothing_waits_and_no_worker_is_left(
    stack: ComposeStack,
) -> None:
    name = f"held-{uuid.uuid4().hex[:8]}"
    script = stack.start_script(HELD, name, name)

    wait_until(
        lambda: stack.rows("workers", endpoint=name, state="running"), 60, "a worker runs the first call"
    )
    queue = only(stack, "queues", name)
    worker = only(stack, "workers", name)
    (host,) = stack.rows("hosts", state="ready")
    (running,) = stack.rows("jobs", endpoint=name, status="IN_PROGRESS")
    stack.host_file(name).touch()
    printed, errors = script.communicate(timeout=60)

    assert script.returncode == 0, errors
    assert (queue["in_progress"], queue["queued"]) == (1, 1)
    assert worker["job"] == running["id"]
    assert worker["host"] == host["id"]
    answers = json.loads(printed)
    assert [answer["square"] for answer in answers] == [36, 49]
    assert {answer["machine"] for answer in answers} == {stack.inspect("host")["Config"]["Hostname"]}
    assert {answer["user"] for answer in answers} == {1000}
    assert {job["attempts"] for job in stack.rows("jobs", endpoint=name, status="COMPLETED")} == {1}

    wait_until(lambda: not stack.rows("workers", endpoint=name), 30, "no worker is left")
    queue = only(stack, "queues", name)
    assert (queue["in_progress"], queue["queued"], queue["failed"]) == (0, 0, 0)


def test_a_host_that_is_stopped_lets_its_workers_finish(stack: ComposeStack) -> None:
    name = f"stopped-{uuid.uuid4().hex[:8]}"
    script = stack.start_script(HELD, name, name)
    wait_until(
        lambda: stack.rows("workers", endpoint=name, state="running"), 60, "a worker runs the first call"
    )
    released = stack.host_file(name)

    stopping = stack.start_compose("stop", "host")
    wait_until(lambda: stack.rows("hosts", state="draining"), 30, "the host drains")
    released.touch()
    stopping.wait(60)
    first, second = sorted(stack.rows("jobs", endpoint=name), key=lambda job: job["enqueued_at"])

    assert stopping.returncode == 0
    assert (first["status"], first["attempts"]) == ("COMPLETED", 1)
    # Whoever comes back does the rest.
    stack.compose("start", "host")
    printed, errors = script.communicate(timeout=60)
    assert script.returncode == 0, errors
    assert [answer["square"] for answer in json.loads(printed)] == [36, 49]
    assert second["id"] in {job["id"] for job in stack.rows("jobs", endpoint=name, status="COMPLETED")}


SPREAD = """\
import json, sys
from flashq import Endpoint

def where(released):
    import pathlib, socket, time
    while released and not pathlib.Path("/var/lib/flashq", released).exists():
        time.sleep(0.05)
    return socket.gethostname()

anywhere = Endpoint(name=sys.argv[1] + "-any", cpu="any", workers=(0, 1), idle_timeout=2)(where)
there = Endpoint(name=sys.argv[1], cpu="any", workers=(0, 1), idle_timeout=2, hosts="which=second")(where)
jobs = [there.spawn(sys.argv[1]), anywhere.spawn("")]
print(json.dumps([job.result() for job in jobs]))
"""
"""A call for the host with a label, which works until a file is there, and one for any host."""


def test_a_second_host_gets_what_asks_for_it_and_may_die_and_come_back(stack: ComposeStack) -> None:
    name = f"second-{uuid.uuid4().hex[:8]}"
    with stack.another_host("second", "--label", "which=second"):
        wait_until(lambda: len(stack.rows("hosts", state="ready")) == 2, 60, "both hosts are ready")
        script = stack.start_script(SPREAD, name)
        wait_until(lambda: stack.rows("workers", endpoint=name, state="running"), 60, "the call runs there")
        second = stack.inspect("second")["Config"]["Hostname"]

        # If its container is killed, and is there again, expect the call to run there once more
        stack.podman("kill", stack.container("second"))
        stack.host_file(name, "second").touch()
        stack.podman("start", stack.container("second"))
        printed, errors = script.communicate(timeout=120)

        assert script.returncode == 0, errors
        there, anywhere = json.loads(printed)
        assert there == second
        assert anywhere in (second, stack.inspect("host")["Config"]["Hostname"])
        (job,) = stack.rows("jobs", endpoint=name)
        assert (job["status"], job["attempts"]) == ("COMPLETED", 2)
    wait_until(lambda: len(stack.rows("hosts")) == 1, 60, "the second host has left")


def test_what_was_accepted_is_still_there_after_down_and_up(stack: ComposeStack) -> None:
    name = f"kept-{uuid.uuid4().hex[:8]}"
    script = stack.start_script(HELD, name, name)
    wait_until(
        lambda: stack.rows("jobs", endpoint=name, status="IN_QUEUE"), 60, "the second call is accepted"
    )
    released = stack.host_file(name)
    released.touch()
    script.communicate(timeout=60)
    done = {job["id"] for job in stack.rows("jobs", endpoint=name, status="COMPLETED")}

    stack.down()
    stack.up()

    assert len(done) == 2
    assert {job["id"] for job in stack.rows("jobs", endpoint=name, status="COMPLETED")} == done
    assert released.exists()


def test_the_broker_is_healthy_and_asks_this_machine_alone_for_its_password(stack: ComposeStack) -> None:
    # podman runs health checks by systemd's timers only, so this one is run by hand.
    healthy = subprocess.run(
        ["podman", "healthcheck", "run", stack.container("broker")], env=stack.podman.environment, check=False
    )
    ports = stack.inspect("broker")["NetworkSettings"]["Ports"]

    with redis.Redis(port=stack.port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    assert healthy.returncode == 0
    assert ports == {"6379/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(stack.port)}]}


@pytest.mark.parametrize("service", SERVICES)
def test_neither_password_nor_key_shows_in_a_container(stack: ComposeStack, service: str) -> None:
    container = stack.container(service)
    shown = {
        "configuration": json.dumps(stack.inspect(service)),
        "processes": stack.podman("top", container, "args"),
        "log": stack.podman.log(container),
    }

    for secret in ("broker_password", "signing_key"):
        for where, text in shown.items():
            assert stack.secret(secret) not in text, where


def test_down_leaves_nothing(stack: ComposeStack) -> None:
    stack.down("--volumes")

    assert stack.podman.lines("ps", "--all", "--quiet") == set()
    assert stack.podman.lines("volume", "ls", "--quiet") == set()
    assert {
        name for name in stack.podman.lines("network", "ls", "--format={{.Name}}") if PROJECT in name
    } == set()
    # One process of podman's own stands beside each container, with its name on its command line.
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if f" -n {PROJECT}" in command]
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", stack.port)):
        pass
