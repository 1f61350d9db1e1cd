"""compose.yaml, brought up as its head says, and what a user beside it has: scripts and the command line."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from click.testing import CliRunner

from flashq.cli import flashq
from tests.engines.podman import find_program, run
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.engines.podman import Podman

ROOT = Path(__file__).parent.parent.parent
LOG = logging.getLogger(__name__)
"""How long each step takes: `make test-engines ARGS=--log-cli-level=INFO` shows it."""
PROJECT = "flashq-engines"
"""One name for every run, so that what a killed run left is found by the next."""
SERVICES = ("autoscaler", "broker", "host")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
OURS = tuple(name for name, service in COMPOSE["services"].items() if "build" in service)
"""The services that run flashq's image."""


def commands_of_the_head() -> tuple[list[str], list[str]]:
    """What compose.yaml's opening comment tells a user to type: before `docker compose up`, and after."""
    head = (ROOT / "compose.yaml").read_text(encoding="utf-8").partition("\nname:")[0]
    typed = re.findall(r"^#   (\S.*)$", head, flags=re.MULTILINE)
    (up,) = [at for at, line in enumerate(typed) if line.startswith("docker compose up --detach --build")]
    return typed[:up], typed[up + 1 :]


def free_port() -> int:
    """A TCP port of the loopback address that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


class ComposeStack:
    """The deployment in a folder of its own, a copy of what a checkout holds for it."""

    def __init__(self, podman: Podman, folder: Path, index: str) -> None:
        self.podman = podman
        self.project = folder / "project"
        self.home = folder / "client"
        self.port = free_port()
        self._files = ["compose.yaml", "override.yaml"]
        self._scripts: list[subprocess.Popen[str]] = []
        self._environment = podman.environment | {
            "BROKER_PORT": str(self.port),
            "PYTHON_VERSION": f"{sys.version_info.major}.{sys.version_info.minor}",
        }
        self.home.mkdir()
        self._check_out()
        before, after = commands_of_the_head()
        self._shell("\n".join(before))
        self._write_override(index)
        self.user = self._variables_of_a_user(after)
        self.compose("down", "--volumes")  # what a killed run has left

    def _check_out(self) -> None:
        allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        names = [line.removeprefix("!") for line in allowed if line.startswith("!")]
        self.project.mkdir()
        for name in ("compose.yaml", "Dockerfile", ".dockerignore", *names):
            if (ROOT / name).is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / name, self.project / name, ignore=ignore)
            else:
                shutil.copy(ROOT / name, self.project)

    def _shell(self, script: str) -> str:
        return run(["/bin/sh", "-ec", script], env=self._environment, cwd=self.project)

    def _write_override(self, index: str) -> None:
        """Where the build finds packages: what the Dockerfile offers to networks with a mirror."""
        build = {"network": "host", "args": {"PIP_INDEX_URL": index, "UV_DEFAULT_INDEX": index}}
        override = {"services": {name: {"build": build} for name in OURS}}
        (self.project / "override.yaml").write_text(yaml.safe_dump(override), encoding="utf-8")

    def _variables_of_a_user(self, exports: list[str]) -> dict[str, str]:
        printed = self._shell("\n".join([*exports, "env"]))
        lines = [line.partition("=") for line in printed.splitlines()]
        found = {name: value for name, _, value in lines if name.startswith("FLASHQ_")}
        return found | {"FLASHQ_HOME": str(self.home), "PATH": self._environment["PATH"]}

    def secret(self, name: str) -> str:
        return (self.project / "secrets" / name).read_text(encoding="utf-8").strip()

    # -- the engine --------------------------------------------------------------------------------------

    def compose_command(self, *arguments: str) -> list[str]:
        # podman-compose does not read `network` under `build`.
        program = [find_program("podman-compose") or "podman-compose", "--podman-build-args=--network=host"]
        files = [word for file in self._files for word in ("--file", file)]
        return [*program, "--project-name", PROJECT, *files, *arguments]

    def compose(self, *arguments: str, timeout_s: float = 600.0) -> None:
        began = time.monotonic()
        run(
            self.compose_command(*arguments),
            env=self._environment,
            cwd=self.project,
            timeout_s=timeout_s,
        )
        LOG.info("compose %s: %.1f s", " ".join(arguments), time.monotonic() - began)

    def start_compose(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Run compose without waiting for its end."""
        command = self.compose_command(*arguments)
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            command, env=self._environment, cwd=self.project, stdin=quiet, stdout=quiet, stderr=quiet
        )

    def up(self) -> None:
        """Bring up what is not; wait until the host has reported."""
        self.compose("up", "--detach")
        try:
            wait_until(lambda: self.rows("hosts", state="ready"), 60, "a host is ready")
        except AssertionError as error:
            error.add_note(self.logs())
            raise

    @contextlib.contextmanager
    def another_host(self, name: str, *options: str) -> Iterator[None]:
        """One more host for the length of a block: the service `host` again, with a volume of its own."""
        service = {**COMPOSE["services"]["host"], "volumes": [f"{name}:/var/lib/flashq"]}
        del service["build"]
        more = {"services": {name: service | {"command": ["host", *options]}}, "volumes": {name: {}}}
        file = self.project / f"{name}.yaml"
        file.write_text(yaml.safe_dump(more), encoding="utf-8")
        self._files.append(file.name)
        try:
            self.compose("up", "--detach", name)
            yield
        finally:
            container = self.container(name)
            self.podman("stop", "--time", "20", container)
            self.podman("rm", "--force", container)
            self._files.remove(file.name)
            self.podman("volume", "rm", "--force", f"{PROJECT}_{name}")

    def down(self, *arguments: str) -> None:
        """Bring everything down, with compose's own arguments.

        docker compose stops what depends on a service before the service; podman-compose stops all at once, and
        a host whose broker has gone, name and all, takes up to a minute to leave.
        """
        self.compose("stop", *OURS)
        self.compose("down", *arguments)

    def logs(self) -> str:
        found = []
        for service in SERVICES:
            with contextlib.suppress(AssertionError):
                found.append(f"{service}: {self.podman.log(self.container(service))[-2000:]}")
        return "\n".join(found)

    def container(self, service: str) -> str:
        """The name of a service's one container."""
        filters = (
            f"label=com.docker.compose.service={service}",
            f"label=com.docker.compose.project={PROJECT}",
        )
        ps = ("ps", "--all", "--format={{.Names}}", *(f"--filter={each}" for each in filters))
        (name,) = self.podman.lines(*ps)
        return name

    def inspect(self, service: str) -> dict[str, Any]:
        """All that the engine shows of a service's container."""
        (shown,) = json.loads(self.podman("inspect", self.container(service)))
        assert isinstance(shown, dict)
        return shown

    def host_file(self, name: str, service: str = "host") -> Path:
        """A file of a host's home, which its workers see as /var/lib/flashq/<name>."""
        mounts = {mount["Destination"]: mount["Source"] for mount in self.inspect(service)["Mounts"]}
        return Path(mounts["/var/lib/flashq"], name)

    # -- the user ----------------------------------------------------------------------------------------

    def rows(self, command: str, **fields: Any) -> list[dict[str, Any]]:
        """The rows that `flashq <command> --json` prints to the user, those with these fields."""
        result = CliRunner().invoke(flashq, [command, "--json"], env=self.user)
        if result.exit_code == 1 and "broker" in result.output:
            return []  # it is not up yet
        assert result.exit_code == 0, result.output
        rows: list[dict[str, Any]] = json.loads(result.stdout)
        return [row for row in rows if all(row[name] == value for name, value in fields.items())]

    def start_script(self, source: str, *arguments: str) -> subprocess.Popen[str]:
        """A user's script outside of the containers, with the key in a file instead of a variable."""
        key = self.home / "signing_key"
        key.touch(mode=0o600)
        key.write_text(self.secret("signing_key"), encoding="utf-8")
        environment: Mapping[str, str] = self.user | {"FLASHQ_SECRET_KEY_FILE": str(key)}
        script = self.home / "script.py"
        script.write_text(source, encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, script, *arguments],
            cwd=self.home,
            env={name: value for name, value in environment.items() if name != "FLASHQ_SECRET_KEY"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._scripts.append(process)
        return process

    def end_scripts(self) -> None:
        """End the scripts that a failed test has left."""
        for process in self._scripts:
            process.kill()
            process.communicate()
        self._scripts.clear()
