"""The zygotes that a host agent keeps: which, until when; and a whole stack whose executors are forked."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from flashq import Endpoint
from flashq_worker import inject, zygote_process
from flashq_worker.environments import store as environment_store
from flashq_worker.host import zygotes as host_zygotes
from flashq_worker.host.zygotes import HostZygotes
from flashq_worker.zygote_places import OWN, Kind, ZygotePlaces
from tests.integration.executor_rig import Rig as ExecutorRig
from tests.integration.executor_rig import until
from tests.integration.fleet_rig import alive
from tests.integration.stack import Stack
from tests.integration.test_zygote import memory
from tests.rig import SECRET, Rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.environment_rig import Site


class Kept:
    """A host's zygotes, with the loop that its agent would have."""

    def __init__(self, site: Site) -> None:
        self.home = site.root.parent
        self.inject = inject.inject_folder(self.home)
        self.places = ZygotePlaces(self.home, self.inject)
        self.places.make()
        self.zygotes = HostZygotes(self.home, dict(os.environ), self.home / "zygotes.log")

    def tend(self, *, may_start: bool = True) -> dict[str, int]:
        """One turn; the process of each zygote."""
        self.zygotes.tend(may_start=may_start)
        return {name: running.process.pid for name, running in self.zygotes._running.items()}

    def until_there(self, environment: str) -> int:
        """Wish for one, and wait until it listens; its process id."""
        name = self.places.name(Kind(environment))
        assert name is not None
        until(lambda: self.forks(environment) and name in self.tend())
        return self.tend()[name]

    def forks(self, environment: str) -> bool:
        """Whether an executor of this environment is forked."""
        self.tend()
        place = self.places.wish(Kind(environment))
        python = self.places.python(environment)
        with ExecutorRig(zygote=place, python=python, inject=self.inject) as rig:
            rig.load(str.upper)
            assert rig.value("x") == "X"
            return rig.process.how == "fork"


@pytest.fixture
def kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    monkeypatch.setattr(host_zygotes, "_LOOK_S", 0.0)
    made = Kept(site)
    yield made
    made.zygotes.close()


# -- which, and until when -----------------------------------------------------------------------------


def test_the_workers_own_interpreter_always_has_one(kept: Kept) -> None:
    """Given no wish, expect one zygote, and none while another start is under way."""
    assert kept.tend(may_start=False) == {}
    assert not kept.zygotes._successors
    pid = kept.until_there(OWN)
    environ = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"FLASHQ_" not in environ
    kept.zygotes.close()
    assert not alive(pid)


def test_an_environment_in_use_gets_one(kept: Kept, site: Site) -> None:
    """Given an environment that a worker started in, expect a zygote of its interpreter; of one unknown, none."""
    built = site.ensure("tiny-a")
    assert kept.places.wish(Kind("0" * 64)) is None
    pid = kept.until_there(built.digest)
    assert Path(f"/proc/{pid}/cmdline").read_bytes().startswith(os.fsencode(built.python))
    # If it was not wanted for long, expect it to be ended
    name = kept.places.name(Kind(built.digest))
    assert name is not None
    os.utime(kept.places.folder / f"{name}.wish", (0, 0))
    until(lambda: name not in kept.tend() and not alive(pid))
    kept.zygotes.tend(may_start=False)
    assert not kept.forks(built.digest)


@pytest.mark.parametrize("how", ["removed", "damaged"])
def test_an_environment_is_gone_or_rebuilt_under_its_zygote(kept: Kept, site: Site, how: str) -> None:
    """Given one that is removed, or marked for building anew, expect its zygote to end and no start to meet it."""
    built = site.ensure("tiny-a")
    assert built.hold is not None
    before = kept.until_there(built.digest)
    built.hold.release()
    if how == "removed":
        assert environment_store.remove(site.root, built.digest)
    else:
        environment_store.forget(built.place)
    assert kept.places.wish(Kind(built.digest)) is None
    again = site.ensure("tiny-a")
    assert again.digest == built.digest
    assert not kept.forks(built.digest), "it is of another build"
    after = kept.until_there(built.digest)
    assert after != before
    until(lambda: kept.tend() and not alive(before))


