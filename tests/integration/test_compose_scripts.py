"""The shell scripts of compose.yaml, run for real: the broker's, and the one that starts our services."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import redis
import yaml
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from flashq.settings import Settings
from tests.servers import VALKEY, find_server

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))[
    "services"
]
PASSWORD = "0123abcd"
KEY = "4567" * 16


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Path]:
    """A folder that stands for a container: its secrets, data and programs."""
    # Short, since a unix socket is made in it.
    folder = Path(os.environ["FLASHQ_HOME"], tmp_path.name[-12:])
    for part in ("secrets", "flashq", "data", "bin"):
        (folder / part).mkdir(parents=True)
    for name, value in (("broker_password", PASSWORD), ("signing_key", KEY)):
        file = folder / "secrets" / name
        file.write_text(f"{value}\n", encoding="utf-8")
        file.chmod(0o444)
    yield folder
    shutil.rmtree(folder)


def as_run_in(container: Path, arguments: list[str]) -> list[str]:
    """A service's command line, with compose's `$$` resolved and the container's folders replaced."""
    return [
        argument.replace("$$", "$")
        .replace("/run/", f"{container}/")
        .replace("/data", str(container / "data"))
        for argument in arguments
    ]


def program(container: Path, name: str, script: str) -> dict[str, str]:
    """Put a shell script on the container's PATH; the environment that finds it."""
    path = container / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return {"PATH": f"{path.parent}:/usr/bin:/bin"}


@pytest.mark.requires(VALKEY)
def test_the_broker_asks_for_the_password_and_writes_its_append_only_file(container: Path) -> None:
    socket = container / "socket"
    listening = f"--port 0 --unixsocket {socket}"
    environment = program(container, "valkey-server", f'exec {find_server(VALKEY)} "$@" {listening}')
    command = as_run_in(container, SERVICES["broker"]["command"])
    stranger = redis.Redis(unix_socket_path=str(socket), retry=Retry(ConstantBackoff(0.01), 0))
    member = redis.Redis(
        unix_socket_path=str(socket), password=PASSWORD, retry=Retry(ConstantBackoff(0.05), 200)
    )

    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as broker:
        try:
            appendonly = member.config_get("appendonly")
            policy = member.config_get("maxmemory-policy")
            with pytest.raises(redis.AuthenticationError):
                stranger.ping()
            arguments = psutil.Process(broker.pid).cmdline()
        finally:
            broker.terminate()
            stranger.close()
            member.close()

    assert appendonly == {"appendonly": "yes"}
    assert policy == {"maxmemory-policy": "noeviction"}
    assert not [argument for argument in arguments if PASSWORD in argument]
    assert list((container / "data").rglob("*.aof"))


@pytest.mark.parametrize("service", ["autoscaler", "host"])
def test_our_services_become_flashq_with_address_and_key_in_force(container: Path, service: str) -> None:
    environment = program(container, "flashq", 'printf "%s\\n" "$FLASHQ_REDIS_URL" "$@"')
    command = as_run_in(container, [*SERVICES[service]["entrypoint"], *SERVICES[service]["command"]])

    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    *arguments, url = reversed(printed.splitlines())
    given = {
        name: as_run_in(container, [value])[0]
        for name, value in SERVICES[service]["environment"].items()
        if name != "FLASHQ_HOME"
    }
    settings = Settings.load({**given, "FLASHQ_REDIS_URL": url}, cwd=container)

    assert arguments == [service]
    assert settings.redis_url == f"redis://:{PASSWORD}@broker:6379/0"
    assert settings.require_secret_key() == bytes.fromhex(KEY)
