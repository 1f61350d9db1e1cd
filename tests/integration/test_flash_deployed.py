"""A project that is written for Flash, built and deployed as it is: called by name, by Flash's client and by routes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from flashq import Endpoint
from flashq.compat.names import Endpoint as FlashEndpoint
from tests.integration.app_project import Project
from tests.integration.environment_rig import make_wheels
from tests.integration.stack import Stack
from tests.rig import SECRET, Rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.requires("valkey")

WORKERS = """
from runpod_flash import CpuInstanceType, Endpoint, NetworkVolume

@Endpoint(name="flash.deployed", cpu=CpuInstanceType.CPU3C_1_2, idle_timeout=1)
async def greet(data: dict) -> dict:
    from words import polite
    return {"said": polite(data["name"]), "size": await Model().size(data["name"])}

@Endpoint(name="flash-deployed-model", cpu="cpu3c-1-2", idle_timeout=1)
class Model:
    def __init__(self) -> None:
        self.factor = 10

    async def size(self, text: str) -> int:
        return len(text) * self.factor

api = Endpoint(name="flash-deployed-api", cpu="cpu3c-1-2", idle_timeout=1)

@api.get("/health")
def health() -> dict:
    return {"ok": True}

shared = Endpoint(name="flash-deployed-both", cpu="cpu3c-1-2", idle_timeout=1)

@shared
async def one(x: int) -> int:
    return x + 1

@shared
def two(x: int) -> int:
    return x + 2
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with contextlib.closing(Rig(lease_s=3.0)) as rig, contextlib.closing(Stack(rig)) as made:
        wait_until(made.hosts, what="a host")
        yield made


def test_a_flash_project_is_deployed_as_it_is(stack: Stack, tmp_path: Path) -> None:
    # Given such a project, deployed
    make_wheels(tmp_path)
    variables = {"FLASHQ_REDIS_URL": stack.rig.server.url, "FLASHQ_SECRET_KEY": SECRET.hex()}
    project = Project(tmp_path / "flash-app", tmp_path, {**variables, "FLASHQ_HOME": str(tmp_path / "home")})
    project.write(workers=WORKERS, words="def polite(name): return f'Dear {name}'")
    told = project.done("deploy")
    assert set(told["verdicts"]) == {
        *("flash-deployed", "flash-deployed-model", "flash-deployed-api", "flash-deployed-both"),
    }

    # Expect its functions, what they import and call, its class, routes, and functions that share workers
    assert Endpoint(id="flash-deployed").remote({"name": "Ann"}) == {"said": "Dear Ann", "size": 30}
    assert Endpoint(id="flash-deployed-model").size.remote("abc") == 30

    async def flashs() -> list[Any]:
        job = await FlashEndpoint(id="flash.deployed").runsync({"data": {"name": "Bob"}})
        both = FlashEndpoint(id="flash-deployed-both")
        named = [await both.runsync({"x": 1, "method": name}) for name in ("one", "two")]
        return [
            job.output,
            *(each.output for each in named),
            await FlashEndpoint(id="flash-deployed-api").get("/health"),
        ]

    assert asyncio.run(flashs()) == [{"said": "Dear Bob", "size": 30}, 2, 3, {"ok": True}]
