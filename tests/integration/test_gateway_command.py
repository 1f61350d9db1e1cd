"""`flashq gateway` and `flashq apikeys` as programs: where they listen, what they say, how they end."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from tests.integration.command_line import CommandLine
from tests.rig import SECRET, Rig, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.requires("valkey")]


@Endpoint(name="gcli", cpu="any")
def hello(name: str) -> str:
    return f"hello {name}"


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    made = Rig()
    made.worker(hello)
    yield made
    made.close()


class Program:
    """A gateway's process, and what it printed."""

    def __init__(self, rig: Rig, folder: Path, *arguments: str) -> None:
        self.log = folder / "gateway.log"
        environ = {
            "FLASHQ_REDIS_URL": rig.server.url,
            "FLASHQ_SECRET_KEY": SECRET.hex(),
            "FLASHQ_HOME": str(folder / "home"),
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flashq", "gateway", *arguments], stdout=log, stderr=log, env=environ
            )

    def address(self) -> str:
        """Where it listens, once it says so."""

        def said() -> str:
            assert self.process.poll() is None, self.log.read_text()
            return next((w for w in self.log.read_text().split() if w.startswith("http://")), "")

        return str(wait_until(said, 30, "the gateway listens"))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def ask(address: str, path: str, body: Any = None, key: str = "") -> Any:
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    raw = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(address + path, raw, headers), timeout=20) as answer:
        return json.load(answer)


def test_it_serves_until_it_is_told_to_end(rig: Rig, tmp_path: Path) -> None:
    command = CommandLine(rig.server.url, tmp_path)
    with contextlib.closing(Program(rig, tmp_path, "--port", "0")) as program:
        address = program.address()
        assert ask(address, "/v2/gcli/runsync", {"input": {"name": "a"}})["output"] == "hello a"
        wait_until(lambda: json.loads(command("status", "--json").stdout)[0]["gateway"] == address)
        program.process.send_signal(signal.SIGTERM)
        assert program.process.wait(15) in (0, -signal.SIGTERM)
        assert json.loads(command("status", "--json").stdout)[0]["gateway"] is None


def test_a_port_that_is_taken(rig: Rig, tmp_path: Path) -> None:
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with contextlib.closing(Program(rig, tmp_path, "--port", str(port))) as program:
            assert program.process.wait(20) == 1
            assert "Address already in use" in program.log.read_text()
        with contextlib.closing(Program(rig, tmp_path, "--port", str(port), "--next-port")) as program:
            assert program.address() != f"http://127.0.0.1:{port}"


def test_keys_are_made_listed_and_revoked(rig: Rig, tmp_path: Path) -> None:
    command = CommandLine(rig.server.url, tmp_path)
    made = json.loads(
        command("apikeys", "make", "ci", "--endpoint", "gcli", "--expires", "2h", "--json").stdout
    )[0]
    try:
        (row,) = json.loads(command("apikeys", "list", "--json").stdout)
        assert (row["id"], row["name"], row["endpoints"], row["state"]) == (
            made["id"],
            "ci",
            ["gcli"],
            "valid",
        )
        assert made["key"] not in command("apikeys", "list").stdout
        assert row["expires"] > row["made"]
        with contextlib.closing(Program(rig, tmp_path, "--host", "0.0.0.0", "--port", "0")) as program:
            address = program.address().replace("0.0.0.0", "127.0.0.1")
            assert ask(address, "/v2/gcli/runsync", {"input": "b"}, made["key"])["output"] == "hello b"
            with pytest.raises(urllib.error.HTTPError, match="401"):
                ask(address, "/v2/gcli/runsync", {"input": "b"})
    finally:
        revoked = command("apikeys", "revoke", made["id"])
        assert "revoked" in revoked.stdout
        assert "no key is left" in revoked.stderr
    command("apikeys", "revoke", made["id"], code=3)
    command("apikeys", "make", "x", "--endpoint", "no-such", code=3)
    command("apikeys", "make", "x", "--expires", "soon", code=2)
    assert "listens on this machine alone" in command("apikeys", "list").output
