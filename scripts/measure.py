"""The numbers that decision records quote: `python -m scripts.measure` writes docs/decisions/measured.json.

What is compared runs in turns on one private broker, in one run. Absolute numbers are of the machine they were
taken on; what the records argue with are the ratios. Speed as users meet it is the business of benchmarks/.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
import rq
from rq import Queue, SimpleWorker

import flashq
from flashq import Endpoint
from flashq.model.envelope import Header, open_sealed, seal
from flashq.model.keyring import Direction, Keyring
from flashq.store.line import Line, pack
from scripts.measure_rq import overwritten
from tests.rig import SECRET, Rig, rig

if TYPE_CHECKING:
    from collections.abc import Callable

RECORD = Path(__file__).resolve().parents[1] / "docs" / "decisions" / "measured.json"
Numbers = dict[str, float]


@Endpoint(name="measured", cpu="any", workers=(0, 1))
def measured(value: object = None) -> object:
    """Gives back what it got."""
    return value


def info(connection: redis.Redis, section: str) -> dict[str, Any]:
    found: dict[str, Any] = connection.info(section)
    return found


def memory_of_jobs(made: Rig, connection: redis.Redis, count: int = 2000) -> Numbers:
    """Bytes that a waiting minimal job takes: of ours, of stock RQ."""
    connection.config_set("appendonly", "no")  # its buffers would count as memory in use
    made.register(measured)
    before = info(connection, "memory")["used_memory"]
    jobs = [measured() for _ in range(count)]
    jobs[-1]._call.acknowledged.result(60)  # noqa: SLF001 — measured from inside
    after = info(connection, "memory")["used_memory"]
    key = made.broker.keys.of("job", jobs[0].id)
    found = {
        "job, all of it": (after - before) / count,
        "job's hash (MEMORY USAGE)": made.broker.execute("MEMORY", "USAGE", key, "SAMPLES", 0),
        "of it the signed call": len(made.broker.execute("HGET", key, "fq_call")),
        "of it RQ's data field": len(made.broker.execute("HGET", key, "data")),
    }
    connection.flushdb()
    queue = Queue("stock", connection=connection)
    queue.enqueue(len, [])
    before = info(connection, "memory")["used_memory"]
    for _ in range(count):
        queue.enqueue(len, [])
    found["a stock RQ job, all of it"] = (info(connection, "memory")["used_memory"] - before) / count
    connection.flushdb()
    return found


def commands_per_job(made: Rig, connection: redis.Redis, count: int = 300) -> dict[str, Numbers]:
    """Commands, requests and server CPU from taking a job to its end, submitting included."""
    worker = made.ready_worker(measured)
    measured.remote()
    found = {
        "flashq, one call at a time": _counted(
            connection, lambda: [measured.remote() for _ in range(count)], count
        )
    }
    many = [measured] * (10 * count)
    found["flashq, map"] = _counted(connection, lambda: list(measured.map(many, progress=False)), 10 * count)
    worker.close()
    connection.flushdb()
    found["RQ, SimpleWorker (no fork)"] = _stock(connection, count)
    return found


def _counted(connection: redis.Redis, run: Callable[[], object], count: int) -> Numbers:
    connection.config_resetstat()
    cpu = _server_cpu(connection)
    run()
    spent = _server_cpu(connection) - cpu
    calls = {
        name.removeprefix("cmdstat_"): row["calls"] for name, row in info(connection, "commandstats").items()
    }
    ours = sum(calls.pop(name, 0) for name in ("info", "config|resetstat"))
    requests = calls.get("fcall", 0) + calls.get("blpop", 0)
    inner = sum(calls.values()) - calls.get("fcall", 0)
    assert ours, "the statistics are there"
    return {"commands": inner / count, "requests": requests / count, "server CPU µs": spent / count * 1e6}


def _server_cpu(connection: redis.Redis) -> float:
    cpu = info(connection, "cpu")
    return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])


def _stock(connection: redis.Redis, count: int) -> Numbers:
    """The same of stock RQ; its requests are counted as they leave redis-py, since it sends pipelines."""
    sent = 0
    before: Callable[..., None] = redis.connection.AbstractConnection.send_packed_command

    def counting(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal sent
        sent += 1
        before(self, *args, **kwargs)

    queue = Queue("stock", connection=connection)
    counted = redis.Redis.from_url(
        f"unix://{connection.connection_pool.connection_kwargs['path']}", protocol=2
    )
    redis.connection.AbstractConnection.send_packed_command = counting  # type: ignore[method-assign]
    try:

        def run() -> None:
            for _ in range(count):
                queue.enqueue(len, [])
            SimpleWorker([queue], connection=counted).work(burst=True, logging_level="ERROR")

        numbers = _counted(connection, run, count)
    finally:
        redis.connection.AbstractConnection.send_packed_command = before  # type: ignore[method-assign]
    return {**numbers, "requests": sent / count}


def imports(count: int = 15) -> Numbers:
    """CPU milliseconds that an import adds to a bare `python -c pass`: medians, in turns."""
    names = [
        "flashq",
        "redis",
        "rq",
        "pydantic",
        "pydantic_settings",
        "cloudpickle",
        "click",
        "cryptography.fernet",
    ]
    found: dict[str, list[float]] = {
        "pass": [],
        **{name: [] for name in names if find_spec(name.partition(".")[0])},
    }
    for _ in range(count):
        for name, times in found.items():
            before = _children_cpu()
            subprocess.run([sys.executable, "-c", "pass" if name == "pass" else f"import {name}"], check=True)
            times.append(_children_cpu() - before)
    bare = statistics.median(found.pop("pass"))
    return {f"import {name}": (statistics.median(times) - bare) * 1e3 for name, times in found.items()}


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def lines(url: str, connection: redis.Redis, count: int = 20_000) -> Numbers:
    """CPU microseconds of this process for a request and its reply of 100 bytes."""
    line = Line(url)
    payload = "x" * 100
    request = pack("ECHO", payload)

    def ours() -> None:
        line.call(request)

    def theirs() -> None:
        connection.echo(payload)

    found = {"redis-py's client": _cpu_us(theirs, count), "a Line, parsed by hiredis": _cpu_us(ours, count)}
    line.close()
    return found


def signing(count: int = 5000) -> Numbers:
    """Microseconds to sign, and to verify, an envelope with a payload of 1 kB."""
    keys, payload = Keyring([SECRET]), os.urandom(1024)
    header = Header(direction=Direction.CALL, endpoint="measured", job="measured-1", revision="0" * 64)
    raw = seal(header, payload, keys)
    return {
        "sign": _cpu_us(lambda: seal(header, payload, keys), count),
        "verify": _cpu_us(
            lambda: open_sealed(raw, keys, direction=Direction.CALL, endpoint="measured"), count
        ),
    }


def _cpu_us(run: Callable[[], object], count: int) -> float:
    rounds = []
    for _ in range(5):
        started = time.process_time()
        for _ in range(count // 5):
            run()
        rounds.append((time.process_time() - started) / (count // 5) * 1e6)
    return statistics.median(rounds)


def code_changes(made: Rig, count: int = 10) -> Numbers:
    """Milliseconds of a call: on a warm worker with its code, with other code, and where a worker has to start."""
    worker = made.ready_worker(measured)
    measured.remote()
    warm = [_took(measured.remote) for _ in range(count)]
    changed = []
    for number in range(count):
        space: dict[str, Any] = {"__name__": "__main__"}
        exec(f"def measured(value=None):\n    return {number}\n", space)  # noqa: S102 — our own text
        fresh = Endpoint(name="measured-code", cpu="any")(space["measured"])
        if number == 0:
            made.ready_worker(fresh)
            fresh.remote()
        changed.append(_took(fresh.remote))
    worker.close()
    started = []
    for _ in range(3):
        begun = time.perf_counter()
        worker = made.ready_worker(measured)
        started.append((time.perf_counter() - begun) * 1e3)
        worker.close()
    return {
        "warm worker, same code": statistics.median(warm),
        "warm worker, other code": statistics.median(changed[1:]),
        "a worker started by hand, until idle": statistics.median(started),
    }


def _took(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return (time.perf_counter() - started) * 1e3


def main() -> int:
    """Measure all, write the record."""
    found: dict[str, Any] = {
        "about": {
            "date": datetime.now(UTC).date().isoformat(),
            "flashq": flashq.__version__,
            "rq": rq.__version__,
            "redis-py": redis.__version__,
            "python": platform.python_version(),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "load average": round(os.getloadavg()[0], 1),
        },
        "imports": imports(),
        "signing": signing(),
    }
    parts: dict[str, Callable[[Rig, redis.Redis], Any]] = {
        "memory": memory_of_jobs,
        "commands": commands_per_job,
        "overwritten": overwritten,
    }
    for name, measure in parts.items():
        with rig(lease_s=15.0) as made, contextlib.closing(made.broker.redis()) as connection:
            found["about"]["broker"] = "Valkey " + str(info(connection, "server").get("valkey_version", "?"))
            found[name] = measure(made, connection)
    with rig(lease_s=15.0) as made, contextlib.closing(made.broker.redis()) as connection:
        found["lines"] = lines(made.server.url, connection)
    with rig(lease_s=15.0) as made:
        found["code"] = code_changes(made)
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(json.dumps(found, indent=1, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
