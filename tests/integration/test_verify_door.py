"""The door before a broker: bytes pass, and connections suffer what was asked, those of the process that was meant."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flashq.verify.door import Door, Trap
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq.verify.schedule import Moment

_PATIENCE_S = 10.0


class Echo:
    """Answers what it is sent with the same in capitals, and remembers it."""

    def __init__(self, path: Path) -> None:
        self.heard = b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client:
            while data := client.recv(1 << 16):
                self.heard += data
                client.sendall(data.upper())

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class Scene:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.echo = Echo(folder / "broker")
        self.door = Door(folder / "door", self._dial)
        self._clients: list[socket.socket] = []

    def _dial(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        try:
            made.connect(str(self.folder / "broker"))
        except OSError:
            made.close()
            raise
        return made

    def client(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(_PATIENCE_S)
        made.connect(str(self.folder / "door"))
        self._clients.append(made)
        return made

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.door.close()
        self.echo.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    folder = Path(tempfile.mkdtemp(prefix="fqd-"))
    made = Scene(folder)
    yield made
    made.close()
    shutil.rmtree(folder)


def ask(client: socket.socket, text: bytes = b"hello\r\n") -> bytes:
    """Send, and the answer; b"" where the connection ended instead."""
    try:
        client.sendall(text)
        return client.recv(1 << 16)
    except (ConnectionResetError, BrokenPipeError):
        return b""


def test_bytes_pass_both_ways_however_many(scene: Scene) -> None:
    client = scene.client()
    sent = os.urandom(3 << 20).lower()
    threading.Thread(target=client.sendall, args=(sent,), daemon=True).start()

    received = b""
    while len(received) < len(sent):
        received += client.recv(1 << 20)

    assert received == sent.upper()


def test_a_cut_ends_the_connections_of_the_processes_that_are_meant(scene: Scene) -> None:
    """Given connections of this process, if those of another are cut, expect none to end; if ours, all."""
    clients = [scene.client(), scene.client()]
    assert [ask(client) for client in clients] == [b"HELLO\r\n"] * 2

    scene.door.cut([os.getpid() + 1])
    assert [ask(client) for client in clients] == [b"HELLO\r\n"] * 2
    scene.door.cut([os.getpid()])
    assert [client.recv(100) for client in clients] == [b"", b""]
    assert ask(scene.client()) == b"HELLO\r\n"


def test_it_knows_which_process_a_connection_belongs_to(scene: Scene) -> None:
    program = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(scene.folder / "door")], stdin=subprocess.PIPE
    )
    try:
        wait_until(lambda: other.pid in scene.door.pids())
        scene.client()
        wait_until(lambda: scene.door.pids() == {other.pid, os.getpid()})
    finally:
        other.kill()
        other.communicate()
    wait_until(lambda: scene.door.pids() == {os.getpid()}, what="its connection gone with it")


def test_what_is_held_passes_when_the_time_is_over(scene: Scene) -> None:
    """Given a connection on which no byte passes for a while, expect the answer afterwards; new ones wait too."""
    client = scene.client()
    ask(client)
    began = time.monotonic()
    scene.door.hold([os.getpid()], 0.4)

    assert ask(client) == b"HELLO\r\n"
    assert time.monotonic() >= began + 0.4
    scene.door.hold(None, 0.3)
    began = time.monotonic()
    assert ask(scene.client()) == b"HELLO\r\n"
    assert time.monotonic() >= began + 0.3


def test_what_is_delayed_comes_later_and_in_order(scene: Scene) -> None:
    client = scene.client()
    ask(client)
    scene.door.delay(None, 0.15, 5.0)
    began = time.monotonic()
    client.sendall(b"one ")
    client.sendall(b"two")

    received = b""
    while len(received) < 7:
        received += client.recv(100)

    assert received == b"ONE TWO"
    assert time.monotonic() >= began + 0.3, "0.15 s each way"


@pytest.mark.parametrize(
    ("moment", "heard", "answered"),
    [("before", False, b""), ("after", True, b""), ("told", True, b"CALL_SUBMIT\r\n")],
)
def test_a_trap_springs_once_at_its_moment(
    scene: Scene, moment: Moment, heard: bool, answered: bytes
) -> None:
    """Given a trap for one script, expect other calls to pass, and the call to be caught at its moment alone."""
    caught: list[int] = []
    trap = Trap("submit", moment, None, caught.append)
    scene.door.lay(trap)
    client = scene.client()
    assert ask(client, b"call_watch\r\n") == b"CALL_WATCH\r\n"
    scene.echo.heard = b""

    assert ask(client, b"call_submit\r\n") == answered
    assert client.recv(100) == b"", "the connection ends"
    wait_until(lambda: trap.caught == os.getpid())
    assert caught == [os.getpid()]
    assert (scene.echo.heard == b"call_submit\r\n") is heard
    assert not scene.door.take_away(trap)
    assert ask(scene.client(), b"call_submit\r\n") == b"CALL_SUBMIT\r\n"


def test_a_trap_that_was_taken_away_does_not_spring(scene: Scene) -> None:
    trap = Trap("submit", "before", None, lambda _pid: pytest.fail("sprung"))
    scene.door.lay(trap)

    assert scene.door.take_away(trap)
    assert ask(scene.client(), b"call_submit\r\n") == b"CALL_SUBMIT\r\n"


def test_without_a_broker_connections_end_and_later_ones_pass(scene: Scene) -> None:
    """Given a broker that is away, expect a connection to end at once, and a later one to reach it."""
    (scene.folder / "broker").rename(scene.folder / "away")
    assert ask(scene.client()) == b""
    (scene.folder / "away").rename(scene.folder / "broker")
    assert ask(scene.client()) == b"HELLO\r\n"
