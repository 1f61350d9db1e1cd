"""What user code can reach of the processes around it, and what it can do to them by using up a machine."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from flashq.errors import JobTimedOut, WorkerCrashed
from tests.rig import SECRET, Rig, rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.requires("valkey"),
    pytest.mark.skipif(sys.platform != "linux", reason="processes are closed to one another on Linux alone"),
]

# Root reads everything; without its capabilities it is as any user towards processes of its own.
UNDER = () if os.geteuid() else ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
PTRACE_ATTACH, PIDFD_GETFD = 16, 438
CANARY = "canary-7f3a90c1"


def reach(pid: int) -> dict[str, str]:
    """What can be had of another process: for each way, the name of the error or "had"."""

    def tried(how: Any) -> str:
        try:
            how()
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, "?")
        return "had"

    libc = ctypes.CDLL(None, use_errno=True)

    def called(number: int) -> None:
        if number < 0:
            raise OSError(ctypes.get_errno(), "")

    def traced() -> None:
        called(libc.ptrace(PTRACE_ATTACH, pid, 0, 0))
        libc.ptrace(17, pid, 0, 0)

    def memory() -> None:
        text = Path(f"/proc/{pid}/maps").read_text().partition("-")[0]
        with Path(f"/proc/{pid}/mem").open("rb") as file:
            file.seek(int(text, 16))
            file.read(16)

    def descriptor() -> None:
        called(libc.syscall(PIDFD_GETFD, os.pidfd_open(pid), 0, 0))

    place = Path(f"/proc/{pid}")
    return {
        "environ": tried((place / "environ").read_bytes),
        "memory": tried(memory),
        "descriptors": tried((place / "fd" / "0").readlink),
        "an open file": tried(lambda: (place / "fd" / "0").open("rb").close()),
        "a copy of a descriptor": tried(descriptor),
        "folder": tried(lambda: (place / "cwd").readlink()),
        "trace": tried(traced),
    }


@Endpoint(name="prober", cpu="any", workers=(0, 2))
def prober(what: str, *args: Any) -> Any:
    match what:
        case "reach":
            child = subprocess.Popen(["sleep", "60"], env={"SECRET": "x"})
            try:
                return reach(os.getppid()), reach(child.pid)
            finally:
                child.kill()
                child.wait()
        case "oom":
            return [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in ("self", os.getppid())]
        case "memory":
            resource.setrlimit(resource.RLIMIT_AS, (args[0], args[0]))
            return len(bytearray(2 * args[0]))
        case "killed for memory":
            os.kill(os.getpid(), 9)
        case "disk":
            with Path("/dev/full").open("wb", buffering=0) as file:
                file.write(b"x")
        case "print":
            print("x" * args[0], flush=True)
            return "printed"
        case "fork":
            for _ in range(args[0]):
                if os.fork() == 0:
                    os.fork()
                    time.sleep(600)
            time.sleep(600)
    return what


@pytest.fixture(scope="module")
def shared() -> Iterator[Rig]:
    if UNDER and shutil.which(UNDER[0]) is None:
        pytest.skip(f"root without {UNDER[0]} cannot be made as any user")
    with rig() as made:
        made.ready_worker(prober, under=UNDER)
        yield made


def test_user_code_cannot_look_into_its_supervisor(shared: Rig) -> None:
    """Given user code of the same user, expect it to have nothing of its supervisor by any way, but of others."""
    supervisor, other = prober.remote("reach")

    assert set(supervisor.values()) <= {"EACCES", "EPERM"}, supervisor
    assert (other["environ"], other["descriptors"], other["folder"]) == ("had", "had", "had")


def test_processes_that_hold_the_key_show_it_to_nobody(shared: Rig, tmp_path: Path) -> None:
    """Given host agent, autoscaler and a worker started by hand, the key in their environment, expect it closed."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FLASHQ_")}
    environ |= {"FLASHQ_REDIS_URL": shared.server.url, "FLASHQ_SECRET_KEY": SECRET.hex(), "CANARY": CANARY}
    environ |= {"FLASHQ_HOME": str(tmp_path / "home")}
    signs = {"host": "serves", "autoscaler": "leads", "worker": ""}
    running: dict[str, subprocess.Popen[bytes]] = {}
    for name in signs:
        arguments = [name, "prober", "--cpu"] if name == "worker" else [name]
        with (tmp_path / name).open("wb") as out:
            program = [*UNDER, sys.executable, "-m", "flashq", *arguments]
            running[name] = subprocess.Popen(program, env=environ, stdout=out, stderr=out)
    workers = shared.broker.keys.of("endpoint_workers", "prober")
    try:
        wait_until(lambda: shared.broker.execute("ZCARD", workers) == 2, what="the worker has joined")
        for name, sign in signs.items():
            log = tmp_path / name
            wait_until(lambda log=log, sign=sign: sign in log.read_text(), what=f"{name}: {sign}")  # type: ignore[misc]
            probe = "import sys; open(f'/proc/{sys.argv[1]}/environ', 'rb').read()"
            asked = [*UNDER, sys.executable, "-c", probe, str(running[name].pid)]
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
            assert "PermissionError" in done.stderr, f"{name}: {done.stdout}{done.stderr}"
            assert CANARY not in log.read_text()
            assert SECRET.hex() not in log.read_text()
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait(20)


def test_where_memory_runs_out_user_code_dies_first(shared: Rig) -> None:
    """Given an executor and its supervisor, expect the kernel to prefer the executor."""
    executor, supervisor = prober.remote("oom")
    assert executor >= min(1000, supervisor + 500)


def test_a_memory_hog_costs_its_job(shared: Rig) -> None:
    """Given a job that wants more memory than there is, expect it to fail by type, and the worker to go on."""
    with pytest.raises(MemoryError):
        prober.remote("memory", 2 << 30)
    with pytest.raises(WorkerCrashed, match="SIGKILL"):
        prober.remote("killed for memory")
    assert prober.remote("echo") == "echo"
    assert shared.workers[0].process.poll() is None


def test_a_fork_bomb_ends_with_its_job(shared: Rig) -> None:
    """Given a job that forks without end in sight, expect its timeout to end all of it, and the worker to go on."""
    job = prober.with_options(timeout_s=1.5).spawn("fork", 100)
    groups: set[int] = set()

    def many() -> bool:
        groups.update(children_of(shared.workers[0].process.pid))
        return any(members(group) > 150 for group in groups)

    wait_until(many, what="it has forked")
    with pytest.raises(JobTimedOut):
        job.result(20)
    assert prober.remote("echo") == "echo"
    gone = groups - set(children_of(shared.workers[0].process.pid))
    wait_until(lambda: not any(members(group) for group in gone), what="all of it is gone")
    assert shared.workers[0].process.poll() is None


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for task in tasks for word in task.read_text().split()]


def members(group: int) -> int:
    """How many processes of a group run."""
    count = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = stat.read_text().rpartition(") ")[2].split()[:3]
        except OSError:
            continue
        count += int(of) == group and state not in "ZX"
    return count


def test_a_full_disk_costs_the_log(shared: Rig) -> None:
    """Given a worker whose log's disk is full, expect jobs to run, and those that write to fail by type."""
    with rig() as made:
        worker = made.ready_worker(prober, log=Path("/dev/full"))
        assert prober.remote("print", 100_000) == "printed"
        with pytest.raises(OSError, match="No space left") as caught:
            prober.remote("disk")
        assert caught.value.errno == errno.ENOSPC
        assert prober.remote("echo") == "echo"
        assert worker.process.poll() is None
