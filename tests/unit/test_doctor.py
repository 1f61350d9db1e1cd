"""What `flashq doctor` thinks of what it finds: a table of facts and judgements."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from flashq.address import Address
from flashq.doctor import Finding, judge_broker, judge_fleet, judge_machine
from flashq.doctor.finding import State
from flashq.model.durability import Durability, Server
from flashq.store.queries_fleet import ListedEndpoint
from flashq.store.queries_health import Fleet, Process, Stray
from flashq.store.queries_queues import ListedQueue

GOOD = Server(
    kind="valkey",
    version="9.1.2",
    role="master",
    aof=True,
    fsync="always",
    policy="noeviction",
    maxmemory=0,
    used_memory=2**20,
    replicas=0,
)
HOST = Process(name="box", version="0.1.0", keys=("aa", "bb"), pythons=("3.11",), gpus=("L4", "L4"))
LEADER = Process(name="box:1", version="0.1.0", keys=("aa",))
SILENT = replace(LEADER, silent=True, silent_s=90.0)
FLEET = Fleet(hosts=(HOST,), leader=LEADER, standbys=1)


def server(**changes: Any) -> Server:
    return replace(GOOD, **changes)


def fleet(**changes: Any) -> Fleet:
    return replace(FLEET, **changes)


def host(**changes: Any) -> Fleet:
    return fleet(hosts=(replace(HOST, **changes),))


def endpoint(name: str = "embed", **changes: Any) -> ListedEndpoint:
    counts = dict.fromkeys(("initializing", "idle", "running", "throttled", "outdated", "unhealthy"), 0)
    fixed = ListedEndpoint(
        name=name,
        revision="r",
        workers_min=0,
        workers_max=1,
        paused=False,
        scaled=False,
        registered_at=None,
        previous=None,
        reason=None,
        since=None,
        **counts,
    )
    return replace(fixed, **changes)


def queue(**changes: Any) -> ListedQueue:
    rest = dict.fromkeys(("queued", "in_progress", "failed", "scheduled", "parked"), 0)
    return replace(ListedQueue(endpoint="embed", oldest_age_s=None, paused=False, **rest), **changes)


def address(url: str) -> Finding:
    return judge_broker.address(Address.parse(url))


def password(**facts: Any) -> Finding:
    return judge_broker.password(**{"asked_for": False, "elsewhere": False, "private": False, **facts})


def functions(**facts: Any) -> Finding:
    return judge_broker.functions(
        judge_broker.Functions(**{"ours": "f_1", "loaded": True, "others": (), **facts})
    )


def signing_key(*ids: str, problem: str = "", private: bool = False) -> Finding:
    return judge_machine.signing_key(judge_machine.Keys(ids, "/key", problem), private=private)


MEMORY, FSYNC, REPLICA = Durability
OPEN = judge_machine.OpenFile("/home/ann/key", 0o644)
TABLE: list[tuple[Finding, State, str]] = [
    (address("unix:///run/s"), State.OK, "unix socket"),
    (address("redis://127.0.0.1:6379"), State.OK, "this machine"),
    (address("rediss://broker:6379"), State.OK, "TLS"),
    (address("redis://broker:6379"), State.WARN, "would travel unencrypted to broker"),
    (address("rediss://broker:6379?ssl_cert_reqs=none"), State.WARN, "would not be verified"),
    (judge_broker.latency([0.1, 0.2, 9.0]), State.OK, r"0\.20 ms \(median of 3 round trips, longest 9\.00"),
    (judge_broker.latency([30.0, 31.0, 32.0]), State.WARN, "31.00 ms"),
    (judge_broker.version(GOOD), State.OK, "Valkey 9.1.2"),
    (judge_broker.version(server(kind="redis", version="6.2.14")), State.FAIL, "Redis 6.2.14"),
    (judge_broker.version(server(kind="")), State.UNKNOWN, "does not say"),
    (judge_broker.role(server(replicas=2)), State.OK, r"primary, 2 replica\(s\)"),
    (judge_broker.role(server(role="slave")), State.FAIL, "read-only replica"),
    (judge_broker.role(server(role="")), State.UNKNOWN, "INFO"),
    (judge_broker.disk(GOOD), State.OK, "succeeded"),
    (judge_broker.disk(server(writes_fail=True)), State.FAIL, "last write .* refuses calls"),
    (judge_broker.disk(server(snapshot_fails=True)), State.FAIL, "snapshot .* refuses calls"),
    (judge_broker.disk(server(rewrite_fails=True)), State.WARN, "the file grows"),
    (judge_broker.disk(server(kind="")), State.UNKNOWN, "INFO"),
    (judge_broker.durability(GOOD, None), State.OK, "^fsync:"),
    (judge_broker.durability(server(fsync="everysec"), None), State.OK, "^memory:.*synced every second"),
    (judge_broker.durability(server(fsync="everysec"), FSYNC), State.FAIL, "FLASHQ_DURABILITY=fsync"),
    (judge_broker.durability(server(aof=False), None), State.FAIL, "no append-only file"),
    (judge_broker.durability(server(aof=False), MEMORY), State.OK, "as FLASHQ_DURABILITY allows"),
    (judge_broker.durability(GOOD, REPLICA), State.FAIL, "no replica is connected"),
    (judge_broker.durability(server(replicas=1), REPLICA), State.OK, r"^fsync\+replica:"),
    (judge_broker.durability(server(aof=None, fsync=None), None), State.UNKNOWN, "does not say"),
    (judge_broker.eviction(GOOD, None), State.OK, "noeviction"),
    (judge_broker.eviction(server(policy="allkeys-lru"), None), State.FAIL, "jobs are dropped"),
    (judge_broker.eviction(server(policy="allkeys-lru"), MEMORY), State.OK, "allows"),
    (judge_broker.eviction(server(policy=None), None), State.UNKNOWN, "does not say"),
    (judge_broker.memory(GOOD), State.OK, "1 MiB used, no limit"),
    (judge_broker.memory(server(maxmemory=2**21)), State.OK, "50%"),
    (judge_broker.memory(server(maxmemory=2**20)), State.WARN, "100%"),
    (judge_broker.memory(server(machine_memory=2**21)), State.OK, "50% of the machine's, and no limit"),
    (judge_broker.memory(server(machine_memory=2**20)), State.WARN, "100% of the machine's"),
    (judge_broker.memory(server(machine_memory=2**20, maxmemory=2**21)), State.OK, "50% of its limit"),
    (judge_broker.memory(server(used_memory=None)), State.UNKNOWN, "does not say"),
    (password(asked_for=True), State.OK, "asked for"),
    (password(asked_for=None), State.UNKNOWN, "could not be tried"),
    (password(), State.WARN, "whoever reaches"),
    (password(elsewhere=True), State.FAIL, "whoever reaches"),
    (password(private=True), State.OK, "only this user"),
    (judge_broker.rights(server(fsync=None), elsewhere=True), State.OK, "may not read"),
    (judge_broker.rights(GOOD, elsewhere=True), State.WARN, "does not need"),
    (judge_broker.rights(GOOD, elsewhere=False), State.OK, "on this machine"),
    (judge_broker.rights(server(kind=""), elsewhere=False), State.UNKNOWN, "INFO"),
    (judge_broker.clock(-2.0), State.OK, "2.0 s behind"),
    (judge_broker.clock(3600.0), State.WARN, "3600.0 s ahead of"),
    (functions(), State.OK, "^f_1$"),
    (functions(others=("f_0",)), State.OK, "other versions: f_0"),
    (functions(loaded=False), State.WARN, "not there$"),
    (functions(loaded=False, others=("f_0",)), State.WARN, "not there; of other versions: f_0"),
    (functions(loaded=False, others=None), State.FAIL, "may not load"),
    (signing_key("aa", "bb"), State.OK, "aa signs, from /key; .*bb"),
    (signing_key(private=True), State.OK, "the first call makes one"),
    (signing_key(), State.WARN, "nothing can be called"),
    (signing_key(problem="/key: line 1: too short", private=True), State.FAIL, "line 1"),
    (judge_fleet.key_spread(("aa",), FLEET), State.OK, r"2 process\(es\) have aa"),
    (judge_fleet.key_spread(("bb", "aa"), FLEET), State.FAIL, "without bb, .*: box:1"),
    (judge_fleet.key_spread((), FLEET), State.SKIPPED, "no key here"),
    (judge_fleet.key_spread(("cc",), Fleet()), State.SKIPPED, "no process"),
    (judge_machine.secret_files([OPEN], 2), State.FAIL, r"/home/ann/key \(644\)"),
    (judge_machine.secret_files([], 2), State.OK, "2 file"),
    (judge_machine.home("/h", "", 5 * 2**30), State.OK, "5.0 GiB"),
    (judge_machine.home("/h", "", 2**30), State.WARN, "1.0 GiB"),
    (judge_machine.home("/h", "", 0), State.FAIL, "0.0 GiB"),
    (judge_machine.home("/h", "", None), State.UNKNOWN, "could not be found"),
    (judge_machine.home("/h", "/h cannot be written", 0), State.FAIL, "cannot be written"),
    (judge_machine.private_broker("/bin/s", ""), State.OK, "/bin/s"),
    (judge_machine.private_broker("", "no program"), State.FAIL, "no program"),
    (judge_machine.private_stack("ready", {}, "/h/logs"), State.OK, "run"),
    (judge_machine.private_stack("starting", {}, "/h/logs"), State.WARN, "it is starting"),
    (
        judge_machine.private_stack("ready", {"host": "exit code 7"}, "/h/logs"),
        State.FAIL,
        r"host \(exit code 7\)",
    ),
    (judge_machine.uv("/bin/uv", workers=True), State.OK, "/bin/uv"),
    (judge_machine.uv(None, workers=True), State.WARN, "could not install"),
    (judge_machine.uv(None, workers=False), State.SKIPPED, "runs no workers"),
    (judge_fleet.hosts(FLEET), State.OK, "box, 2 × L4"),
    (judge_fleet.hosts(host(silent=True)), State.FAIL, "none: .*silent: box"),
    (judge_fleet.hosts(Fleet()), State.FAIL, "none"),
    (judge_fleet.hosts(fleet(hosts=(HOST, Process(name="b", silent=True)))), State.WARN, "silent: b"),
    (judge_fleet.hosts(Fleet(workers=(HOST,))), State.WARN, "1 worker"),
    (judge_fleet.versions("0.1.0", FLEET), State.OK, "0.1.0"),
    (judge_fleet.versions("0.2.0", FLEET), State.WARN, "here 0.2.0; 2 of 0.1.0"),
    (judge_fleet.python("3.11", {"embed": "3.11"}, FLEET), State.OK, "3.11"),
    (judge_fleet.python("3.12", {}, FLEET), State.WARN, "3.12 here; hosts run 3.11$"),
    (judge_fleet.python("3.11", {"embed": "3.12"}, FLEET), State.WARN, r"of another: embed \(3.12\)"),
    (judge_fleet.python("3.12", {}, Fleet()), State.SKIPPED, "no host"),
    (judge_fleet.autoscaler(FLEET), State.OK, "box:1 leads, 1 stand"),
    (judge_fleet.autoscaler(fleet(leader=None)), State.FAIL, "none"),
    (judge_fleet.autoscaler(Fleet(workers=(HOST,))), State.WARN, "none"),
    (judge_fleet.autoscaler(fleet(leader=SILENT)), State.FAIL, "none for 90 s; box:1 was the last"),
    (judge_fleet.endpoints([endpoint()]), State.OK, "1 registered"),
    (
        judge_fleet.endpoints([endpoint(throttled=1, reason="no GPU")]),
        State.WARN,
        r"throttled: embed \(no GPU\)",
    ),
    (judge_fleet.endpoints([endpoint(unhealthy=1, reason="boom")]), State.FAIL, r"unhealthy: embed \(boom\)"),
    (judge_fleet.waiting([queue(queued=3, oldest_age_s=5.0)]), State.OK, "3 queued"),
    (
        judge_fleet.waiting([queue(queued=3, oldest_age_s=90.0)]),
        State.WARN,
        r"embed \(3, the oldest for 90 s\)",
    ),
    (
        judge_fleet.waiting([queue(queued=3, oldest_age_s=90.0, paused=True)]),
        State.WARN,
        r"paused.*embed \(3\)",
    ),
    (judge_fleet.dead_letters([queue(failed=2)]), State.OK, r"embed \(2\)"),
    (judge_fleet.dead_letters([queue()]), State.OK, "none"),
    (judge_fleet.parked_jobs([queue(parked=2)]), State.WARN, r"embed \(2\)"),
    (judge_fleet.parked_jobs([queue()]), State.OK, "none"),
    (judge_fleet.stray_workers([Stray("w", ("embed",))]), State.WARN, "w on embed"),
    (judge_fleet.stray_workers([]), State.OK, "none"),
]


@pytest.mark.parametrize(("finding", "state", "said"), TABLE, ids=lambda value: getattr(value, "check", None))
def test_judgement(finding: Finding, state: State, said: str) -> None:
    assert finding.state is state, finding
    assert re.search(said, finding.found), finding.found


def test_what_warns_or_fails_says_what_to_do_and_nothing_else_does() -> None:
    for finding, *_ in TABLE:
        if finding.state in (State.WARN, State.FAIL):
            assert finding.advice, finding
        elif finding.state is not State.UNKNOWN:
            assert not finding.advice, finding


def test_every_check_is_seen_good_and_otherwise() -> None:
    seen = {(finding.check, finding.state is State.OK) for finding, *_ in TABLE}
    checks = {check for check, _ in seen}

    assert {check for check, good in seen if good} == checks
    assert {check for check, good in seen if not good} == checks - {"dead letters"}
