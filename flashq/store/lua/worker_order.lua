-- ORDER: book a worker and tell its host to start it, so that it counts from the moment it is wanted.
-- KEYS  1 the worker's hash
-- ARGV  1 prefix  2 endpoint  3 worker  4 host  5 revision  6 environment digest  7 most workers the endpoint may
--       have  8 how long it may take to report (ms)  9 the signed command  10 the leader's term  11… fields and values of its hash
-- Returns 'ok' (also when resent), 'full' (there are that many), 'unknown' (no such endpoint), 'silent' (the host's
--   heartbeat is overdue, which the one who ordered cannot have known), or 'held' (a GPU is another's); DEPOSED.
local P, ep, worker, at = ARGV[1], ARGV[2], ARGV[3], now()
local refusal = deposed(P, ep, ARGV[10])
if refusal then return refusal end
local key = P .. N.worker .. worker
if redis.call('EXISTS', key) == 1 then return 'ok' end
local e = redis.call('HMGET', P .. N.endpoint .. ep, 'revision', 'resources', 'needs')
if not e[1] then return 'unknown' end
local heard_until = redis.call('ZSCORE', P .. N.hosts, ARGV[4])
if heard_until and tonumber(heard_until) <= at then return 'silent' end
local workers = P .. N.endpoint_workers .. ep
if redis.call('ZCARD', workers) >= tonumber(ARGV[7]) then return 'full' end
local gpus = argument(ARGV, 11, 'fq_gpus')
if gpus and hold_gpus(P, gpus, worker, ep, ARGV[4], at) then return 'held' end
redis.call('HSET', key, 'birth', iso(at), 'last_heartbeat', iso(at), 'queues', ep, 'state', 'started',
  'fq_ep', ep, 'fq_state', 'initializing', 'fq_since', at, 'fq_ordered', at, 'fq_beat', at, 'fq_host', ARGV[4],
  'fq_rev', ARGV[5], 'fq_env', ARGV[6], 'fq_jobs', 0)
-- What it takes of its host; where that has changed since the order was decided, it is fit for older jobs alone.
if e[3] then redis.call('HSET', key, 'fq_needs', e[2] == ARGV[6] and e[3] or 'other') end
if #ARGV > 10 then redis.call('HSET', key, unpack(ARGV, 11)) end
redis.call('EXPIRE', key, RECORD_KEPT)
redis.call('ZADD', workers, at + tonumber(ARGV[8]), worker)
command(P, ARGV[4], ARGV[9])
local why = argument(ARGV, 11, 'fq_why')
note(P, ep, 'worker-ordered', worker, 'on ' .. ARGV[4] .. (why and ': ' .. why or ''))
return 'ok'
