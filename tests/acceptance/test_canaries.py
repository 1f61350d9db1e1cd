"""Secrets of a whole deployment, looked for everywhere that somebody else can look: nowhere found."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flashq.client import Client, use_client
from flashq.model.keyring import Keyring
from flashq.settings import Settings
from flashq.store.broker import Broker
from tests.acceptance.stage import Stage, environment
from tests.rig import SECRET, BrokerServer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(120)]
ENV, PASSWORD = "canary-of-env-6f1d", "canary-of-the-broker-93ab"

PROGRAM = """
import os, signal
from flashq import Endpoint

@Endpoint(name="canary", cpu="any", workers=(0, 2), env={"TOKEN": "<env>"}, max_deliveries=1)
def act(what):
    print("its length is", len(os.environ["TOKEN"]), flush=True)
    if what == "raise":
        raise RuntimeError("raised on purpose")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return what

for what in ("return", "raise", "die"):
    job = act.spawn(what)
    try:
        tell(**{what: str(job.result(30))})
    except Exception as error:
        tell(**{what: type(error).__name__})
        import traceback
        traceback.print_exception(error)
    print(repr(act), repr(job), job.timing, list(job.logs()))
""".replace("<env>", ENV)


@pytest.fixture(scope="module")
def deployment() -> Iterator[Stage]:
    """Host agent and autoscaler, under a user of the broker with a password, after jobs of three endings."""
    server = BrokerServer("valkey")
    with closing(Broker(server.socket_url)) as broker:
        broker.execute("ACL", "SETUSER", "ann", "on", f">{PASSWORD}", "~*", "&*", "+@all")
        broker.execute("CONFIG", "SET", "rdbcompression", "no")
    server.url = f"unix://ann:{PASSWORD}@{server.folder}/s"
    with closing(Stage(server=server, lease_s=2.0)) as made:
        made.client.close()
        made.client = Client(Settings.load(environment(made)))
        use_client(made.client)
        made.start_stack()
        said = made.run(PROGRAM)
        assert said == {"return": "return", "raise": "RuntimeError", "die": "WorkerCrashed"}
        yield made


@pytest.fixture(scope="module")
def canaries() -> dict[str, list[bytes]]:
    ring = Keyring([SECRET])
    derived = [key.secret for several in ring.for_endpoint("canary").keys.values() for key in several]
    return {
        "a key": [SECRET, SECRET.hex().encode(), *derived, *(key.hex().encode() for key in derived)],
        "a value of env=": [ENV.encode()],
        "the broker's password": [PASSWORD.encode()],
    }


def shown(canaries: dict[str, list[bytes]], text: bytes) -> list[str]:
    return [name for name, secrets in canaries.items() if any(secret in text for secret in secrets)]


def test_nothing_of_them_is_in_the_broker(deployment: Stage, canaries: dict[str, list[bytes]]) -> None:
    execute = deployment.broker.execute
    keys = execute("KEYS", "*")
    assert len(keys) > 10
    assert [(key, found) for key in keys if (found := shown(canaries, execute("DUMP", key) or b""))] == []


def test_nothing_of_them_is_in_any_file_but_the_keys(
    deployment: Stage, canaries: dict[str, list[bytes]]
) -> None:
    looked_at = 0
    for file in deployment.server.folder.rglob("*"):
        script = file.name == "script.py"  # which gives the value of env=
        if file.is_file() and not script and "appendonlydir" not in file.parts:
            looked_at += 1
            assert shown(canaries, file.read_bytes()) == [], file
    assert looked_at > 5  # logs of host, autoscaler and workers, what the program printed


def test_nothing_of_them_is_in_a_command_line(deployment: Stage, canaries: dict[str, list[bytes]]) -> None:
    mine = str(deployment.server.folder).encode()
    ours = 0
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = process.read_bytes()
        except OSError:
            continue
        ours += mine in text or b"flashq" in text
        assert shown(canaries, text) == [], process
    assert ours > 2


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["plain", "json"])
def test_nothing_of_them_is_in_what_commands_print(
    deployment: Stage, canaries: dict[str, list[bytes]], options: list[str]
) -> None:
    (job, *_) = [row.decode() for row in deployment.broker.execute("ZRANGE", "rq:failed:canary", 0, -1)]
    for command in (
        ["endpoints"],
        ["queues"],
        ["jobs", "--dead"],
        ["workers"],
        ["hosts"],
        ["status"],
        ["doctor"],
        ["job", job],
    ):
        words = [sys.executable, "-m", "flashq", *command, *options]
        done = subprocess.run(words, capture_output=True, check=False, env=environment(deployment))
        assert done.stdout, command
        assert shown(canaries, done.stdout + done.stderr) == [], command


def test_the_canaries_are_found_where_they_are(deployment: Stage, canaries: dict[str, list[bytes]]) -> None:
    """Else the tests above find nothing because they look for nothing."""
    environ = environment(deployment)
    assert shown(canaries, repr(environ).encode()) == ["a key", "the broker's password"]
    assert shown(canaries, PROGRAM.encode()) == ["a value of env="]
