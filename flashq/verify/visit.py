"""The function that a campaign calls: it says outside the broker that it began and that it ended, and names itself."""

from __future__ import annotations

import os
import time
from pathlib import Path

from flashq import Endpoint, current
from flashq.model.retry import Retries
from flashq.verify.history import Began, Ended, token
from flashq.verify.ledger import Ledger
from flashq.verify.workload import Behaviour, behaviour, running_s

NAME = "verify"
WORKERS = 6
RETRIES = 2
_KEPT_S = 7 * 24 * 3600


@Endpoint(
    name=NAME,
    cpu="any",
    workers=(WORKERS, WORKERS),
    retries=Retries(max=RETRIES, delay_s=0.1, on=(ConnectionError,)),
    result_ttl=_KEPT_S,
    ttl=_KEPT_S,
)
def visit(folder: str, number: int, lease_s: float) -> str:
    """Run for a while and return the token of this attempt, or raise it, as `workload` wants it of this number."""
    me = current()
    job, fence, attempt = me.id, me.fence, me.attempt
    ledger = Ledger(Path(folder), f"runs-{os.getpid()}")
    try:
        ledger.write(Began(job, number, fence, attempt, os.getpid(), os.getppid(), time.monotonic()))
        time.sleep(running_s(number, attempt, lease_s))
        mine = token(job, fence, os.getpid())
        wanted = behaviour(number)
        retry = wanted is Behaviour.RETRY and attempt == 1
        how = "retry" if retry else "error" if wanted is Behaviour.ERROR else "value"
        ledger.write(Ended(job, fence, os.getpid(), how, time.monotonic()))
    finally:
        ledger.close()
    if retry:
        raise ConnectionError(mine)
    if wanted is Behaviour.ERROR:
        raise ValueError(mine)
    return mine
