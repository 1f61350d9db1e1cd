"""Mistakes in what becomes of a run: leases and fences, outcomes, losses. Pure."""

from __future__ import annotations

from tests.search.mutant import Mutant

RUNS = (
    # -- leases and fences ---------------------------------------------------------------------------
    Mutant("any fence will do", "and f.fence == fence\n", "\n", "I4", "outcomes"),
    Mutant(
        "any worker will do",
        "and (not worker or worker == '' or f.worker == worker)",
        "",
        "I4",
        "outcomes",
        1,
        2,
    ),
    Mutant(
        "what waits counts as held",
        "(f.state == 'claimed' or f.state == 'running') and ",
        "",
        "I4",
        "outcomes",
    ),
    Mutant("the fence stays", "int(tonumber(f.fence) + 1)", "int(tonumber(f.fence))", "I2", "outcomes"),
    Mutant(
        "a claim makes no lease",
        "redis.call('ZADD', P .. N.leases .. ep, at + lease_ms, id)",
        "",
        "I1",
        "outcomes",
    ),
    Mutant(
        "a claim shows RQ nothing",
        "redis.call('ZADD', P .. N.wip .. f.origin, '+inf', id .. ':' .. fence)",
        "",
        "I1",
        "outcomes",
    ),
    Mutant(
        "a lease outlives its end",
        "if redis.call('ZREM', P .. N.leases .. f.ep, id) == 0 then return false end",
        "",
        "I1",
        "outcomes",
    ),
    Mutant(
        "the mirror of a lease outlives it",
        "redis.call('ZREM', P .. N.wip .. f.origin, id .. ':' .. f.fence)",
        "",
        "I1",
        "outcomes",
    ),
    Mutant(
        "renewal renews no lease",
        "redis.call('ZADD', P .. N.leases .. ep, 'XX', until_, id)",
        "",
        "answer",
        "outcomes",
    ),
    Mutant(
        "renewal renews no worker",
        "redis.call('ZADD', P .. N.endpoint_workers .. ep, 'XX', until_, worker)",
        "",
        "answer",
        "outcomes",
    ),
    Mutant(
        "one that is given up may renew",
        "if w[1] ~= ep or w[3] then return {at, 'gone', {}} end",
        "",
        "answer",
        "outcomes",
    ),
    Mutant(
        "crash asks for no lease",
        "if not live(f, ARGV[3], ARGV[7]) then return 'stale' end",
        "",
        "I4",
        "outcomes",
    ),
    Mutant(
        "one that is given up may claim",
        "if w[4] ~= ep or w[6] then",
        "if w[4] ~= ep then",
        "answer",
        "drains",
    ),
    # -- outcomes ------------------------------------------------------------------------------------
    Mutant(
        "a resent outcome is refused",
        "if f.done == fence and f.fence == fence and (o.worker == '' or f.worker == '' or f.worker == o.worker) then",
        "if false then",
        "answer",
        "outcomes",
    ),
    Mutant(
        "an end under no registry",
        "redis.call('ZADD', P .. REGISTRY[state] .. f.origin, math.floor(at / 1000) + ttl_s, id)",
        "",
        "I1",
        "outcomes",
    ),
    Mutant(
        "an end without a result",
        "redis.call('XADD', results, 'MAXLEN', 10, '*', 'type', state == 'finished' and 1 or 2, "
        "'worker_name', f.worker or '')",
        "",
        "I3",
        "outcomes",
    ),
    Mutant(
        "two results for one end",
        "redis.call('EXPIRE', results, ttl_s)",
        "redis.call('XADD', results, '*', 'type', 2)",
        "I3",
        "outcomes",
    ),
    Mutant(
        "an end that is kept for ever",
        "redis.call('EXPIRE', key, ttl_s)\n  redis.call('HINCRBY'",
        "redis.call('HINCRBY'",
        "leak",
        "outcomes",
    ),
    Mutant(
        "nobody is told",
        "publish(P, id, f.watch, state, f.fence, reason, warmth(f), f.gen, outcome)",
        "",
        "told",
        "outcomes",
    ),
    Mutant(
        "what was finished without a start counts no attempt",
        "if f.state == 'claimed' and (o.state == 'retry' or o.state == 'finished') then",
        "if false then",
        "I5",
        "outcomes",
    ),
    Mutant(
        "a retry escapes its cancel",
        "if f.cancel and o.state ~= 'finished' and o.state ~= 'cancelled' then",
        "if f.cancel and o.state ~= 'finished' and o.state ~= 'cancelled' and o.state ~= 'retry' then",
        "answer",
        "retries",
    ),
    Mutant("a retry is not counted", "'fq_retries', retries + 1)", "'fq_retries', retries)", "I5", "retries"),
    Mutant(
        "a later retry waits nowhere",
        "redis.call('ZADD', P .. N.scheduled .. f.origin, (at + o.delay_ms) / 1000, id)",
        "",
        "I1",
        "retries",
    ),
    Mutant(
        "a start counts no attempt",
        "'fq_began', began, 'fq_attempts', f.attempts + 1)",
        "'fq_began', began)",
        "I5",
        "outcomes",
    ),
    Mutant(
        "a claim that begins counts no attempt",
        "'fq_attempts', f.attempts + 1, 'fq_began', at)",
        "'fq_began', at)",
        "I5",
        "outcomes",
    ),
    # -- losses --------------------------------------------------------------------------------------
    Mutant(
        "losses are not counted", "local losses = f.losses + 1", "local losses = f.losses", "I5", "outcomes"
    ),
    Mutant(
        "one loss too many",
        "if losses >= f.max_losses then",
        "if losses > f.max_losses then",
        "I5",
        "outcomes",
    ),
    Mutant(
        "what had not begun counts as lost",
        "if f.state == 'running' then\n    local losses",
        "if true then\n    local losses",
        "I5",
        "outcomes",
    ),
    Mutant(
        "a loss runs again what may run once",
        "if f.mode == 'at_most_once' then\n      conclude_once",
        "if false then\n      conclude_once",
        "I5",
        "once",
    ),
    Mutant(
        "a release runs again what may run once",
        "if f.mode == 'at_most_once' and f.state == 'running' and ARGV[5] == '1'",
        "if false",
        "I5",
        "once",
    ),
    Mutant(
        "a lost job forgets that it was cancelled",
        "unlease(P, id, f)\n  if f.cancel then\n    conclude(P, id, f, 'cancelled', 'cancelled', 'cancelled; its",
        "unlease(P, id, f)\n  if false then\n    conclude(P, id, f, 'cancelled', 'cancelled', 'cancelled; its",
        "answer",
        "outcomes",
    ),
    Mutant(
        "a lost job goes to the back",
        "put_back(P, id, f, true, f.state == 'running' and at)",
        "put_back(P, id, f, false, f.state == 'running' and at)",
        "order",
        "outcomes",
        2,
        1,
    ),
    Mutant(
        "nobody hears of what came back",
        "enqueue(P, id, f.ep, f.origin, nil, front)\n  ring_idle(P, f.ep)",
        "enqueue(P, id, f.ep, f.origin, nil, front)",
        "woken",
        "retries",
    ),
    Mutant(
        "who leaves takes its jobs along", "recover_held(P, ep, worker, ARGV[4], at)", "", "I8", "outcomes"
    ),
    Mutant(
        "a release counts",
        "if f.state == 'running' then "
        "redis.call('HSET', job_key(P, id), 'fq_attempts', math.max(0, f.attempts - 1)) end",
        "",
        "I5",
        "outcomes",
    ),
    Mutant(
        "a release escapes its cancel",
        "unlease(P, id, f)\nif f.cancel then",
        "unlease(P, id, f)\nif false then",
        "answer",
        "outcomes",
    ),
)
