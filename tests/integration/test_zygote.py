"""Executors forked by a zygote: like spawned ones in all that user code and supervisor see; and when it cannot fork."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flashq_worker import executor_child, executor_start
from flashq_worker.executor.frames import FrameType
from flashq_worker.spare import Spare, own_pages, park_word
from tests.integration.executor_rig import PATIENCE_S, Rig, ZygoteProcess, is_running, until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[ZygoteProcess]:
    with ZygoteProcess(tmp_path) as made:
        yield made


def look(what: str) -> Any:
    """What an executor sees of itself."""
    if what == "environment":
        return dict(os.environ)
    if what == "descriptors":
        links = {}
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                links[int(entry.name)] = str(entry.readlink()).partition(":")[0]
        return links
    if what == "random":
        return random.random()
    if what == "state":
        return {
            "session": os.getsid(0) == os.getpid(),
            "threads": len(list(Path("/proc/self/task").iterdir())),
            "cwd": str(Path.cwd()),
            "cores": sorted(os.sched_getaffinity(0)),
            "argv": sys.argv,
            "main": sorted(vars(sys.modules["__main__"])),
            "path": sys.path[-1],
            "signals": [str(signal.getsignal(n)) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)],
        }
    return time.strftime("%Z")


def speak(words: str) -> int:
    print(words)
    print(words, file=sys.stderr)
    return os.getpid()


def end(how: str) -> None:
    child = subprocess.Popen(["sleep", "1000"])
    print("child", child.pid)
    if how == "exit":
        os._exit(3)
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(1000)


# -- what user code sees -------------------------------------------------------------------------------


def test_a_forked_executor_runs_jobs(zygote: ZygoteProcess) -> None:
    """Given a zygote, expect a child of its to run jobs, print, and exit in order; and to be reaped."""
    with Rig(zygote=zygote.place) as rig:
        assert rig.process.how == "fork"
        assert rig.load(speak).type is FrameType.READY
        assert rig.value("hello") == rig.process.pid
        assert zygote.children() == [rig.process.pid]
        rig.until(lambda: rig.process.tail.text() == "hello\nhello\n")
        rig.process.stop()
        assert rig.until_closed() == "exited with code 0"
    until(lambda: zygote.children() == [])


def test_it_sees_what_a_spawned_one_sees(zygote: ZygoteProcess) -> None:
    """Given the same order to both, expect the same variables, descriptors, signals, cores and folder."""
    seen = []
    env = {"FROM": "here", "FLASHQ_SECRET_KEY": "k", "TZ": "XYZ-3", "LC_ALL": "C.UTF-8"}
    for place in (None, zygote.place):
        with Rig(zygote=place, env=env) as rig:
            rig.load(look)
            found = {what: rig.value(what) for what in ("environment", "descriptors", "state", "zone")}
        found["descriptors"] = sorted(found["descriptors"].values())
        seen.append(found)
    spawned, forked = seen
    assert forked == spawned
    assert forked["environment"]["FROM"] == "here"
    assert not any(name.startswith(("FLASHQ_", "REDIS_")) for name in forked["environment"])
    assert forked["zone"] == "XYZ"
    assert forked["descriptors"] == sorted(["/dev/null", "pipe", "pipe", "pipe", "pipe", "socket"])


def test_what_one_executor_is_told_no_other_sees(zygote: ZygoteProcess) -> None:
    """Given a secret for one executor, expect neither the zygote's memory nor a later executor's to have it."""
    secret = uuid.uuid4().hex
    with Rig(zygote=zygote.place, env={"TOKEN": secret}) as rig:
        rig.load(look)
        assert rig.value("environment")["TOKEN"] == secret
        assert secret.encode() not in memory(zygote.process.pid)
        with Rig(zygote=zygote.place) as other:
            other.load(look)
            assert "TOKEN" not in other.value("environment")
            assert secret.encode() not in memory(other.process.pid)
        assert secret.encode() in memory(rig.process.pid)  # so the search finds what is there


def memory(pid: int) -> bytes:
    """All that a process can read of its memory."""
    found = bytearray()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as content:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            begin, until_ = (int(number, 16) for number in span.split("-"))
            if rights.startswith("rw"):
                with contextlib.suppress(OSError):
                    content.seek(begin)
                    found += content.read(until_ - begin)
    return bytes(found)


def test_randomness_differs(tmp_path: Path) -> None:
    """Given a zygote in which random numbers were drawn, expect each executor to draw others."""
    with ZygoteProcess(tmp_path, code="import random; random.random()") as zygote:
        drawn = set()
        for _ in range(3):
            with Rig(zygote=zygote.place) as rig:
                rig.load(look)
                drawn.add(rig.value("random"))
        assert len(drawn) == 3


def test_descriptors_of_the_zygote_are_not_inherited(tmp_path: Path) -> None:
    """Given a zygote with a file open and other executors at work, expect an executor to have neither's descriptors."""
    held = tmp_path / "held"
    held.write_text("")
    with (
        ZygoteProcess(tmp_path, code=f"import os; os.dup2(os.open({str(held)!r}, 0), 977)") as zygote,
        Rig(zygote=zygote.place) as first,
        Rig(zygote=zygote.place) as second,
    ):
        for rig in (first, second):
            rig.load(look)
            descriptors = rig.value("descriptors")
            assert len(descriptors) == 6
            assert not any(str(held) in link for link in descriptors.values())


