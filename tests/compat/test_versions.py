"""Two versions on one broker, as in an upgrade: the last landed commit and the working tree, all pairings.

Old workers with new clients, new workers with old clients, both at once, a host agent of one version under an
autoscaler of the other: jobs complete, errors and cancelling work, and a job whose worker dies is rerun by the other
version. Nobody's scripts are replaced, and no worker is replaced because a client was upgraded.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest

from flashq.store.broker import Broker
from flashq.store.command import text
from flashq_worker.config import WorkerConfig
from tests.compat.landed import HERE, LANDED, ROOT, Program, Version, extract
from tests.rig import SECRET, BrokerServer, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.requires("valkey")
CALLS = str(HERE / "calls.py")
HERE_NOW = Version("working-tree", ROOT)
DYING = """
import os
import time
from flashq import Endpoint

@Endpoint(name="work", cpu="any", workers=(0, 2), idle_timeout=1)
def work(mark):
    if not os.path.exists(mark):
        open(mark, "w").close()
        time.sleep(60)
    import flashq as of_worker
    return os.path.realpath(of_worker.__file__)

print(work.remote(os.path.abspath("begun")))
"""
LIBRARY = "from flashq.store.scripts import library; print(library().name)"


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """The version that this one has to live beside."""
    return extract(tmp_path_factory.mktemp("landed"))


class Side:
    """A broker, and programs of two versions on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = BrokerServer("valkey")
        self.broker = Broker(self.server.url)
        self.programs: list[Program] = []

    def start(self, version: Version, *arguments: str, lease_s: float = 15.0) -> Program:
        settings = {
            "FLASHQ_REDIS_URL": self.server.url,
            "FLASHQ_SECRET_KEY": SECRET.hex(),
            "FLASHQ_HOME": str(self.server.folder / version.name),
            "FLASHQ_LEASE_S": str(lease_s),
        }
        program = Program(version, self.folder, settings, *arguments)
        self.programs.append(program)
        return program

    def flashq(self, version: Version, *arguments: str, lease_s: float = 15.0) -> Program:
        return self.start(version, "-m", "flashq", *arguments, lease_s=lease_s)

    def calls(self, version: Version, *arguments: str) -> Program:
        return self.start(version, CALLS, *arguments)

    def worker(self, version: Version, lease_s: float = 15.0) -> Program:
        """A worker of the endpoint, which somebody registers, and which is idle when this returns."""
        registered = ("EXISTS", self.broker.keys.of("endpoint", "work"))
        wait_until(lambda: self.broker.execute(*registered), 30, "the endpoint registered")
        program = self.flashq(version, "worker", "work", lease_s=lease_s)
        wait_until(lambda: self.state(program) in ("idle", "running"), 30, f"{program.name} up")
        return program

    def record(self, program: Program) -> dict[str, str]:
        """A worker's record, by its process."""
        for worker in self.broker.execute("ZRANGE", self.broker.keys.of("endpoint_workers", "work"), 0, -1):
            fields = self.fields("worker", text(worker))
            if fields.get("pid") == str(program.process.pid):
                return fields
        return {}

    def state(self, program: Program) -> str:
        return self.record(program).get("fq_state", "")

    def fields(self, kind: str, subject: str) -> dict[str, str]:
        flat = self.broker.execute("HGETALL", self.broker.keys.of(kind, subject))
        return {text(k): text(v) for k, v in zip(flat[::2], flat[1::2], strict=True)}

    def events(self) -> list[str]:
        """The kinds of what happened, oldest first."""
        entries = self.broker.execute("XRANGE", self.broker.keys.of("events"), "-", "+")
        return [text(fields[fields.index(b"kind") + 1]) for _, fields in entries]

    def libraries(self) -> set[str]:
        """The names of the function libraries on the broker."""
        return {text(entry[1]) for entry in self.broker.execute("FUNCTION", "LIST")}

    def close(self) -> None:
        for program in self.programs:
            program.close()
        self.broker.close()
        self.server.close()


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Side]:
    made = Side(tmp_path)
    with contextlib.closing(made):
        yield made


def check(printed: str, caller: Version, worker: Version) -> None:
    """What `calls.py` has to have seen."""
    seen: dict[str, Any] = json.loads(printed)
    assert caller.made(seen["called_by"]), "the caller is of the version it is meant to be"
    assert worker.made(seen["made_by"]), "and so is the worker"
    assert seen["raised"][0] == "no", "the function's own exception came back as its own type"
    assert "raise Own(value)" in "".join(seen["raised"][1:]), "with the remote traceback"
    assert seen["lines"] == ["a word"]
    assert seen["cancelled"] == "requested"
    assert seen["same"] == ["once", "once"], "one job for one key"
    assert seen["attempts"] == 1
    assert seen["timed"]


