"""`python -m benchmarks.expiry [--leases N] [--output FILE]`: the leases of very many jobs end at once.

Those of their workers do, too.

How much of the server's processor time each script takes then: the one that recovers, and those that look at leases
meanwhile. The broker runs nothing else while a script runs, so this is how long everybody else waits for it.
"""

from __future__ import annotations

import argparse
import json
import statistics
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.about import about
from flashq.store.broker import Broker
from tests.rig import BrokerServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from flashq.store.command import Command

RESULTS = Path(__file__).parent / "results" / "expiry.json"
ENDPOINT = "expiring"
JOBS_EACH = 250
_AT_ONCE = 5000

#: Running jobs as CLAIM leaves them (ARGV 4 to 5, of workers with JOBS_EACH jobs each), whose leases have ended.
FILL = """
local P, ep, each = ARGV[1], ARGV[2], tonumber(ARGV[3])
local at = redis.call('TIME')[1] * 1000
for i = tonumber(ARGV[4]), tonumber(ARGV[5]) - 1 do
  local id, worker = ep .. '-' .. i, ep .. '-w' .. math.floor(i / each)
  redis.call('HSET', P .. 'job:' .. id, 'fq_state', 'running', 'status', 'started', 'fq_ep', ep, 'origin', ep,
    'fq_fence', 1, 'worker_name', worker, 'fq_claimed', at - 1000 + i % 1000, 'fq_attempts', 1, 'fq_began', at,
    'fq_enqueued', at, 'fq_call', string.rep('x', 400))
  redis.call('ZADD', P .. 'fq:leases:' .. ep, at - 1, id)
  redis.call('ZADD', P .. 'wip:' .. ep, '+inf', id .. ':1')
  if i % each == 0 then
    redis.call('HSET', P .. 'worker:' .. worker, 'fq_ep', ep, 'fq_state', 'running')
    redis.call('ZADD', P .. 'fq:workers:' .. ep, at - 1, worker)
  end
end
"""


class Crowd:
    """A broker with so many leases that have ended, and the time that scripts take in it."""

    def __init__(self, broker: Broker, leases: int) -> None:
        self.broker = broker
        self._redis = broker.redis()
        t = broker.transitions
        terms: dict[str, Any] = dict.fromkeys(("revision", "environment", "resources", "program"), "r")
        broker.run(t.register(ENDPOINT, spec="{}", scaling="{}", record=b"record", **terms))
        for begin in range(0, leases, _AT_ONCE):
            end = min(leases, begin + _AT_ONCE)
            broker.execute("EVAL", FILL, 0, broker.keys.root, ENDPOINT, JOBS_EACH, begin, end)

    def left(self) -> int:
        return int(self.broker.execute("ZCARD", self.broker.keys.of("leases", ENDPOINT)))

    def took_ms(self, command: Command[Any]) -> float:
        """The server's processor time for one script."""
        before = self._cpu_s()
        self.broker.run(command)
        return (self._cpu_s() - before) * 1000

    def _cpu_s(self) -> float:
        cpu = self._redis.info("cpu")
        return float(cpu["used_cpu_user_main_thread"]) + float(cpu["used_cpu_sys_main_thread"])

    def recover(self, tell: Callable[[int], None] = lambda left: None) -> list[float]:
        """Reap until nothing is left; what each step took."""
        took = []
        while left := self.left():
            tell(left)
            took.append(self.took_ms(self.broker.transitions.reap(ENDPOINT, lease_ms=15_000, pause_ms=0)))
        return took


def measure(broker: Broker, leases: int) -> dict[str, dict[str, float]]:
    """Each script's processor time, in ms: how often it was run, median, 99th percentile, maximum."""
    crowd, t = Crowd(broker, leases), broker.transitions
    first = [(f"{ENDPOINT}-{n}", 1) for n in range(JOBS_EACH)]
    renew = t.renew(ENDPOINT, f"{ENDPOINT}-w0", lease_ms=1, jobs=first)
    took = {
        "renew": [crowd.took_ms(renew) for _ in range(20)],
        "observe": [crowd.took_ms(t.observe(ENDPOINT)) for _ in range(20)],
        "recover": [crowd.took_ms(t.recover(ENDPOINT, f"{ENDPOINT}-w0", [])) for _ in range(20)],
        "worker_leave": [
            crowd.took_ms(t.leave(ENDPOINT, f"{ENDPOINT}-w{leases // JOBS_EACH - n}", "it died"))
            for n in range(1, 6)
        ],
        "reap": crowd.recover(),
    }
    assert int(broker.execute("LLEN", broker.keys.of("queue", ENDPOINT))) == leases
    return {script: summary(values) for script, values in took.items()}


def summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "runs": len(values),
        "median": statistics.median(values),
        "p99": ordered[int(0.99 * (len(values) - 1))],
        "max": ordered[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leases", type=int, default=100_000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    with closing(BrokerServer("valkey")) as server, closing(Broker(server.url)) as broker:
        found = measure(broker, given.leases)
        info = broker.redis().info("server")
    head = {
        **about("python -m benchmarks.expiry"),
        "broker": f"Valkey {info.get('valkey_version', info['redis_version'])}",
        "leases": given.leases,
        "jobs_each": JOBS_EACH,
    }
    record = {"about": head, "scripts": found}
    given.output.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