def test_the_longest_unwanted_goes_when_there_are_too_many(
    kept: Kept, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given room for one beside the own, expect the one wanted last to stay."""
    monkeypatch.setattr(host_zygotes, "MOST", 1)
    one, two = site.ensure("tiny-a"), site.ensure("tiny-b")
    first = kept.until_there(one.digest)
    os.utime(kept.places.folder / f"{kept.places.name(Kind(one.digest))}.wish", (1e9, 1e9))
    kept.until_there(two.digest)
    until(lambda: len(kept.tend()) == 2 and not alive(first))


def test_what_is_no_wish_is_removed(kept: Kept) -> None:
    """Given files in the folder that no worker of ours wrote, expect nothing to be started of them."""
    other = Kind("f" * 64).to_json()
    words = (
        "../bin/sh",
        "",
        other,
        Kind(OWN).to_json(),
        '["../sh", 0, 0, 0]',
        "[" * 9999,
        "[[], 1, 1, 1]",
        "\xff",
    )
    for number, word in enumerate(words):
        (kept.places.folder / f"made-up-{number}.wish").write_bytes(word.encode("latin-1"))
    kept.tend()
    assert len(kept.zygotes._successors) == 1
    assert list(kept.places.folder.glob("*.wish")) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_one_that_dies_or_hangs_is_replaced(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: signal.Signals
) -> None:
    """Given a zygote that is killed or stopped, expect that to be seen and said, and another after a while."""
    monkeypatch.setattr(host_zygotes, "DIED_S", 0.0)
    monkeypatch.setattr(zygote_process, "PING_S", 0.5)
    before = kept.until_there(OWN)
    os.kill(before, number)
    until(lambda: before not in kept.tend().values())
    assert ("hangs" if number == signal.SIGSTOP else "has ended, with code -9") in caplog.text
    assert kept.until_there(OWN) != before


def test_a_folder_that_cannot_be_made(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """Given no place for zygotes, expect a word in the log, and none."""
    shutil.rmtree(kept.places.folder)
    kept.places.folder.write_text("in the way")
    assert kept.tend() == {}
    assert "no zygotes for a while" in caplog.text
    assert not kept.forks(OWN)


# -- a whole stack -------------------------------------------------------------------------------------


@Endpoint(name="where", cpu="any", workers=(0, 1), idle_timeout=0.1, env={"WHERE": "here"})
def where() -> tuple[int, int, str]:
    import os

    return os.getpid(), os.getppid(), os.environ["WHERE"]


@pytest.fixture
def stack() -> Iterator[Stack]:
    with contextlib.closing(Rig(lease_s=3.0)) as rig, contextlib.closing(Stack(rig)) as made:
        yield made


def zygotes(stack: Stack) -> list[psutil.Process]:
    """The host agent's zygotes that listen."""
    listening = list((stack.rig.home / "zygotes").glob("*.sock"))
    children = psutil.Process(stack.host.pid).children()
    return [child for child in children if listening and "zygote" in child.cmdline()]


def worker_zygote(stack: Stack) -> psutil.Process:
    """The zygote of workers, once it forks them: from then on they are its children."""

    def forks() -> psutil.Process | None:
        where.remote()
        (worker,) = stack.workers(where).values()
        parent = psutil.Process(int(worker["pid"])).parent()
        wait_until(lambda: not stack.workers(where), what="it was idle")
        return parent if parent and "flashq_worker.worker_zygote" in parent.cmdline() else None

    found: psutil.Process = wait_until(forks, 30, what="a forked worker")
    return found


@pytest.mark.requires("valkey")
def test_workers_are_forked_too(stack: Stack) -> None:
    """Given a host that runs for a while, expect workers to be children of a zygote that knows no key."""
    zygote = worker_zygote(stack)
    secret = SECRET.hex().encode()
    assert secret not in memory(zygote.pid)
    assert secret in memory(stack.host.pid), "so the search finds what is there"
    assert not any(name.startswith("FLASHQ_") for name in zygote.environ())
    assert "exited with code 0" in stack.log("host"), "its end was seen"


@Endpoint(name="held", cpu="any", workers=(0, 1), idle_timeout=0.1)
def held(path: str) -> int:
    import os
    import pathlib
    import time

    with pathlib.Path(path).open("a") as file:
        file.write("begun\n")
    while not pathlib.Path(path + ".go").exists():
        time.sleep(0.01)
    return os.getpid()


@pytest.mark.requires("valkey")
def test_the_zygote_of_workers_is_killed(stack: Stack, tmp_path: Path) -> None:
    """Given a job on a forked worker, expect it to go on without its zygote; killed, to be run again; then spawns."""
    zygote = worker_zygote(stack)
    file = tmp_path / "runs"
    job = held.spawn(str(file))
    wait_until(file.exists, what="it runs")
    (worker,) = stack.workers(held).values()
    assert psutil.Process(int(worker["pid"])).ppid() == zygote.pid
    zygote.kill()
    wait_until(lambda: f"the zygote of workers (process {zygote.pid}) has ended" in stack.log("host"))
    assert file.read_text() == "begun\n"

    os.kill(int(worker["pid"]), signal.SIGKILL)
    wait_until(lambda: file.read_text() == "begun\nbegun\n", 20, what="it is run again")
    file.with_name("runs.go").touch()
    assert job.result(20)


@pytest.mark.requires("valkey")
def test_starts_on_a_host_are_forks(stack: Stack) -> None:
    """Given a host agent, expect executors to be forked, and spawned where the zygote was killed; all end with it."""
    (zygote,) = wait_until(lambda: zygotes(stack), what="a zygote")
    _, parent, seen = where.remote()
    assert (parent, seen) == (zygote.pid, "here")
    wait_until(lambda: not stack.workers(where), what="it was idle")

    zygote.kill()
    wait_until(lambda: "has ended" in stack.log("host"), what="its death is seen")
    executor, parent, _ = where.remote()
    (worker,) = stack.workers(where).values()
    assert parent == int(worker["pid"])

    everything = psutil.Process(stack.host.pid).children(recursive=True)
    assert executor in [process.pid for process in everything]
    stack.host.kill()
    wait_until(lambda: not any(alive(process.pid) for process in everything), what="all have ended")


@pytest.mark.requires("valkey")
def test_a_killed_agent_takes_zygote_and_forked_executor_along(stack: Stack) -> None:
    """Given a forked executor with a job that does not end, expect both to end with the host agent."""
    (zygote,) = wait_until(lambda: zygotes(stack), what="a zygote")

    @Endpoint(name="endless", cpu="any", workers=(0, 1))
    def endless() -> None:
        import time

        time.sleep(1000)

    job = endless.spawn()
    wait_until(lambda: zygote.children(), what="an executor")
    wait_until(lambda: stack.states(endless) == ["running"], what="it runs the job")
    everything = psutil.Process(stack.host.pid).children(recursive=True)
    stack.host.kill()
    wait_until(lambda: not any(alive(process.pid) for process in everything), what="all have ended")
    assert not job.done


@pytest.mark.requires("valkey")
def test_a_cold_host_keeps_nothing_ready() -> None:
    """Given `flashq host --cold`, expect a worker that it spawned, with an executor that that spawned, and no more."""
    with contextlib.closing(Rig(lease_s=3.0)) as rig, contextlib.closing(Stack(rig, "--cold")) as stack:
        _, parent, _ = where.remote()
        (worker,) = stack.workers(where).values()
        assert parent == int(worker["pid"])
        assert [child.pid for child in psutil.Process(stack.host.pid).children()] == [parent]
