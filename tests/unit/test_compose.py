"""compose.yaml and the Dockerfile, as far as they can be judged without a container engine."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from flashq import cli

ROOT = Path(__file__).parent.parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if service["image"].startswith("flashq:"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def scripts_of(service: dict[str, Any]) -> list[str]:
    """Everything that a service gives to a shell or a program."""
    return [
        *service.get("entrypoint", []),
        *service.get("command", []),
        *service.get("healthcheck", {}).get("test", []),
    ]


def test_there_is_a_broker_an_autoscaler_and_a_host() -> None:
    assert set(SERVICES) == {"broker", "autoscaler", "host"}
    assert OURS == ["autoscaler", "host"]


@pytest.mark.parametrize("name", OURS)
def test_commands_are_commands_of_flashq(name: str) -> None:
    assert SERVICES[name]["entrypoint"][-1] == "flashq"
    assert SERVICES[name]["command"][0] in cli.flashq.list_commands(click.Context(cli.flashq))


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback_only(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:"), port


def test_secrets_are_files_in_a_folder_that_git_ignores() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()

    for secret in COMPOSE["secrets"].values():
        assert set(secret) == {"file"}
        assert secret["file"].startswith("./secrets/")
    assert "/secrets/" in ignored


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_is_written_into_a_service(name: str) -> None:
    service = SERVICES[name]
    environment = service.get("environment", {})

    assert set(service["secrets"]) <= set(COMPOSE["secrets"])
    assert "FLASHQ_SECRET_KEY" not in environment
    assert not [name for name in environment if "PASSWORD" in name]
    for text in (*scripts_of(service), *environment.values()):
        # A password in an address, or after requirepass or AUTH, is read from its file, and nothing else.
        assert re.findall(r"://[^@\s]*@", text) in ([], ["://:$$(cat /run/secrets/broker_password)@"])
        assert set(re.findall(r"requirepass +(.+)", text)) <= {"$$(cat /run/secrets/broker_password)"}
        assert set(re.findall(r"/run/secrets/(\w+)", text)) <= set(service["secrets"])


def test_the_broker_asks_for_a_password_and_keeps_what_it_acknowledged() -> None:
    broker = SERVICES["broker"]
    script = broker["command"][-1]

    assert "requirepass" in script
    assert "--appendonly yes" in script
    assert "--dir /data" in script
    assert "broker:/data" in broker["volumes"]
    assert "broker" in COMPOSE["volumes"]


@pytest.mark.parametrize("name", OURS)
def test_our_services_are_told_where_key_and_home_are(name: str) -> None:
    environment = SERVICES[name]["environment"]

    assert environment["FLASHQ_SECRET_KEY_FILE"] == "/run/flashq/signing_key"
    assert "/run/flashq:mode=1777" in SERVICES[name]["tmpfs"]
    # Where the image lacks the folder, the mode holds for a container's first start only.
    assert "install -d -m 1777 /run/flashq" in DOCKERFILE
    assert environment["FLASHQ_HOME"] == "/var/lib/flashq"
    assert f"FLASHQ_HOME={environment['FLASHQ_HOME']}" in DOCKERFILE
    assert SERVICES[name]["depends_on"] == {"broker": {"condition": "service_healthy"}}


def test_the_image_is_built_from_files_that_reach_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = [line.removeprefix("!") for line in lines if line.startswith("!")]
    copied = [
        source
        for arguments in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, flags=re.MULTILINE)
        for source in arguments.split()[:-1]
    ]

    assert "pyproject.toml" in copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in allowed), source


def test_the_image_declares_no_volume_since_down_would_leave_a_nameless_one_behind() -> None:
    assert not re.findall(r"^VOLUME", DOCKERFILE, flags=re.MULTILINE)


def test_the_image_runs_flashq_as_an_ordinary_user() -> None:
    assert re.findall(r"^USER (.+)$", DOCKERFILE, flags=re.MULTILINE) == ["flashq"]
    assert DOCKERFILE.rstrip().endswith('ENTRYPOINT ["flashq"]')


def test_the_python_of_the_image_is_one_that_flashq_supports() -> None:
    (supported,) = re.findall(r'requires-python = ">=(.+)"', PYPROJECT)
    (default,) = re.findall(r"^ARG PYTHON_VERSION=(.+)$", DOCKERFILE, flags=re.MULTILINE)
    (of_compose,) = re.findall(r"\$\{PYTHON_VERSION:-([\d.]+)\}", str(SERVICES["host"]["build"]))

    assert default == of_compose == supported
