"""The small world that is searched: its names and its times. Pure.

Time is passed in units as long as a lease, a delay and a ttl, so that each of them is over or is not. A unit in
which reapers are at work has one reaping in its middle; without them two units pass, so that the next one to reap
finds that everybody was away (reap.lua spares leases then).
"""

from __future__ import annotations

JOBS = ("jobA", "jobB", "jobC")
WORKERS = ("wrkA", "wrkB")
CHANNEL = "rq:fq:push:told"

UNIT_MS = 4500
STEP_MS = UNIT_MS // 2
LEASE_MS = DELAY_MS = TTL_MS = UNIT_MS
MOST_LOSSES = 2
MOST_RETRIES = 1
MOST_AWAY_MS = 5000  # for how long nobody may have reaped before that is a silence of everybody
