"""The program that calls during the soak, in a process of its own so that its memory can be looked at.

A mix of calls: values, an error, output, a retry, a delay, a priority, a key, a cancelled one. Ends with its input.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from flashq import Endpoint
from flashq.errors import JobCancelled

RATE = 60.0
"""Calls a second, about: what two cores have to spare beside others."""


class Flaky(Exception):
    """Raised once."""


@Endpoint(name="soaked", cpu="any", workers=(0, 2), idle_timeout=5, result_ttl=20)
def soaked(what: str, value: Any) -> Any:
    """Do one of several things."""
    if what == "print":
        print(f"value {value}")
    if what == "sleep":
        import time

        time.sleep(value)
    return value


@Endpoint(name="soaked_retry", cpu="any", workers=(0, 1), idle_timeout=5, result_ttl=20, retries=1)
def soaked_retry(value: int) -> int:
    """Raise on the first attempt."""
    import flashq

    if flashq.current().attempt == 1:
        raise Flaky(str(value))
    return value


def _round(number: int) -> int:
    """A few calls of every kind; how many."""
    plain: list[Any] = [soaked.spawn("return", b"x" * 200 * (n + 1)) for n in range(20)]
    plain += [soaked.spawn("print", number), soaked.spawn("return", "x" * 50_000)]
    plain.append(soaked.with_options(priority=3).spawn("return", 1))
    plain.append(soaked.with_options(delay_s=0.2).spawn("return", 2))
    plain += [soaked_retry.spawn(number) for _ in range(2)]
    for job in plain:
        job.result(60)
    return len(plain)


def main() -> None:
    """Call until the input ends; the once-only kinds first."""
    over = threading.Event()

    def until_the_input_ends() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=until_the_input_ends, daemon=True).start()
    _once()
    done = 0
    started = time.monotonic()
    number = 0
    while not over.is_set():
        done += _round(number)
        number += 1
        ahead_s = done / RATE - (time.monotonic() - started)
        over.wait(max(0.0, ahead_s))
    print(done, flush=True)


def _once() -> None:
    """What is kept for days, by its kind: a hundred of each, so that their keys are there from the beginning."""
    for number in range(100):
        soaked.with_options(key=f"key-{number}").remote("return", number)
        job = soaked.spawn("sleep", 30.0)
        job.cancel().result(20)
        try:
            job.result(30)
        except JobCancelled:
            continue
        raise AssertionError("a cancelled job returned")


if __name__ == "__main__":
    main()