# -- how it ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "expected"),
    [("exit", "exited with code 3"), ("crash", "killed by SIGSEGV"), ("kill", "killed by SIGKILL")],
)
def test_its_end_is_told_and_its_tree_ends(zygote: ZygoteProcess, how: str, expected: str) -> None:
    """Given an executor with a child that exits, crashes or is killed, expect to hear how, and the child to end."""
    with Rig(zygote=zygote.place) as rig:
        rig.load(end)
        rig.submit(how)
        rig.until(lambda: "child" in rig.process.tail.text())
        child = int(rig.process.tail.text().split()[1])
        if how == "kill":
            assert is_running(child)
        else:
            assert rig.until_closed() == expected
        assert rig.process.kill()
        assert rig.process.exit_description() == expected
        until(lambda: not is_running(child))
    until(lambda: zygote.children() == [])


def test_a_zygote_is_killed_under_its_executor(zygote: ZygoteProcess) -> None:
    """Given a zygote killed with -9, expect its executors to go on, and to be killed whole when that is due."""
    with Rig(zygote=zygote.place) as rig, Rig(zygote=zygote.place) as other:
        other.load(speak)
        rig.load(end)
        zygote.process.kill()
        zygote.process.wait()
        assert other.value("still here") == other.process.pid
        rig.submit("wait")
        rig.until(lambda: "child" in rig.process.tail.text())
        child = int(rig.process.tail.text().split()[1])
        assert rig.process.alive
        assert rig.process.kill()
        until(lambda: not is_running(child))
        assert rig.process.exit_description().startswith("ended (how is not known")
    # And the next to be spawned
    with Rig(zygote=zygote.place) as spawned:
        assert spawned.process.how == "spawn"
        assert spawned.load(speak).type is FrameType.READY


def test_the_supervisor_is_gone(zygote: ZygoteProcess) -> None:
    """Given a supervisor that hangs up, expect the executor to be killed, and reaped by its zygote."""
    rig = Rig(zygote=zygote.place)
    rig.load(end)
    rig.submit("wait")
    rig.until(lambda: "child" in rig.process.tail.text())
    pid, child = rig.process.pid, int(rig.process.tail.text().split()[1])
    rig.process._child.reap()  # as the kernel would, with all its descriptors
    rig.process._close()
    until(lambda: not is_running(pid) and not is_running(child))
    until(lambda: zygote.children() == [])


def test_the_host_agent_is_gone(zygote: ZygoteProcess) -> None:
    """Given a host agent that has ended, expect the zygote to end."""
    zygote.control.close()
    assert zygote.process.wait(PATIENCE_S) == 0


# -- where it does not fork ----------------------------------------------------------------------------


def spawned_because(place: Path, caplog: pytest.LogCaptureFixture) -> str:
    """The reason in the log for which an executor, which works all the same, was not forked at `place`."""
    caplog.set_level("INFO", "flashq.worker")
    with Rig(zygote=place) as rig:
        assert rig.process.how == "spawn"
        rig.load(speak)
        assert rig.value("x") == rig.process.pid
    return caplog.text


THREAD = "import threading, time; threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()"
DEVICE = """
import os
os.dup2(os.open("/dev/null", os.O_RDONLY), 99)
readlink = os.readlink
os.readlink = lambda path: "/dev/nvidia-uvm" if str(path).endswith("/99") else readlink(path)
"""


@pytest.mark.parametrize(
    ("code", "why"),
    [(THREAD, "it has 2 threads"), (DEVICE, "it has /dev/nvidia-uvm open")],
    ids=["thread", "gpu"],
)
def test_a_zygote_that_is_not_safe_to_fork(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, code: str, why: str
) -> None:
    """Given one with a stray thread, or with a GPU open, expect a spawn, and the reason in the log."""
    with ZygoteProcess(tmp_path, code=code) as zygote:
        assert f"spawned, not forked: {why}" in spawned_because(zygote.place, caplog)
        assert zygote.children() == []


