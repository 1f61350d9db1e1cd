"""Mistakes that somebody might make in the scripts, and which check has to notice each. Pure.

`old` stands once in the library; `new` takes its place. `caught_by` begins the name of the problem (judge.py).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Equivalent:
    """A textual change that no one can notice, and why."""

    name: str
    old: str
    new: str
    why: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """One textual change, and where it shows."""

    name: str
    old: str
    new: str
    caught_by: str
    scope: str
    jobs: int = 1
    workers: int = 1


MUTANTS = (
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
        "redis.call('XADD', results, 'MAXLEN', 10, '*', 'type', state == 'finished' and 1 or 2, 'worker_name', f.worker or '')",
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
    # -- callers -------------------------------------------------------------------------------------
    Mutant(
        "a submit sent again begins anew",
        "if known then return {'dup', known, at, 1} end",
        "",
        "I7",
        "outcomes",
    ),
    Mutant(
        "a submit wakes nobody", "cold = hand_over(P, ep, id, #ARGV[17], at)", "cold = 1", "woken", "outcomes"
    ),
    Mutant(
        "a key is always free", "local free = not f and done == ''", "local free = true", "answer", "keys", 2
    ),
    Mutant(
        "a failed job holds its key",
        "if f and TERMINAL[f.state] and f.state ~= 'finished' then free = f.mode ~= 'at_most_once' or not f.began end",
        "",
        "answer",
        "keys",
        2,
    ),
    Mutant(
        "a key stands for anything",
        "return {not same and 'conflict' or f and 'hit' or 'spent', job, at, 1}",
        "return {f and 'hit' or 'spent', job, at, 1}",
        "answer",
        "keys",
        2,
    ),
    Mutant(
        "a finished job frees its key",
        "redis.call('SET', idempotency, value .. ' done', 'KEEPTTL')",
        "",
        "answer",
        "keys",
        2,
    ),
    Mutant("no bound", "if count >= bound then return {'full', count, at, 1} end", "", "answer", "keys", 2),
    Mutant(
        "a cancelled job stays in its queue",
        "redis.call('LREM', P .. N.queue .. queue, 1, id)\n    redis.call('ZREM', P .. N.scheduled .. queue, id)",
        "redis.call('ZREM', P .. N.scheduled .. queue, id)",
        "I1",
        "outcomes",
    ),
    Mutant(
        "what is held aside is not cancelled",
        "for _, queue in ipairs({f.origin, f.ep .. HELD}) do",
        "for _, queue in ipairs({f.origin}) do",
        "I1",
        "held",
    ),
    Mutant(
        "an ended job is cancelled",
        "if TERMINAL[f.state] then return f.state end\nif f.state == 'queued'",
        "if f.state == 'queued'",
        "answer",
        "outcomes",
    ),
    Mutant(
        "the worker is not told to stop",
        "if f.worker and f.worker ~= '' then ring(P, f.worker, 'cancel:' .. id) end",
        "",
        "woken",
        "outcomes",
    ),
    Mutant(
        "a finished job is requeued",
        "if not TERMINAL[f.state] or f.state == 'finished' then return f.state end\nbegin_anew",
        "if not TERMINAL[f.state] then return f.state end\nbegin_anew",
        "I6",
        "ends",
    ),
    Mutant(
        "a requeued job expires all the same",
        "redis.call('PERSIST', job_key(P, id))\n  redis.call('HDEL'",
        "redis.call('HDEL'",
        "I1",
        "ends",
    ),
    Mutant(
        "a requeued job is still shown as ended",
        "redis.call('ZREM', P .. REGISTRY[f.state] .. f.origin, id)\nend\n\n-- Reopen",
        "end\n\n-- Reopen",
        "I1",
        "ends",
    ),
    Mutant(
        "a requeued job is still cancelled",
        "redis.call('HDEL', job_key(P, id), 'fq_cancel', ",
        "redis.call('HDEL', job_key(P, id), ",
        "answer",
        "ends",
    ),
    Mutant(
        "a requeued job keeps its losses",
        "'fq_done', 'fq_losses',\n    'fq_retries'",
        "'fq_done',\n    'fq_retries'",
        "I5",
        "ends",
    ),
    Mutant(
        "a requeued job keeps its deadline",
        "'fq_ended', 'fq_ttl_at', 'fq_timed', ",
        "'fq_ended', ",
        "I8",
        "ttls",
    ),
    Mutant(
        "a requeue opens no generation",
        "'worker_name', '', 'fq_gen', f.gen + 1)",
        "'worker_name', '')",
        "I6",
        "ends",
    ),
    Mutant(
        "a deleted job leaves its result",
        "redis.call('DEL', job_key(P, id), P .. N.results .. id, P .. N.logs .. id)",
        "redis.call('DEL', job_key(P, id), P .. N.logs .. id)",
        "leak",
        "ends",
    ),
    Mutant(
        "what runs is deleted",
        "if not TERMINAL[f.state] then return f.state end\nforget",
        "forget",
        "answer",
        "ends",
    ),
    Mutant(
        "a purge forgets what is scheduled",
        "local due = redis.call('ZPOPMIN', P .. N.scheduled .. queue)",
        "local due = {}",
        "answer",
        "delays",
    ),
    # -- claims and workers --------------------------------------------------------------------------
    Mutant("a claim sent again takes more", "if w[1] == nonce then", "if false then", "I7", "outcomes", 2, 1),
    Mutant(
        "a draining worker claims",
        "if count > 0 and not draining then",
        "if count > 0 then",
        "room",
        "drains",
    ),
    Mutant(
        "a paused endpoint is claimed from",
        "if e[1] and e[2] ~= '1' then rows",
        "if e[1] then rows",
        "room",
        "pauses",
    ),
    Mutant(
        "what is past its ttl is claimed", "elseif expired(f, at) then", "elseif false then", "order", "ttls"
    ),
    Mutant(
        "the low priority goes first",
        "redis.call('ZREVRANGE', P .. N.endpoint_queues .. ep, 0, -1, 'WITHSCORES')",
        "redis.call('ZRANGE', P .. N.endpoint_queues .. ep, 0, -1, 'WITHSCORES')",
        "order",
        "priorities",
        2,
        1,
    ),
    Mutant(
        "the younger goes first",
        "if since <= age then oldest",
        "if age == math.huge or since >= age then oldest",
        "order",
        "revisions",
        2,
        1,
    ),
    Mutant(
        "the last is first",
        "local id = redis.call('LPOP', P .. N.queue .. queue)\n      if not id then break end\n      local f = admit",
        "local id = redis.call('RPOP', P .. N.queue .. queue)\n      if not id then break end\n      local f = admit",
        "order",
        "outcomes",
        2,
        1,
    ),
    Mutant(
        "a worker is handed more than it has room for",
        "if room > 0 then\n    redis.call('HSET', key, 'fq_room', room)",
        "if room >= 0 then\n    redis.call('HSET', key, 'fq_room', room)",
        "room",
        "bells",
        2,
        1,
    ),
    Mutant(
        "a ring that was lost is lost",
        "if not known[id] and field(P, id, 'worker_name') == worker then",
        "if false then",
        "answer",
        "bells",
    ),
    Mutant(
        "a draining worker is still among the idle",
        "redis.call('ZREM', P .. N.idle .. ep, worker)\nring(P, worker, 'drain')",
        "ring(P, worker, 'drain')",
        "answer",
        "drains",
    ),
    Mutant(
        "a busy worker agrees to go",
        "if ARGV[4] ~= '1' and (w[4] == 'running' or tonumber(w[5] or 0) > 0) then return 'busy' end",
        "",
        "answer",
        "drains",
    ),
    Mutant(
        "one worker too many",
        "if redis.call('ZCARD', workers) >= tonumber(ARGV[7]) then return 'full' end",
        "",
        "room",
        "drains",
        1,
        2,
    ),
    Mutant(
        "who led before may order",
        "if term == newest then return nil end",
        "if true then return nil end",
        "I4",
        "drains",
    ),
    Mutant(
        "one that was given up comes back",
        "if ARGV[5] == '1' and (w[1] ~= ep or w[2]) then return {at, 'gone', 0} end",
        "",
        "answer",
        "drains",
    ),
    Mutant(
        "a lost worker stays among the idle",
        "redis.call('ZREM', P .. N.idle .. ep, worker)\n  redis.call('SREM', P .. N.rq_workers, key)",
        "redis.call('SREM', P .. N.rq_workers, key)",
        "leak",
        "bells",
    ),
    Mutant(
        "RQ still lists a lost worker", "redis.call('SREM', P .. N.rq_workers, key)", "", "leak", "outcomes"
    ),
    Mutant(
        "a step ends the jobs of others",
        "timing = ARGV[i + 7], worker = ARGV[3]}",
        "timing = ARGV[i + 7], worker = ''}",
        "answer",
        "steps",
        1,
        2,
    ),
    Mutant(
        "a step ends before it begins",
        "started[n] = begin(P, ARGV[i], ARGV[i + 1], at - tonumber(ARGV[i + 2]), ARGV[3])",
        "started[n] = 'ok'",
        "answer",
        "steps",
    ),
    # -- reaping -------------------------------------------------------------------------------------
    Mutant(
        "a lease that ended is only forgotten",
        "silent[#silent + 1] = {id, f}",
        "redis.call('ZREM', P .. N.leases .. ep, id)",
        "I1",
        "outcomes",
    ),
    Mutant(
        "silent workers stay", "close_worker(P, ep, worker, 'silent for a lease', at)", "", "I8", "outcomes"
    ),
    Mutant(
        "no grace after a silence of everybody",
        "if at >= spared or spared > at + 2 * lease then",
        "if true then",
        "grace",
        "silence",
    ),
    Mutant(
        "a grace without an end",
        "if at < seen - 1000 or at > seen + 5000 then",
        "if true then",
        "I8",
        "silence",
    ),
    Mutant(
        "a clock set back makes leases of hours",
        "redis.call('ZADD', P .. kind .. ep, at + lease, member)",
        "",
        "I8",
        "silence",
    ),
    Mutant(
        "nothing expires",
        "if f and (f.state == 'queued' or f.state == 'scheduled') and expired(f, at) then",
        "if false then",
        "I8",
        "ttls",
    ),
    Mutant(
        "what expired stays in its queue",
        "withdraw(P, id, f)\n    conclude(P, id, f, 'timed_out'",
        "conclude(P, id, f, 'timed_out'",
        "I1",
        "ttls",
    ),
    Mutant(
        "a claim ends a ttl",
        "if not f or f.state ~= 'claimed' then redis.call('ZREM', P .. N.ttls .. ep, id) end",
        "redis.call('ZREM', P .. N.ttls .. ep, id)",
        "I8",
        "ttls",
    ),
    Mutant(
        "a ttl nobody watches",
        "redis.call('ZADD', P .. N.ttls .. ep, at + delay + ttl, id)",
        "",
        "I8",
        "ttls",
    ),
    Mutant(
        "the ttl runs during the delay",
        "set('fq_ttl_at', at + delay + ttl)",
        "set('fq_ttl_at', at + ttl)",
        "ttl",
        "delays",
    ),
    Mutant("what began expires", "f.ttl_at <= at and not f.began end", "f.ttl_at <= at end", "ttl", "ttls"),
    Mutant(
        "what is promoted stays scheduled",
        "redis.call('ZREM', P .. N.scheduled .. queue, id)\n    local f = read(P, id)",
        "local f = read(P, id)",
        "I1",
        "delays",
    ),
    Mutant(
        "nothing is promoted",
        "if f and f.ep == ep and f.state == 'scheduled' then\n      enqueue",
        "if false then\n      enqueue",
        "I1",
        "delays",
    ),
    Mutant(
        "nobody hears of what is promoted",
        "local cold = ring_idle(P, ep)",
        "local cold = 1",
        "woken",
        "delays",
    ),
    Mutant(
        "a queue beside is not made known",
        "redis.call('ZADD', P .. N.endpoint_queues .. ep, priority or rank(P, id), origin)",
        "",
        "I8",
        "priorities",
    ),
    Mutant(
        "a delayed job's queue beside is not made known",
        "if queue ~= ep then redis.call('ZADD', P .. N.endpoint_queues .. ep, ARGV[7], queue) end",
        "",
        "I8",
        "priorities",
    ),
    # -- restarts, pauses ----------------------------------------------------------------------------
    Mutant(
        "a restart runs again what may run once",
        "if f.cancel or (f.mode == 'at_most_once' and f.state == 'running') then\n    lose",
        "if f.cancel then\n    lose",
        "I5",
        "restarts",
    ),
    Mutant(
        "workers outlive a restart",
        "close_worker(P, ep, worker, 'the broker was restarted', at)",
        "",
        "answer",
        "restarts",
    ),
    Mutant("held jobs are scheduled all the same", "redis.call('DEL', due)", "", "I1", "held"),
    Mutant(
        "held jobs come back last",
        "enqueue(P, id, ep, f.origin, nil, true)\n    ring_idle(P, ep)\n    back",
        "enqueue(P, id, ep, f.origin, nil, false)\n    ring_idle(P, ep)\n    back",
        "order",
        "held",
        2,
        1,
    ),
    Mutant(
        "an undeploy forgets what waits",
        "if redis.call('LLEN', P .. N.queue .. queue) > 0 then return 'busy' end",
        "",
        "answer",
        "keys",
    ),
)

EQUIVALENT = (
    Equivalent(
        "a queue beside is forgotten while jobs run from it",
        "P .. N.scheduled .. queue,\n    P .. N.wip .. queue,",
        "P .. N.scheduled .. queue,",
        "whatever puts a job back makes its queue known again (enqueue), and a running job stands in no queue",
    ),
    Equivalent(
        "a job that began stays among those with a ttl",
        "if f.timed then redis.call('ZREM', P .. N.ttls .. ep, id) end",
        "",
        "reaping drops what began from there, and what began does not expire",
    ),
    Equivalent(
        "the bell of a lost worker stays",
        "redis.call('DEL', P .. N.bell .. worker)\n  if redis.call('EXISTS', key) == 1",
        "if redis.call('EXISTS', key) == 1",
        "it expires within a minute, and no other worker has this name",
    ),
    Equivalent(
        "looking again makes an idle worker younger",
        "redis.call('ZADD', P .. N.idle .. ep, 'NX', at, worker)",
        "redis.call('ZADD', P .. N.idle .. ep, at, worker)",
        "which of several idle workers gets a job is a matter of speed alone",
    ),
    Equivalent(
        "an empty answer is remembered",
        "if #rows > 0 then  -- an empty",
        "if true then  -- an empty",
        "a claim sent again that got nothing may get nothing again: the worker looks every second",
    ),
)
