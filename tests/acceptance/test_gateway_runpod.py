"""The official `runpod` package, from the index and unchanged, led to a gateway by its environment variables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from flashq.gateway.app import Options
from flashq.store import api_keys
from tests.integration.gateway_rig import Gateway
from tests.packages import require_packages
from tests.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.slow, pytest.mark.timeout(180)]
CLIENT = "runpod==1.12.*"

BLOCKING = """
import json, os
import runpod

runpod.api_key = os.environ["RUNPOD_API_KEY"]
said = {}
greet = runpod.Endpoint("rp-greet")
said["run_sync"] = greet.run_sync({"input": {"name": "a"}})
said["run_sync, bare"] = greet.run_sync({"name": "b"})
said["run_sync, empty"] = greet.run_sync({"input": {}})
job = greet.run({"input": {"name": "c"}})
said["output"] = job.output(timeout=30)
said["status"] = job.status()
said["stream"] = list(runpod.Endpoint("rp-count").run({"input": {"to": 3}}).stream())
said["health"] = greet.health()

slow = runpod.Endpoint("rp-nobody").run({"input": {"name": "d"}})
said["waits"] = slow.status()
said["cancel"] = slow.cancel()
said["cancelled"] = slow.status()
said["stream of a cancelled one"] = list(slow.stream())
runpod.Endpoint("rp-nobody").run({"input": {"name": "e"}})
said["purge"] = runpod.Endpoint("rp-nobody").purge_queue()

failed = runpod.Endpoint("rp-fail").run({"input": {"why": "bad luck"}})
failed.output(timeout=30)
said["failed"] = failed.status()
try:
    runpod.Endpoint("rp-greet", api_key="wrong").run_sync({"input": {"name": "a"}})
except RuntimeError as error:
    said["wrong key"] = str(error)
print(json.dumps(said))
"""

ASYNCIO = """
import asyncio, json, os
import runpod
from runpod import AsyncioEndpoint
from runpod.http_client import AsyncClientSession

runpod.api_key = os.environ["RUNPOD_API_KEY"]

async def main():
    said = {}
    async with AsyncClientSession() as session:
        greet = AsyncioEndpoint("rp-greet", session)
        job = await greet.run({"name": "a"})
        said["output"] = await job.output(timeout=30)
        said["status"] = await job.status()
        counting = await AsyncioEndpoint("rp-count", session).run({"to": 3})
        said["stream"] = [one async for one in counting.stream()]
        nobody = AsyncioEndpoint("rp-nobody", session)
        slow = await nobody.run({"name": "d"})
        said["waits"] = await slow.status()
        said["cancel"] = await slow.cancel()
        await nobody.run({"name": "e"})
        said["purge"] = await nobody.purge_queue()
        said["health"] = await greet.health()
    print(json.dumps(said))

asyncio.run(main())
"""


@Endpoint(name="rp-greet", cpu="any")
def greet(name: str = "nobody") -> str:
    return f"hello {name}"


@Endpoint(name="rp-count", cpu="any")
def count(to: int) -> Any:
    for number in range(to):
        yield number
        time.sleep(0.2)


@Endpoint(name="rp-fail", cpu="any")
def fail(why: str) -> None:
    raise ValueError(why)


@Endpoint(name="rp-nobody", cpu="any")
def nobody(name: str) -> str:
    return name


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the client in it."""
    require_packages(CLIENT)
    folder = tmp_path_factory.mktemp("runpod") / "environment"
    found = folder / "bin" / "python"
    uv = [sys.executable, "-m", "uv", "--quiet"]
    subprocess.run([*uv, "venv", "--python", sys.executable, str(folder)], check=True)
    subprocess.run([*uv, "pip", "install", "--python", str(found), CLIENT], check=True)
    return found


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    made = Rig()
    for endpoint in (greet, count, fail):
        made.worker(endpoint)
    made.register(nobody)
    yield made
    made.close()


@pytest.fixture(scope="module")
def gateway(rig: Rig) -> Iterator[Gateway]:
    made = Gateway(rig, Options(local_only=False))
    yield made
    made.close()


def said_by(program: str, python: Path, gateway: Gateway, rig: Rig, home: Path) -> Any:
    """What a program of the client's prints, with nothing of ours but two variables."""
    key, _ = api_keys.make(rig.broker, "client")
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "RUNPOD_ENDPOINT_BASE_URL": f"{gateway.url}/v2",
        "RUNPOD_API_KEY": key,
    }
    done = subprocess.run(
        [python, "-c", program], env=variables, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_blocking_client(python: Path, gateway: Gateway, rig: Rig, tmp_path: Path) -> None:
    said = said_by(BLOCKING, python, gateway, rig, tmp_path)
    assert said["run_sync"] == "hello a"
    assert said["run_sync, bare"] == "hello b"
    assert said["run_sync, empty"] == "hello nobody"
    assert said["output"] == "hello c"
    assert said["status"] == "COMPLETED"
    assert said["stream"] == [0, 1, 2]
    assert said["health"]["jobs"]["completed"] >= 4
    assert said["waits"] == "IN_QUEUE"
    assert said["cancel"]["status"] == "CANCELLED"
    assert said["cancelled"] == "CANCELLED"
    assert said["stream of a cancelled one"] == []
    assert said["purge"] == {"removed": 1, "status": "completed"}
    assert said["failed"] == "FAILED"
    assert "401" in said["wrong key"]


def test_the_asyncio_client(python: Path, gateway: Gateway, rig: Rig, tmp_path: Path) -> None:
    said = said_by(ASYNCIO, python, gateway, rig, tmp_path)
    assert said["output"] == "hello a"
    assert said["status"] == "COMPLETED"
    assert said["stream"] == [0, 1, 2]
    assert said["waits"] == "IN_QUEUE"
    assert said["cancel"]["status"] == "CANCELLED"
    assert said["purge"] == {"removed": 1, "status": "completed"}
    assert said["health"]["workers"].keys() >= {"idle", "running"}
