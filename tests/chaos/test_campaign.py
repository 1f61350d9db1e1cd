"""Campaigns of faults: nothing acknowledged is lost, no stale outcome accepted, no result changed.

Two seeds of everything at once, with a broker that is killed too; a hundred kills, many of them at the very call of a
transition; a broker that others use. And the harness has to find what it is there to find: with the fence taken out of
the scripts a stale outcome gets in, and is caught.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flashq.settings import Settings
from flashq.store.broker import Broker
from flashq.verify import schedule
from flashq.verify.campaign import Campaign, Plan, throwaway_prefix
from flashq.verify.own_broker import OwnBroker
from flashq.verify.verification import verify
from tests.chaos.mutants import load_without_fence
from tests.rig import BrokerServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flashq.verify.check import Verdict
    from flashq.verify.schedule import Kind

pytestmark = [pytest.mark.requires("valkey"), pytest.mark.timeout(280)]
CALLS, FAULTS = 600, 86
EVERYTHING = (*schedule.SAFE, *schedule.OWN_BROKER)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for the paths of sockets in it."""
    made = Path(tempfile.mkdtemp(prefix="fqc-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def named(*names: str) -> tuple[Kind, ...]:
    """Some kinds of faults, as many of each in a deal."""
    found = tuple(replace(kind, weight=1) for kind in EVERYTHING if kind.name in names)
    assert len(found) == len(names)
    return found


def campaign(plan: Plan, folder: Path, broker: OwnBroker) -> Verdict:
    return Campaign(plan, folder, broker.url, prefix=throwaway_prefix("rq"), broker=broker).run()


def happened(verdict: Verdict) -> int:
    """How many faults found something to befall."""
    return sum(count for count, _ in verdict.faults.values())


@pytest.fixture
def broker(folder: Path) -> Iterator[OwnBroker]:
    made = OwnBroker(folder, fsync="always")
    yield made
    made.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_while_everything_breaks(seed: int, folder: Path, broker: OwnBroker) -> None:
    """Given 600 calls and over 80 faults of every kind, the broker's death among them, expect every promise kept."""
    plan = Plan(seed=seed, faults=FAULTS, calls=CALLS, kinds=EVERYTHING)

    verdict = campaign(plan, folder, broker)

    assert verdict.holds, verdict.violations
    assert verdict.jobs >= CALLS
    assert happened(verdict) >= 80
    # A fault whose turn comes while there is nothing to be hit (no autoscaler, just killed) does not happen.
    assert len({kind.name for kind in EVERYTHING} - verdict.faults.keys()) <= 2
    assert 0 < verdict.extra_runs <= verdict.hits


def test_a_hundred_workers_are_killed_idle_at_work_and_at_transitions(
    folder: Path, broker: OwnBroker
) -> None:
    """Given a hundred workers killed outright, half of them at a call, expect every promise kept."""
    kinds = named("kill worker", "kill worker at a call")
    plan = Plan(seed=3, faults=100, calls=250, kinds=kinds, pace_s=0.3)

    verdict = campaign(plan, folder, broker)

    assert verdict.holds, verdict.violations
    assert happened(verdict) >= 95
    assert verdict.hits > 0


def test_without_the_fence_a_stale_outcome_is_accepted_and_caught(folder: Path, broker: OwnBroker) -> None:
    """Given scripts that compare no fences, if workers are stopped beyond their lease, expect it to be found out."""
    with contextlib.closing(Broker(broker.url)) as direct:
        load_without_fence(direct)
    plan = Plan(seed=4, faults=14, calls=80, kinds=named("stop supervisor"), lease_s=1.5, pace_s=1.2)

    verdict = campaign(plan, folder, broker)

    assert verdict.count("stale") >= 1, verdict
    assert not verdict.holds


def test_a_broker_that_others_use_is_not_harmed_and_left_as_it_was(folder: Path) -> None:
    """Given a configured broker with data of others, expect every promise kept, and afterwards their data alone."""
    server = BrokerServer()
    others = Broker(server.url)
    others.execute("SET", "rq:of-others", "1")
    settings = Settings(redis_url=server.url, home=folder / "home", lease_s=15.0)
    try:
        done = verify(settings, folder, seed=5, faults=10, calls=60)

        # Ten faults are too few for a sum: one rerun of a machine that was too busy to renew in time outweighs them.
        assert [found for found in done.verdict.violations if found.kind != "reruns"] == []
        assert not done.broker.private
        assert done.broker.append_only
        assert not [kind for kind in done.verdict.faults if "broker" in kind]
        assert others.execute("KEYS", "*") == [b"rq:of-others"]
    finally:
        others.close()
        server.close()