@pytest.mark.parametrize("old_worker", [True, False], ids=["old-worker", "new-worker"])
def test_a_client_of_one_version_is_served_by_a_worker_of_the_other(
    side: Side, landed: Version, old_worker: bool
) -> None:
    """Given a client and a worker of different versions, expect every kind of call to end as it should."""
    client, served_by = (HERE_NOW, landed) if old_worker else (landed, HERE_NOW)
    program = side.calls(client)
    worker = side.worker(served_by)

    check(program.finish(), client, served_by)

    assert side.libraries() == {landed.ask(LIBRARY), HERE_NOW.ask(LIBRARY)}, "each its own scripts"
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(20) == 0, "it leaves in order"


def test_workers_and_clients_of_both_versions_share_an_endpoint(side: Side, landed: Version) -> None:
    """Given both versions' clients and workers at once, expect both to work for both, and nobody replaced."""
    first = side.calls(landed, "many", "1")
    for version in (landed, HERE_NOW):
        side.worker(version)
    first.finish()
    programs = [side.calls(version, "many", "60") for version in (landed, HERE_NOW)]
    made_by: set[str] = set()
    for program in programs:
        seen = json.loads(program.finish())
        assert seen["count"] == 60
        made_by |= set(seen["made_by"])

    assert all(any(version.made(path) for path in made_by) for version in (landed, HERE_NOW))
    assert "endpoint-replaced" not in side.events(), "the same endpoint, whichever version registers it"
    assert "job-requeued" not in side.events()
    assert "stale-outcome" not in side.events()


@pytest.mark.parametrize("old_dies", [True, False], ids=["old-dies", "new-dies"])
def test_a_job_whose_worker_dies_is_rerun_by_the_other_version(
    side: Side, landed: Version, tmp_path: Path, old_dies: bool
) -> None:
    """Given a worker killed in a job, if only one of the other version lives, expect that to recover and rerun it."""
    dies, lives = (landed, HERE_NOW) if old_dies else (HERE_NOW, landed)
    script = tmp_path / "dying.py"
    script.write_text(DYING)
    caller = side.start(dies, str(script))
    doomed = side.worker(dies, lease_s=2.0)
    wait_until((tmp_path / "begun").exists, 20, "the job under way")
    os.kill(doomed.process.pid, signal.SIGKILL)
    doomed.process.wait()
    side.worker(lives, lease_s=2.0)

    assert lives.made(caller.finish().strip())
    assert "job-requeued" in side.events()


@pytest.mark.parametrize("old_host", [True, False], ids=["old-host", "new-host"])
def test_a_host_agent_of_one_version_obeys_an_autoscaler_of_the_other(
    side: Side, landed: Version, old_host: bool
) -> None:
    """Given host agent and autoscaler of different versions, expect workers to start, recover and end on time."""
    host, scaler = (landed, HERE_NOW) if old_host else (HERE_NOW, landed)
    side.flashq(host, "host")
    side.flashq(scaler, "autoscaler")
    workers = side.broker.keys.of("endpoint_workers", "work")

    check(side.calls(scaler).finish(), scaler, host)
    listed = json.loads(side.flashq(scaler, "hosts", "--json").finish())
    assert len(listed) == 1, "the tools of one version list what the other put on record"
    wait_until(lambda: side.broker.execute("ZCARD", workers) == 0, 20, "no worker left after its idle time")


def test_a_worker_reads_what_a_host_agent_of_the_last_version_tells_it(landed: Version) -> None:
    """Given an agent that runs on while its package is upgraded, expect the next worker to understand it."""
    told = landed.ask(
        "from pathlib import Path; from flashq.model.keyring import Keyring;"
        "from flashq_worker.config import WorkerConfig as C;"
        "print(C(url='unix:///b', prefix='rq', endpoint='e', worker='w', host='h', home=Path('/h'),"
        " keys=Keyring([bytes(range(32))]).for_endpoint('e')).to_json())"
    )

    read = WorkerConfig.from_json(told)

    assert (read.url, read.endpoint, read.worker) == ("unix:///b", "e", "w")
    assert WorkerConfig.from_json(json.dumps({**json.loads(told), "of_a_later_version": 1})) == read


def test_the_landed_version_is_named_by_a_whole_commit() -> None:
    """Given landed.txt, expect one full commit id: a shortened one may come to mean another."""
    assert re.fullmatch("[0-9a-f]{40}", LANDED)
