"""Whatever stands in the broker's records, each listing lists: nothing ends it, and nothing in it steers a terminal."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from flashq.cli import flashq
from flashq.store.broker import Broker
from tests.integration.command_line import CommandLine
from tests.integration.fabricated import Fabricated
from tests.rig import BrokerServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.requires("valkey")
JUNK = [
    b"",
    b"nan",
    b"-1",
    b"1e400",
    b"9" * 40,
    b"[]",
    b'{"state": [], "detail": {}}',
    b"\xff\x00\n",
    b"\x1b]0;owned\x07\x1b[2J\r\n",
    b"../x*" * 2000,
]
FIELDS = {
    "endpoint": "revision scaling spec environment resources condition paused withheld failures",
    "worker": "fq_state fq_since fq_host hostname fq_env fq_drain pid fq_ep fq_beat fq_jobs",
    "host": "hostname cpus memory_bytes gpus started_at draining beat labels version",
    "job": "fq_state fq_ep origin worker_name fq_attempts fq_enqueued fq_ready fq_began fq_ended fq_timing fq_cold"
    " fq_error fq_reason fq_outcome description created_at enqueued_at started_at ended_at status fq_fence",
    "leader": "holder until epoch since",
}
SHOW = {
    "endpoint": ("endpoints", "queues", "workers"),
    "worker": ("endpoints", "workers", "hosts"),
    "host": ("hosts", "status"),
    "job": ("jobs", "queues", "workers"),
    "leader": ("status",),
}


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with closing(BrokerServer(appendonly="no")) as server, closing(Broker(server.url)) as broker:
        yield broker


@pytest.fixture
def made(broker: Broker) -> Fabricated:
    """Two endpoints, of which one is left alone; with workers, jobs of every state, a host, and a leader."""
    broker.execute("FLUSHALL")
    found = Fabricated(broker)
    for name in ("embed", "good"):
        found.endpoint(name)
        found.ended("failed", name)
    worker = found.worker(fq_host="host-1")
    found.job()
    found.claim(worker)
    found.job()
    for host in ("host-1", "host-2"):
        broker.run(broker.transitions.host_beat(host, lease_ms=15_000, fields={"hostname": host}))
    broker.run(broker.transitions.lead("a-1", lease_ms=15_000, fields={"pid": 1}))
    return found


def keys(broker: Broker, kind: str) -> list[str]:
    """The records of a kind, but those of what is to be left alone."""
    found = sorted(key.decode() for key in broker.execute("KEYS", broker.keys.of(kind, "") + "*"))
    return [key for key in found if "good" not in key and "host-2" not in key]


@pytest.mark.parametrize("kind", FIELDS)
def test_junk_in_a_record_stops_no_listing(
    kind: str, broker: Broker, made: Fabricated, tmp_path: Path
) -> None:
    cli = CommandLine(broker.url, tmp_path)
    records = keys(broker, kind)
    assert records
    good = cli.rows("queues")[1]
    for name in FIELDS[kind].split():
        kept = {key: broker.execute("HGET", key, name) for key in records}
        for junk in JUNK:
            for key in records:
                broker.execute("HSET", key, name, junk)
            # If each listing that reads it is asked for, expect it, with what was left alone as it was
            for listing in SHOW[kind]:
                shown = cli(listing).stdout.replace("\t", " ")
                assert all(line.isprintable() for line in shown.splitlines()), (name, junk, shown)
                json.loads(cli(listing, "--json").stdout)
            assert cli.rows("queues")[1]["queued"] == good["queued"]
            if kind == "job":
                told = CliRunner().invoke(flashq, ["job", records[0].rpartition(":")[2]], env=cli.environ)
                assert told.exit_code in (0, 3), (name, junk, told.output, told.exception)
                assert "\x1b" not in told.output
        for key, value in kept.items():
            broker.execute(*(("HDEL", key, name) if value is None else ("HSET", key, name, value)))
