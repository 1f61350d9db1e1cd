"""What a user's program does, whichever version runs it: calls, errors, cancelling. Prints what it saw, as JSON.

`python calls.py` does everything once; `python calls.py many N` has N calls under way at a time, each 10 ms long.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import flashq
from flashq import Endpoint
from flashq.errors import JobCancelled


class Own(Exception):
    """This program's own exception, which no worker can import."""


@Endpoint(name="work", cpu="any", workers=(0, 2), idle_timeout=1)
def work(what: str, value: Any = None) -> Any:
    """Do one thing, and say whose code did it."""
    if what == "raise":
        raise Own(value)
    if what == "sleep":
        time.sleep(value)
    if what == "print":
        print(value)
    import flashq as of_worker

    return value, str(Path(of_worker.__file__).resolve())


def everything() -> dict[str, Any]:
    """Each kind of ending once, from the caller's side."""
    value, made_by = work.remote("return", {"of": [1, 2.5, b"three"]})
    assert value == {"of": [1, 2.5, b"three"]}
    mapped = [value for value, _ in work.map(["return"] * 20, range(20), progress=False)]
    assert mapped == list(range(20))

    raised: list[str] = []
    try:
        work.remote("raise", "no")
    except Own as error:
        raised = [str(error), *getattr(error, "__notes__", [])]

    said = work.spawn("print", "a word")
    said.result(20)
    lines: list[str] = []
    deadline = time.monotonic() + 10  # what it printed is stored beside its outcome, not before it
    while not lines and time.monotonic() < deadline:
        lines = list(said.logs())

    endless = work.spawn("sleep", 60)
    while endless.status().result(10).value != "IN_PROGRESS":
        time.sleep(0.01)
    cancelled = endless.cancel().result(10)
    try:
        endless.result(20)
        cancelled = "it returned"
    except JobCancelled:
        pass

    options = work.with_options(key="once", priority=3, ttl_s=60, timeout_s=30, delay_s=0.05)
    twins = [options.spawn("return", "once") for _ in range(2)]
    same = [twin.result(20)[0] for twin in twins]
    timing = twins[0].timing
    return {
        "made_by": made_by,
        "raised": raised,
        "lines": lines,
        "cancelled": cancelled,
        "same": same,
        "attempts": timing.attempts,
        "timed": timing.execution_s is not None and timing.total_s is not None,
    }


def many(count: int) -> dict[str, Any]:
    """Many calls at once; which versions' workers ran them."""
    jobs = [work.spawn("sleep", 0.01) for _ in range(count)]
    return {"made_by": sorted({job.result(30)[1] for job in jobs}), "count": len(jobs)}


if __name__ == "__main__":
    found = many(int(sys.argv[2])) if sys.argv[1:2] == ["many"] else everything()
    print(json.dumps({**found, "called_by": str(Path(flashq.__file__).resolve())}))
