"""Signing keys are rotated under load: nothing is refused, nothing is restarted, and what is retired is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest
from click.testing import CliRunner

from flashq import Endpoint
from flashq.cli import flashq
from flashq.client import Client, use_client
from flashq.codec import Revision
from flashq.errors import JobRefused
from flashq.key_file import KeyFile
from flashq.model.envelope import open_sealed, seal
from flashq.model.keyring import Direction, Keyring
from flashq.settings import SecretKey, Settings
from flashq.store.queries_keys import holders
from tests.acceptance import stage as stages
from tests.acceptance.stage import environment
from tests.rig import SECRET, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq.job import EndpointJob
    from tests.acceptance.stage import Stage

pytestmark = [pytest.mark.timeout(180), pytest.mark.requires("valkey")]
ROUNDS_S = 60.0


@Endpoint(name="turn", cpu="any", workers=(0, 2), idle_timeout=60, env={"GREETING": "secret-greeting"})
def turn(number: int) -> tuple[int, str]:
    return number + 1, os.environ["GREETING"]


@pytest.fixture
def keyed() -> Iterator[Stage]:
    """A whole deployment whose processes read their keys from one file."""
    with stages.stage(lease_s=2.0) as made:
        made.key_file = made.server.folder / "key"
        made.key_file.write_text(f"{SECRET.hex()}\n")
        made.key_file.chmod(0o600)
        made.client.close()
        made.client = Client(Settings.load(environment(made)))
        use_client(made.client)
        made.start_stack()
        yield made


class Load:
    """Calls of an endpoint, from a thread of its own, until it is told to end."""

    def __init__(self) -> None:
        self.jobs: list[EndpointJob[tuple[int, str]]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._call)

    def __enter__(self) -> Load:
        self._thread.start()
        self.more(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _call(self) -> None:
        while not self._stop.wait(0.004):
            self.jobs.append(turn.spawn(len(self.jobs)))

    def more(self, count: int) -> None:
        """Until so many more were called."""
        wanted = len(self.jobs) + count
        wait_until(lambda: len(self.jobs) >= wanted, ROUNDS_S, what="load")


def command(made: Stage, *words: str, code: int = 0) -> str:
    """Run `flashq keys …`; what it printed."""
    result = CliRunner().invoke(flashq, ["keys", *words], env=environment(made))
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def keys_of(made: Stage) -> KeyFile:
    assert made.key_file is not None
    return KeyFile.read(made.key_file)


def test_keys_are_rotated_under_load_and_nothing_is_refused(keyed: Stage) -> None:
    # Given hundreds of calls, with workers that the autoscaler started
    assert turn.remote(0) == (1, "secret-greeting")
    old = keys_of(keyed).signing.id
    with Load() as load:
        workers = {w: pid for w in worker_ids(keyed) if (pid := keyed.worker_field(w, "pid"))}

        # If a key is added, made the signing one, and the old one retired, each while calls go on
        assert "verifies" in command(keyed, "rotate")
        load.more(50)
        assert "signs" in command(keyed, "rotate", "--wait", "30")
        new = keys_of(keyed).signing.id
        assert new != old
        wait_until(lambda: signed_by(keyed, load.jobs[-1].id, new), ROUNDS_S, what="calls under the new key")
        said = command(keyed, "retire", old, "--wait", "60")
        assert f"record(s) of endpoints are signed with {new} now" in said or "resigned" in events(keyed)
        load.more(50)

    # Expect every call to have its value, from the workers that were there before
    endings = [job.result(60) for job in load.jobs]
    assert endings == [(n + 1, "secret-greeting") for n in range(len(endings))]
    assert len(endings) > 130
    assert workers
    assert {w: keyed.worker_field(w, "pid") for w in workers} == workers

    # Expect a worker that starts now to read what the old key had signed, and the command line the new key
    assert [entry.id for entry in keys_of(keyed).entries] == [new]
    ring = Keyring([entry.key.value for entry in keys_of(keyed).entries])
    by_hand = keyed.worker(turn, keys=ring.for_endpoint(turn.name))
    wait_until(lambda: keyed.worker_field(by_hand.id, "fq_state") == "idle", ROUNDS_S, what="a new worker")

    # If every process has seen that the old key is gone, expect a call under it to be refused
    gone = {(new,)}
    wait_until(lambda: {h.keys for h in holders(keyed.broker)} == gone, ROUNDS_S, what="the old key gone")
    settings = Settings(redis_url=keyed.server.url, secret_key=SecretKey(SECRET), home=keyed.home)
    with closing(Client(settings)) as stranger:
        job: EndpointJob[Any] = stranger.submit(turn, (1,), {})
        with pytest.raises(JobRefused, match=f"signed with key '{old}', which is not accepted"):
            job.result(30)


def worker_ids(made: Stage) -> list[str]:
    members = made.broker.execute("ZRANGE", made.broker.keys.of("endpoint_workers", turn.name), 0, -1)
    return [member.decode() for member in members]


def signed_by(made: Stage, job: str, key_id: str) -> bool:
    """Whether a job's call (which goes when it completes) or outcome bears this key's signature."""
    return key_id in made.job_field(job, "fq_call")[:1024] + made.job_field(job, "fq_outcome")[:1024]


def events(made: Stage) -> str:
    rows = made.broker.execute("XREVRANGE", made.broker.keys.of("events"), "+", "-")
    return " ".join(value.decode("utf-8", "replace") for _, fields in rows for value in fields)


def test_a_key_signs_only_once_everybody_has_it_and_goes_only_once_nobody_needs_it(keyed: Stage) -> None:
    # Given a host that keeps a copy of the file, as on another machine
    assert keyed.key_file is not None
    assert turn.remote(0) == (1, "secret-greeting")
    copy = keyed.server.folder / "copy"
    copy.write_bytes(keyed.key_file.read_bytes())
    copy.chmod(0o600)
    options = ["--file", str(copy)]

    # If a key is added to the copy alone, expect it not to sign, and to be told who lacks it
    command(keyed, "rotate", *options)
    assert re.search(
        r"do not have key [0-9a-f]{16} yet: host .*, worker turn-", command(keyed, "rotate", *options, code=4)
    )
    assert KeyFile.read(copy).next is not None

    # If it comes to the file of the host, expect it to sign
    keyed.key_file.write_bytes(copy.read_bytes())
    command(keyed, "rotate", *options, "--wait", "30")
    old = KeyFile.read(copy).entries[1].id

    # If the old one is to go, expect to be told of the host that signs with it still,
    assert "would still sign with it" in command(keyed, "retire", old, *options, code=4)
    keyed.key_file.write_bytes(copy.read_bytes())
    now = KeyFile.read(copy).signing.id
    wait_until(lambda: all_sign_with(keyed, now), ROUNDS_S, what="host and autoscaler")

    # and of a job that it signed and that waits; and to be refused the one that signs
    late = turn.with_options(delay_s=600).spawn(1)
    assert signed_by(keyed, late.id, KeyFile.read(copy).signing.id)
    settings = Settings(redis_url=keyed.server.url, secret_key=SecretKey(SECRET), home=keyed.home)
    with closing(Client(settings)) as behind:
        waiting: EndpointJob[Any] = behind.submit(turn.with_options(delay_s=600), (1,), {})
        behind.acknowledged(waiting)
        assert "wait or run: 1 of turn" in command(keyed, "retire", old, *options, code=4)
        assert "is the one that signs" in command(keyed, "retire", KeyFile.read(copy).signing.id, code=4)
        waiting.cancel().result(10)
    assert "can then not be run again: 1 of turn" in command(keyed, "retire", old[:6], *options)
    late.cancel().result(10)
    assert len(KeyFile.read(copy).entries) == 1


def all_sign_with(made: Stage, key_id: str) -> bool:
    """Whether this is the first key of everybody who keeps the file: of workers it is their host's business."""
    keepers = [holder for holder in holders(made.broker) if holder.what != "worker"]
    return all(keeper.keys[:1] == (key_id,) for keeper in keepers)