def test_a_zygote_that_hangs(
    zygote: ZygoteProcess, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given one that is stopped, expect a spawn after a while; continued, it forks nothing that stays."""
    monkeypatch.setattr(executor_child, "_ANSWER_S", 0.2)
    zygote.process.send_signal(signal.SIGSTOP)
    assert "the zygote did not answer within 0.2 s" in spawned_because(zygote.place, caplog)
    zygote.process.send_signal(signal.SIGCONT)
    zygote.control.send(b".")
    assert zygote.control.recv(1) == b"."
    until(lambda: zygote.children() == [])
    with Rig(zygote=zygote.place) as rig:
        assert rig.process.how == "fork"


def test_nobody_listens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Given no socket there, expect a spawn."""
    assert "No such file" in spawned_because(tmp_path / "none.sock", caplog)


@pytest.mark.parametrize(
    "answer",
    [b"", b"[", b"[" * 4096, b"17", b'{"pid": "1"}', b'{"pid": 1}', b'{"pid": 999999999}', b'{"pid": true}'],
)
def test_a_zygote_that_lies(tmp_path: Path, caplog: pytest.LogCaptureFixture, answer: bytes) -> None:
    """Given something else that listens there, expect a spawn: no process is taken for the executor but its child."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "liar.sock"))
        listener.listen()
        pid = os.fork()
        if not pid:
            connection, _ = listener.accept()
            connection.send(answer)
            connection.close()
            os._exit(0)
        assert "spawned, not forked" in spawned_because(tmp_path / "liar.sock", caplog)
        os.waitpid(pid, 0)


def test_what_says_no_word_of_ours_is_hung_up_on(zygote: ZygoteProcess) -> None:
    """Given strangers at the socket, expect the zygote to hang up on them and to serve the next."""
    for said in (b"hello", b"fork", b"{}" * 1000):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.settimeout(PATIENCE_S)
            stranger.connect(str(zygote.place))
            stranger.send(said)
            assert stranger.recv(100) == b""
    with Rig(zygote=zygote.place) as rig:
        assert rig.process.how == "fork"
        assert json.dumps(rig.load(speak).meta["pid"]) == str(rig.process.pid)


# -- parked --------------------------------------------------------------------------------------------


def test_a_parked_executor_is_taken_by_the_first_start(zygote: ZygoteProcess) -> None:
    """Given one that was forked before anybody wanted it, expect the start to take that, and to tell it all."""
    parked = executor_start.park(zygote.place)
    assert parked is not None
    with Rig(zygote=zygote.place, parked=parked, env={"FROM": "here"}) as rig:
        assert rig.process.pid == parked.child.pid
        assert zygote.children() == [rig.process.pid]
        rig.load(look)
        assert rig.value("environment") == {"FROM": "here"}
        rig.process.stop()
        assert rig.until_closed() == "exited with code 0"
    until(lambda: zygote.children() == [])


@pytest.mark.parametrize("why", ["another zygote", "it died", "its zygote died"])
def test_a_parked_executor_that_does_not_suit_is_discarded(
    zygote: ZygoteProcess, tmp_path: Path, why: str
) -> None:
    """Given one of another zygote, or that died, or that nobody would tell the end of, expect another executor."""
    parked = executor_start.park(zygote.place)
    assert parked is not None
    pid = parked.child.pid
    if why == "it died":
        os.kill(pid, signal.SIGKILL)
        until(lambda: parked.child.exit())
    elif why == "its zygote died":
        zygote.process.kill()
        zygote.process.wait()
        # What it forked may hold its connection for a moment.
        until(lambda: parked.child.exit() is None and not parked.child.zygote_lives)
    with Rig(zygote=None if why == "another zygote" else zygote.place, parked=parked) as rig:
        rig.load(speak)
        assert rig.value("x") == rig.process.pid != pid
        until(lambda: not is_running(pid))


def test_a_parked_executor_ends_with_who_parked_it(zygote: ZygoteProcess) -> None:
    """Given that nobody comes for it, expect it to end when its other ends are closed."""
    parked = executor_start.park(zygote.place)
    assert parked is not None
    parked.ends.close()
    until(lambda: parked.child.exit())
    parked.child.reap()
    until(lambda: zygote.children() == [])
    assert executor_start.park(tmp := zygote.place.with_name("none.sock")) is None, tmp


def test_a_spare_parks_what_it_was_told_last(zygote: ZygoteProcess, tmp_path: Path) -> None:
    """Given words that come before the configuration, expect the last to count, unless that is there already."""
    reader, writer = os.pipe()
    with ZygoteProcess(tmp_path / "other") as other:
        os.write(writer, park_word(other.place) + park_word(zygote.place))
        waiting = Spare(reader)
        found: list[bytes] = []
        thread = threading.Thread(target=lambda: found.append(waiting.configuration()))
        thread.start()
        until(lambda: zygote.children())
        os.write(writer, park_word(other.place))
        until(lambda: other.children() and not zygote.children())
        os.write(writer, b'{"endpoint": "e"}\n{"keys": 1}\n')
        thread.join()
        assert found == [b'{"endpoint": "e"}']
        assert waiting.rest == b'{"keys": 1}\n'
        assert waiting.parked is not None
        waiting.parked.discard()

        os.write(writer, park_word(zygote.place) + b'{"endpoint": "f"}')
        os.close(writer)
        hurried = Spare(reader)
        assert hurried.configuration() == b'{"endpoint": "f"}'
        assert hurried.parked is None, "somebody waits"
        os.close(reader)


def test_a_spare_has_pages_of_its_own() -> None:
    """Given a forked process, expect it to share next to no page that it may write, once it has copied them."""
    kept = bytearray(8 * 2**20)

    def shared_kib() -> int:
        rollup = Path("/proc/self/smaps_rollup").read_text()
        return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Shared_Dirty:"))

    pid = os.fork()
    if not pid:
        before = shared_kib()
        own_pages()
        os._exit(0 if before > 8 * 2**10 > 4 * shared_kib() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(kept) == 8 * 2**20
