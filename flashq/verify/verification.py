"""One run of `flashq verify`: against the broker of the settings, or a private one that may be killed as well."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashq.errors import ConfigurationError
from flashq.store.broker import Broker
from flashq.store.command import text
from flashq.verify import schedule
from flashq.verify.campaign import Campaign, Plan, throwaway_prefix
from flashq.verify.own_broker import OwnBroker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flashq.settings import Settings
    from flashq.verify.check import Verdict

LONGEST_LEASE_S = 3.0
"""Leases are short, so that a campaign is: what outlasts one is part of it."""


@dataclass(frozen=True, slots=True)
class BrokerKind:
    """What was tried."""

    server: str
    """Its name and version."""
    private: bool
    append_only: bool
    eviction: str
    """Its `maxmemory-policy`."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of it."""

    seed: int
    planned: int
    broker: BrokerKind
    verdict: Verdict


def verify(
    settings: Settings,
    folder: Path,
    *,
    seed: int,
    faults: int,
    calls: int,
    progress: Callable[[int], None] = lambda _done: None,
) -> Verification:
    """Run a campaign in `folder`, whose path must be short, and judge it.

    Raises: ConfigurationError where no worker can run here, BrokerError where the broker does not play its part.
    """
    if sys.platform != "linux":
        raise ConfigurationError("verify runs workers, which need Linux")
    lease_s = min(settings.lease_s, LONGEST_LEASE_S)
    plan = Plan(seed=seed, faults=faults, calls=calls, lease_s=lease_s)
    prefix = throwaway_prefix(settings.rq_prefix)
    if settings.redis_url is not None:
        kind = _kind_of(settings.redis_url, private=False)
        campaign = Campaign(plan, folder, settings.redis_url, prefix=prefix)
        return Verification(seed, faults, kind, campaign.run(progress))
    own = OwnBroker(folder, fsync="always")
    try:
        kind = _kind_of(own.url, private=True)
        plan = Plan(
            seed=seed,
            faults=faults,
            calls=calls,
            lease_s=lease_s,
            kinds=(*schedule.SAFE, *schedule.OWN_BROKER),
        )
        campaign = Campaign(plan, folder, own.url, prefix=prefix, broker=own)
        return Verification(seed, faults, kind, campaign.run(progress))
    finally:
        own.close()


def _kind_of(url: str, *, private: bool) -> BrokerKind:
    """Raises: BrokerError."""
    broker = Broker(url)
    try:
        lines = text(broker.execute("INFO")).splitlines()
    finally:
        broker.close()
    told = dict(line.split(":", 1) for line in lines if ":" in line)
    name = told.get("server_name", "redis")
    return BrokerKind(
        server=f"{name.capitalize()} {told.get(f'{name}_version', '?')}",
        private=private,
        append_only=told.get("aof_enabled") == "1",
        eviction=told.get("maxmemory_policy", ""),
    )