SCRIPT = """
import sys, threading
from flashq import Endpoint

@Endpoint(name="turn", cpu="any", workers=(0, 1), idle_timeout=60)
def turn(number: int) -> int:
    return number + 1

jobs, stop = [], threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
assert turn.remote(0) == 1
print("calling", flush=True)
while not stop.wait(0.01):
    jobs.append(turn.spawn(len(jobs)))
assert [job.result(60) for job in jobs] == [n + 1 for n in range(len(jobs))]
print("called", len(jobs), flush=True)
"""


def test_the_private_brokers_key_is_rotated_while_a_script_calls(tmp_path: Path) -> None:
    # Given a script on the private broker that calls on and on
    home = Path(os.environ["FLASHQ_HOME"]) / "rotation"
    environ = {**os.environ, "FLASHQ_HOME": str(home), "FLASHQ_LEASE_S": "3"}
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script)], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "calling\n"
        old = KeyFile.read(home / "secret.key").signing.id

        # If its key is rotated in two commands
        for words in (["rotate", "--wait", "60"], ["retire", old, "--wait", "60"]):
            done = subprocess.run(
                [sys.executable, "-m", "flashq", "keys", *words],
                env=environ,
                capture_output=True,
                text=True,
                timeout=90,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr

        # Expect the script to have had every value
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert re.fullmatch(r"called \d{2,}\n", out)
    finally:
        process.kill()
        process.communicate()
    assert old not in [entry.id for entry in KeyFile.read(home / "secret.key").entries]


def test_what_a_stolen_key_signed_does_not_go_under_the_new_one(keyed: Stage, tmp_path: Path) -> None:
    # Given a thief who has the old key and writes to the broker: its code is in the place of the endpoint's
    assert turn.remote(0) == (1, "secret-greeting")
    old = keys_of(keyed).signing.id
    mark, revision = tmp_path / "evil", keyed.endpoint_field("turn", "revision")
    place, stolen = keyed.broker.keys.of("revision", "turn", revision), Keyring([SECRET])
    real = open_sealed(
        keyed.broker.execute("GET", place), stolen, direction=Direction.REVISION, endpoint="turn"
    )
    evil = replace(Revision.unpack(real.payload), function=cloudpickle.dumps(lambda number: mark.touch()))
    command(keyed, "rotate", "--wait", "60")
    keyed.broker.execute("SET", place, seal(real.header, evil.pack(), stolen))
    workers = worker_ids(keyed)

    # If the key is retired as stolen, expect what is under it to go, and workers that may have loaded it
    said = command(keyed, "retire", old, "--stolen")
    assert "record(s) that it signed are thrown away" in said
    wait_until(lambda: not set(workers) & set(worker_ids(keyed)), ROUNDS_S, what="other workers")
    assert [entry.id for entry in keys_of(keyed).entries] == [keys_of(keyed).signing.id]

    # Expect the next call to bring the endpoint's own code back, and the thief's never to have run
    assert turn.remote(1) == (2, "secret-greeting")
    assert not mark.exists()

    # If the thief puts it there once more, expect it not to be loaded, and a second round to throw it away
    keyed.broker.execute("SET", place, seal(real.header, evil.pack(), stolen))
    assert "1 record(s) that it signed are thrown away" in command(keyed, "retire", old, "--stolen")
    assert turn.remote(2) == (3, "secret-greeting")
    assert not mark.exists()
