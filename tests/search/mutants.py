"""Mistakes that somebody might make in the scripts, and changes that nobody can notice. Pure."""

from __future__ import annotations

from tests.search.mutant import Equivalent
from tests.search.mutants_calls import CALLS
from tests.search.mutants_fleet import FLEET
from tests.search.mutants_runs import RUNS

MUTANTS = (*RUNS, *CALLS, *FLEET)

EQUIVALENT = (
    Equivalent(
        "a queue beside is forgotten while jobs run from it",
        "P .. N.scheduled .. queue,\n    P .. N.wip .. queue,",
        "P .. N.scheduled .. queue,",
        "whatever puts a job back makes its queue known again (enqueue), and a running job stands in no queue",
        "priorities",
        1,
        2,
    ),
    Equivalent(
        "a job that began stays among those with a ttl",
        "if f.timed then redis.call('ZREM', P .. N.ttls .. ep, id) end",
        "",
        "reaping drops what began from there, and what began does not expire",
        "ttls",
        1,
        2,
    ),
    Equivalent(
        "the bell of a lost worker stays",
        "redis.call('DEL', P .. N.bell .. worker)\n  if redis.call('EXISTS', key) == 1",
        "if redis.call('EXISTS', key) == 1",
        "it expires within a minute, and no other worker has this name",
        "bells",
        1,
        2,
    ),
    Equivalent(
        "looking again makes an idle worker younger",
        "redis.call('ZADD', P .. N.idle .. ep, 'NX', at, worker)",
        "redis.call('ZADD', P .. N.idle .. ep, at, worker)",
        "which of several idle workers gets a job is a matter of speed alone",
        "bells",
        1,
        2,
    ),
    Equivalent(
        "an empty answer is remembered",
        "if #rows > 0 then  -- an empty",
        "if true then  -- an empty",
        "a claim sent again that got nothing may get nothing again: the worker looks every second",
        "bells",
        1,
        2,
    ),
)
