-- JOIN: a worker reports in: a booked one for the first time, or one started by hand (`flashq worker NAME`).
-- KEYS  1 the worker's hash
-- ARGV  1 prefix  2 endpoint  3 worker  4 lease (ms)  5 '1': it was booked  6… fields and values of its hash
-- Returns {now, verdict, ordered (ms or 0), who holds a GPU}; verdict 'ok', 'gone' (booked, but given up since),
--   'unknown' (no such endpoint), 'held' (a GPU is another's).
local P, ep, worker, at = ARGV[1], ARGV[2], ARGV[3], now()
local key = P .. N.worker .. worker
local w = redis.call('HMGET', key, 'fq_ep', 'death', 'fq_ordered')
if ARGV[5] == '1' and (w[1] ~= ep or w[2]) then return {at, 'gone', 0, ''} end
if redis.call('EXISTS', P .. N.endpoint .. ep) == 0 then return {at, 'unknown', 0, ''} end
local gpus = argument(ARGV, 6, 'fq_gpus')
local other = gpus and hold_gpus(P, gpus, worker, ep, argument(ARGV, 6, 'fq_host') or '', at, ARGV[5] ~= '1')
if other then return {at, 'held', 0, other} end
if not w[1] then
  redis.call('HSET', key, 'birth', iso(at), 'queues', ep, 'state', 'started', 'fq_ep', ep,
    'fq_state', 'initializing', 'fq_since', at, 'fq_jobs', 0)
end
redis.call('HSET', key, 'last_heartbeat', iso(at), 'fq_beat', at, unpack(ARGV, 6))
redis.call('EXPIRE', key, RECORD_KEPT)
redis.call('ZADD', P .. N.endpoint_workers .. ep, at + tonumber(ARGV[4]), worker)
redis.call('SADD', P .. N.rq_workers, key)
redis.call('SADD', P .. N.queue_workers .. ep, key)
return {at, 'ok', tonumber(w[3] or 0), ''}
