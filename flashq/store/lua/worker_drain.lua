-- DRAIN: a worker shall take nothing more and end. Without force only an idle one agrees: it may just have been
-- given a job, and then it lives.
-- KEYS  1 the worker's hash
-- ARGV  1 prefix  2 endpoint  3 worker  4 '1': also a busy one (it finishes what it holds)  5 why
--       6 the leader's term, '' for a host
-- Returns 'ok' (also when draining already), 'busy' or 'unknown'; DEPOSED.
local P, ep, worker = ARGV[1], ARGV[2], ARGV[3]
local refusal = deposed(P, ep, ARGV[6])
if refusal then return refusal end
local key = P .. N.worker .. worker
local w = redis.call('HMGET', key, 'fq_ep', 'death', 'fq_drain', 'fq_state', 'fq_jobs')
if w[1] ~= ep or w[2] then return 'unknown' end
if w[3] == '1' then return 'ok' end
if ARGV[4] ~= '1' and (w[4] == 'running' or tonumber(w[5] or 0) > 0) then return 'busy' end
redis.call('HSET', key, 'fq_drain', 1, 'fq_drain_why', ARGV[5])
redis.call('ZREM', P .. N.idle .. ep, worker)
ring(P, worker, 'drain')
note(P, ep, 'worker-drained', worker, ARGV[5])
return 'ok'
