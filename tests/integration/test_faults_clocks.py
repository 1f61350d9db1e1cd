"""Row 17 of the failure matrix: every clock but the broker's is wrong by an hour, fast or slow."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from flashq.client import Client
from flashq.settings import SecretKey, Settings
from tests.acceptance.stage import Program, stage
from tests.rig import SECRET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(120)]

HOUR_S = 3600

WRONG_CLOCK = """
import os, time

def shifted(real, shift):
    return lambda: real() + shift

shift_s = int(os.environ["TEST_CLOCK_SHIFT_S"])
time.time_ns = shifted(time.time_ns, shift_s * 10**9)
time.time = shifted(time.time, shift_s)
"""
"""As `sitecustomize`, before anything else is imported."""

CALLER = """
from flashq import Endpoint
from flashq.errors import JobExpired

@Endpoint(name="clock-" + sys.argv[1], cpu="any", workers=(0, 1))
def work(seconds):
    time.sleep(seconds)
    return seconds

def took(call, *args):
    since = time.monotonic()
    return call(*args), time.monotonic() - since

long = work.spawn(3.0)
expiring = work.with_options(ttl_s=0.5).spawn(0.0)
try:
    tell(ttl=expiring.result(30))
except JobExpired:
    tell(ttl="expired", before_the_long_one=not long.done)
tell(long=long.result(30), attempts=long.timing.attempts)
value, delay_s = took(work.with_options(delay_s=1.0).remote, 0.0)
last = work.spawn(0.1)
last.result(30)
tell(delay_s=delay_s, queued_s=last.timing.queued_s, total_s=last.timing.total_s, clock=time.time())
"""


@pytest.fixture
def clocks(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Starts programs and commands of flashq's whose clocks are wrong, on a broker whose clock is right."""
    (tmp_path / "sitecustomize.py").write_text(WRONG_CLOCK)
    with stage(lease_s=1.5) as made:

        def start(shift_s: int, *words: str, **options: Any) -> Program:
            env = {"PYTHONPATH": str(tmp_path), "TEST_CLOCK_SHIFT_S": str(shift_s)}
            return made.start(CALLER, *words, env=env, **options)

        yield start


def test_clocks_that_are_wrong_by_an_hour_change_nothing(clocks: Callable[..., Program]) -> None:
    """Row 17. Given host, autoscaler and callers an hour apart, expect leases, ttls and delays to be kept."""
    daemons = {
        -HOUR_S: clocks(-HOUR_S, command=["-m", "flashq", "host"]),
        HOUR_S: clocks(HOUR_S, command=["-m", "flashq", "autoscaler"]),
    }
    callers = {shift: clocks(shift, name) for shift, name in ((HOUR_S, "fast"), (-HOUR_S, "slow"))}

    for shift, caller in callers.items():
        said = caller.end(60)
        assert abs(said["clock"] - time.time() - shift) < 60, "its clock is wrong"
        assert (said["ttl"], said["before_the_long_one"]) == ("expired", True)
        assert (said["long"], said["attempts"]) == (3.0, 1)
        assert 1.0 <= said["delay_s"] < 20
        assert 0 <= said["queued_s"] <= said["total_s"] < 20
    for shift, daemon in daemons.items():
        logged = time.mktime(time.strptime(daemon.errors[:19], "%Y-%m-%d %H:%M:%S"))
        assert abs(logged - time.time() - shift) < 120, "its clock is wrong"


def test_a_clock_that_is_set_while_a_program_runs_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Row 17. Given a program that has heard the broker, if its host's clock jumps, expect it to sign as before."""
    client = Client(Settings(redis_url="unix:///nowhere", secret_key=SecretKey(SECRET), home=tmp_path))
    client.hear_clock(1_750_000_000_000)
    before = client.now_ms()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 <= client.now_ms() - before < 60_000
    client.close()
