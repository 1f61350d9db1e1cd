"""What `flashq doctor` thinks of what it finds: a table of facts and judgements."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from flashq.address import Address
from flashq.doctor import Finding, judge
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
FLEET = Fleet(hosts=(HOST,), leader=LEADER, standbys=1)


def server(**changes: Any) -> Server:
    return replace(GOOD, **changes)


def fleet(**changes: Any) -> Fleet:
    return replace(FLEET, **changes)


def host(**changes: Any) -> Fleet:
    return fleet(hosts=(replace(HOST, **changes),))


def endpoint(name: str = "embed", **changes: Any) -> ListedEndpoint:
    counts = dict.fromkeys(("initializing", "idle", "running", "throttled", "outdated", "unhealthy"), 0)
    return replace(
        ListedEndpoint(
            name=name, revision="r", workers_min=0, workers_max=1, paused=False, reason=None, **counts
        ),
        **changes,
    )


def queue(**changes: Any) -> ListedQueue:
    rest = dict.fromkeys(("queued", "in_progress", "failed", "scheduled", "parked"), 0)
    return replace(ListedQueue(endpoint="embed", oldest_age_s=None, paused=False, **rest), **changes)


def address(url: str) -> Finding:
    return judge.address(Address.parse(url))


def password(**facts: Any) -> Finding:
    return judge.password(**{"asked_for": False, "elsewhere": False, "private": False, **facts})


MEMORY, FSYNC, REPLICA = Durability
OPEN = judge.OpenFile("/home/ann/key", 0o644)
TABLE: list[tuple[Finding, State, str]] = [
    (address("unix:///run/s"), State.OK, "unix socket"),
    (address("redis://127.0.0.1:6379"), State.OK, "this machine"),
    (address("rediss://broker:6379"), State.OK, "TLS"),
    (address("redis://broker:6379"), State.WARN, "would travel unencrypted to broker"),
    (address("rediss://broker:6379?ssl_cert_reqs=none"), State.WARN, "would not be verified"),
    (judge.latency([0.1, 0.2, 9.0]), State.OK, r"0\.20 ms \(median of 3 round trips, longest 9\.00"),
    (judge.latency([30.0, 31.0, 32.0]), State.WARN, "31.00 ms"),
    (judge.version(GOOD), State.OK, "Valkey 9.1.2"),
    (judge.version(server(kind="redis", version="6.2.14")), State.FAIL, "Redis 6.2.14"),
    (judge.version(server(kind="")), State.UNKNOWN, "does not say"),
    (judge.role(server(replicas=2)), State.OK, r"primary, 2 replica\(s\)"),
    (judge.role(server(role="slave")), State.FAIL, "read-only replica"),
    (judge.role(server(writes_fail=True)), State.FAIL, "last write"),
    (judge.durability(GOOD, None), State.OK, "^fsync:"),
    (judge.durability(server(fsync="everysec"), None), State.OK, "^memory:.*synced every second"),
    (judge.durability(server(fsync="everysec"), FSYNC), State.FAIL, "FLASHQ_DURABILITY=fsync"),
    (judge.durability(server(aof=False), None), State.FAIL, "no append-only file"),
    (judge.durability(server(aof=False), MEMORY), State.OK, "as FLASHQ_DURABILITY allows"),
    (judge.durability(GOOD, REPLICA), State.FAIL, "no replica is connected"),
    (judge.durability(server(replicas=1), REPLICA), State.OK, r"^fsync\+replica:"),
    (judge.durability(server(aof=None, fsync=None), None), State.UNKNOWN, "does not say"),
    (judge.eviction(GOOD, None), State.OK, "noeviction"),
    (judge.eviction(server(policy="allkeys-lru"), None), State.FAIL, "jobs are dropped"),
    (judge.eviction(server(policy="allkeys-lru"), MEMORY), State.OK, "allows"),
    (judge.eviction(server(policy=None), None), State.UNKNOWN, "does not say"),
    (judge.memory(GOOD), State.OK, "1 MiB used, no limit"),
    (judge.memory(server(maxmemory=2**21)), State.OK, "50%"),
    (judge.memory(server(maxmemory=2**20)), State.WARN, "100%"),
    (judge.memory(server(used_memory=None)), State.UNKNOWN, "does not say"),
    (password(asked_for=True), State.OK, "asked for"),
    (password(asked_for=None), State.UNKNOWN, "could not be tried"),
    (password(), State.WARN, "whoever reaches"),
    (password(elsewhere=True), State.FAIL, "whoever reaches"),
    (password(private=True), State.OK, "only this user"),
    (judge.rights(server(fsync=None), elsewhere=True), State.OK, "few of them"),
    (judge.rights(GOOD, elsewhere=True), State.WARN, "everything"),
    (judge.rights(GOOD, elsewhere=False), State.OK, "everything"),
    (judge.rights(server(kind=""), elsewhere=False), State.UNKNOWN, "INFO"),
    (judge.clock(-2.0), State.OK, "2.0 s behind"),
    (judge.clock(3600.0), State.WARN, "3600.0 s ahead of"),
    (judge.functions(judge.Functions("f_1", loaded=True)), State.OK, "^f_1$"),
    (judge.functions(judge.Functions("f_1", loaded=True, others=("f_0",))), State.OK, "other versions: f_0"),
    (judge.functions(judge.Functions("f_1", loaded=False, others=())), State.WARN, "not there"),
    (judge.functions(judge.Functions("f_1", loaded=False)), State.FAIL, "may not load"),
    (judge.signing_key(("aa", "bb"), "/key", private=False), State.OK, "aa signs, from /key; .*bb"),
    (judge.signing_key((), "", private=True), State.OK, "the first call makes one"),
    (judge.signing_key((), "", private=False), State.WARN, "nothing can be called"),
    (judge.key_spread(("aa",), FLEET), State.OK, r"2 process\(es\) have aa"),
    (judge.key_spread(("bb", "aa"), FLEET), State.FAIL, "without bb, .*: box:1"),
    (judge.key_spread((), FLEET), State.SKIPPED, "no key here"),
    (judge.key_spread(("cc",), Fleet()), State.SKIPPED, "no process"),
    (judge.secret_files([OPEN], 2), State.FAIL, r"/home/ann/key \(644\)"),
    (judge.secret_files([], 2), State.OK, "2 file"),
    (judge.home("/h", "", 5 * 2**30), State.OK, "5.0 GiB"),
    (judge.home("/h", "", 2**30), State.WARN, "1.0 GiB"),
    (judge.home("/h", "", 0), State.FAIL, "0.0 GiB"),
    (judge.home("/h", "", None), State.UNKNOWN, "could not be found"),
    (judge.home("/h", "/h cannot be written", 0), State.FAIL, "cannot be written"),
    (judge.private_broker("/bin/s", ""), State.OK, "/bin/s"),
    (judge.private_broker("", "no program"), State.FAIL, "no program"),
    (judge.uv("/bin/uv", workers=True), State.OK, "/bin/uv"),
    (judge.uv(None, workers=True), State.WARN, "could not install"),
    (judge.uv(None, workers=False), State.SKIPPED, "runs no workers"),
    (judge.hosts(FLEET), State.OK, "box, 2 × L4"),
    (judge.hosts(host(silent=True)), State.FAIL, "none: .*silent: box"),
    (judge.hosts(Fleet()), State.FAIL, "none"),
    (judge.hosts(fleet(hosts=(HOST, Process(name="b", silent=True)))), State.WARN, "silent: b"),
    (judge.versions("0.1.0", FLEET), State.OK, "0.1.0"),
    (judge.versions("0.2.0", FLEET), State.WARN, "here 0.2.0; 2 of 0.1.0"),
    (judge.python("3.11", FLEET), State.OK, "3.11"),
    (judge.python("3.12", FLEET), State.WARN, "3.12 here; hosts run 3.11"),
    (judge.python("3.12", Fleet()), State.SKIPPED, "no host"),
    (judge.autoscaler(FLEET), State.OK, "box:1 leads, 1 stand"),
    (judge.autoscaler(fleet(leader=None)), State.FAIL, "none"),
    (judge.autoscaler(fleet(leader=replace(LEADER, silent=True))), State.FAIL, "was the last"),
    (judge.endpoints([endpoint()]), State.OK, "1 registered"),
    (judge.endpoints([endpoint(throttled=1, reason="no GPU")]), State.WARN, r"throttled: embed \(no GPU\)"),
    (judge.endpoints([endpoint(unhealthy=1, reason="boom")]), State.FAIL, r"unhealthy: embed \(boom\)"),
    (judge.waiting([queue(queued=3, oldest_age_s=5.0)]), State.OK, "3 queued"),
    (judge.waiting([queue(queued=3, oldest_age_s=90.0)]), State.WARN, r"embed \(3, the oldest for 90 s\)"),
    (judge.waiting([queue(queued=3, oldest_age_s=90.0, paused=True)]), State.WARN, r"paused.*embed \(3\)"),
    (judge.dead_letters([queue(failed=2)]), State.OK, r"embed \(2\)"),
    (judge.dead_letters([queue()]), State.OK, "none"),
    (judge.parked_jobs([queue(parked=2)]), State.WARN, r"embed \(2\)"),
    (judge.parked_jobs([queue()]), State.OK, "none"),
    (judge.stray_workers([Stray("w", ("embed",))]), State.WARN, "w on embed"),
    (judge.stray_workers([]), State.OK, "none"),
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
