"""A whole machine is gone at one moment, host agent and all: its jobs run elsewhere after a lease, not after a booking.

Nobody says that it is gone. Until its own lease ends a dead host looks as good as any, and what is ordered there is
never started: a worker that fell silent must cast doubt on its host. So the test has the worker fall silent first.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from flashq import Endpoint
from tests.integration.stack import Stack, family
from tests.rig import Rig, halt, wait_until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.requires("valkey")
LEASE_S = 3.0


@Endpoint(name="moved", cpu="any")
def moved(begun: str) -> str:
    """The first run never ends by itself."""
    import time
    from pathlib import Path

    first = not Path(begun).exists()
    Path(begun).touch()
    while first:
        time.sleep(0.1)
    return "moved"


def stop(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # a host's helpers come and go
            halt(process.pid)


def ends(rig: Rig, kind: str, member: str = "") -> float:
    """When a heartbeat's lease ends, in ms: of one host, or of the one worker."""
    subject = () if member else (moved.name,)
    flat = rig.broker.execute("ZRANGE", rig.broker.keys.of(kind, *subject), 0, -1, "WITHSCORES")
    found = {name.decode(): float(score) for name, score in zip(flat[::2], flat[1::2], strict=True)}
    return found[member] if member else min(found.values())


def test_the_jobs_of_a_host_that_is_gone_run_elsewhere(tmp_path: Path) -> None:
    """Given the only worker there may be on a host, if all of that is killed, expect the job on the other host soon."""
    begun = tmp_path / "begun"
    with contextlib.closing(Rig(lease_s=LEASE_S)) as rig, contextlib.closing(Stack(rig)) as stack:
        (doomed,) = wait_until(stack.hosts, 20, "the first host")
        job = moved.spawn(str(begun))
        wait_until(begun.exists, 20, "the job under way")
        other = psutil.Process(stack.start("host", home=tmp_path / "other").pid)
        other.cpu_affinity(other.cpu_affinity()[:1])  # with fewer cores, it is not the one that is preferred
        wait_until(lambda: len(stack.hosts()) == 2, 20, "another host")
        agent, *workers = family(stack.host.pid)
        stop(workers)
        wait_until(
            lambda: ends(rig, "hosts", doomed) > ends(rig, "endpoint_workers") + 1000, 20, "a later beat"
        )
        stop([agent])
        killed = time.monotonic()
        for process in (agent, *workers):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

        assert job.result(40) == "moved"

        assert time.monotonic() - killed > LEASE_S / 2, (
            "its lease was waited for: nobody said that it is gone"
        )
        (fields,) = stack.workers(moved).values()
        assert fields["fq_host"] != doomed
        orders = [event["text"].partition(":")[0] for event in stack.rig.events("worker-ordered")]
        assert orders[1:] == [f"on {fields['fq_host']}"], "nothing was ordered on the dead host"
