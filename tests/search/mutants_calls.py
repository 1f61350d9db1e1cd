"""Mistakes in what callers ask for: submit, cancel, requeue, delete. Pure."""

from __future__ import annotations

from tests.search.mutant import Mutant

CALLS = (
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
        "redis.call('DEL', job_key(P, id), P .. N.results .. id, P .. N.logs .. id, P .. N.chunks .. id)",
        "redis.call('DEL', job_key(P, id), P .. N.logs .. id, P .. N.chunks .. id)",
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
)
