"""The floor: what plain redis-py with hiredis does with one Lua round trip per job, and nothing else.

No signatures, no leases, no registries, no separate process for user code: the least that a Redis queue which
stores results must do. Run as a script it is the floor's worker.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import redis

if TYPE_CHECKING:
    from collections.abc import Iterator

_STEP = """
if ARGV[1] ~= '' then
  redis.call('HSET', 'floor:job:' .. ARGV[1], 'status', 'finished', 'result', ARGV[2])
  redis.call('EXPIRE', 'floor:job:' .. ARGV[1], 600)
  redis.call('RPUSH', 'floor:done:' .. ARGV[3], ARGV[1] .. ':' .. ARGV[2])
end
local id = redis.call('LPOP', 'floor:queue')
if not id then return false end
local job = redis.call('HMGET', 'floor:job:' .. id, 'data', 'client')
redis.call('HSET', 'floor:job:' .. id, 'status', 'started')
return {id, job[1], job[2]}
"""
_SUBMIT = """
redis.call('HSET', 'floor:job:' .. ARGV[1], 'status', 'queued', 'data', ARGV[2], 'client', ARGV[3])
redis.call('RPUSH', 'floor:queue', ARGV[1])
return redis.call('LPUSH', 'floor:bell', '1')
"""


def work(url: str) -> None:
    """The floor's worker: complete this job, claim the next, in one round trip; block on a bell when there is none."""
    client = redis.Redis.from_url(url, protocol=2)
    step = client.register_script(_STEP)
    done: tuple[str | bytes, ...] = ("", "", "")
    while True:
        claimed = step(args=done)
        if claimed is None:
            client.blpop(["floor:bell"])
            done = ("", "", "")
            continue
        job, data, waiting = claimed
        done = (job, data, waiting)


@contextmanager
def worker(url: str) -> Iterator[None]:
    """The floor's worker in a process of its own."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.floor", url])
    try:
        yield
    finally:
        process.kill()
        process.wait()


class Floor:
    """A client of the floor."""

    def __init__(self, url: str, name: str = "c") -> None:
        self._redis = redis.Redis.from_url(url, protocol=2)
        self._submit = self._redis.register_script(_SUBMIT)
        self._done = f"floor:done:{name}"
        self._name = name
        self._count = 0

    def call(self) -> None:
        """One call, waited for."""
        self._count += 1
        self._submit(args=(f"{self._name}{self._count}", b"x" * 100, self._name))
        self._redis.blpop([self._done])

    def enqueue(self, count: int) -> None:
        """Submit many, in pipelines of 100; nobody works on them yet."""
        for start in range(0, count, 100):
            with self._redis.pipeline(transaction=False) as pipe:
                for _ in range(min(100, count - start)):
                    self._count += 1
                    self._submit(args=(f"{self._name}{self._count}", b"x" * 100, self._name), client=pipe)
                pipe.execute()

    def collect(self, count: int) -> None:
        """Wait for so many results."""
        for _ in range(count):
            self._redis.blpop([self._done])

    def wait_drained(self, count: int) -> float:
        """Wait until so many are done; seconds it took, polled without disturbing."""
        started = time.perf_counter()
        while self._redis.llen(self._done) < count:
            time.sleep(0.002)
        return time.perf_counter() - started

    def reset(self) -> None:
        """Forget everything."""
        self._redis.flushdb()

    def in_flight(self, threads: int, calls: int, url: str) -> list[float]:
        """`threads` callers, each `calls` calls one after the other; every call's seconds."""
        took: list[float] = []

        def caller(number: int) -> None:
            own = Floor(url, f"t{number}-")
            for _ in range(calls):
                started = time.perf_counter()
                own.call()
                took.append(time.perf_counter() - started)

        callers = [threading.Thread(target=caller, args=(n,)) for n in range(threads)]
        for one in callers:
            one.start()
        for one in callers:
            one.join()
        return took


if __name__ == "__main__":
    work(sys.argv[1])
