-- RENEW: a worker's heartbeat; keeps its place among the endpoint's workers and the leases of the jobs it holds.
-- KEYS  1 the worker's hash
-- ARGV  1 prefix  2 endpoint  3 worker  4 lease (ms)  5 how many jobs (2 values each: id, fence)
--       then fields and values of the worker's hash
-- Returns {now, verdict, per job}; verdict 'ok', 'drain' or 'gone'; per job 'ok', 'cancel' (its caller wants it
--   stopped) or 'lost' (no longer this worker's: kill what runs it).
local P, ep, worker, at = ARGV[1], ARGV[2], ARGV[3], now()
local key = P .. N.worker .. worker
local w = redis.call('HMGET', key, 'fq_ep', 'fq_drain', 'death')
if w[1] ~= ep or w[3] then return {at, 'gone', {}} end
local until_ = at + tonumber(ARGV[4])
redis.call('ZADD', P .. N.endpoint_workers .. ep, 'XX', until_, worker)
redis.call('HSET', key, 'last_heartbeat', iso(at), 'fq_beat', at)
redis.call('EXPIRE', key, RECORD_KEPT)
local count = tonumber(ARGV[5])
local verdicts = {}
local i = 6
for n = 1, count do
  local id, fence = ARGV[i], ARGV[i + 1]
  local f = read(P, id)
  if live(f, fence, worker) then
    redis.call('ZADD', P .. N.leases .. ep, 'XX', until_, id)
    verdicts[n] = f.cancel and 'cancel' or 'ok'
  else
    verdicts[n] = 'lost'
  end
  i = i + 2
end
if ARGV[i] then redis.call('HSET', key, unpack(ARGV, i)) end
return {at, w[2] == '1' and 'drain' or 'ok', verdicts}
