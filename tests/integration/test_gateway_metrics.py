"""`/metrics`: the numbers are those of the broker, and Prometheus' own tool finds nothing to say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from flashq import Endpoint
from flashq.gateway.app import Options
from flashq.store import api_keys
from tests.integration.gateway_rig import Gateway
from tests.rig import Rig, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.requires("valkey")]


@Endpoint(name="gm-echo", cpu="any")
def echo(text: str) -> str:
    if text == "bad":
        raise ValueError(text)
    return text


@Endpoint(name="gm-nobody", cpu="any")
def nobody() -> None:
    return None


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    made = Rig()
    made.ready_worker(echo)
    made.register(nobody)
    gpu = {
        "uuid": "GPU-1",
        "name": "NVIDIA L4",
        "memory_bytes": 24 << 30,
        "used_bytes": 1 << 30,
        "utilisation": 50,
    }
    made.broker.execute("HSET", made.broker.keys.of("host", "h1"), "hostname", "h", "gpus", json.dumps([gpu]))
    made.broker.execute("ZADD", made.broker.keys.of("hosts"), "9e15", "h1")
    yield made
    made.close()


@pytest.fixture(scope="module")
def gateway(rig: Rig) -> Iterator[Gateway]:
    made = Gateway(rig, Options(keys_fresh_s=0.05))
    yield made
    made.close()


def scraped(gateway: Gateway) -> dict[str, float]:
    """Each sample, by its name and labels as they are written."""
    lines = [line for line in gateway.get("/metrics").body.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_the_numbers_are_the_brokers(gateway: Gateway) -> None:
    for text in ("a", "b", "bad"):
        gateway.post("/v2/gm-echo/runsync", {"input": {"text": text}})
    for _ in range(2):
        gateway.post("/v2/gm-nobody/run", {"input": {}})
    found = scraped(gateway)
    assert found['flashq_queue_depth{endpoint="gm-nobody"}'] == 2
    assert found['flashq_queue_depth{endpoint="gm-echo"}'] == 0
    wait_until(lambda: scraped(gateway)['flashq_queue_oldest_age_seconds{endpoint="gm-nobody"}'] > 0)
    assert found['flashq_executions_total{endpoint="gm-echo",status="COMPLETED"}'] == 2
    assert found['flashq_executions_total{endpoint="gm-echo",status="FAILED"}'] == 1
    assert found['flashq_cold_starts_total{endpoint="gm-nobody"}'] == 2
    assert found['flashq_cold_starts_total{endpoint="gm-echo"}'] == 0
    assert 0 <= found['flashq_recent_wait_seconds{endpoint="gm-echo",percentile="99"}'] < 30
    assert 0 <= found['flashq_recent_execution_seconds{endpoint="gm-echo",percentile="50"}'] < 30
    wait_until(lambda: scraped(gateway)['flashq_workers{endpoint="gm-echo",state="idle"}'] == 1)
    assert found['flashq_gpu_memory_bytes{gpu="GPU-1",host="h1",model="NVIDIA L4"}'] == 24 << 30
    assert found['flashq_gpu_memory_used_bytes{gpu="GPU-1",host="h1",model="NVIDIA L4"}'] == 1 << 30


def test_a_key_for_some_endpoints_does_not_see_all(gateway: Gateway, rig: Rig) -> None:
    some, _ = api_keys.make(rig.broker, "some", ("gm-echo",))
    every, record = api_keys.make(rig.broker, "all")
    try:
        wait_until(lambda: gateway.get("/metrics").status == 401)
        assert gateway.get("/metrics", Authorization=f"Bearer {some}").status == 403
        assert gateway.get("/metrics", Authorization=f"Bearer {every}").status == 200
    finally:
        api_keys.revoke(rig.broker, api_keys.id_of(some))
        api_keys.revoke(rig.broker, record.id)
        wait_until(lambda: gateway.get("/metrics").status == 200)


def test_promtool_finds_nothing(gateway: Gateway) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        assert os.environ.get("CI") != "true", "CI has promtool"
        pytest.skip("promtool is not here (Debian's package prometheus)")
    reply = gateway.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=reply.body, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
