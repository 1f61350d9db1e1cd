"""R7, in short: a steady mix of calls for minutes. Memory of every process and the broker's keys have to stay flat.

Afterwards, with the workers gone and the results expired, every key has to expire or to be of a permanent kind.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from contextlib import closing
from typing import Any

import psutil

from benchmarks.endurance.caller import soaked, soaked_retry
from tests.conformance import snapshot
from tests.integration.stack import Stack
from tests.rig import SECRET, Rig, wait_until

_EVERY_S = 5.0
_WARM_UP = 0.25  # this share of the samples is left out: code is loaded, pools and buffers fill
_RESULTS_GONE_S = 25.0


def measure(seconds: float) -> dict[str, Any]:
    """Memory in MB (PSS) by role and number of keys, at the beginning (after a warm-up) and at the end."""
    with closing(Rig(lease_s=15.0)) as rig, closing(Stack(rig)) as stack:
        caller = _caller(rig)
        samples: dict[str, list[float]] = defaultdict(list)
        begun = time.monotonic()
        while time.monotonic() - begun < seconds:
            time.sleep(_EVERY_S)
            assert caller.poll() is None, "the caller goes on"
            for role, value in _sample(stack, caller).items():
                samples[role].append(value)
        assert caller.stdin is not None
        assert caller.stdout is not None
        caller.stdin.close()
        calls = int(caller.stdout.read())
        caller.wait(60)
        after = _after(stack)
    return {
        "seconds": round(seconds),
        "calls": calls,
        "what": {role: _trend(values) for role, values in samples.items()},
        "afterwards": after,
    }


def _caller(rig: Rig) -> subprocess.Popen[str]:
    environ = {
        "FLASHQ_REDIS_URL": rig.server.url,
        "FLASHQ_SECRET_KEY": SECRET.hex(),
        "FLASHQ_HOME": str(rig.server.folder / "caller"),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.endurance.caller"],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _sample(stack: Stack, caller: subprocess.Popen[str]) -> dict[str, float]:
    found = {
        "caller, MB": _pss(caller.pid),
        "host agent, MB": _pss(stack.host.pid),
        "autoscaler, MB": _pss(stack.autoscaler.pid),
        **_keys(stack),
    }
    for row in stack.workers(soaked).values():
        if row.get("fq_state") not in ("idle", "running"):
            continue
        supervisor = psutil.Process(int(row["pid"]))
        found["supervisor, MB"] = max(found.get("supervisor, MB", 0.0), _pss(supervisor.pid))
        for executor in supervisor.children():
            found["executor, MB"] = max(found.get("executor, MB", 0.0), _pss(executor.pid))
    return found


def _keys(stack: Stack) -> dict[str, float]:
    """Notes of completed calls are counted apart: at most 4,096 small sets an endpoint, which fill up slowly."""
    names = [snapshot.kind(snapshot.text(key)) for key in stack.rig.broker.redis().scan_iter(count=1000)]
    notes = names.count("spent")
    return {"broker's keys": float(len(names) - notes), "of notes on completed calls": float(notes)}


def _pss(pid: int) -> float:
    return float(psutil.Process(pid).memory_full_info().pss) / 1e6


def _trend(values: list[float]) -> dict[str, float]:
    """The median of the first fifth after the warm-up, of the last fifth, and the change between them."""
    settled = values[int(len(values) * _WARM_UP) :]
    part = max(1, len(settled) // 5)
    first, last = statistics.median(settled[:part]), statistics.median(settled[-part:])
    return {"first": round(first, 2), "last": round(last, 2), "change %": round((last / first - 1) * 100, 2)}


def _after(stack: Stack) -> dict[str, Any]:
    """What is left once workers have ended and results have expired."""
    wait_until(lambda: not stack.workers(soaked) and not stack.workers(soaked_retry), 60, "no worker left")
    time.sleep(_RESULTS_GONE_S)
    redis = stack.rig.broker.redis()
    left = snapshot.take(redis)
    lasting = Counter(snapshot.kind(key) for key, stored in left.items() if not stored.expires)
    return {
        "keys": len(left),
        "with a ttl": sum(stored.expires for stored in left.values()),
        "that stay, by kind": dict(sorted(lasting.items())),
        "leaks": snapshot.leaks(left),
    }
