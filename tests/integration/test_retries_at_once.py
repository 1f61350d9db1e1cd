"""A thousand jobs that fail at one moment. Row 29."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import flashq
from flashq import Endpoint, Retries
from tests.rig import rig, wait_until

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(120)]
JOBS = 1000
LONGEST_S = 4.0


@Endpoint(name="waved", cpu="any", max_concurrency=JOBS, retries=Retries(1, delay_s=LONGEST_S))
async def waved(gate: str, number: int) -> int:
    if flashq.current().attempt == 1:
        while not Path(gate).exists():
            await asyncio.sleep(0.2)
        raise ConnectionError("all at once")
    return number


def test_a_thousand_retries_come_back_spread_and_none_is_lost(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with rig() as made:
        made.ready_worker(waved)
        jobs = [waved(str(gate), number) for number in range(JOBS)]
        leases = made.broker.keys.of("leases", "waved")
        wait_until(lambda: made.broker.execute("ZCARD", leases) == JOBS, 60, what="all of them run")
        due: dict[bytes, float] = {}

        def gather() -> bool:
            rows = made.broker.execute(
                "ZRANGE", made.broker.keys.of("scheduled", "waved"), 0, -1, "WITHSCORES"
            )
            due.update(zip(rows[::2], map(float, rows[1::2]), strict=True))
            retried: object = made.broker.execute("HGET", made.broker.keys.of("stats", "waved"), "retried")
            return retried == b"1000"

        gate.touch()
        wait_until(gather, 60, what="all of them failed")
        assert [job.result(60) for job in jobs] == list(range(JOBS))

    # Those due at once were not seen waiting: a few of a thousand
    assert len(due) > 0.8 * JOBS
    first, last = min(due.values()), max(due.values())
    assert last - first > 0.8 * LONGEST_S
    tenths = [int((at - first) / (last - first + 1e-9) * 10) for at in due.values()]
    assert max(tenths.count(tenth) for tenth in range(10)) < 0.25 * JOBS
